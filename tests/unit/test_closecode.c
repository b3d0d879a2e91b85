/* SPDX-License-Identifier: MIT
 * Close codes one by one, and the payload of a Close frame both ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ws/closecode.h"

static bool in(const unsigned *codes, unsigned code)
{
    for (; *codes; codes++) {
        if (*codes == code)
            return true;
    }
    return false;
}

static void test_every_code(void **state)
{
    (void)state;
    static const unsigned received[] = {1000, 1001, 1002, 1003, 1007, 1008, 1009,
                                        1010, 1011, 1012, 1013, 1014, 0};
    static const unsigned to_send[] = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 0};
    for (unsigned code = 0; code <= 0x1ffff; code++) {
        bool private = code >= 3000 && code <= 4999;
        assert_int_equal(closecode_valid_received(code), private || in(received, code));
        assert_int_equal(closecode_valid_to_send(code), private || in(to_send, code));
    }
}

static unsigned parse(const char *payload, size_t len, struct closecode_payload *out)
{
    memset(out, 0xff, sizeof *out);
    return closecode_parse((const uint8_t *)payload, len, out);
}

static void test_parse(void **state)
{
    (void)state;
    struct closecode_payload p;
    static const char bye[] = "\x0f\xa1"
                              "caf\xc3\xa9";
    assert_int_equal(parse(bye, 7, &p), 0);
    assert_int_equal(p.code, 4001);
    assert_ptr_equal(p.reason, bye + 2);
    assert_int_equal(p.reason_len, 5);

    assert_int_equal(parse("\x03\xe8", 2, &p), 0);
    assert_int_equal(p.code, 1000);
    assert_non_null(p.reason);
    assert_int_equal(p.reason_len, 0);
}

static void test_parse_nothing(void **state)
{
    (void)state;
    struct closecode_payload p;
    assert_int_equal(parse(NULL, 0, &p), 0);
    assert_int_equal(p.code, CLOSECODE_NO_STATUS);
    assert_string_equal(p.reason, "");
    assert_int_equal(p.reason_len, 0);
}

static void test_parse_the_longest(void **state)
{
    (void)state;
    struct closecode_payload p;
    char payload[126] = "\x03\xe8";
    memset(payload + 2, 'r', sizeof payload - 2);
    assert_int_equal(parse(payload, 125, &p), 0);
    assert_int_equal(p.reason_len, CLOSECODE_REASON_MAX);
    assert_int_equal(parse(payload, 126, &p), 1002);
}

static void test_parse_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        size_t len;
        unsigned code;
    } cases[] = {
        {"\x03\xe8", 1, 1002},
        {"\x00\x00", 2, 1002},
        {"\x03\xe7", 2, 1002},
        {"\x03\xec", 2, 1002},
        {"\x03\xed", 2, 1002},
        {"\x03\xee", 2, 1002},
        {"\x03\xf7", 2, 1002},
        {"\x0b\xb7", 2, 1002},
        {"\x13\x88", 2, 1002},
        {"\x03\xe8\xff", 3, 1007},
        {"\x03\xe8"
         "a\xc3",
         4, 1007},
        {"\x03\xe8\xed\xa0\x80", 5, 1007},
        {"\x03\xed\xff", 3, 1002},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct closecode_payload p;
        assert_int_equal(parse(cases[i].payload, cases[i].len, &p), cases[i].code);
        assert_int_equal(p.code, CLOSECODE_NO_STATUS);
        assert_int_equal(p.reason_len, 0);
    }
}

static void test_write(void **state)
{
    (void)state;
    uint8_t out[125];
    assert_int_equal(closecode_write(1001, "bye", 3, out), 5);
    assert_memory_equal(out,
                        "\x03\xe9"
                        "bye",
                        5);
    assert_int_equal(closecode_write(4999, NULL, 0, out), 2);
    assert_memory_equal(out, "\x13\x87", 2);
    assert_int_equal(closecode_write(CLOSECODE_NO_STATUS, "bye", 3, out), 0);
}

static void test_write_every_length(void **state)
{
    (void)state;
    char reason[130];
    memset(reason, 'x', sizeof reason);
    for (size_t len = 0; len <= sizeof reason; len++) {
        uint8_t out[125];
        size_t kept = len < CLOSECODE_REASON_MAX ? len : CLOSECODE_REASON_MAX;
        assert_int_equal(closecode_write(1000, reason, len, out), 2 + kept);
        assert_memory_equal(out + 2, reason, kept);
    }
}

/* A reason whose character straddles the limit loses the whole character, and no more than it. */
static void test_write_cuts_between_characters(void **state)
{
    (void)state;
    static const char *const characters[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    for (size_t i = 0; i < 4; i++) {
        size_t width = i + 1;
        for (size_t at = CLOSECODE_REASON_MAX - 5; at <= CLOSECODE_REASON_MAX; at++) {
            char reason[200];
            uint8_t out[125];
            memset(reason, 'x', sizeof reason);
            memcpy(reason + at, characters[i], width);
            size_t kept =
                at < CLOSECODE_REASON_MAX && at + width > CLOSECODE_REASON_MAX ? at : CLOSECODE_REASON_MAX;
            assert_int_equal(closecode_write(1000, reason, sizeof reason, out), 2 + kept);
            assert_memory_equal(out + 2, reason, kept);
            struct closecode_payload p;
            assert_int_equal(closecode_parse(out, 2 + kept, &p), 0);

            size_t fits = CLOSECODE_REASON_MAX;
            memset(reason, 'x', sizeof reason);
            memcpy(reason + fits - width, characters[i], width);
            assert_int_equal(closecode_write(1000, reason, fits, out), 125);
            assert_memory_equal(out + 2, reason, fits);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code),         cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_nothing),      cmocka_unit_test(test_parse_the_longest),
        cmocka_unit_test(test_parse_refuses),      cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_every_length), cmocka_unit_test(test_write_cuts_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
