/* SPDX-License-Identifier: MIT
 * Spreading new connections over the workers. */
#include "net/spread.h"

#include <stdlib.h>
#include <unistd.h>

#include "net/tlscontext.h"
#include "net/worker.h"

/* An accepted connection on its way. */
struct spread_arrival {
    struct spread_arrival *next;
    struct worker *to;
    struct sockaddr_storage peer;
    int fd;
    struct spread_how how;
};

/* A momentary value, which others are changing: it may be off by a few, and so may the spread. */
static uint64_t spread_load(const struct worker *w)
{
    uint64_t load = atomic_load_explicit(&w->spread.arriving, memory_order_relaxed);
    for (enum metric state = METRIC_CONNECTIONS; state <= METRIC_CONNECTIONS_CLOSED; state++)
        load += metrics_get(w->metrics, state);
    return load;
}

static struct worker *spread_choose(struct worker *w)
{
    struct worker *best = w;
    uint64_t own = spread_load(w), least = own;
    if (own <= SPREAD_SLACK || !spread_is_open(w)) /* one that stops keeps what it has accepted */
        return w;
    for (unsigned i = 0; i < w->count; i++) {
        struct worker *peer = w->peers[i];
        uint64_t load = peer != w ? spread_load(peer) : own;
        if (load >= least || !spread_is_open(peer) || worker_is_late(peer))
            continue;
        best = peer;
        least = load;
    }
    return own > least + SPREAD_SLACK ? best : w;
}

static void spread_start(struct worker *w, struct spread_arrival *a)
{
    w->hooks->on_accept(w, a->fd, (const struct sockaddr *)&a->peer, a->how);
    free(a);
}

/* ---- the receiving side ---- */

void spread_init(struct spread *s)
{
    atomic_init(&s->open, false);
    atomic_init(&s->arriving, 0);
    pthread_mutex_init(&s->lock, NULL);
    s->first = NULL;
    s->last = &s->first;
    s->noted = false;
}

void spread_fini(struct spread *s)
{
    pthread_mutex_destroy(&s->lock);
}

/* Everything in the list, which the caller of this now owns. */
static struct spread_arrival *spread_take_locked(struct spread *s)
{
    struct spread_arrival *all = s->first;
    s->first = NULL;
    s->last = &s->first;
    return all;
}

static void spread_start_all(struct worker *w, struct spread_arrival *a)
{
    while (a != NULL) {
        struct spread_arrival *next = a->next;
        spread_start(w, a);
        /* After it has begun to count as open: for a moment it counts twice rather than not at all. */
        atomic_fetch_sub_explicit(&w->spread.arriving, 1, memory_order_relaxed);
        a = next;
    }
}

static void spread_on_note(struct mail *mail, void *receiver)
{
    (void)mail;
    struct worker *w = receiver;
    pthread_mutex_lock(&w->spread.lock);
    w->spread.noted = false;
    struct spread_arrival *all = spread_take_locked(&w->spread);
    pthread_mutex_unlock(&w->spread.lock);
    spread_start_all(w, all);
}

void spread_open(struct worker *w)
{
    pthread_mutex_lock(&w->spread.lock);
    w->spread.note.deliver = spread_on_note;
    atomic_store(&w->spread.open, true);
    pthread_mutex_unlock(&w->spread.lock);
}

/* Everything in the list, and no more will come. */
static struct spread_arrival *spread_take_last(struct spread *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->open, false);
    struct spread_arrival *all = spread_take_locked(s);
    pthread_mutex_unlock(&s->lock);
    return all;
}

void spread_close(struct worker *w)
{
    spread_start_all(w, spread_take_last(&w->spread));
}

void spread_abandon(struct worker *w)
{
    struct spread_arrival *a = spread_take_last(&w->spread);
    while (a != NULL) {
        struct spread_arrival *next = a->next;
        close(a->fd);
        tlscontext_unref(a->how.tls);
        free(a);
        a = next;
    }
}

bool spread_is_open(const struct worker *w)
{
    return atomic_load_explicit(&w->spread.open, memory_order_relaxed);
}

/* ---- the accepting side ---- */

void spread_begin(struct spread_batch *b, struct worker *w)
{
    b->w = w;
    b->first = NULL;
    b->last = &b->first;
}

void spread_place(struct spread_batch *b, int fd, const struct sockaddr_storage *peer, struct spread_how how)
{
    struct worker *w = b->w, *to = w->count > 1 ? spread_choose(w) : w;
    struct spread_arrival *a = to != w ? malloc(sizeof *a) : NULL;
    if (a == NULL) {
        w->hooks->on_accept(w, fd, (const struct sockaddr *)peer, how);
        return;
    }
    *a = (struct spread_arrival){.to = to, .peer = *peer, .fd = fd, .how = how};
    atomic_fetch_add_explicit(&to->spread.arriving, 1, memory_order_relaxed);
    *b->last = a;
    b->last = &a->next;
}

/* Moves what goes to the same worker as the first from `from` to the list that begins at `to`; returns how
 * many that are, and through `end` where their list ends. */
static unsigned spread_sort(struct spread_arrival **from, struct spread_arrival **to,
                            struct spread_arrival ***end)
{
    const struct worker *receiver = (*from)->to;
    unsigned n = 0;
    while (*from != NULL) {
        struct spread_arrival *a = *from;
        if (a->to != receiver) {
            from = &a->next;
            continue;
        }
        *from = a->next;
        a->next = NULL;
        *to = a;
        to = &a->next;
        n++;
    }
    *end = to;
    return n;
}

void spread_end(struct spread_batch *b)
{
    while (b->first != NULL) {
        struct worker *to = b->first->to;
        struct spread *s = &to->spread;
        struct spread_arrival *some, **end;
        unsigned n = spread_sort(&b->first, &some, &end);
        pthread_mutex_lock(&s->lock);
        bool taken = atomic_load_explicit(&s->open, memory_order_relaxed);
        bool wake = taken && !s->noted;
        if (taken) {
            *s->last = some;
            s->last = end;
            s->noted = true;
        }
        pthread_mutex_unlock(&s->lock);
        if (wake)
            worker_post(to, &s->note);
        if (taken) {
            metrics_add(b->w->metrics, METRIC_HANDED_OVER, n);
            continue;
        }
        atomic_fetch_sub_explicit(&s->arriving, n, memory_order_relaxed);
        while (some != NULL) {
            struct spread_arrival *next = some->next;
            spread_start(b->w, some);
            some = next;
        }
    }
    b->last = &b->first;
}

void spread_take_back(struct worker *w, struct worker *late)
{
    struct spread_batch b;
    pthread_mutex_lock(&late->spread.lock);
    struct spread_arrival *a = spread_take_locked(&late->spread);
    pthread_mutex_unlock(&late->spread.lock);
    spread_begin(&b, w);
    while (a != NULL) {
        struct spread_arrival *next = a->next;
        spread_place(&b, a->fd, &a->peer, a->how);
        atomic_fetch_sub_explicit(&late->spread.arriving, 1, memory_order_relaxed);
        free(a);
        a = next;
    }
    spread_end(&b);
}
