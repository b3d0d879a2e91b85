/* SPDX-License-Identifier: MIT
 * What is counted for each route. */
#include "base/tally.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tally_place {
    char *labels; /* method="GET",route="/chat/:room"; the table is ordered by them */
    unsigned workers;
    struct tally part[];
};

/* All of it under the lock, but for the parts themselves. */
static pthread_mutex_t tally_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tally_place *tally_places[TALLY_ROUTES + 1];
static size_t tally_count;

/* No route's: patterns begin with a slash. */
#define TALLY_NONE  "method=\"*\",route=\"none\""
#define TALLY_OTHER "method=\"*\",route=\"other\""

static char *tally_labels(const char *method, const char *pattern)
{
    if (pattern == NULL)
        return strdup(TALLY_NONE);
    struct buf b = BUF_INIT;
    if (buf_printf(&b, "method=\"%s\",route=\"", method) == 0 && metrics_append_label(&b, pattern) == 0 &&
        buf_append(&b, "\"", 2) == 0)
        return b.data;
    buf_fini(&b);
    return NULL;
}

/* Where the labels are, or belong. */
static size_t tally_find(const char *labels, bool *found)
{
    size_t low = 0, high = tally_count;
    *found = false;
    while (low < high && !*found) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(labels, tally_places[middle]->labels);
        if (order == 0)
            *found = true;
        if (order <= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

/* Takes `labels` over. */
static struct tally_place *tally_create(char *labels, bool frequent, unsigned workers)
{
    size_t size = sizeof(struct tally_place) + workers * sizeof(struct tally);
    struct tally_place *p = labels != NULL ? aligned_alloc(_Alignof(struct tally), size) : NULL;
    if (p == NULL) {
        free(labels);
        return NULL;
    }
    memset(p, 0, size);
    p->labels = labels;
    p->workers = workers;
    for (unsigned i = 0; i < workers; i++) {
        p->part[i].frequent = frequent;
        p->part[i].next_call = p->part[i].next_resumed = 1;
    }
    return p;
}

static struct tally *tally_get_locked(char *labels, bool frequent, unsigned workers)
{
    bool found;
    size_t at = tally_find(labels, &found);
    if (!found && tally_count >= TALLY_ROUTES) {
        free(labels);
        labels = strdup(TALLY_OTHER);
        frequent = true;
        if (labels == NULL)
            return NULL;
        at = tally_find(labels, &found);
    }
    if (found) {
        free(labels);
        return tally_places[at]->part;
    }
    struct tally_place *p = tally_create(labels, frequent, workers);
    if (p == NULL)
        return NULL;
    memmove(&tally_places[at + 1], &tally_places[at], (tally_count - at) * sizeof tally_places[0]);
    tally_places[at] = p;
    tally_count++;
    return p->part;
}

struct tally *tally_route(const char *method, const char *pattern, bool frequent, unsigned workers)
{
    char *labels = tally_labels(method, pattern);
    if (labels == NULL)
        return NULL;
    pthread_mutex_lock(&tally_lock);
    struct tally *t = tally_get_locked(labels, frequent, workers);
    pthread_mutex_unlock(&tally_lock);
    return t;
}

/* Of frequent ones one in 32 on average, at distances that look random, or what comes in turns would be timed
 * always or never. */
uint64_t tally_next(const struct tally *t, uint64_t n)
{
    return n + 1 + (t->frequent ? n * 0x9e3779b97f4a7c15 % 63 : 0);
}

/* ---- the text ---- */

static uint64_t tally_sum(const struct tally_place *p, size_t offset)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < p->workers; i++)
        sum += atomic_load_explicit((const _Atomic uint64_t *)((const char *)&p->part[i] + offset),
                                    memory_order_relaxed);
    return sum;
}

static int tally_render_calls(struct buf *out, const struct tally_place *p)
{
    return buf_printf(out, "%s{%s} %llu\n", metrics_name(METRICS_HANDLER_CALLS), p->labels,
                      (unsigned long long)tally_sum(p, offsetof(struct tally, calls)));
}

static int tally_render_errors(struct buf *out, const struct tally_place *p)
{
    static const char *const names[TALLY_REASONS] = {[TALLY_ERROR] = "error", [TALLY_BUDGET] = "budget"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < TALLY_REASONS; i++)
        rc = buf_printf(
            out, "%s{%s,reason=\"%s\"} %llu\n", metrics_name(METRICS_HANDLER_ERRORS), p->labels, names[i],
            (unsigned long long)tally_sum(p, offsetof(struct tally, errors) + i * sizeof(uint64_t)));
    return rc;
}

static int tally_render_time(struct buf *out, const struct tally_place *p)
{
    return metrics_render_histogram(out, METRICS_HANDLER_SECONDS, p->labels, &p->part[0].time, p->workers,
                                    sizeof p->part[0]);
}

static int tally_render_family(struct buf *out, enum metrics_family id,
                               int (*render)(struct buf *, const struct tally_place *))
{
    int rc = metrics_begin(out, id);
    for (size_t i = 0; rc == 0 && i < tally_count; i++)
        rc = render(out, tally_places[i]);
    return rc;
}

int tally_render(struct buf *out)
{
    pthread_mutex_lock(&tally_lock);
    int rc = tally_render_family(out, METRICS_HANDLER_CALLS, tally_render_calls);
    if (rc == 0)
        rc = tally_render_family(out, METRICS_HANDLER_ERRORS, tally_render_errors);
    if (rc == 0)
        rc = tally_render_family(out, METRICS_HANDLER_SECONDS, tally_render_time);
    pthread_mutex_unlock(&tally_lock);
    return rc;
}
