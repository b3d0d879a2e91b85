/* SPDX-License-Identifier: MIT
 * One request that the script answers: that of an HTTP route, the handshake of a WebSocket route, or one that
 * fits no route while there is middleware around everything. The thread of its worker.
 *
 *   exchange_start --entry into Lua--> answered                     exchange_decide
 *                        |                                               ^
 *                        +-- suspended: put off --the task ends----------+
 *                                       +-- the peer goes, or too late: cancelled */
#ifndef TIDEWIRE_SCRIPT_EXCHANGE_H
#define TIDEWIRE_SCRIPT_EXCHANGE_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/list.h"
#include "http/head.h"
#include "net/conn.h"
#include "script/vm.h"

struct exchange {
    struct conn *conn;
    struct head *head; /* a reference */
    struct vm *vm;     /* held */
    struct task *task; /* while it is suspended */
    int chain;         /* registry reference of the function to call: the handler in its middleware */
    int route;         /* -1: none fits */
    int request;       /* registry reference of the script's request, once it is made; or LUA_NOREF */
    struct buf body;   /* the request's */
    bool upgrade;      /* a handshake */
    bool put_off;
    struct exchange_fallback {
        int status; /* 0: a route fits */
        const char *detail;
        char fields[160];
    } fallback; /* what the server says when no route fits */
    /* The script's answer. */
    int status;
    bool accepted; /* the handshake is */
    bool streaming;
    bool typed;               /* Content-Type is among the fields */
    const char *type;         /* Content-Type, static; NULL when the fields say it */
    struct buf fields, reply; /* header lines, each with its CR LF; the body */
    struct list link;         /* in vm->exchanges while it is put off */
    struct list writers;      /* tasks that wait until what was streamed has left the queue */
    int stream;               /* registry reference of what stands between `write` and this; or LUA_NOREF */
};

/* Whose answer it is, for messages: "GET /chat (main.lua:12)". */
static inline const char *exchange_what(const struct exchange *x)
{
    return x->route >= 0 ? x->vm->routes[x->route].what : "app.use";
}

/* The pattern of its route; NULL: none fits. */
static inline const char *exchange_pattern(const struct exchange *x)
{
    return x->route >= 0 ? router_route(x->vm->router, (size_t)x->route)->pattern : NULL;
}

/* Asks the script; answers when it has. Takes the bytes of *body, which may be NULL. */
void exchange_start(struct conn *c, struct head *head, struct vm *vm, const struct exchange *how,
                    struct buf *body);

/* http1_handler.on_gone and on_drained. */
void exchange_on_gone(struct conn *c, void *request);
void exchange_on_drained(struct conn *c, void *request);

/* Those that wait for this VM have had their time: 503, or the end of what is streamed. Until the clock says
 * `until_ms`: true when some are left. Outside of Lua. */
bool exchange_cancel_some(struct vm *vm, uint64_t until_ms);

/* For the binding that streams; false when nobody wants any pieces. */
bool exchange_stream_begin(struct exchange *x);
bool exchange_stream_piece(struct exchange *x, const char *data, size_t len);
/* Whether the next piece is to wait: for the peer, or just for its turn. */
bool exchange_stream_is_full(const struct exchange *x);
void exchange_stream_wait(struct exchange *x, struct task *t);

#endif
