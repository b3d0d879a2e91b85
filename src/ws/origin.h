/* SPDX-License-Identifier: MIT
 * Which web pages may open a WebSocket: patterns for the Origin field (RFC 6454; RFC 6455, 10.2). Pure; any
 * thread; borrows its arguments for the call.
 *
 * A browser lets every page open a WebSocket to every server and sends the user's cookies along. What tells a
 * strange page from one's own is the Origin field, which a page cannot forge. A program can; one that is not
 * a browser sends mostly none, and what that means is the caller's to decide. */
#ifndef TIDEWIRE_WS_ORIGIN_H
#define TIDEWIRE_WS_ORIGIN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define ORIGIN_MAX_PATTERN 255 /* bytes */

/* Whether the text is a pattern; 0, or -1 with `e` saying what is wrong and how it is right. Patterns:
 *
 *   *                     any origin, malformed ones too
 *   same                  host and port of the origin are those of the request's Host field
 *   null                  the origin "null": sandboxed frames, local files
 *   [scheme://]host[:port]
 *
 * Without a scheme http and https both fit (ws and wss too). `host` is a name, an IPv4 address or an IPv6
 * address in brackets;
 * "*." before a name stands for its sub-domains at any depth, not for the name itself. A port left out is the
 * scheme's: 80 for http and ws, 443 for https and wss, none for any other; `*` is any port. */
int origin_check_pattern(const char *pattern, size_t len, struct err *e);

/* Whether a page of this origin may come in. The pattern has passed the check; `origin` and `host` are the
 * values of the Origin and the Host field as they came (NULL with length 0 for none). ASCII case makes no
 * difference; "a.example." and "a.example" are two hosts. An origin that is neither "null" nor exactly
 * scheme://host[:port] fits only `*`.
 *
 * `same` takes pages of those schemes, whatever the server itself speaks, since a proxy may have taken the
 * TLS off; a port left out of Host is therefore the default of the origin's scheme. */
bool origin_matches(const char *pattern, size_t plen, const char *origin, size_t olen, const char *host,
                    size_t hlen);

#endif
