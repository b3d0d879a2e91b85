/* SPDX-License-Identifier: MIT
 * The configuration's table: types, units, bounds, lists, the environment, and what the messages say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/config.h"

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

static const struct config_key *key_of(const char *name)
{
    const struct config_key *key = config_find(name, strlen(name));
    if (key == NULL)
        fail_msg("no key %s", name);
    return key;
}

static int set(const char *name, const char *value)
{
    return config_set(&config, key_of(name), name, value, false, &e);
}

static const char *shown(const char *name)
{
    static char text[512];
    config_show(&config, key_of(name), text, sizeof text);
    return text;
}

/* ---- defaults and names ---- */

static void defaults(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } cases[] = {
        {"listen", "127.0.0.1:8080"},
        {"workers", "1"},
        {"log_level", "info"},
        {"log_format", "text"},
        {"log_file", ""},
        {"log_buffer", "1048576"},
        {"log_repeat", "20"},
        {"access_log", ""},
        {"control", ""},
        {"pid_file", ""},
        {"user", ""},
        {"max_connections", "auto"},
        {"max_connections_per_address", "0"},
        {"max_tls_handshakes", "1000"},
        {"handshakes_per_second", "0"},
        {"max_head", "16384"},
        {"origins", "same"},
        {"trusted_proxies", ""},
        {"proxy_timeout", "5"},
        {"max_body", "1048576"},
        {"keep_alive_timeout", "60"},
        {"body_timeout", "30"},
        {"request_timeout", "60"},
        {"send_timeout", "30"},
        {"gzip", "true"},
        {"max_frame", "0"},
        {"max_message", "1048576"},
        {"messages_per_second", "0"},
        {"read_ahead", "65536"},
        {"send_limit", "1048576"},
        {"on_slow", "close"},
        {"compression", "false"},
        {"compression_min", "1024"},
        {"compression_level", "3"},
        {"compression_takeover", "true"},
        {"compression_window", "12"},
        {"compression_limit", "134217728"},
        {"max_tasks", "100000"},
        {"vm_memory", "536870912"},
        {"inbox_limit", "67108864"},
        {"shared_size", "67108864"},
        {"reassembly_limit", "268435456"},
        {"queue_limit", "1073741824"},
        {"handshake_timeout", "10"},
        {"idle_timeout", "120"},
        {"ping_interval", "30"},
        {"close_timeout", "5"},
        {"connect_timeout", "10"},
        {"max_clients", "1000"},
        {"handler_budget", "5"},
        {"load_budget", "10"},
        {"reload_drain", "30"},
        {"rollback_share", "0.1"},
        {"max_state", "1048576"},
        {"max_generations", "8"},
        {"pin_workers", "false"},
        {"max_subscriptions", "10000000"},
        {"max_subscriptions_per_connection", "10000"},
        {"drain_timeout", "8"},
        {"stop_delay", "0"},
        {"abort_stuck", "false"},
        {"watch", "false"},
    };
    assert_int_equal(COUNT(cases), config_nkeys);
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_string_equal(shown(cases[i].name), cases[i].value);
    assert_int_equal(config.listen.n, 1);
    assert_int_equal(config.max_message, 1 << 20);
    assert_true(config.ping_interval == 30);
    assert_null(config.control);
    assert_int_equal(config.log_level, LOG_INFO);
    assert_int_equal(config.log_format, LOG_TEXT);
    assert_int_equal(config.on_slow, CONFIG_ON_SLOW_CLOSE);
}

static void every_key_is_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_nkeys; i++) {
        const struct config_key *k = &config_keys[i];
        assert_ptr_equal(key_of(k->name), k);
        assert_true(strlen(k->help) > 0);
        assert_true(k->min <= k->max);
        assert_true(k->offset < sizeof(struct config));
        assert_int_equal(strspn(k->name, "abcdefghijklmnopqrstuvwxyz_"), strlen(k->name));
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(k->name, config_keys[j].name);
            assert_true(k->offset != config_keys[j].offset);
            assert_true(k->flag == 0 || k->flag != config_keys[j].flag);
        }
    }
}

