/* SPDX-License-Identifier: MIT
 * One state of the configuration: what it takes over, what it refuses, how long it lives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/setup.h"

static struct config config;
static struct err e;

static int set_up(void **state)
{
    (void)state;
    return config_init(&config);
}

static int tear_down(void **state)
{
    (void)state;
    config_fini(&config);
    return 0;
}

static void set(const char *name, const char *value)
{
    assert_int_equal(config_set(&config, config_find(name, strlen(name)), name, value, false, &e), 0);
}

static void takes_the_configuration_over(void **state)
{
    (void)state;
    set("trusted_proxies", "loopback,10.0.0.0/8");
    set("listen", "proxy:127.0.0.1:1");
    struct setup *s = setup_create(&config, &e);
    assert_non_null(s);
    assert_int_equal(config.listen.n, 0);
    assert_string_equal(s->config.listen.item[0], "proxy:127.0.0.1:1");
    assert_int_equal(s->trusted_proxies.n, 4);
    setup_unref(s);
}

static void leaves_a_refused_one_alone(void **state)
{
    (void)state;
    set("listen", "127.0.0.1:1,proxy:127.0.0.1:2");
    assert_null(setup_create(&config, &e));
    assert_non_null(strstr(e.text, "listen: proxy:127.0.0.1:2 takes connections from trusted_proxies only"));
    set("trusted_proxies", "nowhere");
    assert_null(setup_create(&config, &e));
    assert_int_equal(strncmp(e.text, "trusted_proxies: ", 17), 0);
    assert_string_equal(config.listen.item[1], "proxy:127.0.0.1:2");
}

static void lives_for_as_long_as_somebody_has_it(void **state)
{
    (void)state;
    struct setup *s = setup_create(&config, &e);
    assert_ptr_equal(setup_ref(s), s);
    setup_unref(s);
    assert_int_equal(s->config.max_message, 1 << 20); /* ASan would say */
    setup_unref(s);
    setup_unref(NULL);
    assert_null(setup_ref(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_the_configuration_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_refused_one_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lives_for_as_long_as_somebody_has_it, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
