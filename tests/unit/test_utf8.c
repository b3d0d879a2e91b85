/* SPDX-License-Identifier: MIT
 * UTF-8 against the grammar of RFC 3629, section 4: every code point, every class of sequence, every split.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/utf8.h"

/* The same code as on a processor that cannot look up nibbles. */
#define utf8_feed                       plain_feed
#define utf8_valid                      plain_valid
#define __builtin_cpu_supports(feature) false
#include "base/utf8.c"
#undef utf8_feed
#undef utf8_valid
#undef __builtin_cpu_supports

struct range {
    uint8_t first, last;
};

/* The grammar's lines: each a range for every byte. */
static const struct grammar {
    size_t len;
    struct range at[4];
} grammar[] = {
    {1, {{0x00, 0x7f}}},
    {2, {{0xc2, 0xdf}, {0x80, 0xbf}}},
    {3, {{0xe0, 0xe0}, {0xa0, 0xbf}, {0x80, 0xbf}}},
    {3, {{0xe1, 0xec}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {3, {{0xed, 0xed}, {0x80, 0x9f}, {0x80, 0xbf}}},
    {3, {{0xee, 0xef}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf0, 0xf0}, {0x90, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf1, 0xf3}, {0x80, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf4, 0xf4}, {0x80, 0x8f}, {0x80, 0xbf}, {0x80, 0xbf}}},
};

static bool begins(const struct grammar *g, const uint8_t *s, size_t len)
{
    if (len > g->len)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < g->at[i].first || s[i] > g->at[i].last)
            return false;
    }
    return true;
}

/* How many bytes of s a reader accepts before the one that makes it invalid (`len`: all of them), and whether
 * it is between two characters there. */
static size_t accepted(const uint8_t *s, size_t len, bool *complete)
{
    size_t start = 0;
    for (size_t end = 1; end <= len; end++) {
        bool possible = false;
        bool whole = false;
        for (size_t i = 0; i < sizeof grammar / sizeof grammar[0]; i++) {
            if (begins(&grammar[i], s + start, end - start)) {
                possible = true;
                whole = grammar[i].len == end - start;
            }
        }
        if (!possible)
            return end - 1;
        if (whole)
            start = end;
    }
    *complete = start == len;
    return len;
}

/* One byte at a time: the one that cannot be is the one that fails, and nothing after it succeeds. */
static void check_bytewise(const uint8_t *s, size_t len)
{
    bool complete = false;
    size_t good = accepted(s, len, &complete);
    struct utf8 u = {0};
    for (size_t i = 0; i < len; i++)
        assert_int_equal(utf8_feed(&u, s + i, 1), i < good);
    if (good == len)
        assert_int_equal(utf8_complete(&u), complete);
    else
        assert_false(utf8_feed(&u, "", 0) || utf8_feed(&u, "a", 1) || utf8_complete(&u));
}

static void check_split(const uint8_t *s, size_t len, size_t cut)
{
    bool complete = false;
    size_t good = accepted(s, len, &complete);
    struct utf8 u = {0};
    bool ok = utf8_feed(&u, s, cut);
    assert_int_equal(ok, good >= cut);
    ok = utf8_feed(&u, s + cut, len - cut);
    assert_int_equal(ok, good == len);
    assert_int_equal(utf8_complete(&u), complete);
    assert_int_equal(utf8_valid(s, len), complete);
}

static void check(const uint8_t *s, size_t len)
{
    check_bytewise(s, len);
    for (size_t cut = 0; cut <= len; cut++)
        check_split(s, len, cut);
}

static size_t encode(uint32_t cp, uint8_t out[4])
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (uint8_t)(0x80 | (cp & 0x3f));
    out[0] = (uint8_t)(lead[len] | cp);
    return len;
}

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp < 0x120000; cp++) {
        uint8_t s[4];
        size_t len = encode(cp, s);
        bool surrogate = cp >= 0xd800 && cp <= 0xdfff;
        bool valid = !surrogate && cp <= 0x10ffff;
        assert_int_equal(utf8_valid(s, len), valid);
        for (size_t cut = 1; cut < len; cut++) {
            struct utf8 u = {0};
            bool possible = utf8_feed(&u, s, cut);
            assert_true(!valid || (possible && !utf8_complete(&u)));
            assert_int_equal(utf8_feed(&u, s + cut, len - cut) && utf8_complete(&u), valid);
        }
    }
}

