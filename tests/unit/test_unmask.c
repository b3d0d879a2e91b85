/* SPDX-License-Identifier: MIT
 * Unmasking against a reference that works a byte at a time on whole streams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ws/unmask.h"

enum { STREAM_MAX = 140000, FRAMES_MAX = 16 };

/* Frames as a client sends them, and what is to come out. */
struct stream {
    uint8_t *in, *out;
    size_t in_len, out_len;
    size_t in_end[FRAMES_MAX], out_end[FRAMES_MAX];
    size_t frames;
};

static void stream_init(struct stream *s)
{
    *s = (struct stream){.in = malloc(STREAM_MAX), .out = malloc(STREAM_MAX)};
    assert_non_null(s->in);
    assert_non_null(s->out);
}

static void stream_fini(struct stream *s)
{
    free(s->in);
    free(s->out);
}

static void put_both(struct stream *s, uint8_t in, uint8_t out)
{
    assert_true(s->in_len < STREAM_MAX && s->out_len < STREAM_MAX);
    s->in[s->in_len++] = in;
    s->out[s->out_len++] = out;
}

/* `length_size` 0, 2 or 8: how many bytes say the length, whether or not fewer would do. */
static void add_frame(struct stream *s, size_t payload_len, size_t length_size)
{
    const uint8_t key[] = {0xa1, 0x02, 0x5f, (uint8_t)(0xf0 + s->frames)};
    uint8_t length = (uint8_t)(length_size == 8 ? 127 : length_size == 2 ? 126 : payload_len);
    uint8_t first = (uint8_t)(0x82 + s->frames * 0x11);
    put_both(s, first, first);
    put_both(s, 0x80 | length, length);
    for (size_t i = length_size; i > 0; i--) {
        uint8_t byte = (uint8_t)(payload_len >> 8 * (i - 1));
        put_both(s, byte, byte);
    }
    memcpy(s->in + s->in_len, key, 4);
    s->in_len += 4;
    for (size_t i = 0; i < payload_len; i++) {
        uint8_t byte = (uint8_t)(i * 7 + i / 256);
        put_both(s, byte ^ key[i % 4], byte);
    }
    s->in_end[s->frames] = s->in_len;
    s->out_end[s->frames] = s->out_len;
    s->frames++;
}

/* What has come out so far. */
struct reader {
    struct unmask u;
    size_t in_len, out_len, frames;
};

static void read_piece(struct reader *r, const struct stream *s, size_t len)
{
    uint8_t *piece = malloc(len ? len : 1); /* of its own, so that ASan sees a step too far */
    assert_non_null(piece);
    memcpy(piece, s->in + r->in_len, len);
    for (size_t at = 0; at < len;) {
        size_t used, run_len;
        const uint8_t *run;
        bool end;
        assert_int_equal(unmask_step(&r->u, piece + at, len - at, &used, &run, &run_len, &end), UNMASK_OK);
        assert_in_range(used, 1, len - at);
        assert_true(r->out_len + run_len <= s->out_len);
        assert_memory_equal(run, s->out + r->out_len, run_len);
        at += used;
        r->in_len += used;
        r->out_len += run_len;
        assert_memory_equal(piece + at, s->in + r->in_len, len - at);

        assert_true(r->frames < s->frames);
        assert_int_equal(end, r->in_len == s->in_end[r->frames]);
        if (end) {
            assert_int_equal(r->out_len, s->out_end[r->frames]);
            assert_true(r->u.have == 0 && !r->u.in_payload);
            r->frames++;
        }
    }
    free(piece);
}

static void check_split(const struct stream *s, size_t first_cut, size_t second_cut)
{
    struct reader r = {0};
    read_piece(&r, s, first_cut);
    read_piece(&r, s, second_cut - first_cut);
    read_piece(&r, s, s->in_len - second_cut);
    assert_int_equal(r.frames, s->frames);
    assert_int_equal(r.out_len, s->out_len);
}

static void test_every_split_into_three(void **state)
{
    (void)state;
    struct stream s;
    stream_init(&s);
    add_frame(&s, 0, 0);
    add_frame(&s, 1, 0);
    add_frame(&s, 125, 0);
    add_frame(&s, 130, 2);
    add_frame(&s, 0, 2);
    add_frame(&s, 37, 8);
    add_frame(&s, 0, 8);
    add_frame(&s, 6, 0);
    for (size_t first = 0; first <= s.in_len; first++) {
        for (size_t second = first; second <= s.in_len; second++)
            check_split(&s, first, second);
    }
    stream_fini(&s);
}

