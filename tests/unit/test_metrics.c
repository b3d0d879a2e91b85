/* SPDX-License-Identifier: MIT
 * The metrics registry: blocks are summed whatever their number, and the text is what Prometheus reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/metrics.h"
#include "base/thread.h"

/* Blocks are never removed, so the tests share these. The last two are workers'. */
static struct metrics blocks[6];

static void before_any_block(void **state)
{
    (void)state;
    for (int i = 0; i < METRIC_COUNT; i++)
        assert_int_equal(metrics_sum((enum metric)i), 0);
}

static void sums_blocks(void **state)
{
    (void)state;
    metrics_register(&blocks[0]);
    metrics_register(&blocks[1]);
    metrics_add(&blocks[0], METRIC_ACCEPTED, 3);
    metrics_add(&blocks[1], METRIC_ACCEPTED, 4);
    metrics_add(&blocks[1], METRIC_ACCEPTED, 1);
    assert_int_equal(metrics_sum(METRIC_ACCEPTED), 8);
    assert_int_equal(metrics_sum(METRIC_UPGRADES), 0);
}

/* A gauge that one thread raises and another lowers is below zero in one block, never in the sum. */
static void gauge_across_blocks(void **state)
{
    (void)state;
    metrics_add(&blocks[0], METRIC_CONNECTIONS, 5);
    metrics_sub(&blocks[1], METRIC_CONNECTIONS, 2);
    assert_int_equal(metrics_sum(METRIC_CONNECTIONS), 3);
    metrics_sub(&blocks[0], METRIC_CONNECTIONS, 3);
    assert_int_equal(metrics_sum(METRIC_CONNECTIONS), 0);
}

static void *count(void *block)
{
    metrics_register(block);
    for (int i = 0; i < 10000; i++)
        metrics_add(block, METRIC_PUBLISHED, 1);
    return NULL;
}

static void counts_on_threads(void **state)
{
    (void)state;
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(thread_start(&threads[i], count, &blocks[2 + i]), 0);
    uint64_t before = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t now = metrics_sum(METRIC_PUBLISHED);
        assert_true(now >= before && now <= 20000);
        before = now;
    }
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metrics_sum(METRIC_PUBLISHED), 20000);
}

/* ---- the text ---- */

static char *render(void)
{
    struct buf b = BUF_INIT;
    assert_int_equal(metrics_render(&b), 0);
    assert_int_equal(buf_append(&b, "", 1), 0);
    return b.data;
}

static size_t occurrences(const char *text, const char *of)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, of)) != NULL; at += strlen(of))
        n++;
    return n;
}

