/* SPDX-License-Identifier: MIT
 * Hunts for bytes of which unmask and wslay make different frames: wslay behind unmask has to see what wslay,
 * which can unmask by itself, sees alone, and both have to end each frame at the same byte. The same for what
 * a server sends, which must not be masked.
 *
 * The input: eight bytes that say how to cut the rest into pieces, over and over, the first one's highest bit
 * also who sends: 1 is the server; then the bytes that are sent. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <wslay/wslay.h>

#include "base/buf.h"
#include "ws/unmask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    CUTS = 8,
    LENGTH_END = 10, /* where a 64-bit length ends in its header */
};

enum verdict { MORE, PROTOCOL_ERROR, WRONG_MASK, TOO_LONG };

struct frame_head {
    uint64_t payload_length;
    uint8_t fin, rsv, opcode;
};

/* A wslay context, the bytes it may read now, and a log of what it saw. Whatever the pieces, the same frames
 * give the same log: for each its head, its payload and the offset in the client's stream where it ended. */
struct reader {
    wslay_frame_context_ptr ctx;
    const uint8_t *in;
    size_t in_len;
    struct buf log;
    uint64_t left; /* of the payload of the frame it is in */
    bool in_frame;
    size_t frames; /* that ended */
};

static void require(bool ok)
{
    if (!ok)
        abort();
}

static ssize_t on_recv(uint8_t *out, size_t len, int flags, void *arg)
{
    (void)flags;
    struct reader *r = arg;
    size_t n = len < r->in_len ? len : r->in_len;
    if (n == 0)
        return -1;
    memcpy(out, r->in, n);
    r->in += n;
    r->in_len -= n;
    return (ssize_t)n;
}

static void reader_init(struct reader *r)
{
    static const struct wslay_frame_callbacks callbacks = {.recv_callback = on_recv};
    *r = (struct reader){.log = BUF_INIT};
    require(wslay_frame_context_init(&r->ctx, &callbacks, r) == 0);
}

static void reader_fini(struct reader *r)
{
    wslay_frame_context_free(r->ctx);
    buf_fini(&r->log);
}

static void reader_log(struct reader *r, const void *data, size_t len)
{
    require(buf_append(&r->log, data, len) == 0);
}

static void reader_on_chunk(struct reader *r, const struct wslay_frame_iocb *chunk, size_t stream_end)
{
    if (!r->in_frame) {
        struct frame_head head;
        memset(&head, 0, sizeof head); /* its padding goes into the log, too */
        head.payload_length = chunk->payload_length;
        head.fin = chunk->fin;
        head.rsv = chunk->rsv;
        head.opcode = chunk->opcode;
        reader_log(r, &head, sizeof head);
        r->left = chunk->payload_length;
        r->in_frame = true;
    }
    require(chunk->data_length <= r->left);
    reader_log(r, chunk->data, chunk->data_length);
    r->left -= chunk->data_length;
    if (r->left == 0) {
        reader_log(r, &stream_end, sizeof stream_end);
        r->in_frame = false;
        r->frames++;
    }
}

/* Lets wslay have bytes that end at `stream_end` of the client's stream. */
static enum verdict reader_feed(struct reader *r, const uint8_t *in, size_t in_len, size_t stream_end,
                                bool masked)
{
    r->in = in;
    r->in_len = in_len;
    for (;;) {
        struct wslay_frame_iocb chunk;
        memset(&chunk, 0, sizeof chunk);
        ssize_t n = wslay_frame_recv(r->ctx, &chunk);
        if (n == WSLAY_ERR_WANT_READ)
            break;
        if (n == WSLAY_ERR_PROTO)
            return PROTOCOL_ERROR;
        require(n >= 0 && (size_t)n == chunk.data_length);
        if (chunk.mask != masked)
            return WRONG_MASK;
        reader_on_chunk(r, &chunk, stream_end);
    }
    require(r->in_len == 0);
    return MORE;
}

/* Byte by byte, so that a frame ends with the byte it was given last. */
static enum verdict read_alone(struct reader *r, const uint8_t *stream, size_t len, bool masked)
{
    enum verdict verdict = MORE;
    for (size_t i = 0; i < len && verdict == MORE; i++)
        verdict = reader_feed(r, stream + i, 1, i + 1, masked);
    return verdict;
}

/* What went through unmask. */
struct pipeline {
    struct unmask unmask;
    struct reader reader;
    size_t taken;       /* from the stream */
    size_t frame_start; /* in the stream */
};

