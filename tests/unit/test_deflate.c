/* SPDX-License-Identifier: MIT
 * permessage-deflate beside plain zlib, which is the peer: what one side compresses the other has to inflate,
 * with exactly the window that was agreed on (RFC 7692, 7.2). */
#include "worker_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "ws/deflate.h"

#define MOST 70000 /* bytes of a message */

static struct deflate_pool pool;
static z_stream peer;  /* plain zlib, one direction of it */
static struct buf out; /* what came out last */
static uint8_t message[MOST];
static uint32_t seed;

static int set_up(void **state)
{
    (void)state;
    worker_set_up();
    deflate_pool_init(&pool, worker);
    seed = 1;
    return 0;
}

/* No test may leave memory behind, nor a figure of it. */
static int tear_down(void **state)
{
    (void)state;
    deflate_pool_fini(&pool);
    assert_int_equal(metrics_sum(METRIC_COMPRESSION_BYTES), 0);
    buf_fini(&out);
    worker_tear_down();
    return 0;
}

static uint32_t some(uint32_t below)
{
    seed = seed * 1103515245 + 12345;
    return (seed >> 8) % below;
}

static struct deflate *create(bool takeover, unsigned bits)
{
    struct extensions_terms t = {true, takeover, takeover, (uint8_t)bits, (uint8_t)bits};
    struct deflate *d = deflate_create(&pool, &t, false);
    assert_non_null(d);
    return d;
}

/* ---- messages ---- */

enum { WORDS, ZEROS, NOISE, KINDS };

/* WORDS repeat at all distances; nothing repeats in NOISE. */
static const uint8_t *make(unsigned kind, size_t len)
{
    size_t at = 0;
    assert_true(len <= MOST);
    memset(message, 0, len);
    while (kind == WORDS && at < len)
        at += (size_t)snprintf((char *)message + at, len - at, "{\"id\": %u, \"name\": \"wave\"}, ",
                               some(3000));
    for (; kind == NOISE && at < len; at++)
        message[at] = (uint8_t)some(256);
    return message;
}

static const size_t sizes[] = {1, 2, 30, 300, 1000, 5000, 33000, 1, 66000, 700, 40000, 20};
#define SIZES (sizeof sizes / sizeof sizes[0])

/* ---- the peer ---- */

static void peer_inflates(unsigned bits)
{
    peer = (z_stream){0};
    assert_int_equal(inflateInit2(&peer, -(int)bits), Z_OK);
}

/* Few bytes at a time, so that what lies outside the window is not just still there. */
static bool peer_takes(const void *data, size_t len)
{
    peer.next_in = (z_const Bytef *)(uintptr_t)data;
    peer.avail_in = (uInt)len;
    do {
        assert_int_equal(buf_reserve(&out, 16), 0);
        peer.next_out = (Bytef *)out.data + out.len;
        peer.avail_out = 16;
        int rc = inflate(&peer, Z_SYNC_FLUSH);
        out.len += 16 - peer.avail_out;
        if (rc != Z_OK && rc != Z_BUF_ERROR)
            return false;
    } while (peer.avail_out == 0);
    return peer.avail_in == 0;
}

/* Whether the compressed message is that one to the peer (7.2.2). */
static bool peer_reads(const struct buf *packed, const void *want, size_t len)
{
    out.len = 0;
    return peer_takes(packed->data, packed->len) && peer_takes("\0\0\xff\xff", 4) && out.len == len &&
           memcmp(out.data, want, len) == 0;
}

/* Compresses as another implementation may: the result, without its tail, is in `out`. */
static void peer_packs(const void *data, size_t len)
{
    out.len = 0;
    assert_int_equal(buf_reserve(&out, deflateBound(&peer, len) + 64), 0);
    peer.next_in = (z_const Bytef *)(uintptr_t)data;
    peer.avail_in = (uInt)len;
    peer.next_out = (Bytef *)out.data;
    peer.avail_out = (uInt)out.cap;
    assert_int_equal(deflate(&peer, Z_SYNC_FLUSH), Z_OK);
    out.len = out.cap - peer.avail_out;
    assert_memory_equal(out.data + out.len - 4, deflate_tail, 4);
    out.len -= 4;
}

