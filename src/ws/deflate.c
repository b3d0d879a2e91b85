/* SPDX-License-Identifier: MIT
 * permessage-deflate over zlib. */
#include "ws/deflate.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define DEFLATE_MAX_BITS  15
#define DEFLATE_STATE     6144       /* bytes of a zlib stream besides its tables, rounded up (zlib 1.2.13) */
#define DEFLATE_INFLATING 7168       /* the same for an inflating one, without its window */
#define DEFLATE_SPARE_MAX 4          /* inflaters a worker keeps */
#define DEFLATE_KEEP      (1 << 18)  /* bytes of scratch memory a worker keeps */
#define DEFLATE_MOST      (1u << 31) /* longer messages go as they are: zlib counts with 32 bits */

struct deflate_inflater {
    z_stream z;
    struct deflate_inflater *next; /* in the pool */
};

struct deflate {
    z_stream *out;               /* its own compressor; NULL until used */
    struct deflate_inflater *in; /* while inside a compressed message; its own for good when in_takeover */
    uint8_t out_bits, in_bits;   /* of the windows */
    bool out_takeover, in_takeover;
    bool stale; /* `out` is to begin anew */
};

const uint8_t deflate_tail[DEFLATE_TAIL_LEN] = {0, 0, 0xff, 0xff};

/* ---- memory ---- */

/* zlib's memLevel for a window of its own: tables in proportion to it, but not so small that there is a new
 * block, with its codes, every few hundred bytes. */
static int deflate_mem_level(unsigned bits)
{
    return bits < 11 ? 4 : bits > 14 ? 8 : (int)bits - 7;
}

/* As in zlib's zconf.h. */
static uint64_t deflate_compressor_cost(unsigned bits, int mem_level)
{
    return (1u << (bits + 2)) + (1u << (mem_level + 9)) + DEFLATE_STATE;
}

static uint64_t deflate_inflater_cost(unsigned bits)
{
    return (1u << bits) + DEFLATE_INFLATING;
}

/* What one side's takeover costs us. */
static uint64_t deflate_promise(bool out, unsigned out_bits, bool in, unsigned in_bits)
{
    return (out ? deflate_compressor_cost(out_bits, deflate_mem_level(out_bits)) : 0) +
           (in ? deflate_inflater_cost(in_bits) : 0);
}

uint64_t deflate_cost(const struct extensions_terms *t, bool is_client)
{
    if (!t->deflate)
        return 0;
    return is_client
               ? deflate_promise(t->client_takeover, t->client_bits, t->server_takeover, t->server_bits)
               : deflate_promise(t->server_takeover, t->server_bits, t->client_takeover, t->client_bits);
}

static void deflate_count(const struct deflate_pool *p, uint64_t bytes)
{
    metrics_add(p->worker->metrics, METRIC_COMPRESSION_BYTES, bytes);
}

static void deflate_discount(const struct deflate_pool *p, uint64_t bytes)
{
    metrics_sub(p->worker->metrics, METRIC_COMPRESSION_BYTES, bytes);
}

enum deflate_room deflate_room(const struct worker *w, uint64_t cost)
{
    int64_t limit = w->config->compression_limit;
    if (!worker_over_limit(w, METRIC_COMPRESSION_BYTES, limit / 2, cost))
        return DEFLATE_ROOM;
    uint64_t inflater = deflate_inflater_cost(DEFLATE_MAX_BITS); /* without one no message can be read */
    return worker_over_limit(w, METRIC_COMPRESSION_BYTES, limit, inflater) ? DEFLATE_NO_ROOM
                                                                           : DEFLATE_ROOM_SHARED;
}

static void deflate_free_inflater(struct deflate_inflater *i)
{
    inflateEnd(&i->z);
    free(i);
}

/* NULL when memory runs out. */
static struct deflate_inflater *deflate_make_inflater(unsigned bits)
{
    struct deflate_inflater *i = calloc(1, sizeof *i);
    if (i != NULL && inflateInit2(&i->z, -(int)bits) != Z_OK) {
        free(i);
        i = NULL;
    }
    return i;
}

