/* SPDX-License-Identifier: MIT
 * A rate limit in one word: so many events a second, with a burst. Any thread; no lock; owns nothing.
 *
 * The generic cell rate algorithm: the word is the time at which the bucket will be full again. An event
 * moves it by the time that one event takes to come back, from where it is or from now, whichever is later;
 * it fits as long as that is no further ahead than `burst` events take. A zero word is a full bucket. */
#ifndef TIDEWIRE_BASE_RATE_H
#define TIDEWIRE_BASE_RATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds, 146 years: the clock stops there, and no bucket takes longer to fill. So nothing overflows. */
#define RATE_SPAN ((uint64_t)1 << 62)

/* In nanoseconds: what one event takes to come back, what the whole bucket takes, and the time. */
struct rate_scale {
    uint64_t event, bucket, now;
};

static inline struct rate_scale rate_scale(uint64_t now_us, double per_second, double burst)
{
    struct rate_scale s = {.now = now_us < RATE_SPAN / 1000 ? now_us * 1000 : RATE_SPAN};
    burst = burst > 1 ? burst : 1;
    burst = burst < (double)RATE_SPAN ? burst : (double)RATE_SPAN;
    double event = 1e9 / per_second;
    if (event * burst > (double)RATE_SPAN)
        event = (double)RATE_SPAN / burst;
    s.event = event > 1 ? (uint64_t)(event + 0.5) : 1;
    uint64_t whole = (uint64_t)burst; /* by integers: a product of doubles may miss the last event */
    s.bucket = whole * s.event + (uint64_t)((burst - (double)whole) * (double)s.event);
    return s;
}

/* How far one more event would lie beyond the bucket, in nanoseconds; 0 when it fits. `*full` becomes the
 * word after it. */
static inline uint64_t rate_excess(const struct rate_scale *s, uint64_t at, uint64_t *full)
{
    *full = (at > s->now ? at : s->now) + s->event;
    return *full > s->now + s->bucket ? *full - s->now - s->bucket : 0;
}

/* Takes one event when it fits: true. Else false, and nothing has changed. `per_second` is over 0 (beyond 1e9
 * it counts as 1e9), a `burst` below 1 counts as 1. `now_us` is from a clock that does not go back; threads
 * may see it a little apart. */
static inline bool rate_take(_Atomic uint64_t *at, uint64_t now_us, double per_second, double burst)
{
    struct rate_scale s = rate_scale(now_us, per_second, burst);
    uint64_t full, seen = atomic_load_explicit(at, memory_order_relaxed);
    do {
        if (rate_excess(&s, seen, &full) > 0)
            return false;
    } while (
        !atomic_compare_exchange_weak_explicit(at, &seen, full, memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* Microseconds until rate_take would be true if nobody else takes any; 0 when it would now. */
static inline uint64_t rate_wait_us(const _Atomic uint64_t *at, uint64_t now_us, double per_second,
                                    double burst)
{
    struct rate_scale s = rate_scale(now_us, per_second, burst);
    uint64_t full;
    return (rate_excess(&s, atomic_load_explicit(at, memory_order_relaxed), &full) + 999) / 1000;
}

#endif
