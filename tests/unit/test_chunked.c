/* SPDX-License-Identifier: MIT
 * The chunked coding: whole, at every pair of splits, every byte in every state, the limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/chunked.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

struct reading {
    int result;
    size_t used;
    char body[64];
    size_t body_len;
};

/* Goes on with r; the data lies at the very end of a block, so that a read too far is seen. */
static void feed(struct chunked *c, struct reading *r, const char *text, size_t len)
{
    uint8_t *block = malloc(len + (len == 0)), *data = len > 0 ? block : block + 1;
    memcpy(data, text, len);
    size_t at = 0;
    do {
        const uint8_t *piece = NULL;
        size_t used = SIZE_MAX, piece_len = 0;
        r->result = chunked_feed(c, data + at, len - at, &used, &piece, &piece_len);
        assert_true(used <= len - at);
        if (r->result == CHUNKED_PIECE) {
            assert_true(piece_len > 0 && piece >= data + at && piece + piece_len == data + at + used);
            assert_true(r->body_len + piece_len <= sizeof r->body);
            memcpy(r->body + r->body_len, piece, piece_len);
            r->body_len += piece_len;
        } else if (r->result == CHUNKED_MORE) {
            assert_int_equal(used, len - at);
        }
        at += used;
        r->used += used;
    } while (r->result == CHUNKED_PIECE);
    free(block);
}

static int result_of(const char *text)
{
    struct chunked c = {0};
    struct reading r = {0};
    feed(&c, &r, text, strlen(text));
    return r.result;
}

/* ---- what a body is ---- */

struct body_case {
    const char *text;
    int result;
    const char *body; /* as far as it was decoded */
    size_t left;      /* bytes of the text behind the end */
};

