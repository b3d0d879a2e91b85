/* SPDX-License-Identifier: MIT
 * Frames over wslay: what is read, however it is cut; what is written; and who holds a context when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "ws/closecode.h"
#include "ws/framer.h"

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, FIN = 0x80 };

static struct metrics *metrics;
static struct framer_pool pool;

/* ---- what the events saw: for each frame its header, "|" and its payload, "." at its end ---- */

struct seen {
    struct buf log;
    uint64_t left;
    unsigned headers, ends;
    unsigned fault_at_header, fault_at_payload; /* what to answer with */
};

static struct seen seen;

static unsigned on_header(void *to, const struct framer_header *h)
{
    struct seen *s = to;
    assert_int_equal(s->left, 0);
    assert_int_equal(s->headers, s->ends);
    s->headers++;
    s->left = h->length;
    buf_printf(&s->log, "%u/%u/%u/%llu|", h->fin, h->rsv, h->opcode, (unsigned long long)h->length);
    return s->fault_at_header;
}

static unsigned on_payload(void *to, const struct framer_header *h, const uint8_t *data, size_t len,
                           bool last)
{
    struct seen *s = to;
    assert_int_equal(s->headers, s->ends + 1);
    assert_true(len <= s->left);
    assert_true(len > 0 || h->length == 0);
    s->left -= len;
    assert_int_equal(last, s->left == 0);
    buf_append(&s->log, data, len);
    if (last) {
        buf_puts(&s->log, ".");
        s->ends++;
    }
    return s->fault_at_payload;
}

static const struct framer_events events = {.on_header = on_header, .on_payload = on_payload};

static void seen_reset(void)
{
    buf_fini(&seen.log);
    memset(&seen, 0, sizeof seen);
}

static void assert_seen(const void *want, size_t len)
{
    assert_int_equal(seen.log.len, len);
    assert_memory_equal(seen.log.data, want, len);
}

static uint64_t lent(void)
{
    return metrics_sum(METRIC_FRAME_CONTEXTS);
}

static int set_up(void **state)
{
    (void)state;
    if (metrics == NULL) {
        metrics = aligned_alloc(64, sizeof *metrics);
        if (metrics == NULL)
            return -1;
        memset(metrics, 0, sizeof *metrics);
        metrics_register(metrics);
    }
    seen_reset();
    framer_pool_init(&pool, metrics, false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    framer_pool_fini(&pool);
    seen_reset();
    return lent() == 0 ? 0 : -1;
}

/* ---- a client's frames ---- */

/* `first` is the first byte: FIN, reserved bits, opcode. */
static void put_frame(struct buf *out, uint8_t first, const char *payload, size_t len)
{
    static const uint8_t key[4] = {0x5a, 0x01, 0xff, 0x80};
    uint8_t header[14] = {first};
    size_t n = 2;
    if (len < 126)
        header[1] = (uint8_t)len;
    else {
        size_t bytes = len < 65536 ? 2 : 8;
        header[1] = bytes == 2 ? 126 : 127;
        for (size_t i = 0; i < bytes; i++)
            header[n++] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    }
    header[1] |= 0x80;
    memcpy(header + n, key, sizeof key);
    assert_int_equal(buf_append(out, header, n + sizeof key), 0);
    for (size_t i = 0; i < len; i++) {
        char c = (char)(payload[i] ^ key[i % 4]);
        assert_int_equal(buf_append(out, &c, 1), 0);
    }
}

static char pattern[200000];

static void pattern_init(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i * 13 + i / 256);
}

/* Reads a piece from a block of its own, so that AddressSanitizer sees a step too far. Returns the fault. */
static unsigned read_piece(struct framer **rx, const char *data, size_t len)
{
    unsigned fault = 0;
    uint8_t *block = malloc(len);
    assert_non_null(block);
    memcpy(block, data, len);
    for (size_t at = 0; at < len && fault == 0;) {
        size_t used = SIZE_MAX;
        unsigned ends = seen.ends;
        fault = framer_read(&pool, rx, block + at, len - at, &used, &events, &seen);
        if (fault != 0) {
            assert_null(*rx);
            break;
        }
        /* It stops at a frame's end, and nowhere else but at the input's. */
        assert_true(used > 0 && used <= len - at);
        assert_int_equal(seen.ends - ends, *rx == NULL);
        assert_true(*rx == NULL || used == len - at);
        assert_int_equal(lent(), *rx != NULL);
        at += used;
        assert_memory_equal(block + at, data + at, len - at);
    }
    free(block);
    return fault;
}

