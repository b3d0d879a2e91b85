/* SPDX-License-Identifier: MIT
 * The way of a load generator's bytes to the server: a socket, with or without TLS. OpenSSL never touches the
 * socket: what is sent in one call is sealed as a whole and leaves in one system call, what has arrived in
 * one is opened as a whole. A wire is one thread's; the context is any thread's once it is made. What is
 * wrong with TLS ends the process. */
#ifndef TIDEWIRE_BENCH_WIRE_H
#define TIDEWIRE_BENCH_WIRE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct wire {
    int fd;
    SSL *ssl;        /* NULL: plain */
    uint8_t *sealed; /* what the kernel has not taken, on the heap */
    size_t sealed_len;
};

/* Of clients that believe any server: TLS 1.3, AES-128-GCM and X25519, as browsers would have it, so that all
 * servers do the same work. The caller frees it with SSL_CTX_free. */
SSL_CTX *wire_make_context(void);

/* Takes over the socket. `context` NULL: plain. `session` is to be resumed, or NULL. */
void wire_init(struct wire *w, int fd, SSL_CTX *context, SSL_SESSION *session);
/* Closes the socket, without a word of TLS. */
void wire_fini(struct wire *w);

/* As send(2) with these flags. With TLS a count says how much was sealed; the kernel may not have taken all
 * of that (wire_is_full). A `len` of 0 sends just that. -1 with EAGAIN also during the handshake, which goes
 * on in each call. */
ssize_t wire_send(struct wire *w, const void *data, size_t len, int flags);
/* Whether sealed bytes wait for room in the socket. */
bool wire_is_full(const struct wire *w);
/* As recv(2) with these flags. With TLS it opens all that it has taken from the socket; when that gives
 * nothing it goes on, and when it gives more than `room` the process ends (160 KiB are always enough). */
ssize_t wire_recv(struct wire *w, void *to, size_t room, int flags);

/* A session that may be resumed once an answer has been read, for the caller to free with SSL_SESSION_free;
 * ends the process when the server gave none. */
SSL_SESSION *wire_take_session(const struct wire *w);

#endif
