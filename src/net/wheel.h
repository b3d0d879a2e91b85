/* SPDX-License-Identifier: MIT
 * A coarse timer wheel: one deadline per item, constant cost to set, move and remove. The thread of its
 * worker; owns nothing. Deadlines beyond the wheel's horizon wait in the last slot and are put again. */
#ifndef TIDEWIRE_NET_WHEEL_H
#define TIDEWIRE_NET_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define WHEEL_TICK_MS 100
#define WHEEL_SLOTS   512

struct wheel_item {
    struct list link;
    uint32_t due;  /* tick */
    uint32_t user; /* the owner's own, where there would be padding */
};

struct wheel {
    struct list slot[WHEEL_SLOTS];
    uint32_t now; /* ticks since the start; wraps after 13 years */
};

void wheel_init(struct wheel *w);
void wheel_item_init(struct wheel_item *item);

/* Sets or moves the deadline to `seconds` from now, rounded up to whole ticks (never early). */
void wheel_set(struct wheel *w, struct wheel_item *item, double seconds);

/* Takes the deadline away; nothing when there is none. */
void wheel_remove(struct wheel_item *item);

/* One tick: `fire` gets every item that is due, already removed; it may set or remove any item. */
void wheel_advance(struct wheel *w, void (*fire)(struct wheel_item *item, void *arg), void *arg);

#endif
