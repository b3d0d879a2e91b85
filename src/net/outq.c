/* SPDX-License-Identifier: MIT
 * A connection's send queue. */
#include "net/outq.h"

#include <stdlib.h>
#include <string.h>

struct outq_chunk {
    struct outq_chunk *next;
    uint8_t *bytes;       /* its own, or those of the block */
    struct block *shared; /* NULL: its own */
    size_t start, end, cap;
    uint8_t data[];
};

#define OUTQ_SMALL      (4096 - sizeof(struct outq_chunk))
#define OUTQ_POOL_LIMIT 256 /* 1 MiB of spares a worker */
#define OUTQ_REFS_LIMIT 4096

static struct outq_chunk *outq_chunk_get(struct outq_pool *pool, size_t len)
{
    struct outq_chunk *k = pool->spare;
    if (len <= OUTQ_SMALL && k != NULL) {
        pool->spare = k->next;
        pool->count--;
    } else {
        size_t cap = len <= OUTQ_SMALL ? OUTQ_SMALL : len;
        k = malloc(sizeof *k + cap);
        if (k == NULL)
            return NULL;
        k->cap = cap;
        k->bytes = k->data;
        k->shared = NULL;
    }
    k->next = NULL;
    k->start = k->end = 0;
    return k;
}

/* One without bytes of its own. */
static struct outq_chunk *outq_ref_get(struct outq_pool *pool)
{
    struct outq_chunk *k = pool->spare_refs;
    if (k == NULL)
        return malloc(sizeof *k);
    pool->spare_refs = k->next;
    pool->nrefs--;
    return k;
}

static void outq_chunk_put(struct outq_pool *pool, struct outq_chunk *k)
{
    if (k->shared != NULL) {
        block_unref(k->shared);
        if (pool->nrefs < OUTQ_REFS_LIMIT) {
            k->next = pool->spare_refs;
            pool->spare_refs = k;
            pool->nrefs++;
        } else
            free(k);
    } else if (k->cap == OUTQ_SMALL && pool->count < OUTQ_POOL_LIMIT) {
        k->next = pool->spare;
        pool->spare = k;
        pool->count++;
    } else
        free(k);
}

static void outq_link(struct outq *q, struct outq_chunk *k)
{
    if (q->tail != NULL)
        q->tail->next = k;
    else
        q->head = k;
    q->tail = k;
}

int outq_append(struct outq *q, struct outq_pool *pool, const void *data, size_t len)
{
    struct outq_chunk *tail = q->tail;
    size_t room = tail != NULL ? tail->cap - tail->end : 0;
    size_t first = len < room ? len : room;
    if (len > first) {
        struct outq_chunk *k = outq_chunk_get(pool, len - first);
        if (k == NULL)
            return -1;
        memcpy(k->data, (const uint8_t *)data + first, len - first);
        k->end = len - first;
        outq_link(q, k);
    }
    if (first > 0) {
        memcpy(tail->data + tail->end, data, first);
        tail->end += first;
    }
    q->bytes += len;
    return 0;
}

int outq_append_block(struct outq *q, struct outq_pool *pool, struct block *b, size_t at, size_t len)
{
    struct outq_chunk *k = outq_ref_get(pool);
    if (k == NULL)
        return -1;
    *k = (struct outq_chunk){.bytes = b->data, .shared = block_ref(b), .start = at, .end = at + len};
    k->cap = k->end; /* nothing can be added to it */
    outq_link(q, k);
    q->bytes += len;
    return 0;
}

int outq_peek(const struct outq *q, struct iovec *iov, int max)
{
    int n = 0;
    for (struct outq_chunk *k = q->head; k != NULL && n < max; k = k->next, n++)
        iov[n] = (struct iovec){.iov_base = k->bytes + k->start, .iov_len = k->end - k->start};
    return n;
}

void outq_consume(struct outq *q, struct outq_pool *pool, size_t n)
{
    q->bytes -= n;
    while (n > 0 || (q->head != NULL && q->head->start == q->head->end)) {
        struct outq_chunk *k = q->head;
        size_t have = k->end - k->start;
        if (n < have) {
            k->start += n;
            return;
        }
        n -= have;
        q->head = k->next;
        if (q->head == NULL)
            q->tail = NULL;
        outq_chunk_put(pool, k);
    }
}

void outq_clear(struct outq *q, struct outq_pool *pool)
{
    outq_consume(q, pool, q->bytes);
}

void outq_pool_fini(struct outq_pool *pool)
{
    while (pool->spare != NULL) {
        struct outq_chunk *k = pool->spare;
        pool->spare = k->next;
        free(k);
    }
    pool->count = 0;
    while (pool->spare_refs != NULL) {
        struct outq_chunk *k = pool->spare_refs;
        pool->spare_refs = k->next;
        free(k);
    }
    pool->nrefs = 0;
}
