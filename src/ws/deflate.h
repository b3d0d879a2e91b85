/* SPDX-License-Identifier: MIT
 * permessage-deflate over zlib (RFC 7692, 7.2): messages to compressed payloads and back. The thread of its
 * worker.
 *
 * A connection whose messages may refer to earlier ones (context takeover) has streams of its own, made when
 * first used; their memory is promised to it from the handshake on, and counts from then. All others share
 * their worker's: compressors for a message each, and inflaters that are lent for as long as a message takes
 * to arrive. */
#ifndef TIDEWIRE_WS_DEFLATE_H
#define TIDEWIRE_WS_DEFLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "net/worker.h"
#include "ws/extensions.h"

struct deflate;          /* of a connection */
struct deflate_inflater; /* one stream */
struct z_stream_s;

/* What a worker shares. */
struct deflate_pool {
    struct worker *worker;
    struct z_stream_s *shared[16];  /* compressors, by the size of their window; NULL until used */
    struct deflate_inflater *spare; /* inflaters that are not lent */
    unsigned nspare;
    unsigned users;     /* connections with a `struct deflate` */
    int64_t level;      /* compression_level of the shared compressors */
    struct buf scratch; /* what deflate_compress returns */
};

void deflate_pool_init(struct deflate_pool *p, struct worker *w);
/* When no connection has a `struct deflate` any more: frees all there is. It can be used again. */
void deflate_pool_fini(struct deflate_pool *p);

/* The worker's configuration is another one: the shared compressors are made anew if their level is. */
void deflate_pool_configure(struct deflate_pool *p);

/* What is left of `want` under compression_limit: beyond half of it no context takeover, beyond all of it
 * nothing. `cost` is what the connection would need. */
enum deflate_room { DEFLATE_ROOM, DEFLATE_ROOM_SHARED, DEFLATE_NO_ROOM };
enum deflate_room deflate_room(const struct worker *w, uint64_t cost);

/* Bytes that a connection on these terms, whose server or client this is, is promised: zlib's own figures.
 * 0 without context takeover, or compression. */
uint64_t deflate_cost(const struct extensions_terms *t, bool is_client);

/* For a connection on these terms. NULL when memory runs out. */
struct deflate *deflate_create(struct deflate_pool *p, const struct extensions_terms *t, bool is_client);
void deflate_destroy(struct deflate_pool *p, struct deflate **d);

/* ---- sending ---- */

/* Compresses a message of len > 0 bytes. NULL when that makes it no smaller, or memory runs out: then it goes
 * as it is. The result holds until deflate_trim, which the caller owes it. */
const struct buf *deflate_compress(struct deflate_pool *p, struct deflate *d, const void *data, size_t len);

/* The same for everybody whose window has that size: refers to nothing before it, and whoever gets it needs
 * deflate_forget. */
const struct buf *deflate_compress_shared(struct deflate_pool *p, unsigned bits, const void *data,
                                          size_t len);

/* The peer was sent a compressed message that the connection's own stream does not know of: what this stream
 * refers to would be somewhere else. It begins anew. */
void deflate_forget(struct deflate *d);

/* Memory for what was compressed is kept for the next, unless it is much. */
void deflate_trim(struct deflate_pool *p);

/* The size of the window that the connection's messages are compressed with: 8 to 15. */
unsigned deflate_bits(const struct deflate *d);

/* ---- receiving ---- */

enum deflate_fault { DEFLATE_INVALID = -1, DEFLATE_NO_MEMORY = -2, DEFLATE_OVER_LIMIT = -3 };

/* A compressed message begins. 0, DEFLATE_NO_MEMORY, or DEFLATE_OVER_LIMIT: compression_limit is used up,
 * which does not hold for one that is here as a `whole` and whose end follows at once. */
int deflate_begin(struct deflate_pool *p, struct deflate *d, bool whole);

/* Inflates some of *data into out[0 .. room): how many bytes that made, or an enum deflate_fault. Moves *data
 * and *len on. There may be more to come as long as it fills all the room. */
ssize_t deflate_inflate(struct deflate *d, const uint8_t **data, size_t *len, uint8_t *out, size_t room);

/* What a sender leaves out at the end of a message, to be inflated like the rest (RFC 7692, 7.2.2). */
#define DEFLATE_TAIL_LEN 4
extern const uint8_t deflate_tail[DEFLATE_TAIL_LEN];

/* The message is over: whether its last block ended with it. */
bool deflate_end(struct deflate_pool *p, struct deflate *d);

/* Nothing more of the message will be read, or it is over: gives back what was lent for it. */
void deflate_release(struct deflate_pool *p, struct deflate *d);

#endif
