/* SPDX-License-Identifier: MIT
 * Lines that come again and again: so many a second, the rest counted, and no kind at another's expense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/logrepeat.h"

static struct logrepeat table;
static struct logrepeat_kind over;

static int set_up(void **state)
{
    (void)state;
    memset(&table, 0, sizeof table);
    return 0;
}

static bool take(uint64_t key, const char *text, unsigned limit, uint64_t now_ms)
{
    struct logrepeat_line line = {.key = key, .level = 2, .text = text, .len = strlen(text), .route = "/r"};
    return logrepeat_take(&table, &line, limit, now_ms, &over);
}

static void the_first_ones_of_a_second_are_told(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(take(7, "x", 3, 5000 + (uint64_t)i), i < 3);
        assert_int_equal(over.hidden, 0);
    }
    assert_false(logrepeat_next(&table, 5999, false, &over));
    assert_true(logrepeat_next(&table, 6000, false, &over));
    assert_int_equal(over.hidden, 97);
    assert_int_equal(over.since_ms, 5000);
    assert_int_equal(over.level, 2);
    assert_string_equal(over.text, "x");
    assert_string_equal(over.route, "/r");
    assert_false(logrepeat_next(&table, 6000, false, &over));
}

static void the_next_second_begins_with_what_was_hidden(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        take(7, "x", 1, 5000);
    assert_true(take(7, "x", 1, 6000));
    assert_int_equal(over.hidden, 4);
    assert_int_equal(table.hiding, 0);
    assert_false(take(7, "x", 1, 6001));
    assert_int_equal(over.hidden, 0);
    assert_int_equal(table.hiding, 1);
}

static void one_kind_does_not_hide_another(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        take(7, "loud", 2, 5000);
    assert_true(take(8, "quiet", 2, 5000));
    assert_true(take(7 + LOGREPEAT_SETS, "in the same set", 2, 5000));
}

/* Many kinds of few lines do not take the place of one with many: or it would be told from the start again.
 */
static void the_loudest_keeps_its_place(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        take(7, "loud", 2, 5000);
    for (uint64_t i = 1; i < 1000; i++) {
        assert_true(take(7 + i * LOGREPEAT_SETS, "new", 2, 5000));
        assert_int_equal(over.hidden, 0);
    }
    assert_false(take(7, "loud", 2, 5000));
}

static void who_loses_its_place_is_told_of(void **state)
{
    (void)state;
    uint64_t hidden = 0;
    for (uint64_t i = 0; i < LOGREPEAT_WAYS + 1; i++)
        for (int j = 0; j < 10; j++) {
            take(7 + i * LOGREPEAT_SETS, "x", 1, 5000);
            hidden += over.hidden;
        }
    assert_int_equal(hidden, 9);
    assert_int_equal(table.hiding, LOGREPEAT_WAYS);
    while (logrepeat_next(&table, 5000, true, &over))
        hidden += over.hidden;
    assert_int_equal(hidden, 9 * (LOGREPEAT_WAYS + 1));
}

static void the_text_is_one_line_cut_between_characters(void **state)
{
    (void)state;
    char text[400];
    take(1, "one\ntwo", 1, 0);
    take(1, "one\ntwo", 1, 0);
    assert_true(logrepeat_next(&table, 0, true, &over));
    assert_string_equal(over.text, "one");
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'x', sizeof text);
        for (size_t i = shift; i + 2 < sizeof text; i += 2)
            memcpy(text + i, "\xc3\xa9", 2);
        text[sizeof text - 1] = '\0';
        take(2 + shift, text, 1, 0);
        take(2 + shift, text, 1, 0);
        assert_true(logrepeat_next(&table, 0, true, &over));
        size_t len = strlen(over.text);
        assert_true(len >= LOGREPEAT_TEXT - 2 && len < LOGREPEAT_TEXT);
        assert_int_equal((len - shift) % 2, 0);
    }
}

/* Nothing is left out and nothing is told twice, whatever the keys and times are. */
static void the_sums_are_right(void **state)
{
    (void)state;
    uint64_t seed = 1, told = 0, hidden = 0, now = 0;
    for (int i = 0; i < 100000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        now += seed >> 62;
        told += take(seed >> 54, "x", 2, now);
        hidden += over.hidden;
        if (i % 1000 == 0)
            while (logrepeat_next(&table, now, false, &over))
                hidden += over.hidden;
    }
    while (logrepeat_next(&table, now, true, &over))
        hidden += over.hidden;
    assert_int_equal(told + hidden, 100000);
    assert_true(hidden > 1000);
    assert_int_equal(table.hiding, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        TEST(the_first_ones_of_a_second_are_told),
        TEST(the_next_second_begins_with_what_was_hidden),
        TEST(one_kind_does_not_hide_another),
        TEST(the_loudest_keeps_its_place),
        TEST(who_loses_its_place_is_told_of),
        TEST(the_text_is_one_line_cut_between_characters),
        TEST(the_sums_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
