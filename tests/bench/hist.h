/* SPDX-License-Identifier: MIT
 * A histogram of times, for percentiles. Log-linear, as HdrHistogram: each power of two is cut into HIST_HALF
 * equal parts, so that a value is known to within 1 in HIST_HALF however large it is; values under 2 *
 * HIST_HALF have a bucket each. One thread at a time; zeroed memory is an empty one, and it owns nothing. */
#ifndef TIDEWIRE_BENCH_HIST_H
#define TIDEWIRE_BENCH_HIST_H

#include <stdbool.h>
#include <stdint.h>

#define HIST_BITS    7
#define HIST_HALF    (1u << HIST_BITS)
#define HIST_BUCKETS ((65 - HIST_BITS) * HIST_HALF)

struct hist {
    uint64_t count, max_ns;
    uint64_t buckets[HIST_BUCKETS];
};

static inline void hist_record(struct hist *h, uint64_t ns)
{
    unsigned shift = ns < 2 * HIST_HALF ? 0 : 63 - (unsigned)__builtin_clzll(ns) - HIST_BITS;
    h->buckets[shift * HIST_HALF + (ns >> shift)]++;
    h->count++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

void hist_add(struct hist *to, const struct hist *from);

/* What this share of the values, of which there is one at least, does not exceed, in microseconds. Exact for
 * 100. */
double hist_percentile_us(const struct hist *h, double percent);

/* Prints the percentiles up to the maximum, as client_print_number does. */
void hist_print(bool json, const struct hist *h);

#endif
