/* SPDX-License-Identifier: MIT
 * The metrics registry. */
#include "base/metrics.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

struct metrics_def {
    const char *name, *labels, *type, *help;
};

#define METRICS_DEF(id, name, labels, type, help) {name, labels, type, help},
static const struct metrics_def metrics_defs[METRIC_COUNT] = {METRICS(METRICS_DEF)};
static const struct metrics_def metrics_families[METRICS_FAMILY_COUNT] = {METRICS_FAMILIES(METRICS_DEF)};
#undef METRICS_DEF

/* The bounds of the buckets, and how they are written: in seconds. */
static const struct {
    uint64_t ns;
    const char *text;
} metrics_bounds[METRICS_BUCKETS] = {
    {10000, "1e-05"},   {30000, "3e-05"},   {100000, "0.0001"}, {300000, "0.0003"},
    {1000000, "0.001"}, {3000000, "0.003"}, {10000000, "0.01"}, {30000000, "0.03"},
    {100000000, "0.1"}, {300000000, "0.3"}, {1000000000, "1"},  {3000000000, "3"},
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

static void metrics_bump(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

void metrics_observe(struct metrics_histogram *h, uint64_t ns)
{
    int i = 0;
    while (i < METRICS_BUCKETS && ns > metrics_bounds[i].ns)
        i++;
    metrics_bump(&h->bucket[i], 1);
    metrics_bump(&h->sum_ns, ns);
}

/* ---- the text ---- */

static int metrics_head(struct buf *out, const struct metrics_def *d)
{
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", d->name, d->help, d->name, d->type);
}

int metrics_begin(struct buf *out, enum metrics_family id)
{
    return metrics_head(out, &metrics_families[id]);
}

const char *metrics_name(enum metrics_family id)
{
    return metrics_families[id].name;
}

static unsigned long long metrics_shown(const struct metrics_def *d, uint64_t value)
{
    /* What one thread adds another may take away, and the sum is not of one moment. */
    return strcmp(d->type, "gauge") == 0 && value > INT64_MAX ? 0 : value;
}

/* The block of a worker; NULL. */
static struct metrics *metrics_of(unsigned worker)
{
    struct metrics *m = atomic_load(&metrics_blocks);
    while (m != NULL && m->worker != worker)
        m = m->next;
    return m;
}

static int metrics_render_workers(struct buf *out, enum metric id)
{
    const struct metrics_def *d = &metrics_defs[id];
    const struct metrics *m;
    int rc = 0;
    for (unsigned i = 1; rc == 0 && (m = metrics_of(i)) != NULL; i++)
        rc = buf_printf(out, "%s{worker=\"%u\"} %llu\n", d->name, i, metrics_shown(d, metrics_get(m, id)));
    return rc;
}

static int metrics_render_sum(struct buf *out, enum metric id)
{
    const struct metrics_def *d = &metrics_defs[id];
    bool labels = d->labels[0] != '\0';
    return buf_printf(out, "%s%s%s%s %llu\n", d->name, labels ? "{" : "", d->labels, labels ? "}" : "",
                      metrics_shown(d, metrics_sum(id)));
}

static int metrics_render_loops(struct buf *out)
{
    const struct metrics *m;
    char labels[32];
    int rc = metrics_begin(out, METRICS_LOOP_DELAY);
    for (unsigned i = 1; rc == 0 && (m = metrics_of(i)) != NULL; i++) {
        snprintf(labels, sizeof labels, "worker=\"%u\"", i);
        rc = metrics_render_histogram(out, METRICS_LOOP_DELAY, labels, &m->loop_delay, 1, 0);
    }
    return rc;
}

int metrics_render(struct buf *out)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < METRIC_COUNT; i++) {
        const struct metrics_def *d = &metrics_defs[i];
        if (i == 0 || strcmp(d->name, metrics_defs[i - 1].name) != 0)
            rc = metrics_head(out, d);
        if (rc == 0)
            rc = strcmp(d->labels, "worker") == 0 ? metrics_render_workers(out, (enum metric)i)
                                                  : metrics_render_sum(out, (enum metric)i);
    }
    return rc == 0 ? metrics_render_loops(out) : rc;
}

int metrics_render_histogram(struct buf *out, enum metrics_family id, const char *labels,
                             const struct metrics_histogram *h, size_t n, size_t stride)
{
    unsigned long long bucket[METRICS_BUCKETS + 1] = {0}, ns = 0, count = 0;
    const char *name = metrics_name(id), *at = (const char *)h;
    int rc = 0;
    for (size_t i = 0; i < n; i++, at += stride) {
        h = (const struct metrics_histogram *)at;
        for (int b = 0; b <= METRICS_BUCKETS; b++)
            bucket[b] += atomic_load_explicit(&h->bucket[b], memory_order_relaxed);
        ns += atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
    }
    for (int b = 0; rc == 0 && b <= METRICS_BUCKETS; b++) {
        count += bucket[b];
        rc = buf_printf(out, "%s_bucket{%s,le=\"%s\"} %llu\n", name, labels,
                        b < METRICS_BUCKETS ? metrics_bounds[b].text : "+Inf", count);
    }
    if (rc == 0)
        rc = buf_printf(out, "%s_sum{%s} %llu.%09llu\n%s_count{%s} %llu\n", name, labels, ns / 1000000000,
                        ns % 1000000000, name, labels, count);
    return rc;
}

/* How many bytes the character at `text` has; 0 when it is none. */
static size_t metrics_character(const char *text)
{
    size_t n = 1;
    while (n <= 4 && text[n - 1] != '\0' && !utf8_valid(text, n))
        n++;
    return n <= 4 && text[n - 1] != '\0' ? n : 0;
}

int metrics_append_label(struct buf *out, const char *text)
{
    int rc = 0;
    while (rc == 0 && *text != '\0') {
        size_t n = metrics_character(text);
        if (n == 0)
            rc = buf_printf(out, "\\\\x%02X", (unsigned)(unsigned char)*text);
        else if (*text == '\\' || *text == '"')
            rc = buf_printf(out, "\\%c", *text);
        else if (*text == '\n')
            rc = buf_puts(out, "\\n");
        else
            rc = buf_append(out, text, n);
        text += n == 0 ? 1 : n;
    }
    return rc;
}
