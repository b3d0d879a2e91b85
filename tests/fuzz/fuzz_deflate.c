/* SPDX-License-Identifier: MIT
 * permessage-deflate beside plain zlib. Receiving: whatever bytes a client sends as compressed messages, in
 * pieces of any size and into any room, come out as zlib says of the whole message and its tail at once, and
 * never in more than the room. Sending: whatever a server compresses by its own stream or by the shared one,
 * in any order, comes out of an inflater with that window as it was.
 *
 * The input: a byte for the direction, context takeover and the window; two for how things are cut; then, for
 * receiving, messages with a byte of length each (from 200 on it counts in steps of 100), for sending, steps
 * of three bytes up to one that is 255, and what messages are made of. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/log.h"
#include "ws/deflate.h"

#include "check.h"

enum { LIMIT = 40000 /* bytes of a message, inflated */, LARGEST = 8000 /* input */, BEYOND = 4 };

static struct config config;
static struct worker *worker;
static struct deflate_pool pool;

static void world_init(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    CHECK(config_init(&config) == 0);
    worker = worker_create(1, &config, NULL);
    CHECK(worker != NULL);
}

static struct deflate *create(bool takeover, unsigned bits)
{
    struct extensions_terms t = {true, takeover, takeover, (uint8_t)bits, (uint8_t)bits};
    struct deflate *d = deflate_create(&pool, &t, false);
    CHECK(d != NULL);
    return d;
}

/* ---- receiving ---- */

/* What has come out of one side. */
struct result {
    bool refused, too_big;
    size_t len;
    uint8_t data[LIMIT + 1 + BEYOND];
};

static void ours_piece(struct deflate *d, const uint8_t *data, size_t len, size_t room, struct result *r)
{
    for (ssize_t made = -1; !r->refused && !r->too_big && made != 0; r->too_big = r->len > LIMIT) {
        size_t most = LIMIT + 1 - r->len < room ? LIMIT + 1 - r->len : room;
        memset(r->data + r->len + most, 0xee, BEYOND);
        made = deflate_inflate(d, &data, &len, r->data + r->len, most);
        CHECK(memcmp(r->data + r->len + most, "\xee\xee\xee\xee", BEYOND) == 0);
        if (made < 0) {
            CHECK(made == DEFLATE_INVALID);
            r->refused = true;
            return;
        }
        CHECK((size_t)made <= most);
        r->len += (size_t)made;
        if ((size_t)made < most)
            break;
    }
    CHECK(r->too_big || len == 0);
}

static void ours(struct deflate *d, const uint8_t *data, size_t len, size_t piece, size_t room,
                 struct result *r)
{
    r->refused = r->too_big = false;
    r->len = 0;
    CHECK(deflate_begin(&pool, d, false) == 0);
    for (size_t at = 0; at < len && !r->refused && !r->too_big; at += piece)
        ours_piece(d, data + at, len - at < piece ? len - at : piece, room, r);
    if (!r->refused && !r->too_big)
        ours_piece(d, deflate_tail, DEFLATE_TAIL_LEN, room, r);
    if (r->refused || r->too_big)
        deflate_release(&pool, d);
    else
        r->refused = !deflate_end(&pool, d);
}

/* What zlib makes of all messages so far: the last 32 KiB of them. */
struct past {
    size_t len;
    uint8_t data[1 << 15];
};

static void past_add(struct past *p, const uint8_t *data, size_t len)
{
    size_t most = sizeof p->data;
    if (len > most) {
        data += len - most;
        len = most;
    }
    size_t keep = p->len < most - len ? p->len : most - len;
    memmove(p->data, p->data + p->len - keep, keep);
    memcpy(p->data + keep, data, len);
    p->len = keep + len;
}

/* zlib's own word: the message and its tail at once. Behind a last block a new stream begins, which knows
 * what came before. */
static void theirs(struct past *past, const uint8_t *data, size_t len, struct result *r)
{
    static uint8_t whole[LARGEST + 4];
    static struct past known;
    memcpy(whole, data, len);
    memcpy(whole + len, "\0\0\xff\xff", 4);
    r->len = 0;
    r->refused = r->too_big = false;
    known = *past;
    z_stream z = {.next_in = whole, .avail_in = (uInt)len + 4};
    for (int rc = Z_STREAM_END; rc == Z_STREAM_END;) {
        uInt before = z.avail_in;
        CHECK(inflateInit2(&z, -15) == Z_OK && inflateSetDictionary(&z, known.data, (uInt)known.len) == Z_OK);
        z.next_out = r->data + r->len;
        z.avail_out = (uInt)(LIMIT + 1 - r->len);
        rc = inflate(&z, Z_SYNC_FLUSH);
        size_t made = (size_t)(z.next_out - (r->data + r->len));
        past_add(&known, r->data + r->len, made);
        r->len += made;
        r->too_big = r->len > LIMIT;
        bool in_block = (z.data_type & 128) == 0 && (rc != Z_STREAM_END || z.avail_in > 0) && before > 0;
        r->refused = (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) || in_block;
        inflateEnd(&z);
        if (r->too_big || z.avail_in == 0)
            break;
    }
    *past = known;
}

static size_t message_length(const uint8_t *data, size_t size, size_t at)
{
    size_t len = data[at] < 200 ? data[at] : (data[at] - 199u) * 100;
    return len < size - at - 1 ? len : size - at - 1;
}

