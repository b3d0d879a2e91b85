/* SPDX-License-Identifier: MIT
 * Frames: wslay judges what is read, in contexts from a pool; headers that are written take a few lines. The
 * thread of its worker.
 *
 * A wslay frame context carries a 4 KiB buffer, so a connection has one only while it is inside a frame. What
 * goes into a context is unmasked before (unmask.h), payload only by its length, and stops at the frame's
 * end, or bytes of the next frame would stay in a context that another connection borrows next. A context in
 * which a frame did not end well is freed, never pooled.
 *
 * Where we are the client, frames are masked on the way out and must not be on the way in (RFC 6455, 5.1).
 * Those connections have a pool of their own. */
#ifndef TIDEWIRE_WS_FRAMER_H
#define TIDEWIRE_WS_FRAMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <wslay/wslay.h>

#include "base/metrics.h"
#include "ws/unmask.h"

#define FRAMER_HEADER_MAX 10 /* bytes, of an unmasked frame */

struct framer; /* a frame being read */

/* Spare contexts of a worker. */
struct framer_pool {
    struct framer *spare;
    unsigned count;
    struct metrics *metrics;
    bool is_client;
    uint8_t random[256]; /* for masking keys; the last `nrandom` bytes are still unused */
    uint16_t nrandom;
};

/* For connections whose server, or client, we are. */
void framer_pool_init(struct framer_pool *pool, struct metrics *metrics, bool is_client);
void framer_pool_fini(struct framer_pool *pool);

/* What a frame's header says. */
struct framer_header {
    bool fin;
    uint8_t rsv;    /* RSV1 is 4, RSV2 2, RSV3 1 */
    uint8_t opcode; /* enum wslay_opcode */
    uint64_t length;
};

/* The reader's events; each returns 0, or a close code with which the connection is to fail. */
struct framer_events {
    /* The header is whole; no payload has been looked at yet. */
    unsigned (*on_header)(void *to, const struct framer_header *h);
    /* Payload: all that the input has of the frame, and part of the input. The last piece of a frame (the
     * only one of an empty frame, then with len 0) has `last`. */
    unsigned (*on_payload)(void *to, const struct framer_header *h, const uint8_t *data, size_t len,
                           bool last);
};

/* Bytes that are still to come of the frame's payload; 0 when its header is not whole either. */
uint64_t framer_left(const struct framer *rx);

/* Reads data[0 .. len), which is changed in place, up to the end of one frame. *rx is the frame begun by an
 * earlier call or NULL, and is NULL again when the frame ends. Stores in *used how much was taken (all,
 * unless the frame ended). Returns 0 or the close code to fail with: 1002 for what RFC 6455, 5.2 and 5.5
 * forbid in a header, 1011 when memory runs out, or what an event returned; *rx is then NULL. */
unsigned framer_read(struct framer_pool *pool, struct framer **rx, uint8_t *data, size_t len, size_t *used,
                     const struct framer_events *events, void *to);

/* Gives up a frame that will not be read further. */
void framer_abandon(struct framer_pool *pool, struct framer **rx);

/* Bytes that framer_write makes of `len` bytes (RFC 6455, 5.2). */
static inline size_t framer_size(size_t len)
{
    return len + (len < 126 ? 2 : len < 65536 ? 4 : FRAMER_HEADER_MAX);
}

/* Length of the whole unmasked frame that begins at `frame`, and its payload. */
size_t framer_whole_size(const uint8_t *frame);
const uint8_t *framer_payload(const uint8_t *frame, size_t *len);

#define FRAMER_RSV1 0x40 /* the message is compressed (RFC 7692, 6) */

/* Copies the bytes; 0, or non-zero to give up. */
typedef int framer_sink(void *to, const void *data, size_t len);

/* Writes one frame with FIN into `sink`. `first` is the opcode, and FRAMER_RSV1 or not. 0, or -1 when the
 * sink gave up or there was no randomness for a mask; then part of the frame may be out. */
int framer_write(struct framer_pool *pool, uint8_t first, const void *data, size_t len, framer_sink *sink,
                 void *to);

#endif
