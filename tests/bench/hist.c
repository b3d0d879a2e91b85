/* SPDX-License-Identifier: MIT
 * A histogram of times, for percentiles; see hist.h. */
#include "hist.h"

#include <stdio.h>
#include <sys/param.h>

#include "client.h"

void hist_add(struct hist *to, const struct hist *from)
{
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
    to->count += from->count;
    to->max_ns = MAX(to->max_ns, from->max_ns);
}

double hist_percentile_us(const struct hist *h, double percent)
{
    size_t i = 0;
    for (uint64_t seen = h->buckets[0]; seen == 0 || (double)seen < percent / 100 * (double)h->count;)
        seen += h->buckets[++i];
    uint64_t highest = i; /* that falls into this bucket */
    if (i >= 2 * HIST_HALF)
        highest = ((i % HIST_HALF + HIST_HALF + 1) << (i / HIST_HALF - 1)) - 1;
    return (double)MIN(highest, h->max_ns) / 1e3;
}

void hist_print(bool json, const struct hist *h)
{
    static const double percents[] = {50, 90, 99, 99.9, 99.99};
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++) {
        char name[24];
        snprintf(name, sizeof name, "latency_p%g_us", percents[i]);
        client_print_number(json, name, hist_percentile_us(h, percents[i]));
    }
    client_print_number(json, "latency_max_us", (double)h->max_ns / 1e3);
}