static enum verdict pipeline_step(struct pipeline *p, uint8_t *data, size_t len)
{
    size_t used, run_len, frames = p->reader.frames;
    const uint8_t *run;
    bool frame_end;
    switch (unmask_step(&p->unmask, data, len, &used, &run, &run_len, &frame_end)) {
    case UNMASK_OK: break;
    case UNMASK_WRONG_MASK: return WRONG_MASK;
    case UNMASK_TOO_LONG: return TOO_LONG;
    }
    require(used <= len && (used > 0 || len == 0));
    require(run_len <= used || run == p->unmask.header);
    p->taken += used;

    enum verdict verdict = reader_feed(&p->reader, run, run_len, p->taken, false);
    require(verdict != WRONG_MASK); /* there is none left */
    if (verdict != MORE)
        return verdict;
    require(p->reader.frames == frames + frame_end);
    if (frame_end) {
        require(!p->reader.in_frame && !p->unmask.in_payload && p->unmask.have == 0);
        p->frame_start = p->taken;
    }
    return MORE;
}

/* A block of its own for each piece, so that AddressSanitizer sees a step beyond it. */
static enum verdict pipeline_piece(struct pipeline *p, const uint8_t *piece, size_t len)
{
    uint8_t *data = malloc(len > 0 ? len : 1);
    require(data != NULL);
    memcpy(data, piece, len);
    size_t start = p->taken, at = 0;
    enum verdict verdict;
    do {
        verdict = pipeline_step(p, data + at, len - at);
        at = p->taken - start;
        require(verdict != MORE || memcmp(data + at, piece + at, len - at) == 0);
    } while (at < len && verdict == MORE);
    free(data);
    return verdict;
}

/* Short pieces for small bytes, among them empty ones; long pieces for the others. */
static size_t piece_size(uint8_t cut, size_t left)
{
    size_t size = cut < 0x80 ? cut : (size_t)(cut - 0x7f) * 48;
    return size < left ? size : left;
}

static enum verdict read_unmasked(struct pipeline *p, const uint8_t *cuts, const uint8_t *stream, size_t len)
{
    enum verdict verdict = MORE;
    for (size_t i = 0; p->taken < len && verdict == MORE; i++) {
        size_t n = piece_size(cuts[i % CUTS], len - p->taken);
        if (n == 0 && i >= CUTS)
            n = 1;
        verdict = pipeline_piece(p, stream + p->taken, n);
    }
    return verdict;
}

/* They may differ only in when an error shows: unmask lets wslay see a header when it is whole, refuses a
 * wrong mask bit whatever else is wrong with it, and a length as soon as its first byte is too much. */
static void compare_verdicts(enum verdict alone, enum verdict unmasked, const struct pipeline *p,
                             const uint8_t *stream, size_t len)
{
    const uint8_t *frame = stream + p->frame_start;
    size_t have = len - p->frame_start;
    uint8_t mask = p->unmask.from_server ? 0 : 0x80;
    require((unmasked == WRONG_MASK) == (have >= 2 && (frame[1] & 0x80) != mask));
    require((unmasked == TOO_LONG) == (have >= 3 && frame[1] == (0x7f | mask) && frame[2] >= 0x80));
    switch (unmasked) {
    case MORE: require(alone == MORE || (alone == PROTOCOL_ERROR && p->unmask.have > 0)); break;
    case PROTOCOL_ERROR: require(alone == PROTOCOL_ERROR); break;
    case TOO_LONG: require(alone == PROTOCOL_ERROR || (alone == MORE && have < LENGTH_END)); break;
    case WRONG_MASK: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < CUTS)
        return 0;
    const uint8_t *stream = data + CUTS;
    size_t len = size - CUTS;

    struct reader alone;
    struct pipeline unmasked = {.unmask.from_server = data[0] & 0x80};
    reader_init(&alone);
    reader_init(&unmasked.reader);
    enum verdict verdict_alone = read_alone(&alone, stream, len, !unmasked.unmask.from_server);
    enum verdict verdict_unmasked = read_unmasked(&unmasked, data, stream, len);

    const struct buf *a = &alone.log, *b = &unmasked.reader.log;
    require(a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0));
    compare_verdicts(verdict_alone, verdict_unmasked, &unmasked, stream, len);
    reader_fini(&alone);
    reader_fini(&unmasked.reader);
    return 0;
}