static void finds_names(void **state)
{
    (void)state;
    assert_string_equal(config_find("max-head", 8)->name, "max_head");
    assert_string_equal(config_find("max_head", 8)->name, "max_head");
    assert_string_equal(config_find("listen=x", 6)->name, "listen");
    static const char *const unknown[] = {"",        "max",       "max_headx", "max head", "MAX_HEAD",
                                          "maxhead", "_max_head", "max__head", "liste"};
    for (size_t i = 0; i < COUNT(unknown); i++)
        if (config_find(unknown[i], strlen(unknown[i])) != NULL)
            fail_msg("%s", unknown[i]);
    assert_null(config_find("max_head", 7));
}

static void nearest_names(void **state)
{
    (void)state;
    static const struct {
        const char *written, *meant;
    } cases[] = {
        {"max_mesage", "max_message"},
        {"max-mesage", "max_message"},
        {"MAX_MESSAGES", "max_message"},
        {"listne", "listen"},
        {"listeners", "listen"},
        {"worker", "workers"},
        {"loglevel", "log_level"},
        {"pidfile", "pid_file"},
        {"handsake_timeout", "handshake_timeout"},
        {"zzzzzz", NULL},
        {"", NULL},
        {"x", NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *near = config_nearest(cases[i].written);
        if (cases[i].meant == NULL && near != NULL)
            fail_msg("%s is near %s", cases[i].written, near);
        if (cases[i].meant != NULL && (near == NULL || strcmp(near, cases[i].meant) != 0))
            fail_msg("%s is near %s", cases[i].written, near != NULL ? near : "none");
    }
}

/* ---- one type after another ---- */

struct value_case {
    const char *name, *value;
    double number; /* -1: refused */
};

static double number_of(const char *name)
{
    const struct config_key *key = key_of(name);
    const void *field = (const char *)&config + key->offset;
    return key->type == CONFIG_SECONDS || key->type == CONFIG_NUMBER ? *(const double *)field
                                                                     : (double)*(const int64_t *)field;
}

/* What is refused leaves the value as it was. */
static void check_values(const struct value_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct value_case *c = &cases[i];
        double before = number_of(c->name);
        int rc = set(c->name, c->value);
        if (rc != (c->number == -1 ? -1 : 0))
            fail_msg("%s = \"%s\" gives %d", c->name, c->value, rc);
        double want = c->number == -1 ? before : c->number;
        if (!(number_of(c->name) == want))
            fail_msg("%s = \"%s\" is %.17g", c->name, c->value, number_of(c->name));
    }
}

static void counts(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"workers", "4", 4},
        {"workers", "256", 256},
        {"workers", "1", 1},
        {"workers", "auto", 0},
        {"workers", "0", -1},
        {"workers", "257", -1},
        {"workers", "-1", -1},
        {"workers", "1.5", -1},
        {"workers", "", -1},
        {"workers", "4x", -1},
        {"workers", "AUTO", -1},
        {"workers", "auto ", -1},
        {"workers", "nan", -1},
        {"workers", "inf", -1},
        {"workers", "1e999", -1},
        {"workers", "-0", -1},
        {"max_connections", "auto", 0},
        {"max_connections", "100000000", 1e8},
        {"max_connections", "100000001", -1},
        {"max_connections", "10000", 10000},
        {"max_connections_per_address", "0", 0},
        {"max_connections_per_address", "20", 20},
        {"max_connections_per_address", "auto", -1},
        {"max_tasks", "1", 1},
        {"max_tasks", "0", -1},
    };
    check_values(cases, COUNT(cases));
}

