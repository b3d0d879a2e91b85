/* SPDX-License-Identifier: MIT
 * What a client likes to get: Accept and Accept-Encoding (RFC 9110, 12.5). Pure: no sockets, no Lua; any
 * thread; owns nothing. Several fields of one name are joined with ", " before. */
#ifndef TIDEWIRE_HTTP_ACCEPT_H
#define TIDEWIRE_HTTP_ACCEPT_H

#include <stdbool.h>
#include <stddef.h>

/* The weight, 0 to 1, that an Accept-Encoding field gives to the coding `what`: its own, or else that of "*",
 * or else 0. An element with a malformed weight has weight 0. (Whether "identity" is acceptable without being
 * named is not asked here.) */
double accept_quality(const char *field, size_t len, const char *what);

/* Whether an Accept field asks for JSON (application/json or a type with +json) rather than for text/html,
 * text/plain or any text. Of equal weights the one that is named first wins; a wildcard for everything only
 * speaks for a text that is not named, and loses to a JSON of the same weight. */
bool accept_prefers_json(const char *accept, size_t len);

#endif
