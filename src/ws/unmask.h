/* SPDX-License-Identifier: MIT
 * Takes the client's masking off before wslay sees the bytes (RFC 6455, 5.3), where TLS would sit: reads each
 * frame header, insists on the mask, passes the header on without mask bit and key, and XORs the payload at
 * memory speed. A server's frames, which must not be masked, it only tells apart. Pure; the thread of its
 * connection.
 *
 * It works in place and never writes ahead of what it has read. It knows where each frame ends, so that the
 * reader behind it never holds bytes of two frames. It parses as much of the header as it needs (length and
 * mask) and judges nothing else: reserved bits, opcodes and non-minimal lengths are wslay's and the caller's.
 */
#ifndef TIDEWIRE_WS_UNMASK_H
#define TIDEWIRE_WS_UNMASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum unmask_result {
    UNMASK_OK = 0,
    UNMASK_WRONG_MASK = -1, /* a client's frame without, a server's with: RFC 6455, 5.1: close with 1002 */
    UNMASK_TOO_LONG = -2,   /* the most significant bit of a 64-bit length is set (5.2) */
};

/* Zero it for a new connection. Between two frames it is as good as zeroed: `have` is 0, `in_payload` false,
 * the rest is stale and not read; so one may serve many connections of one kind, as a wslay context does. */
struct unmask {
    uint64_t left;      /* payload bytes of this frame still to come; meaningful in the payload */
    uint8_t key[4];     /* rotated so that key[0] belongs to the next payload byte */
    uint8_t header[14]; /* where a header that comes in pieces is collected */
    uint8_t have;       /* how much of it */
    bool in_payload;
    bool from_server; /* set once */
};

/* One step: looks at data[0 .. len) and gives one run of unmasked bytes.
 *   *used            how many input bytes were taken
 *   *out, *out_len   the run: a header without mask bit and key (in `data`, or in u->header when it came in
 *                    pieces; valid until the next call), or payload, unmasked in place in `data`. Empty while
 *                    the header is not whole
 *   *frame_end       whether this run is the frame's last (a frame without payload ends with its header)
 * Never takes bytes of the next frame. A step with len > 0 takes at least one byte, unless it fails; after a
 * failure neither `u` nor what it gave is of use. */
enum unmask_result unmask_step(struct unmask *u, uint8_t *data, size_t len, size_t *used, const uint8_t **out,
                               size_t *out_len, bool *frame_end);

/* XORs `len` bytes at `data` with the repeating key and rotates the key for what follows. */
void unmask_xor(uint8_t *data, size_t len, uint8_t key[4]);

#endif
