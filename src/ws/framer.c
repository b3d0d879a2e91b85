/* SPDX-License-Identifier: MIT
 * Frames: read through wslay, written by hand. */
#include "ws/framer.h"

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "ws/closecode.h"

#define FRAMER_POOL_LIMIT 64

#define FRAMER_FIN      0x80
#define FRAMER_MASKED   0x80
#define FRAMER_KEY_SIZE 4

/* Payload that fits is put together with its header before it goes on. */
#define FRAMER_PIECE 512

struct framer {
    wslay_frame_context_ptr context;
    struct framer *next; /* in the pool */
    struct unmask unmask;
    struct framer_header header;
    uint64_t got; /* payload bytes delivered */
    /* during framer_read */
    uint8_t *data;
    size_t len;
    const uint8_t *run; /* unmasked and not yet given to wslay */
    size_t run_len;
    const uint8_t *payload; /* where the input has it; NULL: none so far */
    const struct framer_events *events;
    void *to;
    struct wslay_frame_iocb piece; /* what wslay tells of its last step */
    unsigned fault;
    bool ended; /* the run is the frame's last */
};

/* Takes the next run of unmasked bytes out of the input; false when there is none. */
static bool framer_next_run(struct framer *f)
{
    size_t used;
    bool in_payload = f->unmask.in_payload;
    if (f->len == 0 || f->ended)
        return false;
    if (unmask_step(&f->unmask, f->data, f->len, &used, &f->run, &f->run_len, &f->ended) != UNMASK_OK) {
        f->fault = CLOSECODE_PROTOCOL_ERROR;
        return false;
    }
    f->data += used;
    f->len -= used;
    if (in_payload)
        f->payload = f->run; /* the rest of the frame, or of the input */
    if (in_payload || f->run_len == 0)
        return true;
    f->header = (struct framer_header){
        .fin = f->run[0] >> 7,
        .rsv = f->run[0] >> 4 & 7,
        .opcode = f->run[0] & 15,
        .length = f->ended ? 0 : f->unmask.left,
    };
    f->fault = f->events->on_header(f->to, &f->header);
    return f->fault == 0;
}

/* wslay's way to more input. It looks at headers only, as what it gets is not masked: so it is told how many
 * bytes of payload there are, but they stay where they are. */
static ssize_t framer_pull(uint8_t *buf, size_t len, int flags, void *user)
{
    (void)flags;
    struct framer *f = user;
    size_t got = 0;
    while (got < len && (f->run_len > 0 || framer_next_run(f))) {
        size_t n = f->run_len < len - got ? f->run_len : len - got;
        if (n > 0 && f->payload == NULL)
            memcpy(buf + got, f->run, n);
        f->run += n;
        f->run_len -= n;
        got += n;
    }
    return got > 0 && f->fault == 0 ? (ssize_t)got : -1;
}

static struct framer *framer_borrow(struct framer_pool *pool)
{
    struct framer *f = pool->spare;
    if (f != NULL) {
        pool->spare = f->next;
        pool->count--;
    } else {
        static const struct wslay_frame_callbacks callbacks = {.recv_callback = framer_pull};
        f = calloc(1, sizeof *f);
        if (f != NULL && wslay_frame_context_init(&f->context, &callbacks, f) != 0) {
            free(f);
            f = NULL;
        }
        if (f == NULL)
            return NULL;
        f->unmask.from_server = pool->is_client;
    }
    f->got = 0;
    metrics_add(pool->metrics, METRIC_FRAME_CONTEXTS, 1);
    return f;
}

static void framer_free(struct framer *f)
{
    wslay_frame_context_free(f->context);
    free(f);
}

static void framer_give_back(struct framer_pool *pool, struct framer **rx)
{
    struct framer *f = *rx;
    *rx = NULL;
    metrics_sub(pool->metrics, METRIC_FRAME_CONTEXTS, 1);
    if (pool->count == FRAMER_POOL_LIMIT) {
        framer_free(f);
        return;
    }
    f->next = pool->spare;
    pool->spare = f;
    pool->count++;
}

void framer_abandon(struct framer_pool *pool, struct framer **rx)
{
    if (*rx == NULL)
        return;
    metrics_sub(pool->metrics, METRIC_FRAME_CONTEXTS, 1);
    framer_free(*rx);
    *rx = NULL;
}

uint64_t framer_left(const struct framer *rx)
{
    return rx->unmask.in_payload ? rx->unmask.left : 0;
}

/* Has wslay go through what there is of the frame. Returns how many bytes of payload that is. */
static size_t framer_pass(struct framer *f, bool *whole)
{
    size_t passed = 0;
    while (!*whole) {
        ssize_t n = wslay_frame_recv(f->context, &f->piece);
        if (n < 0) {
            if (n != WSLAY_ERR_WANT_READ && f->fault == 0)
                f->fault = CLOSECODE_PROTOCOL_ERROR;
            return passed;
        }
        passed += (size_t)n;
        f->got += (uint64_t)n;
        *whole = f->got == f->header.length;
    }
    return passed;
}

