/* SPDX-License-Identifier: MIT
 * Feeds for subscribers that speak permessage-deflate. */
#include "bus/encoding.h"

#include <string.h>

#include "bus/topic.h"

static struct feed *encoding_find(const struct feed *f, const struct feed_shape *shape)
{
    struct feed *e = f->encodings;
    while (e != NULL && (e->shape.bits != shape->bits || e->shape.min != shape->min))
        e = e->next;
    return e;
}

static struct feed *encoding_make(struct feed_pool *pool, struct feed *f, const struct feed_shape *shape)
{
    struct feed *e = feed_get(pool, f->topic);
    if (e == NULL)
        return NULL;
    e->shape = *shape;
    e->next = f->encodings;
    f->encodings = e;
    return e;
}

static int encoding_sink(void *to, const void *data, size_t len)
{
    return buf_append(to, data, len);
}

/* Adds a message that is compressed. 0; 1 when that is not worth it; -1 when memory runs out. */
static int encoding_add_compressed(struct session_worker *l, struct feed *e, const uint8_t *frame)
{
    size_t len;
    struct buf out = BUF_INIT;
    const uint8_t *payload = framer_payload(frame, &len);
    const struct buf *packed = deflate_compress_shared(&l->deflate, e->shape.bits, payload, len);
    int rc = 1;
    if (packed != NULL) {
        uint8_t first = (frame[0] & 15) | FRAMER_RSV1;
        rc = framer_write(&l->framers[0], first, packed->data, packed->len, encoding_sink, &out);
        if (rc == 0)
            rc = feed_add(e, out.data, out.len, 0, NULL);
        e->compressed |= rc == 0;
    }
    deflate_trim(&l->deflate);
    buf_fini(&out);
    return rc;
}

/* Adds the next message. 0, or -1 when memory runs out. */
static int encoding_add(struct session_worker *l, struct feed *e, const struct feed *f)
{
    size_t len;
    struct feed_range r = feed_range(f, e->nrecords, e->nrecords + 1);
    const uint8_t *frame = r.block->data + r.at;
    framer_payload(frame, &len);
    int rc = len > 0 && len >= e->shape.min ? encoding_add_compressed(l, e, frame) : 1;
    if (rc <= 0)
        return rc;
    bool has_block = r.at == 0 && r.len == r.block->cap; /* nothing will be added to it */
    return has_block ? feed_add_block(e, r.block, 0, NULL) : feed_add(e, frame, r.len, 0, NULL);
}

struct feed *encoding_for(const struct session *s, struct feed *f)
{
    struct worker *w = s->conn->worker;
    const struct feed_shape shape = {deflate_bits(s->deflate), s->limits->compression_min};
    if (s->is_client || f->longest < shape.min)
        return f;
    struct feed *e = encoding_find(f, &shape);
    if (e == NULL && (e = encoding_make(&topic_worker_of(w)->feeds, f, &shape)) == NULL)
        return f;
    while (e->nrecords < f->nrecords)
        if (encoding_add(w->layer[WORKER_WS], e, f) < 0)
            return f;
    return e;
}
