/* SPDX-License-Identifier: MIT
 * A coarse timer wheel. */
#include "net/wheel.h"

#include <math.h>

void wheel_init(struct wheel *w)
{
    for (int i = 0; i < WHEEL_SLOTS; i++)
        list_init(&w->slot[i]);
    w->now = 0;
}

void wheel_item_init(struct wheel_item *item)
{
    list_init(&item->link);
    item->due = 0;
}

static void wheel_place(struct wheel *w, struct wheel_item *item)
{
    uint32_t ahead = item->due - w->now;
    if (ahead > WHEEL_SLOTS - 1)
        ahead = WHEEL_SLOTS - 1;
    list_append(&w->slot[(w->now + ahead) % WHEEL_SLOTS], &item->link);
}

void wheel_set(struct wheel *w, struct wheel_item *item, double seconds)
{
    /* One more than the quotient: the current tick is already partly over. */
    double ticks = ceil(seconds * 1000 / WHEEL_TICK_MS) + 1;
    if (ticks > INT32_MAX)
        ticks = INT32_MAX;
    wheel_remove(item);
    item->due = w->now + (uint32_t)ticks;
    wheel_place(w, item);
}

void wheel_remove(struct wheel_item *item)
{
    list_remove(&item->link);
}

void wheel_advance(struct wheel *w, void (*fire)(struct wheel_item *item, void *arg), void *arg)
{
    struct list due;
    w->now++;
    list_take(&due, &w->slot[w->now % WHEEL_SLOTS]);
    while (!list_empty(&due)) {
        struct wheel_item *item = LIST_ENTRY(due.next, struct wheel_item, link);
        list_remove(&item->link);
        if ((int32_t)(item->due - w->now) > 0)
            wheel_place(w, item);
        else
            fire(item, arg);
    }
}
