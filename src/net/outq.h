/* SPDX-License-Identifier: MIT
 * A connection's send queue: bytes in chunks, small writes gathered, shared ones by reference. The thread of
 * its worker. Owns its chunks; an empty queue owns none, so that an idle connection costs three words. */
#ifndef TIDEWIRE_NET_OUTQ_H
#define TIDEWIRE_NET_OUTQ_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/block.h"

struct outq_chunk;

/* Spare chunks of a worker. Zero it to start. */
struct outq_pool {
    struct outq_chunk *spare, *spare_refs;
    unsigned count, nrefs;
};

struct outq {
    struct outq_chunk *head, *tail;
    size_t bytes;
};

/* Copies `len` bytes to the end. 0, or -1 when memory runs out (nothing was added). */
int outq_append(struct outq *q, struct outq_pool *pool, const void *data, size_t len);

/* Adds len > 0 bytes of a block to the end, without a copy: the queue takes a reference of its own. 0, or -1
 * when memory runs out. */
int outq_append_block(struct outq *q, struct outq_pool *pool, struct block *b, size_t at, size_t len);

/* Describes the first bytes for writev; returns how many entries were filled. */
int outq_peek(const struct outq *q, struct iovec *iov, int max);

/* Drops the first `n` bytes, which the kernel has taken. */
void outq_consume(struct outq *q, struct outq_pool *pool, size_t n);

void outq_clear(struct outq *q, struct outq_pool *pool);
void outq_pool_fini(struct outq_pool *pool);

#endif