unsigned framer_read(struct framer_pool *pool, struct framer **rx, uint8_t *data, size_t len, size_t *used,
                     const struct framer_events *events, void *to)
{
    struct framer *f = *rx != NULL ? *rx : framer_borrow(pool);
    *used = len;
    if (f == NULL)
        return CLOSECODE_INTERNAL_ERROR;
    *rx = f;
    f->data = data;
    f->len = len;
    f->run_len = 0;
    f->payload = NULL;
    f->events = events;
    f->to = to;
    f->fault = 0;
    f->ended = false;
    bool whole = false;
    size_t passed = framer_pass(f, &whole);
    if (f->fault == 0 && (whole || passed > 0))
        f->fault = events->on_payload(to, &f->header, f->payload != NULL ? f->payload : data, passed, whole);
    unsigned fault = f->fault;
    if (fault != 0)
        framer_abandon(pool, rx);
    else if (whole) {
        *used = (size_t)(f->data - data);
        framer_give_back(pool, rx);
    }
    return fault;
}

/* ---- writing ---- */

/* Header of a frame with FIN (RFC 6455, 5.2), and the key when it is masked. Returns its size. */
static size_t framer_put_header(uint8_t *to, uint8_t first, size_t len, const uint8_t *key)
{
    size_t bytes = len < 126 ? 0 : len < 65536 ? 2 : 8; /* that the length takes beyond its first */
    to[0] = FRAMER_FIN | first;
    to[1] = (uint8_t)(bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (size_t i = 0; i < bytes; i++)
        to[2 + i] = (uint8_t)(len >> 8 * (bytes - 1 - i));
    if (key == NULL)
        return 2 + bytes;
    to[1] |= FRAMER_MASKED;
    memcpy(to + 2 + bytes, key, FRAMER_KEY_SIZE);
    return 2 + bytes + FRAMER_KEY_SIZE;
}

/* A masking key, which must be unpredictable (RFC 6455, 5.3 and 10.3). */
static int framer_pick_key(struct framer_pool *pool, uint8_t *key)
{
    if (pool->nrandom == 0) {
        if (RAND_bytes(pool->random, sizeof pool->random) != 1)
            return -1;
        pool->nrandom = sizeof pool->random;
    }
    memcpy(key, pool->random + sizeof pool->random - pool->nrandom, FRAMER_KEY_SIZE);
    pool->nrandom -= FRAMER_KEY_SIZE;
    return 0;
}

/* A copy of the payload is what is masked, piece by piece. */
static int framer_write_masked(struct framer_pool *pool, uint8_t first, const uint8_t *data, size_t len,
                               framer_sink *sink, void *to)
{
    uint8_t key[FRAMER_KEY_SIZE], piece[FRAMER_PIECE];
    if (framer_pick_key(pool, key) < 0)
        return -1;
    size_t have = framer_put_header(piece, first, len, key);
    do {
        size_t n = len < sizeof piece - have ? len : sizeof piece - have;
        if (n > 0)
            memcpy(piece + have, data, n);
        unmask_xor(piece + have, n, key);
        if (sink(to, piece, have + n) != 0)
            return -1;
        data += n;
        len -= n;
        have = 0;
    } while (len > 0);
    return 0;
}

int framer_write(struct framer_pool *pool, uint8_t first, const void *data, size_t len, framer_sink *sink,
                 void *to)
{
    uint8_t piece[FRAMER_PIECE];
    if (pool->is_client)
        return framer_write_masked(pool, first, data, len, sink, to);
    size_t have = framer_put_header(piece, first, len, NULL);
    if (len > sizeof piece - have)
        return sink(to, piece, have) == 0 && sink(to, data, len) == 0 ? 0 : -1;
    if (len > 0)
        memcpy(piece + have, data, len);
    return sink(to, piece, have + len) == 0 ? 0 : -1;
}

void framer_pool_init(struct framer_pool *pool, struct metrics *metrics, bool is_client)
{
    *pool = (struct framer_pool){.metrics = metrics, .is_client = is_client};
}

void framer_pool_fini(struct framer_pool *pool)
{
    while (pool->spare != NULL) {
        struct framer *f = pool->spare;
        pool->spare = f->next;
        framer_free(f);
    }
}

const uint8_t *framer_payload(const uint8_t *frame, size_t *len)
{
    *len = frame[1] & 127;
    if (*len < 126)
        return frame + 2;
    unsigned bytes = *len == 126 ? 2 : 8;
    *len = 0;
    for (unsigned i = 0; i < bytes; i++)
        *len = *len << 8 | frame[2 + i];
    return frame + 2 + bytes;
}

size_t framer_whole_size(const uint8_t *frame)
{
    size_t len;
    const uint8_t *payload = framer_payload(frame, &len);
    return (size_t)(payload - frame) + len;
}
