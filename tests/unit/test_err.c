/* SPDX-License-Identifier: MIT
 * Messages of failures: set, cut, and given a beginning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static void set_replaces(void **state)
{
    (void)state;
    struct err e;
    memset(&e, 'x', sizeof e);
    assert_int_equal(err_set(&e, "%s is %d", "port", 8080), -1);
    assert_string_equal(e.text, "port is 8080");
    assert_int_equal(err_set(&e, "no"), -1);
    assert_string_equal(e.text, "no");
}

static void prefix_goes_before(void **state)
{
    (void)state;
    struct err e;
    err_set(&e, "line 3: oops\nstack traceback:");
    assert_int_equal(err_prefix(&e, "%s:%d: ", "main.lua", 7), -1);
    assert_string_equal(e.text, "main.lua:7: line 3: oops\nstack traceback:");
    err_prefix(&e, "%s", "");
    assert_string_equal(e.text, "main.lua:7: line 3: oops\nstack traceback:");
}

static void nobody_listens(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, "lost"), -1);
    assert_int_equal(err_prefix(NULL, "lost"), -1);
}

static void long_text_is_cut_at_the_end(void **state)
{
    (void)state;
    struct err e;
    char text[sizeof e.text + 10];
    const size_t max = sizeof e.text - 1;
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(&e, "%s", text);
    assert_int_equal(strlen(e.text), max);

    err_prefix(&e, "why: ");
    assert_int_equal(strlen(e.text), max);
    assert_memory_equal(e.text, "why: aaa", 8);
    assert_int_equal(e.text[max - 1], 'a');

    memset(text, 'b', sizeof text - 1);
    err_prefix(&e, "%s", text);
    assert_int_equal(strlen(e.text), max);
    assert_null(strchr(e.text, 'a'));
}

/* A prefix that leaves room for 0, 1 and 2 more bytes. */
static void prefix_that_just_fits(void **state)
{
    (void)state;
    for (size_t room = 0; room <= 2; room++) {
        struct err e;
        char prefix[sizeof e.text];
        size_t len = sizeof e.text - 1 - room;
        memset(prefix, 'p', len);
        prefix[len] = '\0';
        err_set(&e, "old");
        err_prefix(&e, "%s", prefix);
        assert_int_equal(strlen(e.text), sizeof e.text - 1);
        assert_memory_equal(e.text, prefix, len);
        assert_memory_equal(e.text + len, "old", room);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_replaces),          cmocka_unit_test(prefix_goes_before),
        cmocka_unit_test(nobody_listens),        cmocka_unit_test(long_text_is_cut_at_the_end),
        cmocka_unit_test(prefix_that_just_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
