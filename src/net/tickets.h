/* SPDX-License-Identifier: MIT
 * The keys with which session tickets are sealed (RFC 5077, RFC 8446, 4.6.1), so that clients resume their
 * TLS sessions in any worker and across reloads. One set for the process, in memory only; a key seals for
 * TICKETS_LIFE_S and opens for as long again, so that what is recorded today cannot be read with what is
 * stolen tomorrow. Any thread. */
#ifndef TIDEWIRE_NET_TICKETS_H
#define TIDEWIRE_NET_TICKETS_H

#include <openssl/ssl.h>

#define TICKETS_LIFE_S (4 * 3600)

/* Has the sessions of `ctx` sealed with them. 0, or -1 when OpenSSL refuses. */
int tickets_use(SSL_CTX *ctx);

#endif