static void sizes(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"max_message", "1", 1},
        {"max_message", "1000", 1000},
        {"max_message", "64k", 65536},
        {"max_message", "64K", 65536},
        {"max_message", "64kb", 65536},
        {"max_message", "64KB", 65536},
        {"max_message", "64kib", 65536},
        {"max_message", "64KiB", 65536},
        {"max_message", "12b", 12},
        {"max_message", "12B", 12},
        {"max_message", "1.5m", 1572864},
        {"max_message", "1MiB", 1 << 20},
        {"max_message", "1g", 1 << 30},
        {"max_message", "0.5GiB", 1 << 29},
        {"max_message", "1e3", 1000},
        {"max_message", "1.1g", -1},
        {"max_message", "0", -1},
        {"max_message", "0.5", -1},
        {"max_message", "-1", -1},
        {"max_message", "", -1},
        {"max_message", "k", -1},
        {"max_message", "1t", -1},
        {"max_message", "1kk", -1},
        {"max_message", "1bk", -1},
        {"max_message", "1kibb", -1},
        {"max_message", "1i", -1},
        {"max_message", "1 k", -1},
        {"max_message", "1k ", -1},
        {"max_message", "1,5m", -1},
        {"max_message", "nan", -1},
        {"max_message", "inf", -1},
        {"max_message", "1e999", -1},
        {"vm_memory", "64g", 64.0 * (1 << 30)},
        {"vm_memory", "3m", -1},
        {"max_head", "512", 512},
        {"max_head", "511", -1},
        {"max_head", "65000", 65000},
        {"max_head", "64k", -1},
    };
    check_values(cases, COUNT(cases));
}

static void times(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"close_timeout", "10", 10},       {"close_timeout", "10s", 10},     {"close_timeout", "0.25", 0.25},
        {"close_timeout", ".5s", 0.5},     {"close_timeout", "500ms", 0.5},  {"close_timeout", "2m", 120},
        {"close_timeout", "60m", 3600},    {"close_timeout", "50ms", 0.05},  {"close_timeout", "49ms", -1},
        {"close_timeout", "0", -1},        {"close_timeout", "61m", -1},     {"close_timeout", "1h", -1},
        {"close_timeout", "1min", -1},     {"close_timeout", "10 s", -1},    {"close_timeout", "-1", -1},
        {"close_timeout", "", -1},         {"close_timeout", "s", -1},       {"close_timeout", "ms", -1},
        {"close_timeout", "5S", -1},       {"close_timeout", "nan", -1},     {"close_timeout", "inf", -1},
        {"idle_timeout", "0", 0},          {"ping_interval", "0", 0},        {"drain_timeout", "0s", 0},
        {"idle_timeout", "10000000", 1e7}, {"idle_timeout", "10000001", -1},
    };
    check_values(cases, COUNT(cases));
}

static void numbers(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"messages_per_second", "10", 10},    {"messages_per_second", "0.5", 0.5},
        {"messages_per_second", ".25", 0.25}, {"messages_per_second", "1e3", 1000},
        {"messages_per_second", "1e6", 1e6},  {"messages_per_second", "0", 0},
        {"messages_per_second", "1e7", -1},   {"messages_per_second", "-1", -1},
        {"messages_per_second", "", -1},      {"messages_per_second", "10s", -1},
        {"messages_per_second", "10k", -1},   {"messages_per_second", "10 ", -1},
        {"messages_per_second", "auto", -1},  {"messages_per_second", "nan", -1},
        {"messages_per_second", "inf", -1},   {"messages_per_second", "1e999", -1},
        {"handshakes_per_second", "250", 250}};
    check_values(cases, COUNT(cases));
}

static void choices(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"log_level", "debug", LOG_DEBUG}, {"log_level", "info", LOG_INFO},
        {"log_level", "warn", LOG_WARN},   {"log_level", "error", LOG_ERROR},
        {"log_level", "ERROR", -1},        {"log_level", "err", -1},
        {"log_level", "errors", -1},       {"log_level", "", -1},
        {"log_level", "debug|info", -1},   {"log_level", "|", -1},
        {"log_format", "json", LOG_JSON},  {"log_format", "text", LOG_TEXT},
        {"log_format", "xml", -1},         {"on_slow", "drop", CONFIG_ON_SLOW_DROP},
        {"on_slow", "wait", -1},           {"on_slow", "close", CONFIG_ON_SLOW_CLOSE},
    };
    check_values(cases, COUNT(cases));
    assert_int_equal(set("log_level", "warn"), 0);
    assert_string_equal(shown("log_level"), "warn");
}

