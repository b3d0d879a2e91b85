/* SPDX-License-Identifier: MIT
 * The name that was probably meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/nearest.h"

static const char *nearest_of(const char *wanted)
{
    static const char *const names[] = {"websocket", "get",     "head",    "group",
                                        "publish",   "promise", "max_body"};
    struct nearest n;
    nearest_init(&n, wanted);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        nearest_try(&n, names[i]);
    return n.name;
}

static void a_slip_is_near(void **state)
{
    (void)state;
    assert_string_equal(nearest_of("webscoket"), "websocket");
    assert_string_equal(nearest_of("web_socket"), "websocket");
    assert_string_equal(nearest_of("WebSocket"), "websocket");
    assert_string_equal(nearest_of("max-body"), "max_body");
    assert_string_equal(nearest_of("publsh"), "publish");
    assert_string_equal(nearest_of("publishes"), "publish");
    assert_string_equal(nearest_of("get"), "get");
}

/* Two letters that changed places are one slip: by single letters "gte" is no nearer to "get" than to others.
 */
static void swapped_letters_are_one_step(void **state)
{
    (void)state;
    assert_string_equal(nearest_of("gte"), "get");
    struct nearest n;
    nearest_init(&n, "gte");
    nearest_try(&n, "get");
    assert_int_equal(n.distance, 1);
}

static void the_first_of_equals_wins(void **state)
{
    (void)state;
    struct nearest n;
    nearest_init(&n, "abcd");
    nearest_try(&n, "abce");
    nearest_try(&n, "abcf");
    assert_string_equal(n.name, "abce");
}

static void others_are_not(void **state)
{
    (void)state;
    char longest[500];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(nearest_of("zzzzzz"));
    assert_null(nearest_of(""));
    assert_null(nearest_of("x"));
    assert_null(nearest_of(longest));
    struct nearest n;
    nearest_init(&n, "get");
    nearest_try(&n, longest);
    assert_null(n.name);
    nearest_init(&n, longest);
    nearest_try(&n, longest);
    assert_null(n.name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slip_is_near),
        cmocka_unit_test(swapped_letters_are_one_step),
        cmocka_unit_test(the_first_of_equals_wins),
        cmocka_unit_test(others_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