static void test_pieces_of_every_size(void **state)
{
    (void)state;
    struct stream s;
    stream_init(&s);
    add_frame(&s, 65535, 2);
    add_frame(&s, 65536, 8);
    add_frame(&s, 0, 0);
    for (size_t size = 1; size < s.in_len; size += 1 + size / 3) {
        struct reader r = {0};
        while (r.in_len < s.in_len)
            read_piece(&r, &s, size < s.in_len - r.in_len ? size : s.in_len - r.in_len);
        assert_int_equal(r.frames, s.frames);
    }
    stream_fini(&s);
}

static void test_every_length_in_each_form(void **state)
{
    (void)state;
    for (size_t len = 0; len <= 300; len++) {
        struct stream s;
        stream_init(&s);
        if (len < 126)
            add_frame(&s, len, 0);
        add_frame(&s, len, 2);
        add_frame(&s, len, 8);
        check_split(&s, 0, s.in_len);
        check_split(&s, 3, 9);
        stream_fini(&s);
    }
}

static void test_xor_at_every_length_and_alignment(void **state)
{
    (void)state;
    enum { LENGTH = 300, ALIGN = 32, GUARD = 8 };
    for (size_t len = 0; len <= LENGTH; len++) {
        for (size_t align = 0; align < ALIGN; align++) {
            _Alignas(ALIGN) uint8_t data[ALIGN + GUARD + LENGTH + GUARD];
            uint8_t expected[sizeof data];
            uint8_t key[] = {0x11, 0x82, 0x43, 0xc4};
            uint8_t rotated[4];
            uint8_t *start = data + GUARD + align;
            for (size_t i = 0; i < sizeof data; i++)
                data[i] = (uint8_t)(i * 31);
            memcpy(expected, data, sizeof data);
            for (size_t i = 0; i < len; i++)
                expected[GUARD + align + i] ^= key[i % 4];
            for (size_t i = 0; i < 4; i++)
                rotated[i] = key[(len + i) % 4];

            unmask_xor(start, len, key);
            assert_memory_equal(data, expected, sizeof data);
            assert_memory_equal(key, rotated, 4);
        }
    }
}

static enum unmask_result step(struct unmask *u, const char *bytes, size_t len, size_t *used)
{
    uint8_t data[32];
    const uint8_t *run;
    size_t run_len;
    bool end;
    memcpy(data, bytes, len);
    enum unmask_result result = unmask_step(u, data, len, used, &run, &run_len, &end);
    if (result == UNMASK_OK)
        assert_true(*used > 0);
    return result;
}

/* The header at once, and byte by byte: it fails at byte `fails_at`, not sooner nor later. */
static void check_refused(const char *header, size_t len, size_t fails_at, enum unmask_result expected)
{
    struct unmask whole = {0}, bytewise = {0};
    size_t used;
    assert_int_equal(step(&whole, header, len, &used), expected);
    for (size_t i = 0; i <= fails_at; i++)
        assert_int_equal(step(&bytewise, header + i, 1, &used), i < fails_at ? UNMASK_OK : expected);
}

static void test_not_masked(void **state)
{
    (void)state;
    check_refused("\x81\x05hello", 7, 1, UNMASK_WRONG_MASK);
    check_refused("\x81\x00", 2, 1, UNMASK_WRONG_MASK);
    check_refused("\x82\x7e\x01\x00", 4, 1, UNMASK_WRONG_MASK);
    check_refused("\x82\x7f\xff\x00\x00\x00\x00\x00\x00\x00", 10, 1, UNMASK_WRONG_MASK);
}

static void test_not_masked_after_a_masked_frame(void **state)
{
    (void)state;
    struct unmask u = {0};
    size_t used;
    static const char bytes[] = "\x89\x80keys\x81\x01x";
    assert_int_equal(step(&u, bytes, 9, &used), UNMASK_OK);
    assert_int_equal(used, 6);
    assert_int_equal(step(&u, bytes + 6, 3, &used), UNMASK_WRONG_MASK);
}