static const struct body_case body_cases[] = {
    {"0\r\n\r\n", CHUNKED_END, "", 0},
    {"0\r\n\r\nGET / HTTP/1.1\r\n", CHUNKED_END, "", 16},
    {"0\r\n\r\n\n", CHUNKED_END, "", 1},
    {"5\r\nhello\r\n0\r\n\r\n", CHUNKED_END, "hello", 0},
    {"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", CHUNKED_END, "abcdef", 0},
    {"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", CHUNKED_END, "01234567890123456789", 0},
    {"1f\r\n0123456789012345678901234567890\r\n0\r\n\r\n", CHUNKED_END, "0123456789012345678901234567890", 0},
    {"2\r\n\r\n\r\n0\r\n\r\n", CHUNKED_END, "\r\n", 0},
    {"5\r\n0\r\n\r\n\r\n0\r\n\r\n", CHUNKED_END, "0\r\n\r\n", 0},
    {"000000000000001\r\na\r\n000\r\n\r\n", CHUNKED_END, "a", 0}, /* 15 digits */
    /* extensions */
    {"1;a\r\na\r\n0;b\r\n\r\n", CHUNKED_END, "a", 0},
    {"1;a=b;c;d=e\r\na\r\n0\r\n\r\n", CHUNKED_END, "a", 0},
    {"1;a=\"b;c\\\"\\\\ \x80\t,\"\r\na\r\n0\r\n\r\n", CHUNKED_END, "a", 0},
    {"1 \t;\t a \t=\t b \t;c=\"\" ;d\r\na\r\n0\r\n\r\n", CHUNKED_END, "a", 0},
    {"1;a;b=\"c\";2=3\r\na\r\n0\r\n\r\n", CHUNKED_END, "a", 0},
    {"1;2\r\na\r\n0\r\n\r\n", CHUNKED_END, "a", 0}, /* the size is 1, not 12 */
    /* the trailer section */
    {"0\r\nA: b\r\n\r\n", CHUNKED_END, "", 0},
    {"0\r\nA:\r\nB-c:d: e\t\xc3\xa9\"\\ \r\n\r\nx", CHUNKED_END, "", 1},
    {"1\r\na\r\n0\r\n5: hello\r\n\r\n", CHUNKED_END, "a", 0},
    /* not over yet */
    {"", CHUNKED_MORE, "", 0},
    {"5", CHUNKED_MORE, "", 0},
    {"5\r\nhel", CHUNKED_MORE, "hel", 0},
    {"5\r\nhello\r\n0\r\n", CHUNKED_MORE, "hello", 0},
    {"0\r\n\r", CHUNKED_MORE, "", 0},
    {"0\r\nA: b\r\n", CHUNKED_MORE, "", 0},
    {"fffffffffffffff\r\nabc", CHUNKED_MORE, "abc", 0},
    /* malformed */
    {"\r\n0\r\n\r\n", CHUNKED_BAD, "", 6},
    {" 0\r\n\r\n", CHUNKED_BAD, "", 5},
    {"+1\r\na\r\n", CHUNKED_BAD, "", 6},
    {"-1\r\na\r\n", CHUNKED_BAD, "", 6},
    {"0x1\r\na\r\n", CHUNKED_BAD, "", 6},
    {";a\r\n", CHUNKED_BAD, "", 3},
    {"1 \r\na\r\n0\r\n\r\n", CHUNKED_BAD, "", 9},
    {"1;\r\na\r\n0\r\n\r\n", CHUNKED_BAD, "", 9},
    {"1;a=\r\na\r\n0\r\n\r\n", CHUNKED_BAD, "", 9},
    {"1;a \r\na\r\n0\r\n\r\n", CHUNKED_BAD, "", 9},
    {"1;a=\"b\r\n\"", CHUNKED_BAD, "", 2},
    {"1\na\n0\n\n", CHUNKED_BAD, "", 5},
    {"1\r\na\n0\r\n\r\n", CHUNKED_BAD, "a", 5},
    {"1\r\nab\r\n0\r\n\r\n", CHUNKED_BAD, "a", 7},
    {"2\r\na\r\n0\r\n\r\n", CHUNKED_BAD, "a\r", 5},
    {"1\r\na0\r\n\r\n", CHUNKED_BAD, "a", 4},
    {"1\r\na\r\n\r\n0\r\n\r\n", CHUNKED_BAD, "a", 6},
    {"0000000000000000\r\n\r\n", CHUNKED_BAD, "", 4},
    {"10000000000000000\r\n", CHUNKED_BAD, "", 3},
    {"0\r\n A: b\r\n\r\n", CHUNKED_BAD, "", 8},
    {"0\r\nA: b\r\n c\r\n\r\n", CHUNKED_BAD, "", 5},
    {"0\r\nA: b\n\r\n", CHUNKED_BAD, "", 2},
    {"0\r\nA : b\r\n\r\n", CHUNKED_BAD, "", 7},
    {"0\r\n: b\r\n\r\n", CHUNKED_BAD, "", 6},
    {"0\r\nA\r\n\r\n", CHUNKED_BAD, "", 3},
    {"0\r\n\n", CHUNKED_BAD, "", 0},
};

static void check(const struct body_case *c, const struct reading *r, size_t first, size_t second)
{
    size_t used = strlen(c->text) - c->left;
    if (r->result != c->result || r->used != used || r->body_len != strlen(c->body) ||
        memcmp(r->body, c->body, r->body_len) != 0)
        fail_msg("%d after %zu, %.*s, for %s at %zu, %zu", r->result, r->used, (int)r->body_len, r->body,
                 c->text, first, second);
}

static void reads_at_every_pair_of_splits(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(body_cases); i++) {
        const struct body_case *k = &body_cases[i];
        size_t len = strlen(k->text);
        for (size_t first = 0; first <= len; first++) {
            for (size_t second = first; second <= len; second++) {
                struct chunked c = {0};
                struct reading r = {0};
                feed(&c, &r, k->text, first);
                feed(&c, &r, k->text + r.used, second - (r.used < second ? r.used : second));
                feed(&c, &r, k->text + r.used, len - r.used);
                check(k, &r, first, second);
            }
        }
    }
}

static void reads_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(body_cases); i++) {
        struct chunked c = {0};
        struct reading r = {0};
        for (const char *at = body_cases[i].text; *at != '\0'; at++)
            feed(&c, &r, at, 1);
        feed(&c, &r, "", 0);
        check(&body_cases[i], &r, 1, 1);
    }
}