static void test_every_pair_of_bytes(void **state)
{
    (void)state;
    for (unsigned pair = 0; pair < 0x10000; pair++) {
        const uint8_t s[] = {(uint8_t)(pair >> 8), (uint8_t)pair};
        check(s, 1);
        check(s, 2);
    }
}

/* Every first byte, followed by both ends of every class a later byte can belong to. */
static void test_every_class_of_sequence(void **state)
{
    (void)state;
    static const uint8_t edge[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                   0xbf, 0xc0, 0xc2, 0xe0, 0xed, 0xf4, 0xff};
    const size_t edges = sizeof edge;
    for (unsigned first = 0; first < 0x100; first++) {
        for (size_t i = 0; i < edges * edges * edges; i++) {
            const uint8_t s[] = {(uint8_t)first, edge[i / edges / edges], edge[i / edges % edges],
                                 edge[i % edges]};
            check_bytewise(s, 4);
            check_split(s, 4, 1 + i % 3);
            check_split(s, 3, 1 + i % 2);
        }
    }
}

static void test_overlong_surrogate_and_beyond(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t fails_at;
    } cases[] = {
        {"\x80", 0},
        {"\xbf", 0},
        {"\xc0\x80", 0},
        {"\xc1\xbf", 0},
        {"\xe0\x80\x80", 1},
        {"\xe0\x9f\xbf", 1},
        {"\xed\xa0\x80", 1},
        {"\xed\xbf\xbf", 1},
        {"\xf0\x80\x80\x80", 1},
        {"\xf0\x8f\xbf\xbf", 1},
        {"\xf4\x90\x80\x80", 1},
        {"\xf5\x80\x80\x80", 0},
        {"\xf8\x88\x80\x80\x80", 0},
        {"\xfe", 0},
        {"\xff", 0},
        {"\xe2\x82"
         "a",
         2},
        {"\xf0\x9f\x98\xf0", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct utf8 u = {0};
        assert_true(utf8_feed(&u, cases[i].text, cases[i].fails_at));
        assert_false(utf8_feed(&u, cases[i].text + cases[i].fails_at, 1));
        assert_false(utf8_valid(cases[i].text, strlen(cases[i].text)));
    }
}

/* Where a sequence lies must not matter: not its offset in a wide block, nor the text's alignment, nor a cut.
 */
static void test_every_place_in_a_long_text(void **state)
{
    (void)state;
    static const char *const sequences[] = {"\xc3\xa9",     "\xe2\x82\xac",     "\xf0\x9f\x98\x80",
                                            "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80",
                                            "\xff",         "\xe2\x82"};
    enum { LENGTH = 100 };
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        size_t len = strlen(sequences[i]);
        for (size_t at = 0; at + len <= LENGTH; at++) {
            uint8_t text[8 + LENGTH];
            memset(text, 'a', sizeof text);
            memcpy(text + at % 8 + at, sequences[i], len);
            for (size_t cut = 0; cut <= LENGTH; cut++)
                check_split(text + at % 8, LENGTH, cut);
        }
    }
}

enum { PLACES = 71, MARGIN = 70, LONG = PLACES + 4 + MARGIN };

/* Whole in two pieces, for every cut; both ways that a processor may take. */
static void check_every_cut(const uint8_t *s, size_t len)
{
    static bool (*const feed[])(struct utf8 *, const void *, size_t) = {utf8_feed, plain_feed};
    bool complete[LONG + 1] = {true};
    size_t good = len;
    for (size_t end = 1; end <= len && good == len; end++)
        good = accepted(s, end, &complete[end]) < end ? end - 1 : len;
    for (size_t cut = 0; cut <= len; cut++) {
        for (size_t way = 0; way < 2; way++) {
            struct utf8 u = {0};
            bool first = feed[way](&u, s, cut);
            assert_true(first == (good >= cut) && (!first || utf8_complete(&u) == complete[cut]));
            bool both = feed[way](&u, s + cut, len - cut);
            assert_true(both == (good == len) && utf8_complete(&u) == (both && complete[len]));
        }
    }
}

/* At each place between ASCII, then between characters of two, three and four bytes. */
static void check_every_place(const uint8_t *sequence, size_t len)
{
    static const char *const around[] = {"a", "\xd1\x8f", "\xe5\xa4\xa9", "\xf0\x9f\x98\x80"};
    for (size_t i = 0; i < 4; i++) {
        size_t width = i + 1;
        for (size_t at = 0; at < PLACES; at++) {
            uint8_t text[LONG];
            size_t n = at % width;
            memset(text, 'a', n);
            for (; n < at; n += width)
                memcpy(text + n, around[i], width);
            memcpy(text + n, sequence, len);
            for (n += len; n + width <= at + len + MARGIN; n += width)
                memcpy(text + n, around[i], width);
            check_every_cut(text, n);
        }
    }
}

