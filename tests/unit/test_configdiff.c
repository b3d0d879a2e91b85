/* SPDX-License-Identifier: MIT
 * What differs between two configurations: every type of key, lists, and a line of bounded length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/configdiff.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct config from, to;

static int set_up(void **state)
{
    (void)state;
    return config_init(&from) < 0 || config_init(&to) < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    config_fini(&from);
    config_fini(&to);
    return 0;
}

static const struct config_key *key_of(const char *name)
{
    const struct config_key *key = config_find(name, strlen(name));
    assert_non_null(key);
    return key;
}

static void set(struct config *c, const char *name, const char *value)
{
    struct err e;
    if (config_set(c, key_of(name), name, value, false, &e) < 0)
        fail_msg("%s", e.text);
}

static const char *told(size_t size)
{
    static char text[4096];
    memset(text, '#', sizeof text);
    configdiff_tell(&from, &to, text, size);
    assert_true(strlen(text) < size);
    assert_int_equal(text[size], '#');
    return text;
}

static void nothing_differs(void **state)
{
    (void)state;
    assert_int_equal(configdiff_tell(&from, &to, (char[8]){0}, 8), 0);
    assert_string_equal(told(100), "");
    for (size_t i = 0; i < config_nkeys; i++)
        assert_true(configdiff_same(&from, &to, &config_keys[i]));
}

static void one_key(void **state)
{
    (void)state;
    static const struct {
        const char *name, *before, *after, *told;
    } cases[] = {
        {"max_message", "1m", "64k", "max_message 1m -> 64k"},
        {"max_message", "1048577", "1g", "max_message 1048577 -> 1g"},
        {"max_body", "0", "1536", "max_body 0 -> 1536"},
        {"max_connections", "auto", "7", "max_connections auto -> 7"},
        {"ping_interval", "500ms", "2m", "ping_interval 0.5 -> 120"},
        {"rollback_share", "0.1", "1", "rollback_share 0.1 -> 1"},
        {"gzip", "true", "off", "gzip true -> false"},
        {"log_level", "info", "error", "log_level info -> error"},
        {"pid_file", "/a", "/b", "pid_file /a -> /b"},
        {"origins", "same", "same,*", "origins + *"},
        {"listen", "a:1,b:2,c:3", "d:4,b:2", "listen + d:4 - a:1 - c:3"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        set(&from, cases[i].name, cases[i].before);
        set(&to, cases[i].name, cases[i].after);
        assert_false(configdiff_same(&from, &to, key_of(cases[i].name)));
        assert_string_equal(told(200), cases[i].told);
        set(&to, cases[i].name, cases[i].before);
        assert_true(configdiff_same(&from, &to, key_of(cases[i].name)));
        assert_string_equal(told(200), "");
    }
}

static void what_was_unset(void **state)
{
    (void)state;
    set(&to, "control", "@x");
    assert_string_equal(told(200), "control none -> @x");
    set(&from, "trusted_proxies", "loopback");
    assert_string_equal(told(200), "control none -> @x, trusted_proxies - loopback");
}

static void order_and_repetition_do_not_count(void **state)
{
    (void)state;
    set(&from, "origins", "a,b,b");
    set(&to, "origins", "b,a");
    assert_true(configdiff_same(&from, &to, key_of("origins")));
    assert_true(configdiff_same(&to, &from, key_of("origins")));
    assert_string_equal(told(200), "");
}

static void several_keys_in_the_order_of_the_table(void **state)
{
    (void)state;
    set(&to, "max_message", "2m");
    set(&to, "listen", "127.0.0.1:8443");
    set(&to, "abort_stuck", "true");
    assert_string_equal(
        told(200),
        "listen + 127.0.0.1:8443 - 127.0.0.1:8080, max_message 1m -> 2m, abort_stuck false -> true");
    assert_int_equal(configdiff_tell(&from, &to, (char[8]){0}, 8), 3);
}

/* Whole keys only, whatever the size; those that are left out are counted. */
static void a_line_is_bounded(void **state)
{
    (void)state;
    set(&to, "max_head", "1k");
    set(&to, "max_message", "2m");
    set(&to, "gzip", "false");
    assert_string_equal(told(40), "3 more");
    assert_string_equal(told(60), "max_head 16k -> 1k and 2 more");
    assert_string_equal(told(100), "max_head 16k -> 1k, gzip true -> false, max_message 1m -> 2m");
    for (size_t size = 8; size < 200; size++)
        told(size);
}

static void a_long_list_does_not_hide_the_rest(void **state)
{
    (void)state;
    char items[3 * 600 + 1];
    memset(items, 'x', sizeof items - 1);
    items[600] = items[1200] = ',';
    items[sizeof items - 1] = '\0';
    set(&to, "origins", items);
    set(&to, "max_message", "2m");
    assert_string_equal(told(1500), "max_message 1m -> 2m and 1 more");
}

static void a_copy_is_the_same_and_its_own(void **state)
{
    (void)state;
    set(&from, "listen", "a:1,b:2");
    set(&from, "control", "@x");
    set(&from, "max_message", "7");
    set(&from, "ping_interval", "7");
    set(&from, "on_slow", "drop");
    set(&from, "watch", "true");
    config_fini(&to);
    assert_int_equal(config_copy(&to, &from), 0);
    for (size_t i = 0; i < config_nkeys; i++)
        assert_true(configdiff_same(&from, &to, &config_keys[i]));
    assert_ptr_not_equal(from.control, to.control);
    assert_ptr_not_equal(from.listen.item[0], to.listen.item[0]);
    set(&from, "listen", "c:3");
    assert_string_equal(told(200), "listen + a:1 + b:2 - c:3");
    assert_int_equal(config_copy_key(&to, &from, key_of("listen")), 0);
    assert_string_equal(told(200), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_differs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_unset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(order_and_repetition_do_not_count, set_up, tear_down),
        cmocka_unit_test_setup_teardown(several_keys_in_the_order_of_the_table, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_is_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_long_list_does_not_hide_the_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_copy_is_the_same_and_its_own, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