static void the_end_is_for_good(void **state)
{
    (void)state;
    static const char *const texts[] = {"0\r\n\r\n", "x"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct chunked c = {0};
        struct reading r = {0};
        feed(&c, &r, texts[i], strlen(texts[i]));
        size_t used = r.used;
        int result = r.result;
        feed(&c, &r, "1\r\na\r\n0\r\n\r\n", 11);
        assert_int_equal(r.result, result);
        assert_int_equal(r.used, used);
    }
}

static void a_piece_is_as_long_as_it_can_be(void **state)
{
    (void)state;
    static const uint8_t text[] = "8\r\nabcdefgh\r\n";
    struct chunked c = {0};
    const uint8_t *piece;
    size_t used, len;
    assert_int_equal(chunked_feed(&c, text, 6, &used, &piece, &len), CHUNKED_PIECE);
    assert_true(piece == text + 3 && len == 3 && used == 6);
    assert_int_equal(chunked_feed(&c, text + 6, sizeof text - 7, &used, &piece, &len), CHUNKED_PIECE);
    assert_true(piece == text + 6 && len == 5 && used == 5);
}

/* ---- every byte in every state ---- */

#define HEX   "0123456789abcdefABCDEF"
#define TOKEN "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

struct state_case {
    const char *before;
    const char *allowed;
    bool text; /* also everything that is no control character */
};

static const struct state_case state_cases[] = {
    {"", HEX, false},
    {"5", HEX " \t;\r", false},
    {"5 ", " \t;", false},
    {"5;", TOKEN " \t", false},
    {"5;a", TOKEN " \t=;\r", false},
    {"5;a ", " \t=;", false},
    {"5;a=", TOKEN " \t\"", false},
    {"5;a=b", TOKEN " \t;\r", false},
    {"5;a=b ", " \t;", false},
    {"5;a=\"", "\t", true},
    {"5;a=\"\\", "\t", true},
    {"5;a=\"\\\"", "\t", true},
    {"5;a=\"b\"", " \t;\r", false},
    {"5;a=\"b\\\\\"", " \t;\r", false},
    {"5\r", "\n", false},
    {"5;a\r", "\n", false},
    {"1\r\nx", "\r", false},
    {"1\r\nx\r", "\n", false},
    {"1\r\nx\r\n", HEX, false},
    {"0\r\n", TOKEN "\r", false},
    {"0\r\nA", TOKEN ":", false},
    {"0\r\nA:", "\t\r", true},
    {"0\r\nA:\r", "\n", false},
    {"0\r\nA:b\r\n", TOKEN "\r", false},
    {"0\r\n\r", "\n", false},
};

static void every_state_takes_its_bytes_and_no_others(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(state_cases); i++) {
        const struct state_case *k = &state_cases[i];
        for (int byte = 0; byte < 256; byte++) {
            bool allowed =
                (byte != 0 && strchr(k->allowed, byte) != NULL) || (k->text && byte >= ' ' && byte != 0x7f);
            char c = (char)byte;
            struct chunked decoder = {0};
            struct reading r = {0};
            feed(&decoder, &r, k->before, strlen(k->before));
            assert_int_equal(r.result, CHUNKED_MORE);
            feed(&decoder, &r, &c, 1);
            if ((r.result != CHUNKED_BAD) != allowed)
                fail_msg("byte %d after %s", byte, k->before);
        }
    }
}

static void data_may_be_any_bytes(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char text[] = "1\r\n?\r\n0\r\n\r\n";
        struct chunked c = {0};
        struct reading r = {0};
        text[3] = (char)byte;
        feed(&c, &r, text, sizeof text - 1);
        assert_int_equal(r.result, CHUNKED_END);
        assert_int_equal((uint8_t)r.body[0], byte);
    }
}

/* ---- limits ---- */

static int feed_bytes(struct chunked *c, char byte, unsigned n)
{
    struct reading r = {0};
    for (unsigned i = 0; i < n; i++)
        feed(c, &r, &byte, 1);
    return r.result;
}

static int feed_text(struct chunked *c, const char *text)
{
    struct reading r = {0};
    feed(c, &r, text, strlen(text));
    return r.result;
}

