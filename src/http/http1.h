/* SPDX-License-Identifier: MIT
 * The HTTP/1.x side of a connection: reads requests one after the other, under limits and deadlines, hands
 * them up, and sends the answers in their order. The thread of its worker.
 *
 *   (PROXYLINE, on listeners with "proxy:", comes before the first HEAD)
 *
 *             head                  body                 answered, and the connection is kept
 *   HEAD -------------> BODY -----------------+     +------------------------------------------> HEAD
 *    ^ |                                      v     |
 *    | +-------- head without body -------> ASKED --+---- http1_hand_over: another protocol
 *    |                                        |     |
 *    +----------------------------------------+     +---- answered, not kept: conn_finish
 *
 * While a request is ASKED, bytes behind it are kept up to read_ahead; beyond it reading stops. */
#ifndef TIDEWIRE_HTTP_HTTP1_H
#define TIDEWIRE_HTTP_HTTP1_H

#include <sys/socket.h>

#include "base/buf.h"
#include "http/head.h"
#include "net/conn.h"
#include "net/worker.h"

/* What becomes of a request; set as worker->layer[WORKER_HTTP]. */
struct http1_handler {
    /* A head has come. True: its body, of at most *max_body bytes, is to be read before on_request (also when
     * there is none). False: it has been answered, put off, or has become another protocol. */
    bool (*on_head)(struct conn *c, struct head *head, size_t *max_body);
    /* A whole request. Must answer (reply_send, reply_error, reply_stream), put off, or hand over. May take
     * *body. The head stays the connection's until the answer: head_ref keeps it. */
    void (*on_request)(struct conn *c, struct head *head, struct buf *body);
    /* A request that was put off is off: the peer has gone, or it took too long (which has been answered).
     * `request` is not asked for again. */
    void (*on_gone)(struct conn *c, void *request);
    /* What was streamed for it has left the queue. */
    void (*on_drained)(struct conn *c, void *request);
    /* The pattern of the route that a request is for, for the access log; NULL: none. `request` is what it
     * was put off with, or NULL. May be NULL. */
    const char *(*route_of)(const struct conn *c, const struct head *head, void *request);
};

/* worker_hooks.on_accept: starts a connection in its HTTP phase, or refuses it. One that is `proxied` comes
 * from a trusted proxy and begins with the PROXY protocol, which tells the client's address; any other is
 * closed. One with TLS that is refused is closed without a word, which would cost more than it is worth. */
void http1_on_accept(struct worker *w, int fd, const struct sockaddr *peer, struct spread_how how);

/* The answer comes later: within `seconds`, or it is a 503; 0 is no such limit. With `needs_peer` the request
 * is off when the peer ends its side, not only when it has gone. `request` is not NULL. */
void http1_put_off(struct conn *c, void *request, double seconds, bool needs_peer);

/* The connection speaks another protocol from now on: frees the HTTP session and puts the new one in its
 * place. */
void http1_hand_over(struct conn *c, const struct conn_ops *ops, void *session);

#endif