static void receive(const uint8_t *data, size_t size, bool takeover, unsigned bits, size_t piece, size_t room)
{
    static struct result mine, whole, zlib;
    static struct past past;
    struct deflate *d = create(takeover, bits), *other = create(takeover, 15);
    past.len = 0;
    for (size_t at = 0; at < size;) {
        size_t len = message_length(data, size, at);
        if (!takeover)
            past.len = 0;
        theirs(&past, data + at + 1, len, &zlib);
        ours(other, data + at + 1, len, LARGEST, LIMIT + 1, &whole);
        ours(d, data + at + 1, len, piece, room, &mine);
        bool fine = !zlib.refused && !zlib.too_big, whole_fine = !whole.refused && !whole.too_big;
        bool mine_fine = !mine.refused && !mine.too_big;
        CHECK(whole_fine == fine);
        CHECK(fine || !mine_fine);
        CHECK(mine_fine || !fine || (bits < 15 && mine.refused)); /* it refers to beyond its window */
        CHECK(!fine || (whole.len == zlib.len && memcmp(whole.data, zlib.data, zlib.len) == 0));
        CHECK(!mine_fine || (mine.len == zlib.len && memcmp(mine.data, zlib.data, zlib.len) == 0));
        if (!mine_fine)
            break;
        at += 1 + len;
    }
    deflate_destroy(&pool, &d);
    deflate_destroy(&pool, &other);
}

/* ---- sending ---- */

struct client {
    struct deflate *deflate;
    z_stream inflate;
    bool takeover;
};

/* A few bytes at a time, so that its window matters. */
static void client_takes(struct client *c, const uint8_t *packed, size_t len, size_t room, uint8_t *out,
                         size_t *at)
{
    c->inflate.next_in = (z_const Bytef *)(uintptr_t)packed;
    c->inflate.avail_in = (uInt)len;
    do {
        CHECK(*at + room <= LIMIT);
        c->inflate.next_out = out + *at;
        c->inflate.avail_out = (uInt)room;
        int rc = inflate(&c->inflate, Z_SYNC_FLUSH);
        CHECK(rc == Z_OK || rc == Z_BUF_ERROR);
        *at += room - c->inflate.avail_out;
    } while (c->inflate.avail_out == 0);
    CHECK(c->inflate.avail_in == 0);
}

static void client_reads(struct client *c, const struct buf *packed, const uint8_t *want, size_t len,
                         size_t room)
{
    static uint8_t out[LIMIT];
    size_t at = 0;
    CHECK(packed->len < len);
    if (!c->takeover)
        CHECK(inflateReset(&c->inflate) == Z_OK);
    client_takes(c, (const uint8_t *)packed->data, packed->len, room, out, &at);
    client_takes(c, deflate_tail, DEFLATE_TAIL_LEN, room, out, &at);
    CHECK(at == len && memcmp(out, want, len) == 0);
}

/* A part of the material, over and over. */
static size_t make_message(const uint8_t *step, const uint8_t *material, size_t size, uint8_t *message)
{
    size_t from = step[1] * 7u % size, part = 1 + step[2] % 64u * 16u, len = 1 + step[2] * 37u;
    part = part < size - from ? part : size - from;
    for (size_t i = 0; i < len; i++)
        message[i] = material[from + i % part];
    return len;
}

static void send_step(struct client *c, unsigned bits, uint8_t kind, const uint8_t *message, size_t len,
                      size_t room)
{
    const struct buf *packed = NULL;
    if (kind % 4 == 3) { /* published to many */
        packed = deflate_compress_shared(&pool, bits, message, len);
        if (packed != NULL)
            deflate_forget(c->deflate);
    } else if (kind % 4 > 0)
        packed = deflate_compress(&pool, c->deflate, message, len);
    if (packed != NULL)
        client_reads(c, packed, message, len, room);
    deflate_trim(&pool);
}

static void transmit(const uint8_t *data, size_t size, bool takeover, unsigned bits, size_t room)
{
    static uint8_t message[1 + 255 * 37];
    size_t steps = 0;
    while (steps * 3 + 3 < size && data[steps * 3] != 255)
        steps++;
    struct client clients[2] = {{.takeover = takeover}, {.takeover = !takeover}};
    for (size_t i = 0; i < 2; i++) {
        clients[i].deflate = create(clients[i].takeover, bits);
        CHECK(inflateInit2(&clients[i].inflate, -(int)bits) == Z_OK);
    }
    for (size_t i = 0; i < steps; i++) {
        const uint8_t *step = data + 3 * i, *material = data + 3 * steps;
        size_t len = make_message(step, material, size - 3 * steps, message);
        send_step(&clients[step[0] / 4 % 2], bits, step[0], message, len, room);
    }
    for (size_t i = 0; i < 2; i++) {
        inflateEnd(&clients[i].inflate);
        deflate_destroy(&pool, &clients[i].deflate);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4 || size > LARGEST)
        return 0;
    if (worker == NULL)
        world_init();
    deflate_pool_init(&pool, worker);
    unsigned bits = 8 + data[0] % 8;
    bool takeover = data[0] & 8;
    size_t piece = data[1] < 250 ? 1 + data[1] : LARGEST, room = data[2] < 250 ? 1 + data[2] * 3u : 16384;
    config.compression_level = 1 + data[1] % 9;
    if (data[0] & 16)
        transmit(data + 3, size - 3, takeover, bits, 1 + data[2] * 3u);
    else
        receive(data + 3, size - 3, takeover, bits, piece, room);
    deflate_pool_fini(&pool);
    CHECK(metrics_sum(METRIC_COMPRESSION_BYTES) == 0);
    return 0;
}