/* ---- reading ---- */

static void whole_frames(void **state)
{
    (void)state;
    struct framer *rx = NULL;
    struct buf in = BUF_INIT;
    put_frame(&in, FIN | TEXT, "hello", 5);
    put_frame(&in, FIN | PING, "", 0);
    put_frame(&in, BINARY, "\0\1", 2);
    put_frame(&in, 0x70, "x", 1);
    assert_int_equal(read_piece(&rx, in.data, in.len), 0);
    assert_null(rx);
    assert_seen("1/0/1/5|hello.1/0/9/0|.0/0/2/2|\0\1.0/7/0/1|x.", 44);
    buf_fini(&in);
}

static void reserved_bits_are_told_apart(void **state)
{
    (void)state;
    struct framer *rx = NULL;
    struct buf in = BUF_INIT;
    put_frame(&in, 0x40 | BINARY, "", 0);
    put_frame(&in, 0x20 | BINARY, "", 0);
    put_frame(&in, 0x10 | BINARY, "", 0);
    assert_int_equal(read_piece(&rx, in.data, in.len), 0);
    assert_seen("0/4/2/0|.0/2/2/0|.0/1/2/0|.", 27);
    buf_fini(&in);
}

static void split_at_every_byte(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    static const char want[] = "1/0/1/5|hello.1/0/9/0|.1/0/2/130|";
    put_frame(&in, FIN | TEXT, "hello", 5);
    put_frame(&in, FIN | PING, "", 0);
    put_frame(&in, FIN | BINARY, pattern, 130);
    struct buf all = BUF_INIT;
    assert_int_equal(buf_printf(&all, "%s", want), 0);
    assert_int_equal(buf_append(&all, pattern, 130), 0);
    assert_int_equal(buf_puts(&all, "."), 0);
    for (size_t first = 1; first < in.len; first++) {
        struct framer *rx = NULL;
        seen_reset();
        assert_int_equal(read_piece(&rx, in.data, first), 0);
        assert_int_equal(read_piece(&rx, in.data + first, in.len - first), 0);
        assert_null(rx);
        assert_seen(all.data, all.len);
    }
    struct framer *rx = NULL;
    seen_reset();
    for (size_t i = 0; i < in.len; i++)
        assert_int_equal(read_piece(&rx, in.data + i, 1), 0);
    assert_null(rx);
    assert_seen(all.data, all.len);
    buf_fini(&all);
    buf_fini(&in);
}

static void every_size_class(void **state)
{
    (void)state;
    static const size_t lengths[] = {0,    1,    125,  126,  127,  4081,  4082,  4086,
                                     4090, 4095, 4096, 4097, 8192, 65535, 65536, 131072};
    static const size_t pieces[] = {200000, 4096, 1000, 77};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (size_t j = 0; j < sizeof pieces / sizeof pieces[0]; j++) {
            struct framer *rx = NULL;
            struct buf in = BUF_INIT, want = BUF_INIT;
            put_frame(&in, FIN | BINARY, pattern, lengths[i]);
            put_frame(&in, FIN | TEXT, "next", 4);
            seen_reset();
            for (size_t at = 0; at < in.len; at += pieces[j])
                assert_int_equal(
                    read_piece(&rx, in.data + at, in.len - at < pieces[j] ? in.len - at : pieces[j]), 0);
            assert_null(rx);
            assert_int_equal(buf_printf(&want, "1/0/2/%zu|", lengths[i]), 0);
            assert_int_equal(buf_append(&want, pattern, lengths[i]), 0);
            assert_int_equal(buf_puts(&want, ".1/0/1/4|next."), 0);
            assert_seen(want.data, want.len);
            buf_fini(&want);
            buf_fini(&in);
        }
}

/* ---- contexts ---- */

static void one_context_serves_many_frames(void **state)
{
    (void)state;
    struct framer *rx = NULL;
    struct buf in = BUF_INIT;
    for (int i = 0; i < 50; i++)
        put_frame(&in, FIN | TEXT, "hello", 5);
    assert_int_equal(pool.count, 0);
    assert_int_equal(read_piece(&rx, in.data, in.len), 0);
    assert_int_equal(seen.ends, 50);
    assert_int_equal(pool.count, 1);
    buf_fini(&in);
}

