/* SPDX-License-Identifier: MIT
 * The metrics registry. */
#include "base/metrics.h"

#include <string.h>

struct metrics_def {
    const char *name, *labels, *type, *help;
};

static const struct metrics_def metrics_defs[METRIC_COUNT] = {
#define METRICS_DEF(id, name, labels, type, help) {name, labels, type, help},
    METRICS(METRICS_DEF)
#undef METRICS_DEF
};

static _Atomic(struct metrics *) metrics_blocks;

void metrics_register(struct metrics *m)
{
    m->next = atomic_load(&metrics_blocks);
    while (!atomic_compare_exchange_weak(&metrics_blocks, &m->next, m))
        ;
}

uint64_t metrics_sum(enum metric id)
{
    uint64_t sum = 0;
    for (struct metrics *m = atomic_load(&metrics_blocks); m != NULL; m = m->next)
        sum += atomic_load_explicit(&m->value[id], memory_order_relaxed);
    return sum;
}

int metrics_render(struct buf *out)
{
    int rc = 0;
    for (int i = 0; i < METRIC_COUNT; i++) {
        const struct metrics_def *d = &metrics_defs[i];
        if (i == 0 || strcmp(d->name, metrics_defs[i - 1].name) != 0)
            rc |= buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", d->name, d->help, d->name, d->type);
        unsigned long long v = metrics_sum((enum metric)i);
        /* What one thread adds another may take away, and the sum is not of one moment. */
        if (strcmp(d->type, "gauge") == 0 && v > INT64_MAX)
            v = 0;
        if (d->labels[0] != '\0')
            rc |= buf_printf(out, "%s{%s} %llu\n", d->name, d->labels, v);
        else
            rc |= buf_printf(out, "%s %llu\n", d->name, v);
    }
    return rc;
}