static void truths(void **state)
{
    (void)state;
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < COUNT(yes); i++) {
        assert_int_equal(set("abort_stuck", yes[i]), 0);
        assert_true(config.abort_stuck);
        assert_int_equal(set("abort_stuck", no[i]), 0);
        assert_false(config.abort_stuck);
    }
    static const char *const neither[] = {"", "True", "y", "2", "true ", "truefalse"};
    assert_int_equal(set("abort_stuck", "on"), 0);
    for (size_t i = 0; i < COUNT(neither); i++) {
        assert_int_equal(set("abort_stuck", neither[i]), -1);
        assert_true(config.abort_stuck);
    }
}

static void texts(void **state)
{
    (void)state;
    assert_int_equal(set("pid_file", "/run/a.pid"), 0);
    assert_int_equal(set("pid_file", "/run/b, c.pid"), 0);
    assert_string_equal(config.pid_file, "/run/b, c.pid");
    assert_null(config.control);
    assert_int_equal(set("pid_file", ""), 0);
    assert_string_equal(config.pid_file, "");
}

static int listen_on(const char *value, bool append)
{
    return config_set(&config, key_of("listen"), "--listen", value, append, &e);
}

static void lists(void **state)
{
    (void)state;
    assert_int_equal(listen_on("127.0.0.1:1,[::1]:2", false), 0);
    assert_int_equal(config.listen.n, 2);
    assert_string_equal(config.listen.item[0], "127.0.0.1:1");
    assert_string_equal(config.listen.item[1], "[::1]:2");
    assert_int_equal(listen_on("unix:/run/x", true), 0);
    assert_string_equal(shown("listen"), "127.0.0.1:1,[::1]:2,unix:/run/x");
    assert_int_equal(listen_on("*:80", false), 0);
    assert_string_equal(shown("listen"), "*:80");
    assert_int_equal(listen_on(",a:1,,b:2,", false), 0);
    assert_string_equal(shown("listen"), "a:1,b:2");
}

/* Each list has its own elements, and any characters but the comma. */
static void two_lists(void **state)
{
    (void)state;
    assert_int_equal(listen_on("a:1,b:2", false), 0);
    assert_int_equal(set("origins", "https://*.example.com,*"), 0);
    assert_int_equal(config_set(&config, key_of("origins"), "--origins", "null", true, &e), 0);
    assert_int_equal(config.origins.n, 3);
    assert_string_equal(config.origins.item[0], "https://*.example.com");
    assert_string_equal(config.origins.item[1], "*");
    assert_string_equal(config.origins.item[2], "null");
    assert_string_equal(shown("listen"), "a:1,b:2");
    assert_int_equal(set("origins", ""), -1);
    assert_string_equal(e.text, "origins: no value given");
    assert_string_equal(shown("listen"), "a:1,b:2");
}

static void lists_are_bounded(void **state)
{
    (void)state;
    assert_int_equal(listen_on("", false), -1);
    assert_string_equal(e.text, "--listen: no value given");
    assert_int_equal(listen_on(",,", false), -1);
    for (int i = 0; i < CONFIG_LIST_MAX; i++)
        assert_int_equal(listen_on("a:1", i > 0), 0);
    assert_int_equal(config.listen.n, CONFIG_LIST_MAX);
    assert_int_equal(listen_on("b:2", true), -1);
    assert_string_equal(e.text, "--listen: at most 16 values");
    assert_int_equal(config.listen.n, CONFIG_LIST_MAX);
    assert_int_equal(listen_on("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", false), -1);
    assert_int_equal(listen_on("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", false), 0);
}

/* The bounds themselves are allowed, what lies just outside is not: for every number there is. */
static void bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_nkeys; i++) {
        const struct config_key *k = &config_keys[i];
        if (k->type != CONFIG_COUNT && k->type != CONFIG_BYTES && k->type != CONFIG_SECONDS &&
            k->type != CONFIG_NUMBER)
            continue;
        double least = k->choices != NULL ? 1 : k->min;
        double step = k->type == CONFIG_SECONDS || k->type == CONFIG_NUMBER ? 0.001 : 1;
        const double inside[] = {least, k->max}, outside[] = {least - step, k->max + step};
        for (size_t j = 0; j < 2; j++) {
            char text[64];
            snprintf(text, sizeof text, "%.17g", inside[j]);
            if (set(k->name, text) < 0)
                fail_msg("%s = %s: %s", k->name, text, e.text);
            assert_true(number_of(k->name) == inside[j]);
            snprintf(text, sizeof text, "%.17g", outside[j]);
            if (set(k->name, text) == 0)
                fail_msg("%s = %s", k->name, text);
            assert_true(number_of(k->name) == inside[j]);
        }
    }
}

