/* SPDX-License-Identifier: MIT
 * Whether a request that asks for a WebSocket gets one: the protocol's rules, the origin, the rate, and the
 * route's should_upgrade, which may take its time. The thread of its worker. */
#ifndef TIDEWIRE_SCRIPT_HANDSHAKE_H
#define TIDEWIRE_SCRIPT_HANDSHAKE_H

#include <stdbool.h>

#include "base/buf.h"
#include "http/head.h"
#include "net/conn.h"
#include "script/vm.h"

/* What a 426 must say (RFC 9110, 15.5.22; RFC 6455, 4.4). */
#define HANDSHAKE_UPGRADE "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"

/* A handshake that should_upgrade decides on; its body stores the verdict, and in `request` the request. */
struct handshake {
    struct conn *conn;
    struct head *head;
    struct vm *vm;
    struct task *task; /* while it is suspended */
    int route;
    int request; /* registry reference, or LUA_NOREF */
    bool put_off;
    int status;        /* 0: accepted */
    struct buf fields; /* header lines for the answer, each with its CR LF */
    struct buf body;   /* of a refusal; when it is empty the server says something itself */
};
/* The request is for route number `route` of `vm`. Takes `head` over. */
void handshake_on_request(struct conn *c, struct head *head, struct vm *vm, int route);

/* http1_handler.on_gone. */
void handshake_on_gone(struct conn *c, void *request);

#endif
