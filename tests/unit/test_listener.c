/* SPDX-License-Identifier: MIT
 * Addresses to listen on: which are one, which need the same port, and binding beside an address of our own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/listener.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void the_same_address(void **state)
{
    (void)state;
    static const struct {
        const char *one, *other;
        bool same;
    } cases[] = {
        {"127.0.0.1:80", "127.0.0.1:80", true},
        {"127.0.0.1:80", "127.0.0.1:8", false},
        {"127.0.0.1:80", "127.0.0.2:80", false},
        {"127.0.0.1:80", "proxy:127.0.0.1:80", true},
        {"proxy:[::1]:80", "tls:[::1]:80?a=b", true},
        {"tls:127.0.0.1:80?a=b", "tls:127.0.0.1:80?a=c", true},
        {"127.0.0.1:0", "127.0.0.1:0", false}, /* two ports */
        {"tls:127.0.0.1:0?a=b", "127.0.0.1:0", false},
        {"unix:/a", "proxy:unix:/a", true},
        {"unix:/a", "unix:/ab", false},
        {"unix:/0", "unix:/0", true},
        {"fd:3", "proxy:fd:3", true},
        {"*:80", ":80", false}, /* they are, but that takes more than their text */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (listener_same_address(cases[i].one, cases[i].other) != cases[i].same ||
            listener_same_address(cases[i].other, cases[i].one) != cases[i].same)
            fail_msg("%s, %s", cases[i].one, cases[i].other);
    }
}

static void the_same_port(void **state)
{
    (void)state;
    static const struct {
        const char *bound, *spec;
        bool same;
    } cases[] = {
        {"127.0.0.1:80", "*:80", true},        {"127.0.0.1:80", "proxy:tls:*:080?a=b", true},
        {"[::1]:80", "127.0.0.1:80", true},    {"127.0.0.1:80", "127.0.0.1:8", false},
        {"127.0.0.1:80", "unix:/a:80", false}, {"unix:/a:80", "127.0.0.1:80", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct listener_set set = {.nfds = 0};
        snprintf(set.text, sizeof set.text, "%s", cases[i].bound);
        if (listener_same_port(&set, cases[i].spec) != cases[i].same)
            fail_msg("%s, %s", cases[i].bound, cases[i].spec);
    }
}

static void inherited_ones(void **state)
{
    (void)state;
    assert_true(listener_is_inherited("fd:3"));
    assert_true(listener_is_inherited("proxy:fd:3"));
    assert_false(listener_is_inherited("127.0.0.1:3"));
    assert_false(listener_is_inherited("unix:/fd:3"));
}

static void beside_our_own(void **state)
{
    (void)state;
    struct listener_set first, second, third;
    struct err e;
    char spec[200];
    assert_int_equal(listener_bind(&first, "127.0.0.1:0", 2, &e), 0);
    snprintf(spec, sizeof spec, "*:%s", strrchr(first.text, ':') + 1);
    assert_int_equal(listener_bind(&second, spec, 2, &e), -1);
    assert_non_null(strstr(e.text, "address already in use"));
    assert_int_equal(listener_bind_beside(&second, spec, 2, &e), 0);
    assert_int_equal(second.nfds, 2);
    assert_int_equal(listener_bind_beside(&third, first.text, 2, &e), 0);
    listener_release(&first);
    listener_release(&second);
    listener_release(&third);
}

static void what_is_before_the_address_can_change(void **state)
{
    (void)state;
    struct listener_set set;
    struct err e;
    assert_int_equal(listener_bind(&set, "proxy:127.0.0.1:0", 1, &e), 0);
    assert_true(atomic_load(&set.proxied));
    listener_update(&set, "127.0.0.1:0", NULL);
    assert_false(atomic_load(&set.proxied));
    listener_update(&set, "proxy:127.0.0.1:0", NULL);
    assert_true(atomic_load(&set.proxied));
    listener_release(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_address),
        cmocka_unit_test(the_same_port),
        cmocka_unit_test(inherited_ones),
        cmocka_unit_test(beside_our_own),
        cmocka_unit_test(what_is_before_the_address_can_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