/* Connections that are inside a frame at the same time, each with a context; what one leaves behind must not
 * reach the next that borrows it. */
static void connections_take_turns(void **state)
{
    (void)state;
    enum { CONNECTIONS = 100 };
    struct framer *rx[CONNECTIONS] = {NULL};
    struct seen each[CONNECTIONS];
    memset(each, 0, sizeof each);
    for (int round = 0; round < 3; round++) {
        for (size_t half = 0; half < 2; half++)
            for (size_t i = 0; i < CONNECTIONS; i++) {
                struct buf in = BUF_INIT;
                size_t used;
                put_frame(&in, FIN | TEXT, pattern, i);
                size_t cut = in.len / 2;
                uint8_t *data = (uint8_t *)in.data + (half ? cut : 0);
                size_t len = half ? in.len - cut : cut;
                assert_int_equal(framer_read(&pool, &rx[i], data, len, &used, &events, &each[i]), 0);
                assert_int_equal(used, len);
                assert_int_equal(rx[i] == NULL, half);
                buf_fini(&in);
            }
        assert_int_equal(lent(), 0);
        assert_true(pool.count > 0 && pool.count < CONNECTIONS);
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct buf want = BUF_INIT;
        for (int round = 0; round < 3; round++) {
            assert_int_equal(buf_printf(&want, "1/0/1/%zu|", i), 0);
            assert_int_equal(buf_append(&want, pattern, i), 0);
            assert_int_equal(buf_puts(&want, "."), 0);
        }
        assert_int_equal(each[i].log.len, want.len);
        assert_memory_equal(each[i].log.data, want.data, want.len);
        buf_fini(&want);
        buf_fini(&each[i].log);
    }
}

static void abandoned_in_a_frame(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    put_frame(&in, FIN | TEXT, "hello", 5);
    for (size_t have = 1; have < in.len; have++) {
        struct framer *rx = NULL;
        seen_reset();
        assert_int_equal(read_piece(&rx, in.data, have), 0);
        assert_non_null(rx);
        assert_int_equal(lent(), 1);
        framer_abandon(&pool, &rx);
        assert_null(rx);
        assert_int_equal(lent(), 0);
        assert_int_equal(pool.count, 0);
        framer_abandon(&pool, &rx);
        seen_reset();
        assert_int_equal(read_piece(&rx, in.data, in.len), 0);
        assert_seen("1/0/1/5|hello.", 14);
        framer_pool_fini(&pool);
        framer_pool_init(&pool, metrics, false);
    }
    buf_fini(&in);
}

/* ---- faults ---- */