/* RFC 6455, 5.1: a client fails the connection when it sees a masked frame. */
static void test_masked_by_a_server(void **state)
{
    (void)state;
    struct unmask u = {.from_server = true};
    size_t used;
    assert_int_equal(step(&u, "\x81\x85keys", 6, &used), UNMASK_WRONG_MASK);
    u = (struct unmask){.from_server = true};
    assert_int_equal(step(&u, "\x81\x01x\x89\x80", 5, &used), UNMASK_OK);
    assert_int_equal(step(&u, "x\x89\x80", 3, &used), UNMASK_OK);
    assert_int_equal(used, 1);
    assert_int_equal(step(&u, "\x89\x80", 2, &used), UNMASK_WRONG_MASK);
}

static void test_too_long_from_a_server(void **state)
{
    (void)state;
    struct unmask u = {.from_server = true};
    size_t used;
    assert_int_equal(step(&u, "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 10, &used), UNMASK_TOO_LONG);
}

/* What a server sends passes as it is, however it is cut. */
static void test_a_server_s_frames(void **state)
{
    (void)state;
    static uint8_t in[70000], out[sizeof in];
    static const uint8_t headers[] = {0x82, 125, 0x81, 126, 0x01, 0x02, 0x82, 127, 0, 0, 0, 0, 0, 1, 0, 5};
    static const struct {
        size_t header, header_len, payload;
    } frames[] = {{0, 2, 125}, {2, 4, 0x102}, {6, 10, 0x10005}};
    size_t len = 0;
    for (size_t f = 0; f < 3; f++) {
        memcpy(in + len, headers + frames[f].header, frames[f].header_len);
        len += frames[f].header_len;
        for (size_t i = 0; i < frames[f].payload; i++)
            in[len++] = (uint8_t)(i * 13);
    }
    for (size_t cut = 1; cut < 700; cut += cut < 20 ? 1 : 97) {
        struct unmask u = {.from_server = true};
        size_t out_len = 0, ends = 0;
        for (size_t at = 0, used; at < len; at += used) {
            const uint8_t *run;
            size_t run_len;
            bool end;
            size_t piece = len - at < cut ? len - at : cut;
            assert_int_equal(unmask_step(&u, in + at, piece, &used, &run, &run_len, &end), UNMASK_OK);
            memcpy(out + out_len, run, run_len);
            out_len += run_len;
            ends += end;
        }
        assert_int_equal(ends, 3);
        assert_int_equal(out_len, len);
        assert_memory_equal(out, in, len);
    }
}

static void test_too_long(void **state)
{
    (void)state;
    check_refused("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00keys", 14, 2, UNMASK_TOO_LONG);
    check_refused("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffkeys", 14, 2, UNMASK_TOO_LONG);
}

static void test_longest(void **state)
{
    (void)state;
    struct unmask u = {0};
    size_t used;
    assert_int_equal(step(&u, "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffkeys0123", 18, &used), UNMASK_OK);
    assert_int_equal(used, 14);
    assert_true(u.in_payload && u.left == INT64_MAX);
    assert_int_equal(step(&u, "0123", 4, &used), UNMASK_OK);
    assert_int_equal(used, 4);
    assert_true(u.in_payload && u.left == INT64_MAX - 4);
}

static void test_no_input(void **state)
{
    (void)state;
    struct unmask u = {0};
    for (size_t i = 0; i < 3; i++) { /* before a header, inside it, inside the payload */
        size_t used = 1, run_len = 1;
        const uint8_t *run;
        bool end = true;
        assert_int_equal(unmask_step(&u, NULL, 0, &used, &run, &run_len, &end), UNMASK_OK);
        assert_true(used == 0 && run_len == 0 && !end);
        static const char *const next[] = {"\x82", "\x82\x01\x02\x03\x04"};
        if (i < 2)
            assert_int_equal(step(&u, next[i], strlen(next[i]), &used), UNMASK_OK);
    }
    assert_true(u.in_payload && u.left == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_split_into_three),
        cmocka_unit_test(test_pieces_of_every_size),
        cmocka_unit_test(test_every_length_in_each_form),
        cmocka_unit_test(test_xor_at_every_length_and_alignment),
        cmocka_unit_test(test_not_masked),
        cmocka_unit_test(test_not_masked_after_a_masked_frame),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_masked_by_a_server),
        cmocka_unit_test(test_too_long_from_a_server),
        cmocka_unit_test(test_a_server_s_frames),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_no_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
