/* SPDX-License-Identifier: MIT
 * What was published to one topic since its subscribers were last served. */
#include "bus/feed.h"

#include <stdlib.h>
#include <string.h>

#define FEED_BLOCK_MIN  1024 /* bytes of a feed's first block */
#define FEED_BLOCK_MAX  65536
#define FEED_POOL_LIMIT 64
#define FEED_KEEP       4096 /* records that a spare feed keeps room for */

struct feed *feed_get(struct feed_pool *pool, struct topic *topic)
{
    struct feed *f = pool->spare;
    if (f != NULL) {
        pool->spare = f->next;
        pool->count--;
    } else if ((f = calloc(1, sizeof *f)) == NULL)
        return NULL;
    f->topic = topic;
    return f;
}

static void feed_free(struct feed *f)
{
    free(f->record);
    free(f->segment);
    free(f->sum);
    free(f);
}

void feed_put(struct feed_pool *pool, struct feed *f)
{
    for (uint32_t i = 0; i < f->nsegments; i++)
        block_unref(f->segment[i].block);
    while (f->encodings != NULL) {
        struct feed *e = f->encodings;
        f->encodings = e->next;
        feed_put(pool, e);
    }
    f->nrecords = f->nsegments = 0;
    f->shape = (struct feed_shape){0};
    f->compressed = false;
    f->longest = 0;
    if (pool->count >= FEED_POOL_LIMIT || f->records_cap > FEED_KEEP || f->segments_cap > FEED_KEEP) {
        feed_free(f);
        return;
    }
    f->next = pool->spare;
    pool->spare = f;
    pool->count++;
}

void feed_pool_fini(struct feed_pool *pool)
{
    while (pool->spare != NULL) {
        struct feed *f = pool->spare;
        pool->spare = f->next;
        feed_free(f);
    }
    pool->count = 0;
}

/* Room for one more of `size` bytes behind `n` of them; 0 or -1. */
static int feed_room(void *array, uint32_t n, uint32_t *cap, size_t size)
{
    void **at = array;
    if (n < *cap)
        return 0;
    uint32_t grown_cap = *cap == 0 ? 8 : *cap * 2;
    void *grown = realloc(*at, grown_cap * size);
    if (grown == NULL)
        return -1;
    *at = grown;
    *cap = grown_cap;
    return 0;
}

static int feed_make_room(struct feed *f)
{
    if (feed_room(&f->record, f->nrecords, &f->records_cap, sizeof f->record[0]) < 0)
        return -1;
    if (feed_room(&f->sum, f->nrecords, &f->sums_cap, sizeof f->sum[0]) < 0)
        return -1;
    return feed_room(&f->segment, f->nsegments, &f->segments_cap, sizeof f->segment[0]);
}

static void feed_note(struct feed *f, size_t len, size_t end, uint32_t seq, const struct session *except)
{
    f->longest = len > f->longest ? len : f->longest;
    f->sum[f->nrecords] = f->nrecords > 0 ? f->sum[f->nrecords - 1] : (struct feed_sum){0};
    f->record[f->nrecords++] = (struct feed_record){except, seq, (uint32_t)end};
}

int feed_add(struct feed *f, const void *frame, size_t len, uint32_t seq, const struct session *except)
{
    if (feed_make_room(f) < 0)
        return -1;
    struct block *b = f->nsegments > 0 ? f->segment[f->nsegments - 1].block : NULL;
    if (b == NULL || b->cap - b->len < len) {
        size_t cap = b == NULL ? FEED_BLOCK_MIN : b->cap * 4;
        cap = cap > FEED_BLOCK_MAX ? FEED_BLOCK_MAX : cap;
        b = block_create(cap < len ? len : cap);
        if (b == NULL)
            return -1;
        f->segment[f->nsegments++] = (struct feed_segment){b, f->nrecords};
    }
    memcpy(b->data + b->len, frame, len);
    b->len += len;
    feed_note(f, len, b->len, seq, except);
    return 0;
}

int feed_add_block(struct feed *f, struct block *b, uint32_t seq, const struct session *except)
{
    if (feed_make_room(f) < 0)
        return -1;
    f->segment[f->nsegments++] = (struct feed_segment){block_ref(b), f->nrecords};
    feed_note(f, b->len, b->len, seq, except);
    return 0;
}

void feed_describe(struct feed *f, bool text, size_t payload_len)
{
    struct feed_sum *sum = &f->sum[f->nrecords - 1];
    sum->bytes += (uint32_t)payload_len;
    sum->binary += !text;
    sum->binary_bytes += text ? 0 : (uint32_t)payload_len;
}

struct feed_sum feed_sum(const struct feed *f, uint32_t from, uint32_t to)
{
    struct feed_sum sum = f->sum[to - 1];
    if (from > 0) {
        sum.bytes -= f->sum[from - 1].bytes;
        sum.binary -= f->sum[from - 1].binary;
        sum.binary_bytes -= f->sum[from - 1].binary_bytes;
    }
    return sum;
}

/* The segment that has the record. */
static uint32_t feed_segment_of(const struct feed *f, uint32_t record)
{
    uint32_t low = 0, high = f->nsegments;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (f->segment[middle].first <= record)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct feed_range feed_range(const struct feed *f, uint32_t from, uint32_t to)
{
    uint32_t i = feed_segment_of(f, from);
    const struct feed_segment *s = &f->segment[i];
    if (i + 1 < f->nsegments && f->segment[i + 1].first < to)
        to = f->segment[i + 1].first;
    size_t at = from == s->first ? 0 : f->record[from - 1].end;
    return (struct feed_range){s->block, at, f->record[to - 1].end - at, to - from};
}
