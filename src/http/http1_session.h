/* SPDX-License-Identifier: MIT
 * The state of a connection in its HTTP phase: for http1.c, which reads requests, reply.c, which answers
 * them, and access.c, which logs them. Nobody else looks inside. */
#ifndef TIDEWIRE_HTTP_HTTP1_SESSION_H
#define TIDEWIRE_HTTP_HTTP1_SESSION_H

#include <netinet/in.h>

#include "base/buf.h"
#include "http/access.h"
#include "http/chunked.h"
#include "http/head.h"
#include "net/conn.h"

/* The diagram is in http1.h. */
enum http1_state { HTTP1_PROXYLINE, HTTP1_HEAD, HTTP1_BODY, HTTP1_ASKED };

struct http1 {
    struct buf in; /* HEAD: one that is not whole; ASKED: what came behind the request */
    struct head_scan scan;
    uint32_t due;      /* tick of the worker's wheel at which what is being waited for is too late */
    struct head *head; /* of the request at hand */
    struct buf body;
    size_t max_body, body_renewed; /* what had come when the body last got more time */
    union {
        uint64_t body_left; /* of one with a length */
        struct chunked chunked;
    };
    void *request;            /* put off; or NULL */
    struct access_note *note; /* of the request at hand, while there is an access log; or NULL */
    uint8_t state;            /* enum http1_state */
    bool refused : 1;
    bool keep : 1;       /* the connection, after this request */
    bool streaming : 1;  /* its answer is */
    bool chunks : 1;     /* in chunks */
    bool mute : 1;       /* without a body: HEAD, 204, 304 */
    bool answered : 1;   /* a request, before the one at hand */
    bool ended : 1;      /* the peer has ended its side */
    bool needs_peer : 1; /* the request that was put off is off when it does */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } peer;
};

/* For reply.c: the request at hand is answered. */
void http1_done(struct conn *c);

#endif
