/* SPDX-License-Identifier: MIT
 * Which lines of a log are told when the same comes again and again: so many of one kind a second, then only
 * how many more there were. A table of fixed size, with places for the kinds that come most. Pure: the caller
 * locks, and says what time it is. */
#ifndef TIDEWIRE_BASE_LOGREPEAT_H
#define TIDEWIRE_BASE_LOGREPEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOGREPEAT_SECOND_MS 1000
#define LOGREPEAT_SETS      64
#define LOGREPEAT_WAYS      4
#define LOGREPEAT_TEXT      160
#define LOGREPEAT_ROUTE     80

/* A kind of line, and how often it came in the second that began at since_ms. */
struct logrepeat_kind {
    uint64_t key; /* 0: the place is free */
    uint64_t since_ms;
    uint64_t count, hidden;
    int level;
    char text[LOGREPEAT_TEXT]; /* the beginning of its first line; of what has been hidden */
    char route[LOGREPEAT_ROUTE];
};

/* Zero it. */
struct logrepeat {
    struct logrepeat_kind kind[LOGREPEAT_SETS][LOGREPEAT_WAYS];
    unsigned hiding; /* kinds of which some are hidden */
};

struct logrepeat_line {
    uint64_t key;
    int level;
    const char *text;
    size_t len;
    const char *route; /* or NULL */
};

/* Counts a line. True: it is told, being one of the first `limit` of its kind in this second, which is at
 * least 1. In any case `over` gets a kind of which hidden ones are to be told before (over->hidden is 0:
 * there is none): the line's own, whose second is over, or one that has lost its place to it. */
bool logrepeat_take(struct logrepeat *r, const struct logrepeat_line *line, unsigned limit, uint64_t now_ms,
                    struct logrepeat_kind *over);

/* Takes out a kind with hidden lines whose second is over; with `all`, any. False: there is none. */
bool logrepeat_next(struct logrepeat *r, uint64_t now_ms, bool all, struct logrepeat_kind *over);

#endif