/* ---- what the messages say ---- */

static void messages(void **state)
{
    (void)state;
    static const struct {
        const char *key, *what, *value, *message;
    } cases[] = {
        {"max_head", "--max-head", "1", "--max-head: \"1\" is not a number of bytes from 512 to 65000"},
        {"max_message", "max_message", "2g",
         "max_message: \"2g\" is not a number of bytes from 1 to 1073741824"},
        {"close_timeout", "TIDEWIRE_CLOSE_TIMEOUT", "soon",
         "TIDEWIRE_CLOSE_TIMEOUT: \"soon\" is not a number of seconds from 0.05 to 3600"},
        {"messages_per_second", "--messages-per-second", "lots",
         "--messages-per-second: \"lots\" is not a number from 0 to 1000000"},
        {"on_slow", "on_slow", "stop", "on_slow: \"stop\" is none of close|drop"},
        {"workers", "-w", "0", "-w: \"0\" is not a whole number from 1 to 256, or auto"},
        {"log_level", "--log-level", "loud", "--log-level: \"loud\" is none of debug|info|warn|error"},
        {"abort_stuck", "abort_stuck", "maybe", "abort_stuck: \"maybe\" is neither true nor false"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(config_set(&config, key_of(cases[i].key), cases[i].what, cases[i].value, false, &e),
                         -1);
        assert_string_equal(e.text, cases[i].message);
    }
    assert_int_equal(config_set(&config, key_of("workers"), "-w", "0", false, NULL), -1);
}

/* ---- the environment ---- */

static int set_env(const char *first, const char *second)
{
    char one[256], two[256];
    snprintf(one, sizeof one, "%s", first);
    snprintf(two, sizeof two, "%s", second != NULL ? second : "");
    char *environment[] = {one, second != NULL ? two : NULL, NULL};
    memset(&e, 0, sizeof e);
    return config_set_env(&config, environment, &e);
}

static void environment(void **state)
{
    (void)state;
    assert_int_equal(set_env("TIDEWIRE_MAX_HEAD=8k", "TIDEWIRE_LISTEN=a:1,b:2"), 0);
    assert_int_equal(config.max_head, 8192);
    assert_string_equal(shown("listen"), "a:1,b:2");
    assert_int_equal(set_env("TIDEWIRE_CONTROL=a=b", "TIDEWIRE_LISTEN=c:3"), 0);
    assert_string_equal(config.control, "a=b");
    assert_string_equal(shown("listen"), "c:3");
    assert_int_equal(set_env("TIDEWIRE_PING_INTERVAL=0", "PING_INTERVAL=7"), 0);
    assert_true(config.ping_interval == 0);
    assert_int_equal(set_env("TIDEWIRE_ORIGINS=same,null", "TIDEWIRE_MESSAGES_PER_SECOND=2.5"), 0);
    assert_string_equal(shown("origins"), "same,null");
    assert_true(config.messages_per_second == 2.5);
}

static void environment_of_others(void **state)
{
    (void)state;
    static const char *const passed_over[] = {
        "PATH=/bin",
        "TIDEWIREX=1",
        "XTIDEWIRE_WORKERS=x",
        "tidewire_workers=x",
        "TIDEWIRE_WORKERS", /* no '=' at all */
        "TIDEWIRE_CONFIG=/etc/tidewire.conf.lua",
        "TIDEWIRE_SERVICE_HOST=10.0.0.11",
        "TIDEWIRE_SERVICE_PORT=80",
        "TIDEWIRE_SERVICE_PORT_HTTP=80",
        "TIDEWIRE_PORT=tcp://10.0.0.11:80",
        "TIDEWIRE_PORT_80_TCP=tcp://10.0.0.11:80",
        "TIDEWIRE_PORT_80_TCP_ADDR=10.0.0.11",
        "TIDEWIRE_PORT_80_TCP_PORT=80",
        "TIDEWIRE_PORT_80_TCP_PROTO=tcp",
    };
    for (size_t i = 0; i < COUNT(passed_over); i++) {
        if (set_env(passed_over[i], "TIDEWIRE_MAX_HEAD=777") < 0)
            fail_msg("%s: %s", passed_over[i], e.text);
        assert_int_equal(config.max_head, 777);
        config.max_head = 0;
    }
    assert_int_equal(config.workers, 1);
}

static void environment_faults(void **state)
{
    (void)state;
    static const struct {
        const char *variable, *message;
    } cases[] = {
        {"TIDEWIRE_WORKER=2", "unknown environment variable TIDEWIRE_WORKER; did you mean TIDEWIRE_WORKERS?"},
        {"TIDEWIRE_MAXHEAD=2",
         "unknown environment variable TIDEWIRE_MAXHEAD; did you mean TIDEWIRE_MAX_HEAD?"},
        {"TIDEWIRE_PORTS_=2", "unknown environment variable TIDEWIRE_PORTS_"},
        {"TIDEWIRE_PORT=8080", "unknown environment variable TIDEWIRE_PORT"},
        {"TIDEWIRE_QQQQQQ=2", "unknown environment variable TIDEWIRE_QQQQQQ"},
        {"TIDEWIRE_=2", "unknown environment variable TIDEWIRE_"},
        {"TIDEWIRE_MAX_HEAD=", "TIDEWIRE_MAX_HEAD: \"\" is not a number of bytes from 512 to 65000"},
        {"TIDEWIRE_LISTEN=", "TIDEWIRE_LISTEN: no value given"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(set_env(cases[i].variable, NULL), -1);
        assert_string_equal(e.text, cases[i].message);
    }
}

/* ---- showing ---- */

static void shows_what_it_would_read(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value, *shown;
    } cases[] = {
        {"workers", "auto", "auto"},
        {"workers", "12", "12"},
        {"max_message", "1.5m", "1572864"},
        {"vm_memory", "64g", "68719476736"},
        {"close_timeout", "250ms", "0.25"},
        {"idle_timeout", "0.1", "0.1"},
        {"idle_timeout", "1e7", "10000000"},
        {"messages_per_second", "2.50", "2.5"},
        {"log_format", "json", "json"},
        {"abort_stuck", "on", "true"},
        {"control", "@name", "@name"},
        {"listen", "[::1]:0,unix:/run/a b", "[::1]:0,unix:/run/a b"},
        {"origins", "https://*.example.com,null", "https://*.example.com,null"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(set(cases[i].name, cases[i].value), 0);
        assert_string_equal(shown(cases[i].name), cases[i].shown);
        char again[128];
        snprintf(again, sizeof again, "%s", shown(cases[i].name));
        assert_int_equal(set(cases[i].name, again), 0);
        assert_string_equal(shown(cases[i].name), cases[i].shown);
    }
}

static void shows_within_bounds(void **state)
{
    (void)state;
    assert_int_equal(listen_on("aaaa:1,bbbb:2,cccc:3", false), 0);
    assert_int_equal(set("control", "/run/control"), 0);
    for (size_t i = 0; i < config_nkeys; i++) {
        char whole[128], out[128];
        config_show(&config, &config_keys[i], whole, sizeof whole);
        for (size_t size = 1; size <= strlen(whole) + 1; size++) {
            memset(out, '#', sizeof out);
            config_show(&config, &config_keys[i], out, size);
            assert_int_equal(strlen(out), size - 1);
            assert_memory_equal(out, whole, size - 1);
            for (size_t at = size; at < sizeof out; at++)
                assert_int_equal(out[at], '#');
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(defaults),
        TEST(every_key_is_complete),
        TEST(finds_names),
        TEST(nearest_names),
        TEST(counts),
        TEST(sizes),
        TEST(times),
        TEST(numbers),
        TEST(choices),
        TEST(truths),
        TEST(texts),
        TEST(lists),
        TEST(two_lists),
        TEST(lists_are_bounded),
        TEST(bounds),
        TEST(messages),
        TEST(environment),
        TEST(environment_of_others),
        TEST(environment_faults),
        TEST(shows_what_it_would_read),
        TEST(shows_within_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