/* ---- receiving ---- */

#define BEYOND 8 /* bytes behind the room that nobody may touch */

static uint8_t got[MOST + 1 + BEYOND];
static size_t got_len;

static ssize_t take(struct deflate *d, const uint8_t *data, size_t len, size_t room)
{
    ssize_t n;
    do {
        room = MOST + 1 - got_len < room ? MOST + 1 - got_len : room;
        memset(got + got_len + room, 0xee, BEYOND);
        n = deflate_inflate(d, &data, &len, got + got_len, room);
        assert_true(n <= (ssize_t)room);
        assert_memory_equal(got + got_len + room, "\xee\xee\xee\xee\xee\xee\xee\xee", BEYOND);
        if (n < 0)
            return n;
        got_len += (size_t)n;
        assert_true(got_len <= MOST);
    } while ((size_t)n == room);
    return 0;
}

/* The whole message, so many bytes at a time: 0, or what is wrong. */
static int receive_in(struct deflate *d, const void *packed, size_t len, size_t piece, size_t room)
{
    const uint8_t *data = packed;
    ssize_t rc = deflate_begin(&pool, d, false);
    got_len = 0;
    for (size_t at = 0; at < len && rc == 0; at += piece)
        rc = take(d, data + at, len - at < piece ? len - at : piece, room);
    if (rc == 0)
        rc = take(d, deflate_tail, DEFLATE_TAIL_LEN, room);
    if (rc != 0)
        deflate_release(&pool, d);
    else if (!deflate_end(&pool, d))
        rc = DEFLATE_INVALID;
    return (int)rc;
}

static int receive(struct deflate *d, const void *packed, size_t len)
{
    return receive_in(d, packed, len, len + 1, sizeof got);
}

#define assert_receives(d, packed, text)                                                                     \
    do {                                                                                                     \
        assert_int_equal(receive(d, packed, sizeof packed - 1), 0);                                          \
        assert_int_equal(got_len, strlen(text));                                                             \
        assert_memory_equal(got, text, strlen(text));                                                        \
    } while (0)

#define assert_refuses(d, packed) assert_int_equal(receive(d, packed, sizeof packed - 1), DEFLATE_INVALID)

/* ---- round trips ---- */

static void check_sending(bool takeover, unsigned bits)
{
    struct deflate *d = create(takeover, bits);
    unsigned packed_any = 0;
    assert_int_equal(deflate_bits(d), bits);
    peer_inflates(bits);
    for (size_t i = 0; i < KINDS * SIZES; i++) {
        size_t len = sizes[i % SIZES];
        const uint8_t *data = make((unsigned)(i / 2 % KINDS), len);
        const struct buf *packed = deflate_compress(&pool, d, data, len);
        if (!takeover)
            assert_int_equal(inflateReset(&peer), Z_OK);
        if (packed != NULL) {
            packed_any++;
            assert_true(packed->len < len);
            assert_true(peer_reads(packed, data, len));
        }
        deflate_trim(&pool);
    }
    assert_true(packed_any > KINDS * SIZES / 3);
    inflateEnd(&peer);
    deflate_destroy(&pool, &d);
    assert_null(d);
}

/* Not even what a window of 256 bytes is for refers further back (7.1.2.1). */
static void a_peer_with_the_agreed_window_inflates_it(void **state)
{
    (void)state;
    for (unsigned bits = 8; bits <= 15; bits++) {
        check_sending(true, bits);
        check_sending(false, bits);
    }
}

static void every_level_is_inflated_alike(void **state)
{
    (void)state;
    for (int level = 1; level <= 9; level++) {
        config.compression_level = level;
        check_sending(true, 10);
    }
}