static void renders_values(void **state)
{
    (void)state;
    metrics_add(&blocks[0], METRIC_HTTP_4XX, UINT64_C(12345678901234567890));
    metrics_add(&blocks[1], METRIC_HTTP_5XX, 7);
    char *text = render();
    static const char *const lines[] = {
        "\ntidewire_connections_accepted_total 8\n",
        "\ntidewire_websockets 0\n",
        "\ntidewire_http_responses_total{class=\"4xx\"} 12345678901234567890\n",
        "\ntidewire_http_responses_total{class=\"5xx\"} 7\n",
        "\n# TYPE tidewire_http_responses_total counter\n",
        "\n# HELP tidewire_http_responses_total HTTP answers by class of status, without 101.\n",
        "\n# TYPE tidewire_websockets gauge\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (occurrences(text, lines[i]) != 1)
            fail_msg("not once: %s", lines[i]);
    free(text);
}

/* Every sample stands under the one HELP and TYPE of its name, and no two samples are the same. */
static void renders_each_name_once(void **state)
{
    (void)state;
    char *text = render(), *rest = NULL;
    char *copy = strdup(text);
    char name[128] = "", want[256];
    size_t samples = 0;
    assert_non_null(copy);
    for (char *line = strtok_r(copy, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            int help = 0;
            assert_int_equal(sscanf(line, "# HELP %127s %n", name, &help), 1);
            assert_true(line[help] != '\0');
            snprintf(want, sizeof want, "# HELP %s ", name);
            assert_int_equal(occurrences(text, want), 1);
            line = strtok_r(NULL, "\n", &rest);
            assert_non_null(line);
            snprintf(want, sizeof want, "# TYPE %s ", name);
            assert_memory_equal(line, want, strlen(want));
            const char *type = line + strlen(want);
            bool counter = strcmp(type, "counter") == 0;
            assert_true(counter || strcmp(type, "gauge") == 0 || strcmp(type, "histogram") == 0);
            size_t len = strlen(name);
            assert_int_equal(counter, len > 6 && strcmp(name + len - 6, "_total") == 0);
            continue;
        }
        samples++;
        assert_memory_equal(line, name, strlen(name));
        char after = line[strlen(name)];
        assert_true(after == ' ' || after == '{' || after == '_');
        *strrchr(line, ' ') = '\0';
        snprintf(want, sizeof want, "\n%s ", line);
        assert_int_equal(occurrences(text, want), 1);
    }
    /* two workers have one more of two metrics, and a histogram each */
    assert_int_equal(samples, METRIC_COUNT + 2 + 2 * (METRICS_BUCKETS + 3));
    free(copy);
    free(text);
}

/* ---- workers ---- */

static void shows_each_worker(void **state)
{
    (void)state;
    blocks[4].worker = 2;
    blocks[5].worker = 1;
    metrics_register(&blocks[4]);
    metrics_register(&blocks[5]);
    metrics_set(&blocks[4], METRIC_LUA_BYTES, 22);
    metrics_set(&blocks[5], METRIC_LUA_BYTES, 11);
    char *text = render();
    assert_non_null(strstr(text, "\ntidewire_lua_memory_bytes{worker=\"1\"} 11\n"
                                 "tidewire_lua_memory_bytes{worker=\"2\"} 22\n"));
    free(text);
}

/* Each bucket has what the smaller ones have; a value on a bound is in its bucket. */
static void histogram_is_cumulative(void **state)
{
    (void)state;
    static const uint64_t times[] = {0, 10000, 10001, 1000000, 3000000000, 3000000001, 90000000000};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        metrics_observe(&blocks[4].loop_delay, times[i]);
    static const char *const lines[] = {
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"1e-05\"} 2\n",
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"3e-05\"} 3\n",
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"0.0003\"} 3\n",
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"0.001\"} 4\n",
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"3\"} 5\n",
        "\ntidewire_loop_delay_seconds_bucket{worker=\"2\",le=\"+Inf\"} 7\n",
        "\ntidewire_loop_delay_seconds_sum{worker=\"2\"} 96.001020002\n",
        "\ntidewire_loop_delay_seconds_count{worker=\"2\"} 7\n",
        "\ntidewire_loop_delay_seconds_count{worker=\"1\"} 0\n",
    };
    char *text = render();
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (strstr(text, lines[i]) == NULL)
            fail_msg("missing: %s", lines[i]);
    free(text);
}

static void histograms_are_added(void **state)
{
    (void)state;
    struct {
        int other;
        struct metrics_histogram time;
    } parts[2] = {0};
    struct buf b = BUF_INIT;
    metrics_observe(&parts[0].time, 500);
    metrics_observe(&parts[1].time, 1500);
    assert_int_equal(
        metrics_render_histogram(&b, METRICS_HANDLER_SECONDS, "a=\"b\"", &parts[0].time, 2, sizeof parts[0]),
        0);
    assert_int_equal(buf_append(&b, "", 1), 0);
    assert_non_null(strstr(b.data, "_bucket{a=\"b\",le=\"1e-05\"} 2\n"));
    assert_non_null(strstr(b.data, "_sum{a=\"b\"} 0.000002000\n"));
    assert_non_null(strstr(b.data, "_count{a=\"b\"} 2\n"));
    buf_fini(&b);
}

/* ---- labels ---- */

static void escapes_labels(void **state)
{
    (void)state;
    static const struct {
        const char *text, *label;
    } cases[] = {
        {"", ""},
        {"/chat/:room", "/chat/:room"},
        {"a\"b", "a\\\"b"},
        {"a\\b", "a\\\\b"},
        {"a\nb", "a\\nb"},
        {"\303\251t\303\251", "\303\251t\303\251"},
        {"\360\237\214\212/x", "\360\237\214\212/x"},
        {"\377a", "\\\\xFFa"},                     /* never in UTF-8 */
        {"a\303", "a\\\\xC3"},                     /* cut short */
        {"\355\240\200", "\\\\xED\\\\xA0\\\\x80"}, /* half of a surrogate pair */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = BUF_INIT;
        assert_int_equal(metrics_append_label(&b, cases[i].text), 0);
        assert_int_equal(buf_append(&b, "", 1), 0);
        assert_string_equal(b.data, cases[i].label);
        buf_fini(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_any_block),       cmocka_unit_test(sums_blocks),
        cmocka_unit_test(gauge_across_blocks),    cmocka_unit_test(counts_on_threads),
        cmocka_unit_test(renders_values),         cmocka_unit_test(shows_each_worker),
        cmocka_unit_test(renders_each_name_once), cmocka_unit_test(histogram_is_cumulative),
        cmocka_unit_test(histograms_are_added),   cmocka_unit_test(escapes_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
