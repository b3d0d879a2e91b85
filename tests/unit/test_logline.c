/* SPDX-License-Identifier: MIT
 * What a line looks like; what forges none is in test_log.c too, as it comes out in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/logline.h"

static struct buf out;

static int set_up(void **state)
{
    (void)state;
    out = (struct buf)BUF_INIT;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    buf_fini(&out);
    return 0;
}

static const char *made(void)
{
    buf_append(&out, "", 1);
    out.len = 0;
    return out.data;
}

static void times(void **state)
{
    (void)state;
    static const struct {
        struct timespec at;
        const char *text;
    } cases[] = {
        {{0, 0}, "1970-01-01T00:00:00.000Z"},
        {{0, 999999999}, "1970-01-01T00:00:00.999Z"},
        {{1767323045, 678900000}, "2026-01-02T03:04:05.678Z"},
        {{1767323045, 1000000}, "2026-01-02T03:04:05.001Z"},
        {{1767323046, 0}, "2026-01-02T03:04:06.000Z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        logline_time(&out, &cases[i].at);
        assert_string_equal(made(), cases[i].text);
    }
}

static void quoted(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
        size_t len;
    } cases[] = {
        {"", "", 0},
        {"curl/7.88 (x; y)", "curl/7.88 (x; y)", 16},
        {"a\"b\\c", "a\\x22b\\x5cc", 5},
        {"\n\r\t\x1b[2J\x7f", "\\x0a\\x0d\\x09\\x1b[2J\\x7f", 8},
        {"caf\xc3\xa9", "caf\\xc3\\xa9", 5},
        {"a\0b", "a\\x00b", 3},
        {"\"", "\\x22", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        logline_quote(&out, cases[i].bytes, cases[i].len);
        assert_string_equal(made(), cases[i].text);
    }
}

/* Whatever the bytes: one line, which text form may continue on indented ones only. */
static void any_bytes_are_one_event(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        char bytes[24];
        for (size_t j = 0; j < sizeof bytes; j++) {
            seed = seed * 1664525 + 1013904223;
            static const char often[] = "\n\r\"\\\xc2\x85\x9b\xc3\xa9\x7f\x1b\t";
            bytes[j] = (seed >> 28) < 12 ? often[(seed >> 16) % (sizeof often - 1)] : (char)(seed >> 16);
        }
        for (int json = 0; json <= 1; json++) {
            logline_escape(&out, bytes, sizeof bytes, json);
            for (size_t j = 0; j < out.len; j++) {
                unsigned char c = (unsigned char)out.data[j];
                if (c == '\n' && !json)
                    assert_memory_equal(out.data + j, "\n    ", 5);
                else
                    assert_true((c >= 0x20 || (c == '\t' && !json)) && c != 0x7f);
                if (json && c == '\\')
                    j++;
                else
                    assert_false(json && c == '"');
            }
            made();
        }
    }
}

static void colours(void **state)
{
    (void)state;
    static const char *const levels[] = {"\x1b[2mdebug\x1b[0m", "\x1b[32minfo \x1b[0m",
                                         "\x1b[33mwarn \x1b[0m", "\x1b[31merror\x1b[0m",
                                         "\x1b[32minfo \x1b[0m"};
    for (int level = LOG_DEBUG; level <= LOG_ALWAYS; level++) {
        char want[80];
        struct logline l = {.level = (enum log_level)level, .text = "x", .len = 1, .colour = true};
        logline_text(&out, &l);
        snprintf(want, sizeof want, "1970-01-01T00:00:00.000Z %s x\n", levels[level]);
        assert_string_equal(made(), want);
        logline_json(&out, &l);
        assert_null(strchr(made(), '\x1b'));
    }
}

static void a_route_forges_nothing_either(void **state)
{
    (void)state;
    struct log_context about = {.route = "/a\nb\x1b"};
    struct logline l = {.level = LOG_WARN, .ctx = &about, .text = "x", .len = 1};
    logline_text(&out, &l);
    assert_string_equal(made(), "1970-01-01T00:00:00.000Z warn  [/a\n    b\\x1b] x\n");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(times),
        TEST(quoted),
        TEST(any_bytes_are_one_event),
        TEST(colours),
        TEST(a_route_forges_nothing_either),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