static void check_receiving(bool takeover, unsigned bits, size_t piece, size_t room)
{
    struct deflate *d = create(takeover, bits);
    peer = (z_stream){0}; /* zlib writes for no window below 9 bits; run lengths fit into any */
    assert_int_equal(deflateInit2(&peer, 6, Z_DEFLATED, -(int)(bits < 9 ? 9 : bits), 8,
                                  bits < 9 ? Z_RLE : Z_DEFAULT_STRATEGY),
                     Z_OK);
    for (size_t i = 0; i < KINDS * SIZES; i++) {
        size_t len = sizes[i % SIZES];
        const uint8_t *data = make((unsigned)(i / 2 % KINDS), len);
        if (room < 100 && len > 1000) /* would take long */
            continue;
        if (!takeover)
            assert_int_equal(deflateReset(&peer), Z_OK);
        peer_packs(data, len);
        assert_int_equal(receive_in(d, out.data, out.len, piece, room), 0);
        assert_int_equal(got_len, len);
        assert_memory_equal(got, data, len);
    }
    deflateEnd(&peer);
    deflate_destroy(&pool, &d);
}

static void what_a_peer_compresses_for_any_window_is_inflated(void **state)
{
    (void)state;
    for (unsigned bits = 8; bits <= 15; bits++) {
        check_receiving(true, bits, MOST * 2, 4096);
        check_receiving(false, bits, 1000, 1000);
    }
}

static void it_may_come_and_go_byte_by_byte(void **state)
{
    (void)state;
    check_receiving(true, 15, 1, sizeof got);
    check_receiving(true, 12, MOST * 2, 1);
    check_receiving(false, 9, 1, 1);
}

/* With exactly the room that it needs there may be more, and then there is not. */
static void a_full_room_means_there_may_be_more(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    static const uint8_t hello[] = "\xf2\x48\xcd\xc9\xc9\x07\x00";
    const uint8_t *data = hello;
    size_t len = 7;
    assert_int_equal(deflate_begin(&pool, d, false), 0);
    assert_int_equal(deflate_inflate(d, &data, &len, got, 5), 5);
    assert_int_equal(deflate_inflate(d, &data, &len, got, 5), 0);
    assert_int_equal(len, 0);
    assert_ptr_equal(data, hello + 7);
    deflate_destroy(&pool, &d);
}

/* ---- context takeover ---- */

static void earlier_messages_help_with_context_takeover_only(void **state)
{
    (void)state;
    for (int takeover = 0; takeover <= 1; takeover++) {
        struct deflate *d = create(takeover, 15);
        const uint8_t *data = make(WORDS, 2000);
        size_t first = deflate_compress(&pool, d, data, 2000)->len;
        size_t second = deflate_compress(&pool, d, data, 2000)->len;
        if (takeover)
            assert_true(second < first / 4);
        else
            assert_int_equal(second, first);
        deflate_destroy(&pool, &d);
    }
}

/* Sends one message by its own stream, one by the shared one and another by its own, and says whether the
 * peer, which has one stream for all, reads the last one right. */
static bool reads_after_a_shared_one(bool forget)
{
    static const uint8_t quote[] = "what the third message repeats from the first, which is long enough";
    static const uint8_t other[] =
        "SOMETHING ELSE IN BETWEEN, IN BETWEEN, IN BETWEEN, IN BETWEEN, IN BETWEEN";
    struct deflate *d = create(true, 12);
    peer_inflates(12);
    memcpy(make(WORDS, 500) == message ? message + 400 : message, quote, sizeof quote);
    assert_true(peer_reads(deflate_compress(&pool, d, message, 500), message, 500));
    assert_true(peer_reads(deflate_compress_shared(&pool, 12, other, sizeof other), other, sizeof other));
    if (forget)
        deflate_forget(d);
    bool same = peer_reads(deflate_compress(&pool, d, quote, sizeof quote), quote, sizeof quote);
    inflateEnd(&peer);
    deflate_destroy(&pool, &d);
    return same;
}

static void after_a_shared_message_the_own_stream_begins_anew(void **state)
{
    (void)state;
    assert_true(reads_after_a_shared_one(true));
}

/* This is what deflate_forget is for. */
static void without_that_the_peer_reads_something_else(void **state)
{
    (void)state;
    assert_false(reads_after_a_shared_one(false));
}

