/* SPDX-License-Identifier: MIT
 * Who the client is behind trusted proxies: X-Forwarded-For, and Forwarded (RFC 7239). Pure; any thread;
 * borrows its arguments for the call. */
#ifndef TIDEWIRE_HTTP_FORWARDED_H
#define TIDEWIRE_HTTP_FORWARDED_H

#include <stdbool.h>
#include <sys/socket.h>

#include "http/head.h"
#include "net/cidr.h"

#define FORWARDED_MAX_ELEMENTS 64

/* Every proxy adds the address it was called from at the right end of the list; what stands left of it was
 * there before, and the first part of it may be the client's invention. So the list is walked from the right,
 * over all fields of the name as one list, and each address is believed because a trusted one has written it.
 * The walk ends
 *
 *   - at the first address that is not trusted: that is the client;
 *   - before an element that is malformed, "unknown", hidden ("_name") or, in Forwarded, without "for": its
 *     writer knows more than it says, and nothing left of it is looked at;
 *   - at the left end of the list, or after FORWARDED_MAX_ELEMENTS elements.
 *
 * True, and the last address that was reached in *out, its port 0 when there is none. False, and *out as it
 * was, when that is the peer itself, in particular when the peer is not trusted. In all cases but the first
 * the client is a trusted proxy, as far as one can tell: do not take "trusted" to mean "may do anything".
 *
 * Only one of the two fields is read: X-Forwarded-For if the request has it, also if nothing in it can be
 * used, and Forwarded if not. A proxy that writes one of them mostly passes the other on as the client sent
 * it, and a request does not show which of the two is genuine. To merge them or to take the one that parses
 * would let the client choose; to believe neither would make it a trusted address, which is worse than a
 * wrong one. X-Forwarded-For is what nearly all proxies write, and behind those nothing can be forged this
 * way. One that writes Forwarded has to take X-Forwarded-For off the requests.
 *
 * X-Forwarded-For has "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]" or "[2001:db8::1]:80"; so
 * has the "for" of Forwarded, which may do without the quotes that the RFC wants round some of them. Empty
 * elements mean nothing, though they count. */
bool forwarded_client(const struct head *h, const struct sockaddr *peer, const struct cidr_list *trusted,
                      struct sockaddr_storage *out);

#endif
