/* SPDX-License-Identifier: MIT
 * The HTTP side of a connection: gathers a request's head under a limit and a deadline, hands it up, sends
 * the answer. The thread of its worker. */
#ifndef TIDEWIRE_HTTP_HTTP1_H
#define TIDEWIRE_HTTP_HTTP1_H

#include <sys/socket.h>

#include "http/head.h"
#include "http/response.h"
#include "net/conn.h"
#include "net/worker.h"

/* What becomes of a request; set as worker->layer[WORKER_HTTP]. */
struct http1_handler {
    /* Takes `head` over. Must answer with http1_refuse, take the connection over with http1_hand_over, or put
     * it off with http1_put_off, before it returns. Bytes that came after the head are then given to the new
     * ops. */
    void (*on_request)(struct conn *c, struct head *head);
    /* A request that was put off is off: the peer has gone, or it took longer than handshake_timeout (which
     * has been answered). `request` is not asked for again. */
    void (*on_gone)(struct conn *c, void *request);
};

/* worker_hooks.on_accept: starts a connection in its HTTP phase, or answers 503 beyond max_connections. */
void http1_on_accept(struct worker *w, int fd, const struct sockaddr *peer);

/* Answers with an error and ends the connection politely. */
void http1_refuse(struct conn *c, const struct response_error *r);

/* The answer comes later. Until then bytes that arrive are kept, up to read_ahead; beyond it reading stops.
 * `request` is not NULL. */
void http1_put_off(struct conn *c, void *request);

/* The connection speaks another protocol from now on: frees the HTTP session and puts the new one in its
 * place. */
void http1_hand_over(struct conn *c, const struct conn_ops *ops, void *session);

#endif