/* The peer is sent it as it is, so nothing may refer to it. */
static void what_did_not_get_smaller_is_not_referred_to(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    uint8_t noise[3000];
    peer_inflates(15);
    memcpy(noise, make(NOISE, sizeof noise), sizeof noise);
    assert_true(peer_reads(deflate_compress(&pool, d, make(WORDS, 900), 900), message, 900));
    assert_null(deflate_compress(&pool, d, noise, sizeof noise));
    memcpy(message, noise, sizeof noise); /* which would be a short message */
    memset(message + sizeof noise, 'z', sizeof noise);
    assert_true(peer_reads(deflate_compress(&pool, d, message, 2 * sizeof noise), message, 2 * sizeof noise));
    assert_true(out.len == 2 * sizeof noise);
    inflateEnd(&peer);
    deflate_destroy(&pool, &d);
}

static void whoever_shares_a_compressor_does_not_meet_the_others(void **state)
{
    (void)state;
    const uint8_t *data = make(WORDS, 3000);
    struct deflate *d = create(false, 11);
    size_t first = deflate_compress_shared(&pool, 11, data, 3000)->len;
    assert_int_equal(deflate_compress(&pool, d, data, 3000)->len, first);
    assert_null(deflate_compress_shared(&pool, 11, make(NOISE, 3000), 3000));
    assert_true(deflate_compress_shared(&pool, 11, make(ZEROS, 3000), 3000)->len < 100);
    deflate_destroy(&pool, &d);
}

/* ---- the examples of RFC 7692, 7.2.3 ---- */

