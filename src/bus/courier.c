/* SPDX-License-Identifier: MIT
 * What workers tell each other. */
#include "bus/courier.h"

#include <stdatomic.h>
#include <stdlib.h>

#define COURIER_FIRST 1024 /* bytes of a new batch */
#define COURIER_FULL                                                                                         \
    (256 * 1024) /* a batch of that many bytes does not wait for the end of the iteration                    \
                  */
#define COURIER_ALIGN 16

struct courier_item {
    courier_deliver *deliver;
    size_t len;
    _Alignas(COURIER_ALIGN) uint8_t data[];
};

struct courier_batch {
    struct mail mail;
    size_t cap, len; /* of data */
    size_t last;     /* where the last item begins */
    size_t weight;   /* what counts for inbox_limit */
    _Alignas(COURIER_ALIGN) uint8_t data[];
};

struct courier {
    _Atomic size_t inbox;         /* bytes on their way to this worker */
    struct courier_batch **batch; /* by receiver; NULL: nothing for it yet */
};

static struct courier *courier_of(const struct worker *w)
{
    return w->layer[WORKER_COURIER];
}

static size_t courier_aligned(size_t n)
{
    return (n + COURIER_ALIGN - 1) & ~(size_t)(COURIER_ALIGN - 1);
}

static struct courier_item *courier_item_at(struct courier_batch *b, size_t at)
{
    return (struct courier_item *)(b->data + at);
}

static void courier_on_batch(struct mail *mail, void *receiver)
{
    struct courier_batch *b = (struct courier_batch *)mail;
    struct worker *w = receiver;
    struct courier *c = courier_of(w);
    for (size_t at = 0; at < b->len;) {
        struct courier_item *item = courier_item_at(b, at);
        at += courier_aligned(sizeof *item + item->len);
        item->deliver(w, item->data, item->len);
    }
    if (c != NULL)
        atomic_fetch_sub(&c->inbox, b->weight);
    free(b);
}

static void courier_post(struct worker *to, struct courier_batch **batch)
{
    struct courier_batch *b = *batch;
    *batch = NULL;
    b->mail.deliver = courier_on_batch;
    atomic_fetch_add(&courier_of(to)->inbox, b->weight);
    worker_post(to, &b->mail);
}

/* Makes room for `len` more bytes of data; NULL when there is none in the inbox or in memory. */
static struct courier_batch *courier_reserve(struct worker *from, struct worker *to, size_t len,
                                             size_t weight)
{
    struct courier_batch **batch = &courier_of(from)->batch[to->index - 1], *b = *batch;
    size_t have = b != NULL ? b->len : 0, limit = (size_t)from->config->inbox_limit;
    size_t taken = atomic_load_explicit(&courier_of(to)->inbox, memory_order_relaxed);
    taken += b != NULL ? b->weight : 0;
    if (weight > limit || taken > limit - weight)
        return NULL;
    if (b == NULL || b->cap - have < len) {
        size_t cap = b == NULL ? COURIER_FIRST : b->cap * 2;
        cap = cap - have < len ? have + len : cap;
        struct courier_batch *grown = realloc(b, sizeof *b + cap);
        if (grown == NULL)
            return NULL;
        if (b == NULL)
            grown->len = grown->weight = 0;
        grown->cap = cap;
        *batch = b = grown;
        from->due = true;
    }
    b->weight += weight;
    return b;
}

uint8_t *courier_add(struct worker *from, struct worker *to, courier_deliver *deliver, size_t len,
                     size_t weight)
{
    struct courier_batch **batch = &courier_of(from)->batch[to->index - 1];
    if (*batch != NULL && (*batch)->len >= COURIER_FULL)
        courier_post(to, batch);
    size_t whole = courier_aligned(sizeof(struct courier_item) + len);
    struct courier_batch *b = courier_reserve(from, to, whole, whole + weight);
    if (b == NULL)
        return NULL;
    struct courier_item *item = courier_item_at(b, b->len);
    item->deliver = deliver;
    item->len = len;
    b->last = b->len;
    b->len += whole;
    return item->data;
}

uint8_t *courier_last(const struct worker *from, const struct worker *to, courier_deliver *deliver)
{
    struct courier_batch *b = courier_of(from)->batch[to->index - 1];
    if (b == NULL || b->len == 0 || b->len >= COURIER_FULL)
        return NULL;
    struct courier_item *item = courier_item_at(b, b->last);
    return item->deliver == deliver ? item->data : NULL;
}

uint8_t *courier_extend(struct worker *from, struct worker *to, size_t more)
{
    struct courier_batch *b = courier_reserve(from, to, courier_aligned(more), more);
    if (b == NULL)
        return NULL;
    struct courier_item *item = courier_item_at(b, b->last);
    size_t before = item->len;
    item->len += more;
    b->len = b->last + courier_aligned(sizeof *item + item->len);
    return item->data + before;
}

void courier_flush(struct worker *from)
{
    struct courier *c = courier_of(from);
    for (unsigned i = 0; i < from->count; i++)
        if (c->batch[i] != NULL)
            courier_post(from->peers[i], &c->batch[i]);
}

int courier_init(struct worker *w)
{
    struct courier *c = calloc(1, sizeof *c);
    if (c == NULL || (c->batch = calloc(w->count, sizeof *c->batch)) == NULL) {
        free(c);
        return -1;
    }
    w->layer[WORKER_COURIER] = c;
    return 0;
}

void courier_fini(struct worker *w)
{
    struct courier *c = courier_of(w);
    if (c == NULL)
        return;
    for (unsigned i = 0; i < w->count; i++)
        free(c->batch[i]);
    free(c->batch);
    free(c);
    w->layer[WORKER_COURIER] = NULL;
}