/* The ends of each line of the grammar; then the same with one byte next to its range, and cut short. */
static void test_every_boundary_everywhere_in_a_long_text(void **state)
{
    (void)state;
    for (const struct grammar *g = grammar + 1; g < grammar + sizeof grammar / sizeof grammar[0]; g++) {
        for (int last = 0; last < 2; last++) {
            uint8_t s[4];
            for (size_t i = 0; i < g->len; i++)
                s[i] = last ? g->at[i].last : g->at[i].first;
            check_every_place(s, g->len);
            check_every_place(s, g->len - 1);
            for (size_t i = 0; i < g->len; i++) {
                uint8_t inside = s[i];
                s[i] = (uint8_t)(last ? inside + 1 : inside - 1);
                check_every_place(s, g->len);
                s[i] = inside;
            }
        }
    }
}

/* As the whole of a sequence, its first, its middle or its last bytes, between characters of two bytes. */
static void test_every_pair_of_bytes_in_a_long_text(void **state)
{
    (void)state;
    static const char *const form[] = {"pp", "ppT", "ppTT", "Epp", "FppT"};
    enum { AROUND = 26 };
    for (unsigned pair = 0; pair < 0x10000; pair++) {
        for (size_t i = 0; i < sizeof form / sizeof form[0]; i++) {
            uint8_t text[AROUND + 4 + AROUND], *middle = text + AROUND;
            size_t len = strlen(form[i]), pp = strcspn(form[i], "p");
            for (size_t n = 0; n < AROUND; n += 2)
                memcpy(text + n, "\xd1\x8f", 2);
            for (size_t n = 0; n < len; n++)
                middle[n] = form[i][n] == 'E' ? 0xe5 : form[i][n] == 'F' ? 0xf1 : 0x9a;
            middle[pp] = (uint8_t)(pair >> 8);
            middle[pp + 1] = (uint8_t)pair;
            memcpy(middle + len, text, AROUND);
            bool complete = false;
            bool valid = accepted(middle, len, &complete) == len && complete;
            assert_int_equal(utf8_valid(text, AROUND + len + AROUND), valid);
            assert_int_equal(plain_valid(text, AROUND + len + AROUND), valid);
        }
    }
}

/* In memory of just that size, so that AddressSanitizer sees a load beyond it. */
static void test_no_byte_beyond_a_piece_is_read(void **state)
{
    (void)state;
    for (size_t len = 1; len <= LONG; len++) {
        for (size_t strange = 0; strange < len; strange++) {
            char *text = malloc(len);
            assert_non_null(text);
            memset(text, 'a', len);
            text[strange] = '\xff';
            assert_false(utf8_valid(text, len) || plain_valid(text, len));
            text[strange] = 'a';
            text[len - 1] = '\xc3';
            struct utf8 u = {0};
            assert_true(utf8_feed(&u, text, len) && !utf8_complete(&u));
            free(text);
        }
    }
}

static void test_text_that_ends_inside_a_character(void **state)
{
    (void)state;
    struct utf8 u = {0};
    assert_true(utf8_complete(&u));
    assert_true(utf8_feed(&u, NULL, 0));
    assert_true(utf8_complete(&u));
    assert_true(utf8_feed(&u, "\xe2\x82", 2));
    assert_false(utf8_complete(&u));
    assert_true(utf8_feed(&u, "", 0));
    assert_false(utf8_complete(&u));
    assert_true(utf8_feed(&u, "\xac", 1));
    assert_true(utf8_complete(&u));
    assert_true(utf8_valid("", 0));
    assert_false(utf8_valid("\xe2\x82", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_every_pair_of_bytes),
        cmocka_unit_test(test_every_class_of_sequence),
        cmocka_unit_test(test_overlong_surrogate_and_beyond),
        cmocka_unit_test(test_every_place_in_a_long_text),
        cmocka_unit_test(test_every_boundary_everywhere_in_a_long_text),
        cmocka_unit_test(test_every_pair_of_bytes_in_a_long_text),
        cmocka_unit_test(test_no_byte_beyond_a_piece_is_read),
        cmocka_unit_test(test_text_that_ends_inside_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