static void check_examples(bool takeover)
{
    struct deflate *d = create(takeover, 15);
    assert_receives(d, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"); /* 7.2.3.1 */
    if (takeover)
        assert_receives(d, "\xf2\x00\x11\x00\x00", "Hello"); /* 7.2.3.2 */
    else
        assert_refuses(d, "\xf2\x00\x11\x00\x00");
    assert_receives(d, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello");         /* 7.2.3.3 */
    assert_receives(d, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello");                     /* 7.2.3.4 */
    assert_receives(d, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello"); /* 7.2.3.5 */
    assert_receives(d, "\x00", "");                                                      /* 7.2.3.6 */
    deflate_destroy(&pool, &d);
}

static void examples_with_context_takeover_7_2_3(void **state)
{
    (void)state;
    check_examples(true);
}

static void examples_without_context_takeover_7_2_3(void **state)
{
    (void)state;
    check_examples(false);
}

/* Whatever a last block ends, it is not what later messages may refer to. */
static void a_last_block_ends_nothing_7_2_3_4(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    assert_receives(d, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello");
    assert_receives(d, "\xf2\x00\x11\x00\x00", "Hello");
    assert_receives(d, "\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "HelloHello");
    assert_receives(d, "\xf2\x00\x11\x00\x00", "Hello");
    deflate_destroy(&pool, &d);
}

/* The empty block that ends a message may be a last one itself: its tail is cut off all the same (7.2.1). */
static void the_block_of_the_tail_may_be_a_last_one_7_2_1(void **state)
{
    (void)state;
    for (int takeover = 0; takeover <= 1; takeover++) {
        struct deflate *d = create(takeover, 15);
        assert_receives(d, "\x01", "");
        assert_receives(d, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
        assert_receives(d, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x01", "Hello");
        assert_receives(d, "\x01", "");
        if (takeover)
            assert_receives(d, "\xf2\x00\x11\x00\x00", "Hello");
        deflate_destroy(&pool, &d);
    }
}

static void empty_blocks_of_all_kinds_make_an_empty_message(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    assert_receives(d, "\x02\x00", "");
    assert_receives(d, "\x03\x00\x00", "");
    assert_receives(d, "\x00\x00\x00\xff\xff\x00\x00\x00\xff\xff\x00", "");
    assert_receives(d, "\x01\x00\x00\xff\xff\x01\x00\x00\xff\xff\x00", "");
    deflate_destroy(&pool, &d);
}

static void many_last_blocks_are_one_message(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    struct buf many = BUF_INIT;
    for (int i = 0; i < 10000; i++)
        buf_append(&many, "\xf3\x48\xcd\xc9\xc9\x07\x00", 7);
    buf_append(&many, "", 1);
    assert_int_equal(receive(d, many.data, many.len), 0);
    assert_int_equal(got_len, 50000);
    assert_memory_equal(got + 49995, "Hello", 5);
    buf_fini(&many);
    deflate_destroy(&pool, &d);
}

/* ---- what is wrong ---- */

static void corrupt_data_is_refused(void **state)
{
    (void)state;
    for (int takeover = 0; takeover <= 1; takeover++) {
        struct deflate *d[6];
        for (size_t i = 0; i < 6; i++)
            d[i] = create(takeover, 10);
        assert_refuses(d[0], "\x06\x00");                         /* a block of a kind that does not exist */
        assert_refuses(d[1], "\x00\x05\x00\xfb\xff\x48\x65\x00"); /* lengths that differ */
        assert_refuses(d[2], "\xf2\x00\x11\x00\x00");             /* refers to before the beginning */
        assert_refuses(d[3], "\xec\xff\xff\xff\xff\xff\xff\xff"); /* no code */
        assert_refuses(d[4], "\x00\x05\x00\xfa\xff\x48\x65\x6c"); /* ends within a block */
        assert_refuses(d[5], "\xf2\x48\xcd");
        for (size_t i = 0; i < 6; i++)
            deflate_destroy(&pool, &d[i]);
    }
}

static void a_message_cut_short_is_refused(void **state)
{
    (void)state;
    peer = (z_stream){0};
    assert_int_equal(deflateInit2(&peer, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
    peer_packs(make(WORDS, 600), 600);
    deflateEnd(&peer);
    for (size_t len = 1; len < out.len; len++) {
        struct deflate *d = create(len % 2 == 0, 15);
        assert_int_equal(receive(d, out.data, len), DEFLATE_INVALID);
        deflate_destroy(&pool, &d);
    }
}

/* What one connection has left behind does not reach the next one with the same inflater. */
static void an_inflater_that_was_given_back_begins_anew(void **state)
{
    (void)state;
    struct deflate *bad = create(false, 15), *good = create(false, 9);
    const uint8_t *half = (const uint8_t *)"\xf2\x48\xcd";
    size_t len = 3;
    assert_refuses(bad, "\x06\x00");
    assert_receives(good, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_int_equal(deflate_begin(&pool, bad, false), 0);
    assert_true(deflate_inflate(bad, &half, &len, got, sizeof got) >= 0);
    deflate_release(&pool, bad);
    assert_refuses(good, "\xf2\x00\x11\x00\x00"); /* nobody's Hello */
    assert_receives(good, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_int_equal(pool.nspare, 1);
    deflate_destroy(&pool, &bad);
    deflate_destroy(&pool, &good);
}

/* ---- memory ---- */

static size_t asked; /* bytes that zlib has asked for */

static void *count_allocation(void *to, uInt items, uInt size)
{
    (void)to;
    asked += (size_t)items * size;
    return calloc(items, size);
}

static void count_free(void *to, void *block)
{
    (void)to;
    free(block);
}

static uint64_t cost_of(bool server, bool client, uint8_t bits)
{
    return deflate_cost(&(struct extensions_terms){true, server, client, bits, bits}, false);
}

static void a_compressor_takes_what_was_promised(void **state)
{
    (void)state;
    for (uint8_t bits = 9; bits <= 15; bits++) {
        z_stream z = {.zalloc = count_allocation, .zfree = count_free};
        asked = 0;
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, -bits,
                                      bits > 14   ? 8
                                      : bits < 11 ? 4
                                                  : bits - 7,
                                      0),
                         Z_OK);
        deflateEnd(&z);
        assert_true(asked + sizeof z <= cost_of(true, false, bits));
        assert_true(asked + 4096 > cost_of(true, false, bits)); /* and not much less */
    }
}

static void an_inflater_takes_what_was_promised(void **state)
{
    (void)state;
    for (uint8_t bits = 8; bits <= 15; bits++) {
        z_stream z = {.zalloc = count_allocation, .zfree = count_free};
        uint8_t hello[] = "\xf2\x48\xcd\xc9\xc9\x07\x00", text[5];
        asked = 0;
        assert_int_equal(inflateInit2(&z, -bits), Z_OK);
        z.next_in = hello, z.avail_in = sizeof hello - 1;
        z.next_out = text, z.avail_out = sizeof text;
        inflate(&z, Z_SYNC_FLUSH); /* its window comes with the first byte */
        inflateEnd(&z);
        assert_true(asked >= (size_t)1 << bits);
        assert_true(asked + sizeof z <= cost_of(false, true, bits) + 256);
        assert_true(asked + 4096 > cost_of(false, true, bits));
    }
}

static void the_cost_is_of_what_each_side_keeps(void **state)
{
    (void)state;
    assert_int_equal(cost_of(false, false, 15), 0);
    assert_int_equal(cost_of(true, true, 12), cost_of(true, false, 12) + cost_of(false, true, 12));
    struct extensions_terms t = {true, true, false, 15, 9};
    assert_int_equal(deflate_cost(&t, false), cost_of(true, false, 15)); /* the server compresses */
    assert_int_equal(deflate_cost(&t, true), cost_of(false, true, 15));  /* the client inflates that */
}

static uint64_t counted(void)
{
    return metrics_sum(METRIC_COMPRESSION_BYTES);
}

/* From the handshake on, and no more of it later. */
static void a_promise_counts_until_the_connection_ends(void **state)
{
    (void)state;
    struct deflate *d = create(true, 12);
    assert_int_equal(counted(), cost_of(true, true, 12));
    assert_non_null(deflate_compress(&pool, d, make(WORDS, 5000), 5000));
    assert_receives(d, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_int_equal(counted(), cost_of(true, true, 12));
    deflate_destroy(&pool, &d);
    assert_int_equal(counted(), 0);
    deflate_destroy(&pool, &d); /* none is fine */
}

static void without_context_takeover_only_what_is_shared_counts(void **state)
{
    (void)state;
    struct deflate *d[3];
    for (size_t i = 0; i < 3; i++)
        d[i] = create(false, 15);
    assert_int_equal(counted(), 0);
    assert_non_null(deflate_compress(&pool, d[0], make(WORDS, 5000), 5000));
    uint64_t compressor = counted();
    assert_true(compressor > 256 << 10 && compressor < 300 << 10);
    assert_non_null(deflate_compress(&pool, d[1], make(WORDS, 5000), 5000));
    assert_int_equal(counted(), compressor);
    assert_receives(d[1], "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_receives(d[2], "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_int_equal(counted(), compressor + cost_of(false, true, 15));
    deflate_destroy(&pool, &d[2]);
    deflate_destroy(&pool, &d[0]);
    assert_int_equal(counted(), compressor + cost_of(false, true, 15)); /* they are the worker's */
    deflate_destroy(&pool, &d[1]);
    assert_int_equal(counted(), 0); /* as long as somebody uses them */
}

static void a_long_message_leaves_no_memory_behind(void **state)
{
    (void)state;
    struct deflate *d = create(false, 15);
    size_t len = 4 << 20;
    uint8_t *data = calloc(1, len);
    assert_non_null(deflate_compress(&pool, d, data, len));
    assert_true(pool.scratch.cap > len);
    deflate_trim(&pool);
    assert_int_equal(pool.scratch.cap, 0);
    assert_non_null(deflate_compress(&pool, d, data, 1000));
    deflate_trim(&pool);
    assert_true(pool.scratch.cap > 0); /* what is little is kept for the next */
    free(data);
    deflate_destroy(&pool, &d);
}

/* ---- compression_limit ---- */

static void hold(uint64_t bytes)
{
    metrics_sub(worker->metrics, METRIC_COMPRESSION_BYTES, counted());
    metrics_add(worker->metrics, METRIC_COMPRESSION_BYTES, bytes);
}

static void half_of_the_limit_is_for_context_takeover(void **state)
{
    (void)state;
    config.compression_limit = 1 << 20;
    hold((1 << 19) - 1000);
    assert_int_equal(deflate_room(worker, 1000), DEFLATE_ROOM);
    assert_int_equal(deflate_room(worker, 1001), DEFLATE_ROOM_SHARED);
    hold((1 << 19) + 1);
    assert_int_equal(deflate_room(worker, 0), DEFLATE_ROOM_SHARED);
    hold(0);
}

/* What could not read a compressed message had better not be promised to. */
static void no_compression_when_there_is_no_room_for_an_inflater(void **state)
{
    (void)state;
    config.compression_limit = 1 << 20;
    hold((1 << 20) - cost_of(false, true, 15));
    assert_int_equal(deflate_room(worker, 1000), DEFLATE_ROOM_SHARED);
    hold((1 << 20) - cost_of(false, true, 15) + 1);
    assert_int_equal(deflate_room(worker, 1000), DEFLATE_NO_ROOM);
    assert_int_equal(deflate_room(worker, 0), DEFLATE_NO_ROOM);
    hold(0);
}

/* Half messages may hold all there is: those that are whole pass nevertheless, and add nothing for long. */
static void whole_messages_pass_at_any_limit(void **state)
{
    (void)state;
    struct deflate *half = create(false, 15), *whole = create(false, 15);
    config.compression_limit = 1 << 20;
    hold(2 << 20);
    assert_int_equal(deflate_begin(&pool, half, false), DEFLATE_OVER_LIMIT);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(deflate_begin(&pool, whole, true), 0);
        assert_int_equal(deflate_begin(&pool, whole, true), 0); /* it has it */
        deflate_release(&pool, whole);
        assert_int_equal(deflate_begin(&pool, half, false), DEFLATE_OVER_LIMIT);
    }
    assert_int_equal(pool.nspare, 1);
    hold(cost_of(false, true, 15));
    deflate_destroy(&pool, &whole);
    deflate_destroy(&pool, &half);
}

static void takeover_that_was_promised_is_kept_at_any_limit(void **state)
{
    (void)state;
    struct deflate *d = create(true, 15);
    config.compression_limit = 1 << 20;
    hold(2 << 20);
    assert_receives(d, "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
    assert_non_null(deflate_compress(&pool, d, make(WORDS, 5000), 5000));
    hold(cost_of(true, true, 15));
    deflate_destroy(&pool, &d);
}

static void only_few_inflaters_are_kept(void **state)
{
    (void)state;
    struct deflate *d[40];
    for (size_t i = 0; i < 40; i++) {
        d[i] = create(false, 15);
        assert_int_equal(deflate_begin(&pool, d[i], false), 0);
    }
    assert_int_equal(counted(), 40 * cost_of(false, true, 15));
    for (size_t i = 1; i < 40; i++)
        deflate_destroy(&pool, &d[i]);
    assert_true(pool.nspare > 0 && pool.nspare < 39);
    assert_int_equal(counted(), (pool.nspare + 1) * cost_of(false, true, 15));
    deflate_destroy(&pool, &d[0]);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_peer_with_the_agreed_window_inflates_it),
        TEST(every_level_is_inflated_alike),
        TEST(what_a_peer_compresses_for_any_window_is_inflated),
        TEST(it_may_come_and_go_byte_by_byte),
        TEST(a_full_room_means_there_may_be_more),
        TEST(earlier_messages_help_with_context_takeover_only),
        TEST(after_a_shared_message_the_own_stream_begins_anew),
        TEST(without_that_the_peer_reads_something_else),
        TEST(what_did_not_get_smaller_is_not_referred_to),
        TEST(whoever_shares_a_compressor_does_not_meet_the_others),
        TEST(examples_with_context_takeover_7_2_3),
        TEST(examples_without_context_takeover_7_2_3),
        TEST(a_last_block_ends_nothing_7_2_3_4),
        TEST(the_block_of_the_tail_may_be_a_last_one_7_2_1),
        TEST(empty_blocks_of_all_kinds_make_an_empty_message),
        TEST(many_last_blocks_are_one_message),
        TEST(corrupt_data_is_refused),
        TEST(a_message_cut_short_is_refused),
        TEST(an_inflater_that_was_given_back_begins_anew),
        TEST(a_compressor_takes_what_was_promised),
        TEST(an_inflater_takes_what_was_promised),
        TEST(the_cost_is_of_what_each_side_keeps),
        TEST(a_promise_counts_until_the_connection_ends),
        TEST(without_context_takeover_only_what_is_shared_counts),
        TEST(a_long_message_leaves_no_memory_behind),
        TEST(half_of_the_limit_is_for_context_takeover),
        TEST(no_compression_when_there_is_no_room_for_an_inflater),
        TEST(whole_messages_pass_at_any_limit),
        TEST(takeover_that_was_promised_is_kept_at_any_limit),
        TEST(only_few_inflaters_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
