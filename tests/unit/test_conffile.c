/* SPDX-License-Identifier: MIT
 * The configuration file: strings, numbers and lists for every type of key, and what it says to mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "script/conffile.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct config config;
static struct err e;

static int set_up(void **state)
{
    (void)state;
    memset(&e, 0, sizeof e);
    return config_init(&config);
}

static int tear_down(void **state)
{
    (void)state;
    config_fini(&config);
    return 0;
}

static int load(const char *body)
{
    char path[] = "/tmp/test_conffile.XXXXXX", text[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    int n = snprintf(text, sizeof text, "return {%s}", body);
    assert_int_equal(write(fd, text, (size_t)n), n);
    close(fd);
    int rc = conffile_load(&config, path, &e);
    unlink(path);
    return rc;
}

static void values(void **state)
{
    (void)state;
    static const struct {
        const char *body, *key, *shown;
    } cases[] = {
        {"origins = \"*\"", "origins", "*"},
        {"origins = {\"same\", \"https://a.example\"}", "origins", "same,https://a.example"},
        {"origins = \"same,null\"", "origins", "same,null"},
        {"listen = {\"a:1\", \"unix:/b\"}", "listen", "a:1,unix:/b"},
        {"max_frame = 65536", "max_frame", "65536"},
        {"max_frame = \"64k\"", "max_frame", "65536"},
        {"read_ahead = 0", "read_ahead", "0"},
        {"queue_limit = 2^36", "queue_limit", "68719476736"},
        {"on_slow = \"drop\"", "on_slow", "drop"},
        {"max_tasks = 1e8", "max_tasks", "100000000"},
        {"reload_drain = \"2m\"", "reload_drain", "120"},
        {"reload_drain = 0.5", "reload_drain", "0.5"},
        {"messages_per_second = 2.5", "messages_per_second", "2.5"},
        {"messages_per_second = \"2.5\"", "messages_per_second", "2.5"},
        {"handshakes_per_second = 1e6", "handshakes_per_second", "1000000"},
        {"max_connections_per_address = 20", "max_connections_per_address", "20"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char shown[128];
        if (load(cases[i].body) < 0)
            fail_msg("%s: %s", cases[i].body, e.text);
        config_show(&config, config_find(cases[i].key, strlen(cases[i].key)), shown, sizeof shown);
        assert_string_equal(shown, cases[i].shown);
    }
}

static void mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *body, *message;
    } cases[] = {
        {"origins = {}", "origins: the list is empty"},
        {"origins = {\"same\", 7}", "origins: element 2 is a number, not a string"},
        {"messages_per_second = {1}", "messages_per_second cannot be a table"},
        {"messages_per_second = \"10s\"", "messages_per_second: \"10s\" is not a number from 0 to 1000000"},
        {"queue_limit = 1000", "queue_limit: \"1000\" is not a number of bytes from 1048576 to 68719476736"},
        {"on_slow = true", "on_slow: \"true\" is none of close|drop"},
        {"origin = \"*\"", "unknown key origin; did you mean origins?"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(load(cases[i].body), -1);
        if (strstr(e.text, cases[i].message) == NULL)
            fail_msg("%s: %s", cases[i].body, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(mistakes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
