/* SPDX-License-Identifier: MIT
 * UTF-8 validation of a stream (RFC 3629; RFC 6455, 8.1): fails at the first byte that no continuation could
 * make valid, across pieces and fragments. Pure; any thread. */
#ifndef TIDEWIRE_BASE_UTF8_H
#define TIDEWIRE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero it for a new message. */
struct utf8 {
    uint8_t state; /* 0 between two characters; else which bytes may follow, or that none can */
};

/* Takes the next piece; false as soon as the message cannot be UTF-8 any more (then the state is spent: every
 * further call fails too). */
bool utf8_feed(struct utf8 *u, const void *data, size_t len);

/* Whether what was fed so far ends between two characters. */
static inline bool utf8_complete(const struct utf8 *u)
{
    return u->state == 0;
}

/* A whole string at once. */
bool utf8_valid(const void *data, size_t len);

#endif
