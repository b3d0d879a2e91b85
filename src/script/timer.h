/* SPDX-License-Identifier: MIT
 * Timers of a VM: app.after and app.every. The thread that has the VM. While the script loads they are only
 * noted; they run from when the VM serves. */
#ifndef TIDEWIRE_SCRIPT_TIMER_H
#define TIDEWIRE_SCRIPT_TIMER_H

#include <ev.h>
#include <stdbool.h>

#include "base/list.h"

struct vm;

/* Part of whatever is timed. */
struct timer {
    ev_timer ev;
    struct list link; /* in vm->timers while it is set */
    struct vm *vm;
    double seconds;
    bool repeats;
    void (*on_fire)(struct timer *t); /* one that does not repeat is not set any more */
    void (*on_stop)(struct timer *t); /* it will not fire any more: timer_stop, timer_stop_all */
};

/* Sets it to `seconds` from now; seconds, repeats, on_fire and on_stop are the caller's to fill before. */
void timer_set(struct timer *t, struct vm *vm);

/* Takes it back; nothing when it is not set. */
void timer_stop(struct timer *t);

static inline bool timer_is_set(const struct timer *t)
{
    return !list_empty(&t->link);
}

/* The VM serves from now on. */
void timer_start_all(struct vm *vm);

/* Those that repeat, or all. */
void timer_stop_all(struct vm *vm, bool only_repeating);

#endif