/* zlib has no window of 256 bytes for raw streams. Run lengths only, whose distance is 1, fit into any. */
static z_stream *deflate_make_compressor(unsigned bits, int level, int mem_level)
{
    z_stream *z = calloc(1, sizeof *z);
    int strategy = bits < 9 ? Z_RLE : Z_DEFAULT_STRATEGY;
    if (z != NULL &&
        deflateInit2(z, level, Z_DEFLATED, -(int)(bits < 9 ? 9 : bits), mem_level, strategy) != Z_OK) {
        free(z);
        z = NULL;
    }
    return z;
}

static void deflate_free_compressor(z_stream *z)
{
    if (z != NULL)
        deflateEnd(z);
    free(z);
}

void deflate_pool_init(struct deflate_pool *p, struct worker *w)
{
    *p = (struct deflate_pool){.worker = w};
}

static void deflate_free_shared(struct deflate_pool *p)
{
    for (unsigned bits = 0; bits <= DEFLATE_MAX_BITS; bits++) {
        if (p->shared[bits] != NULL)
            deflate_discount(p, deflate_compressor_cost(bits, MAX_MEM_LEVEL - 1));
        deflate_free_compressor(p->shared[bits]);
        p->shared[bits] = NULL;
    }
}

void deflate_pool_configure(struct deflate_pool *p)
{
    int64_t level = p->worker->config->compression_level;
    if (p->level != level)
        deflate_free_shared(p); /* between two messages they hold nothing */
    p->level = level;
}

void deflate_pool_fini(struct deflate_pool *p)
{
    while (p->spare != NULL) {
        struct deflate_inflater *i = p->spare;
        p->spare = i->next;
        deflate_free_inflater(i);
        deflate_discount(p, deflate_inflater_cost(DEFLATE_MAX_BITS));
    }
    p->nspare = 0;
    deflate_free_shared(p);
    buf_fini(&p->scratch);
}

/* ---- a connection's ---- */

struct deflate *deflate_create(struct deflate_pool *p, const struct extensions_terms *t, bool is_client)
{
    struct deflate *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->out_bits = is_client ? t->client_bits : t->server_bits;
    d->in_bits = is_client ? t->server_bits : t->client_bits;
    d->out_takeover = is_client ? t->client_takeover : t->server_takeover;
    d->in_takeover = is_client ? t->server_takeover : t->client_takeover;
    deflate_count(p, deflate_promise(d->out_takeover, d->out_bits, d->in_takeover, d->in_bits));
    p->users++;
    return d;
}

void deflate_release(struct deflate_pool *p, struct deflate *d)
{
    struct deflate_inflater *i = d->in;
    if (i == NULL || d->in_takeover)
        return;
    d->in = NULL;
    if (p->nspare == DEFLATE_SPARE_MAX) {
        deflate_free_inflater(i);
        deflate_discount(p, deflate_inflater_cost(DEFLATE_MAX_BITS));
        return;
    }
    i->next = p->spare;
    p->spare = i;
    p->nspare++;
}

void deflate_destroy(struct deflate_pool *p, struct deflate **owned)
{
    struct deflate *d = *owned;
    *owned = NULL;
    if (d == NULL)
        return;
    deflate_release(p, d);
    if (d->in != NULL)
        deflate_free_inflater(d->in);
    deflate_free_compressor(d->out);
    deflate_discount(p, deflate_promise(d->out_takeover, d->out_bits, d->in_takeover, d->in_bits));
    free(d);
    if (--p->users == 0) /* what is shared counts against compression_limit */
        deflate_pool_fini(p);
}

unsigned deflate_bits(const struct deflate *d)
{
    return d->out_bits;
}

/* ---- sending ---- */

/* Compresses into p->scratch; false when memory runs out. */
static bool deflate_run(struct deflate_pool *p, z_stream *z, const void *data, size_t len)
{
    struct buf *out = &p->scratch;
    out->len = 0;
    z->next_in = (z_const Bytef *)(uintptr_t)data;
    z->avail_in = (uInt)len;
    do { /* once, unless the bound is wrong */
        size_t room = deflateBound(z, z->avail_in) + 16;
        if (buf_reserve(out, room) < 0)
            return false;
        z->next_out = (Bytef *)out->data + out->len;
        z->avail_out = (uInt)room;
        deflate(z, Z_SYNC_FLUSH);
        out->len += room - z->avail_out;
    } while (z->avail_out == 0);
    out->len -= DEFLATE_TAIL_LEN; /* 7.2.1 */
    return true;
}

