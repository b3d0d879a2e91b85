/* SPDX-License-Identifier: MIT
 * What was published to one topic since its subscribers were last served: messages as whole frames, one
 * behind the other in few blocks, so that what a subscriber gets is a range of messages and mostly one range
 * of bytes. The thread of its worker. Owns its records; its blocks it shares with send queues and other
 * workers. */
#ifndef TIDEWIRE_BUS_FEED_H
#define TIDEWIRE_BUS_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/block.h"

struct topic;
struct session;

struct feed_record {
    const struct session *except; /* who published it and does not get it; or NULL */
    uint32_t seq;                 /* among all messages of the worker since subscribers were last served */
    uint32_t end;                 /* in its block */
};

struct feed_segment {
    struct block *block;
    uint32_t first; /* number of its first record; that begins where the block does */
};

/* What messages are, all of them and the binary ones; not counting headers, and not compressed. */
struct feed_sum {
    uint32_t bytes, binary, binary_bytes;
};

/* How the messages are encoded for some subscribers (encoding.h). */
struct feed_shape {
    unsigned bits; /* of the window that they are compressed for; 0: they are not */
    uint64_t min;  /* shorter ones are not */
};

struct feed {
    struct topic *topic;
    struct feed *next; /* in the pool, or among the encodings of the same feed */
    struct feed *encodings;
    struct feed_shape shape;
    bool compressed; /* some message is */
    size_t longest;  /* frame, in bytes */
    struct feed_record *record;
    struct feed_segment *segment;
    struct feed_sum *sum; /* of a record and those before it */
    uint32_t nrecords, nsegments, records_cap, segments_cap, sums_cap;
};

/* Spare feeds of a worker. Zero it to start. */
struct feed_pool {
    struct feed *spare;
    unsigned count;
};

/* An empty one; NULL when memory runs out. */
struct feed *feed_get(struct feed_pool *pool, struct topic *topic);
/* With its encodings. */
void feed_put(struct feed_pool *pool, struct feed *f);
void feed_pool_fini(struct feed_pool *pool);

/* Adds one message, framed: a copy of its bytes, or the whole of a block, of which the feed takes a
 * reference. 0, or -1 when memory runs out. */
int feed_add(struct feed *f, const void *frame, size_t len, uint32_t seq, const struct session *except);
int feed_add_block(struct feed *f, struct block *b, uint32_t seq, const struct session *except);

/* What the last message added is; for feed_sum. */
void feed_describe(struct feed *f, bool text, size_t payload_len);
/* What the records from .. to (not included) are; must not be empty. Of 4 GiB and more it may say too little.
 */
struct feed_sum feed_sum(const struct feed *f, uint32_t from, uint32_t to);

/* The part of the records from .. to (not included), which must not be empty, that is in one block: how many
 * they are, and where their bytes are. */
struct feed_range {
    struct block *block;
    size_t at, len;
    uint32_t count;
};
struct feed_range feed_range(const struct feed *f, uint32_t from, uint32_t to);

#endif
