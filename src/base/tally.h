/* SPDX-License-Identifier: MIT
 * What is counted for each route: a process-wide table by method and pattern, with one place for each worker,
 * which only that worker writes to. A route keeps its place over reloads, so what is counted only rises;
 * places are never freed, hence the limit. */
#ifndef TIDEWIRE_BASE_TALLY_H
#define TIDEWIRE_BASE_TALLY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/metrics.h"

#define TALLY_ROUTES 1000 /* further ones share a place */

/* Why a call failed. */
enum tally_reason { TALLY_ERROR, TALLY_BUDGET, TALLY_REASONS };

struct tally {
    _Alignas(64) _Atomic uint64_t calls;
    _Atomic uint64_t errors[TALLY_REASONS];
    uint64_t next_call; /* the one that is timed next */
    uint64_t resumed, next_resumed;
    bool frequent;
    struct metrics_histogram time;
};

/* The places of a route, by the workers' index - 1; made at the first call. `frequent` ones are not timed
 * each time, which would cost as much as a twentieth of a short run. Without a pattern: those of what is for
 * no route. The number of workers is always the same. NULL when memory runs out. Any thread. */
struct tally *tally_route(const char *method, const char *pattern, bool frequent, unsigned workers);

/* The n-th run is timed: which is the next? */
uint64_t tally_next(const struct tally *t, uint64_t n);

/* One call more; whether to time it. Only the worker's own thread. */
static inline bool tally_call(struct tally *t)
{
    uint64_t n = atomic_load_explicit(&t->calls, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->calls, n, memory_order_relaxed);
    if (n != t->next_call)
        return false;
    t->next_call = tally_next(t, n);
    return true;
}

/* The same for one that goes on after it has waited. */
static inline bool tally_resume(struct tally *t)
{
    if (++t->resumed != t->next_resumed)
        return false;
    t->next_resumed = tally_next(t, t->resumed);
    return true;
}

static inline void tally_fail(struct tally *t, enum tally_reason why)
{
    uint64_t v = atomic_load_explicit(&t->errors[why], memory_order_relaxed);
    atomic_store_explicit(&t->errors[why], v + 1, memory_order_relaxed);
}

/* The families of the routes, in the text format. 0, or -1 when memory runs out. Any thread. */
int tally_render(struct buf *out);

#endif
