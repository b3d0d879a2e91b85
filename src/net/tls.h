/* SPDX-License-Identifier: MIT
 * TLS of one connection, between its socket and what conn.c reads and sends: OpenSSL never touches the
 * socket, it is given what has arrived and asked for what is to leave. The thread of the connection's worker.
 *
 *   WAITING --tls_start--> HANDSHAKE --Finished--> READY --close_notify, fault, end of the socket--> over
 *
 * What is sent is gathered into records of TLS_RECORD bytes and leaves in one system call for up to TLS_BATCH
 * of them. What the kernel does not take of that is kept sealed, and nothing more is sealed before it is
 * gone; so a connection that is idle, or has nothing blocked, holds no buffer (SSL_MODE_RELEASE_BUFFERS).
 * What is kept counts as queued (METRIC_QUEUED_BYTES). */
#ifndef TIDEWIRE_NET_TLS_H
#define TIDEWIRE_NET_TLS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/metrics.h"
#include "net/tlscontext.h"

#define TLS_RECORD 16384              /* RFC 8446, 5.1 */
#define TLS_BATCH  (5 * TLS_RECORD)   /* sealed at once: 64 KiB and what frames them */
#define TLS_INPUT  (128 * 1024)       /* received at once */
#define TLS_SLACK  (TLS_RECORD + 512) /* of plain bytes that an earlier piece of a record may add */

struct tls;
struct worker;

/* What has been agreed on, for scripts (req.tls). Counted references, as it outlives the connection: any
 * thread. */
struct tls_facts {
    _Atomic unsigned refs;
    const char *version, *cipher; /* OpenSSL's own names, static */
    bool resumed;
    char *server_name; /* that the client asked for; NULL: none */
    /* of the client's certificate, NULL when it has shown none */
    char *subject, *issuer, *serial, *fingerprint;
};

struct tls_facts *tls_facts_ref(struct tls_facts *f);
/* NULL is fine. */
void tls_facts_unref(struct tls_facts *f);

/* Prepares a connection's TLS. `host` is whom a client wants to talk to (its name is sent, its certificate
 * checked); NULL for a server. Takes over a reference of the context, also when it fails: NULL when memory
 * runs out. */
struct tls *tls_create(struct worker *w, struct tlscontext *context, const char *host);
void tls_destroy(struct tls *t);

/* The handshake begins: before it the bytes are plain (the PROXY protocol). */
void tls_start(struct tls *t);
bool tls_is_started(const struct tls *t);
bool tls_is_ready(const struct tls *t);
/* Whether the next tls_recv tells of an end, also when nothing arrives. */
bool tls_is_over(const struct tls *t);
/* How many sealed bytes wait for the socket. */
size_t tls_sealed(const struct tls *t);
/* Borrowed; NULL before it is ready. */
struct tls_facts *tls_facts(const struct tls *t);
/* Why it failed, one sentence; "" when it has not. */
const char *tls_why(const struct tls *t);

/* Receives from the socket and opens up to `room` bytes, at least TLS_SLACK + 1. As recv(2): 0 is the peer's
 * end; -1 with EAGAIN when there is nothing for the protocol yet, with EPROTO when TLS has failed (tls_why).
 * May leave sealed bytes. */
ssize_t tls_recv(struct tls *t, int fd, void *to, size_t room);

/* Seals and sends. As sendmsg(2): how many bytes were sealed; -1 with EAGAIN when the socket takes no more,
 * with EINPROGRESS while the handshake waits for the peer. With `count` 0 it only sends what is sealed. */
ssize_t tls_send(struct tls *t, int fd, const struct iovec *iov, int count);

/* Nothing more will be sent: adds the close_notify alert (RFC 8446, 6.1), once. */
void tls_end(struct tls *t);

/* For the worker. */
void tls_worker_fini(struct worker *w);

#endif
