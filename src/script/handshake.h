/* SPDX-License-Identifier: MIT
 * Whether a request that asks for a WebSocket gets one: the protocol's rules, the origin, the rate, and the
 * route's chain. The thread of its worker. */
#ifndef TIDEWIRE_SCRIPT_HANDSHAKE_H
#define TIDEWIRE_SCRIPT_HANDSHAKE_H

#include "http/head.h"
#include "net/conn.h"
#include "script/vm.h"

/* What a 426 must say (RFC 9110, 15.5.22; RFC 6455, 4.4). */
#define HANDSHAKE_UPGRADE "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"

/* The detail of the 503 for whoever asks too late. */
#define HANDSHAKE_STOPPING "The server is stopping."

/* The request is for route number `route` of `vm`, a WebSocket's. */
void handshake_on_request(struct conn *c, struct head *head, struct vm *vm, int route);

#endif
