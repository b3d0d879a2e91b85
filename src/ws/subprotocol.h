/* SPDX-License-Identifier: MIT
 * Choosing the subprotocol that client and server will speak: the Sec-WebSocket-Protocol field (RFC 6455, 4.1
 * item 10, 4.2.2 and 11.3.4). Pure; any thread; borrows the head. */
#ifndef TIDEWIRE_WS_SUBPROTOCOL_H
#define TIDEWIRE_WS_SUBPROTOCOL_H

#include <stdbool.h>
#include <stddef.h>

#include "http/head.h"

#define SUBPROTOCOL_MAX_OFFERS 64

/* Whether the client's offers are sound: only tokens, at least one in each field, at most
 * SUBPROTOCOL_MAX_OFFERS in all. Empty list elements are skipped (RFC 9110, 5.6.1). No field is sound too. */
bool subprotocol_offers_valid(const struct head *h);

/* The first of the `n` supported names that the client offers too, since the server's order decides: the
 * position of the offer, counted from 0 over all fields in their order; -1 when they have none in common.
 * Names are compared with their case. */
int subprotocol_choose(const struct head *h, const char *const *supported, size_t n);

/* The offer at that position, for the answer; points into the head. NULL when there is none. */
const char *subprotocol_offer(const struct head *h, unsigned position, size_t *len);

#endif