static void sizes_have_15_digits_and_all_of_them_count(void **state)
{
    (void)state;
    struct chunked c = {0};
    assert_int_equal(feed_text(&c, "123456789abcdef\r\nx"), CHUNKED_MORE);
    assert_true(c.left == 0x123456789abcdef - 1);
    assert_int_equal(result_of("123456789abcde0f\r\n"), CHUNKED_BAD);
    assert_int_equal(result_of("000000000000001\r\nx\r\n000000000000000\r\n\r\n"), CHUNKED_END);
}

static void one_chunk_has_at_most_256_bytes_of_extensions(void **state)
{
    (void)state;
    static const char *const kinds[] = {";a", ";a=\"", ";a=\"\\", "  ", ";", ";a="};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        char fill = strchr(kinds[i], 'a') == NULL ? ' ' : 'a';
        for (unsigned extra = 0; extra < 2; extra++) {
            struct chunked c = {0};
            feed_text(&c, "1");
            feed_text(&c, kinds[i]);
            int result = feed_bytes(&c, fill, CHUNKED_MAX_EXTENSION - (unsigned)strlen(kinds[i]) + extra);
            assert_int_equal(result, extra ? CHUNKED_BAD : CHUNKED_MORE);
        }
    }
    for (unsigned extra = 0; extra < 2; extra++) { /* the closing quote is one of them */
        struct chunked c = {0};
        feed_text(&c, "1;a=\"");
        feed_bytes(&c, 'a', CHUNKED_MAX_EXTENSION - 5 + extra);
        assert_int_equal(feed_text(&c, "\""), extra ? CHUNKED_BAD : CHUNKED_MORE);
    }
    struct chunked c = {0};
    feed_text(&c, "1;");
    feed_bytes(&c, 'a', CHUNKED_MAX_EXTENSION - 1);
    assert_int_equal(feed_text(&c, "\r\nx\r\n1;"), CHUNKED_MORE); /* each chunk anew */
    feed_bytes(&c, 'a', CHUNKED_MAX_EXTENSION - 1);
    assert_int_equal(feed_text(&c, "\r\nx\r\n0\r\n\r\n"), CHUNKED_END);
}

static void all_chunks_have_at_most_4_kib_of_extensions(void **state)
{
    (void)state;
    for (unsigned extra = 0; extra < 2; extra++) {
        struct chunked c = {0};
        for (unsigned i = 0; i < CHUNKED_MAX_ALL_EXTENSIONS / 2; i++)
            assert_int_equal(feed_text(&c, "1;a\r\nx\r\n"), CHUNKED_MORE);
        assert_int_equal(feed_text(&c, extra ? "0;" : "0\r\n\r\n"), extra ? CHUNKED_BAD : CHUNKED_END);
    }
}

static void the_trailer_section_has_at_most_8_kib(void **state)
{
    (void)state;
    for (unsigned extra = 0; extra < 2; extra++) {
        struct chunked c = {0};
        feed_text(&c, "0\r\nA:b\r\nC:");
        feed_bytes(&c, 'x', CHUNKED_MAX_TRAILER - 11 + extra); /* 11: A:b CR LF, C:, two CR LF */
        assert_int_equal(feed_text(&c, "\r\n\r\n"), extra ? CHUNKED_BAD : CHUNKED_END);
    }
    struct chunked c = {0};
    feed_text(&c, "0\r\n");
    for (unsigned i = 0; i < CHUNKED_MAX_TRAILER / 4; i++)
        assert_int_equal(feed_text(&c, "A:\r\n"), CHUNKED_MORE);
    assert_int_equal(feed_text(&c, "A"), CHUNKED_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_at_every_pair_of_splits),
        cmocka_unit_test(reads_byte_by_byte),
        cmocka_unit_test(the_end_is_for_good),
        cmocka_unit_test(a_piece_is_as_long_as_it_can_be),
        cmocka_unit_test(every_state_takes_its_bytes_and_no_others),
        cmocka_unit_test(data_may_be_any_bytes),
        cmocka_unit_test(sizes_have_15_digits_and_all_of_them_count),
        cmocka_unit_test(one_chunk_has_at_most_256_bytes_of_extensions),
        cmocka_unit_test(all_chunks_have_at_most_4_kib_of_extensions),
        cmocka_unit_test(the_trailer_section_has_at_most_8_kib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
