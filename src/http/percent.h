/* SPDX-License-Identifier: MIT
 * Percent-decoding (RFC 3986, 2.1) and application/x-www-form-urlencoded pairs. Pure; any thread; owns
 * nothing. */
#ifndef TIDEWIRE_HTTP_PERCENT_H
#define TIDEWIRE_HTTP_PERCENT_H

#include <stdbool.h>
#include <stddef.h>

/* Decodes `len` bytes into `out` (which takes `len` bytes and may be `in`). `plus_is_space` for query
 * strings and forms. Returns the decoded length, or -1 for an escape that is cut short or not hexadecimal. */
long percent_decode(const char *in, size_t len, char *out, bool plus_is_space);

/* As percent_decode, but an escape that is none stays as it is: what browsers do with query strings. */
size_t percent_decode_lax(const char *in, size_t len, char *out, bool plus_is_space);

/* One name=value pair of a query string, still encoded. Steps *at through in[0 .. len): true and the
 * pair, or false at the end. Empty pairs ("&&") are skipped; a name without '=' has an empty value. */
struct percent_pair {
    const char *name, *value;
    size_t name_len, value_len;
};
bool percent_next_pair(const char *in, size_t len, size_t *at, struct percent_pair *pair);

#endif