static void refused_headers(void **state)
{
    (void)state;
    static const struct {
        const char *what, *bytes;
        size_t len;
    } cases[] = {
        {"not masked", "\x81\x01x", 3},
        {"not masked, at its second byte", "\x81\x05", 2},
        {"fragmented control frame", "\x09\x80kkkk", 6},
        {"control frame of 126", "\x89\xfe\x00\x7ekkkk", 8},
        {"2 bytes of length for 125", "\x82\xfe\x00\x7dkkkk", 8},
        {"8 bytes of length for 65535", "\x82\xff\0\0\0\0\0\0\xff\xffkkkk", 14},
        {"top bit of the length", "\x82\xff\x80", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            struct framer *rx = NULL;
            unsigned fault = 0;
            size_t step = bytewise ? 1 : cases[i].len;
            seen_reset();
            for (size_t at = 0; at < cases[i].len && fault == 0; at += step)
                fault = read_piece(&rx, cases[i].bytes + at, step);
            if (fault != CLOSECODE_PROTOCOL_ERROR)
                fail_msg("%s: %u", cases[i].what, fault);
            assert_null(rx);
            assert_int_equal(lent(), 0);
            assert_int_equal(pool.count, 0); /* the context is spoilt */
            assert_int_equal(seen.ends, 0);
        }
}

static void faults_of_events_pass_through(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    put_frame(&in, FIN | TEXT, "hello", 5);
    put_frame(&in, FIN | TEXT, "never", 5);
    for (size_t first = 1; first <= in.len; first++) {
        struct framer *rx = NULL;
        seen_reset();
        seen.fault_at_header = 4321;
        unsigned fault = read_piece(&rx, in.data, first);
        if (fault == 0)
            fault = read_piece(&rx, in.data + first, in.len - first);
        assert_int_equal(fault, 4321);
        assert_seen("1/0/1/5|", 8);
        assert_int_equal(pool.count, 0);

        seen_reset();
        seen.fault_at_payload = CLOSECODE_INVALID_DATA;
        fault = read_piece(&rx, in.data, first);
        if (fault == 0)
            fault = read_piece(&rx, in.data + first, in.len - first);
        assert_int_equal(fault, CLOSECODE_INVALID_DATA);
        assert_int_equal(seen.headers, 1);
        assert_int_equal(pool.count, 0);
        assert_int_equal(lent(), 0);
    }
    buf_fini(&in);
}

/* The header is judged before any payload has come: here a terabyte of it is announced. */
static void header_is_judged_first(void **state)
{
    (void)state;
    struct framer *rx = NULL;
    seen.fault_at_header = CLOSECODE_TOO_BIG;
    assert_int_equal(read_piece(&rx, "\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00kkkk", 14), CLOSECODE_TOO_BIG);
    assert_seen("1/0/2/1099511627776|", 20);
}

/* ---- writing ---- */

struct sink {
    struct buf out;
    size_t room; /* bytes it takes before it fails */
};

static int sink_put(void *to, const void *data, size_t len)
{
    struct sink *s = to;
    if (len > s->room)
        return -1;
    s->room -= len;
    return buf_append(&s->out, data, len);
}

static size_t header_of(uint8_t out[10], uint8_t opcode, size_t len)
{
    out[0] = FIN | opcode;
    if (len < 126) {
        out[1] = (uint8_t)len;
        return 2;
    }
    size_t bytes = len < 65536 ? 2 : 8;
    out[1] = bytes == 2 ? 126 : 127;
    for (size_t i = 0; i < bytes; i++)
        out[2 + i] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

static void assert_writes(uint8_t opcode, size_t len)
{
    struct sink sink = {.room = SIZE_MAX};
    uint8_t header[10];
    size_t n = header_of(header, opcode, len);
    assert_int_equal(framer_write(&pool, opcode, len > 0 ? pattern : NULL, len, sink_put, &sink), 0);
    assert_int_equal(sink.out.len, n + len);
    assert_memory_equal(sink.out.data, header, n);
    assert_memory_equal(sink.out.data + n, pattern, len);
    buf_fini(&sink.out);
}

static void writes_every_size_class(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 124, 125, 126, 127, 4086, 4096, 4097, 65535, 65536, 200000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        assert_writes(lengths[i] % 2 ? TEXT : BINARY, lengths[i]);
    assert_writes(CLOSE, 0);
    assert_writes(PING, 125);
}

/* Frames are measured before they are written, and found one behind the other afterwards. */
static void sizes_are_those_of_what_is_written(void **state)
{
    (void)state;
    static const size_t lengths[] = {0,   1,   2,    124,   125,   126,   127,
                                     255, 256, 4093, 65535, 65536, 65537, 200000};
    enum { N = sizeof lengths / sizeof lengths[0] };
    struct sink sink = {.room = SIZE_MAX};
    size_t size[N];
    for (size_t i = 0; i < N; i++) {
        size_t before = sink.out.len;
        uint8_t opcode = i % 2 ? TEXT : BINARY;
        assert_int_equal(framer_write(&pool, opcode, pattern, lengths[i], sink_put, &sink), 0);
        size[i] = sink.out.len - before;
        assert_int_equal(framer_size(lengths[i]), size[i]);
        assert_true(size[i] <= lengths[i] + FRAMER_HEADER_MAX);
    }
    size_t at = 0;
    for (size_t i = 0; i < N; at += size[i], i++) {
        /* From a header alone, so that AddressSanitizer sees a look beyond it. */
        size_t len = size[i] - lengths[i];
        uint8_t *header = malloc(len);
        assert_non_null(header);
        memcpy(header, sink.out.data + at, len);
        assert_int_equal(framer_whole_size(header), size[i]);
        free(header);
    }
    assert_int_equal(at, sink.out.len);
    buf_fini(&sink.out);
}

static void whole_size_of_a_long_header(void **state)
{
    (void)state;
    static const uint8_t frame[] = {FIN | BINARY, 127, 0, 0, 1, 2, 3, 4, 5, 6};
    assert_true(framer_whole_size(frame) == 0x10203040506 + 10);
}

/* Wherever the sink fails, the next frame is whole again. */
static void sink_fails_in_the_middle(void **state)
{
    (void)state;
    static const size_t rooms[] = {0, 1, 2, 3, 4, 9, 10, 100};
    static const size_t lengths[] = {5, 200, 70000};
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
            struct sink sink = {.room = rooms[i]};
            uint8_t header[10];
            size_t whole = header_of(header, BINARY, lengths[j]) + lengths[j];
            int rc = framer_write(&pool, BINARY, pattern, lengths[j], sink_put, &sink);
            assert_int_equal(rc, rooms[i] < whole ? -1 : 0);
            assert_true(sink.out.len <= rooms[i]);
            buf_fini(&sink.out);
            assert_writes(TEXT, 3);
        }
}

/* ---- where we are the client ---- */

static struct framer_pool client;

/* RFC 6455, 5.3 and 10.3: every frame is masked with a key that nobody can foresee. */
static void a_client_masks_each_frame_anew(void **state)
{
    (void)state;
    uint8_t keys[200][4];
    framer_pool_init(&client, metrics, true);
    for (size_t i = 0; i < 200; i++) {
        size_t len = i * 40;
        struct sink sink = {.room = SIZE_MAX};
        uint8_t header[10];
        size_t n = header_of(header, BINARY, len);
        assert_int_equal(framer_write(&client, BINARY, pattern, len, sink_put, &sink), 0);
        assert_int_equal(sink.out.len, n + 4 + len);
        assert_int_equal((uint8_t)sink.out.data[1], header[1] | 0x80);
        sink.out.data[1] &= 0x7f;
        assert_memory_equal(sink.out.data, header, n);
        memcpy(keys[i], sink.out.data + n, 4);
        for (size_t j = 0; j < len; j++)
            assert_int_equal((char)(sink.out.data[n + 4 + j] ^ keys[i][j % 4]), pattern[j]);
        for (size_t j = 0; j < i; j++) /* 200 keys of 32 bits: two alike are one chance in 200,000 */
            assert_memory_not_equal(keys[i], keys[j], 4);
        buf_fini(&sink.out);
    }
    framer_pool_fini(&client);
}

static void a_client_reads_frames_without_a_mask_only(void **state)
{
    (void)state;
    struct framer *rx = NULL;
    size_t used;
    uint8_t frames[] = {FIN | TEXT, 2, 'h', 'i', FIN | TEXT, 0x81, 1, 2, 3, 4, 'x'};
    framer_pool_init(&client, metrics, true);
    assert_int_equal(framer_read(&client, &rx, frames, sizeof frames, &used, &events, &seen), 0);
    assert_int_equal(used, 4);
    assert_null(rx);
    assert_int_equal(framer_read(&client, &rx, frames + 4, sizeof frames - 4, &used, &events, &seen),
                     CLOSECODE_PROTOCOL_ERROR);
    assert_null(rx);
    framer_pool_fini(&client);
}

static void a_compressed_message_is_marked(void **state)
{
    (void)state;
    struct sink sink = {.room = SIZE_MAX};
    assert_int_equal(framer_write(&pool, TEXT | FRAMER_RSV1, "abc", 3, sink_put, &sink), 0);
    assert_memory_equal(sink.out.data,
                        "\xc1\x03"
                        "abc",
                        5);
    buf_fini(&sink.out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(whole_frames),
        TEST(reserved_bits_are_told_apart),
        TEST(split_at_every_byte),
        TEST(every_size_class),
        TEST(one_context_serves_many_frames),
        TEST(connections_take_turns),
        TEST(abandoned_in_a_frame),
        TEST(refused_headers),
        TEST(faults_of_events_pass_through),
        TEST(header_is_judged_first),
        TEST(writes_every_size_class),
        TEST(sizes_are_those_of_what_is_written),
        TEST(whole_size_of_a_long_header),
        TEST(sink_fails_in_the_middle),
        TEST(a_client_masks_each_frame_anew),
        TEST(a_client_reads_frames_without_a_mask_only),
        TEST(a_compressed_message_is_marked),
    };
    pattern_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