static z_stream *deflate_shared(struct deflate_pool *p, unsigned bits)
{
    if (p->shared[bits] == NULL) {
        p->shared[bits] =
            deflate_make_compressor(bits, (int)p->worker->config->compression_level, MAX_MEM_LEVEL - 1);
        if (p->shared[bits] != NULL)
            deflate_count(p, deflate_compressor_cost(bits, MAX_MEM_LEVEL - 1));
    }
    return p->shared[bits];
}

const struct buf *deflate_compress_shared(struct deflate_pool *p, unsigned bits, const void *data, size_t len)
{
    z_stream *z = len < DEFLATE_MOST ? deflate_shared(p, bits) : NULL;
    bool done = z != NULL && deflate_run(p, z, data, len);
    if (z != NULL)
        deflateReset(z);
    return done && p->scratch.len < len ? &p->scratch : NULL;
}

void deflate_forget(struct deflate *d)
{
    d->stale = true;
}

const struct buf *deflate_compress(struct deflate_pool *p, struct deflate *d, const void *data, size_t len)
{
    if (d->out_takeover && d->out == NULL)
        d->out = deflate_make_compressor(d->out_bits, (int)p->worker->config->compression_level,
                                         deflate_mem_level(d->out_bits));
    if (d->out == NULL) /* one that may refer to earlier messages need not */
        return deflate_compress_shared(p, d->out_bits, data, len);
    if (d->stale)
        deflateReset(d->out);
    d->stale = len >= DEFLATE_MOST || !deflate_run(p, d->out, data, len) || p->scratch.len >= len;
    return d->stale ? NULL : &p->scratch;
}

void deflate_trim(struct deflate_pool *p)
{
    if (p->scratch.cap > DEFLATE_KEEP)
        buf_fini(&p->scratch);
}

/* ---- receiving ---- */

/* An inflater for one message. Over the limit not even a spare one is lent for long: whole messages, of which
 * there is one at a time, could add to them again and again. */
static int deflate_lend(struct deflate_pool *p, struct deflate *d, bool whole)
{
    struct deflate_inflater *i = p->spare;
    uint64_t cost = i == NULL ? deflate_inflater_cost(DEFLATE_MAX_BITS) : 0;
    if (!whole &&
        worker_over_limit(p->worker, METRIC_COMPRESSION_BYTES, p->worker->config->compression_limit, cost))
        return DEFLATE_OVER_LIMIT;
    if (i != NULL) {
        p->spare = i->next;
        p->nspare--;
    } else if ((i = deflate_make_inflater(d->in_bits)) == NULL)
        return DEFLATE_NO_MEMORY;
    deflate_count(p, cost);
    d->in = i;
    inflateReset2(&i->z, -(int)d->in_bits); /* cannot fail: its state is sound */
    return 0;
}

int deflate_begin(struct deflate_pool *p, struct deflate *d, bool whole)
{
    if (d->in != NULL)
        return 0;
    if (!d->in_takeover)
        return deflate_lend(p, d, whole);
    d->in = deflate_make_inflater(d->in_bits);
    return d->in != NULL ? 0 : DEFLATE_NO_MEMORY;
}

ssize_t deflate_inflate(struct deflate *d, const uint8_t **data, size_t *len, uint8_t *out, size_t room)
{
    z_stream *z = &d->in->z;
    int rc;
    z->next_in = (z_const Bytef *)(uintptr_t)*data;
    z->avail_in = (uInt)*len;
    z->next_out = out;
    z->avail_out = (uInt)room;
    while ((rc = inflate(z, Z_SYNC_FLUSH)) == Z_STREAM_END) /* a last block is not the last (7.2.3.5) */
        inflateResetKeep(z);                                /* what follows may refer to it */
    if (rc == Z_MEM_ERROR)
        return DEFLATE_NO_MEMORY;
    if (rc != Z_OK && rc != Z_BUF_ERROR)
        return DEFLATE_INVALID;
    *data = z->next_in;
    *len = z->avail_in;
    return (ssize_t)(room - z->avail_out);
}

bool deflate_end(struct deflate_pool *p, struct deflate *d)
{
    const z_stream *z = &d->in->z;
    /* No bits may be left of the tail's last byte: else it has ended a block that was broken off. Or nothing
     * has come since a last block. */
    bool between_blocks = (z->data_type & (128 | 63)) == 128 || z->total_in == 0;
    deflate_release(p, d);
    return between_blocks;
}
