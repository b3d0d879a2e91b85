/* SPDX-License-Identifier: MIT
 * The server's side of the opening handshake (RFC 6455, 4.2): checks the request, computes the answer. Pure;
 * any thread; borrows the head. */
#ifndef TIDEWIRE_WS_UPGRADE_H
#define TIDEWIRE_WS_UPGRADE_H

#include <stdbool.h>
#include <stddef.h>

#include "http/head.h"

/* Whether the request asks for a WebSocket at all: an Upgrade field that lists "websocket". One that does not
 * is an ordinary HTTP request, however odd its other fields. */
bool upgrade_wanted(const struct head *h);

/* Checks a request that wants one. 0, or the HTTP status of the refusal with *reason for a person:
 * 400 for a method other than GET, HTTP/1.0, Connection without "upgrade", a body, a missing, repeated or
 * malformed Sec-WebSocket-Key (24 characters, base64 of 16 bytes), offers in Sec-WebSocket-Protocol or
 * Sec-WebSocket-Extensions that are not sound (subprotocol_offers_valid, extensions_valid); 426 for a
 * missing, repeated or other Sec-WebSocket-Version than 13 (the answer must then carry
 * `Sec-WebSocket-Version: 13`, RFC 6455, 4.4). */
int upgrade_check(const struct head *h, const char **reason);

#define UPGRADE_ACCEPT_LEN 28
/* Fetches SHA-1 once, before any upgrade_accept; main thread. 0 or -1. */
int upgrade_init(void);

/* Sec-WebSocket-Accept of a checked request: base64(SHA-1(key + GUID)); NUL-terminated. 0, or -1 when memory
 * runs out. */
int upgrade_accept(const struct head *h, char out[UPGRADE_ACCEPT_LEN + 1]);

#endif
