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

/* Blocks are never removed, so the tests share these. */
static struct metrics blocks[4];

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
        metrics_add(block, METRIC_MESSAGES_IN, 1);
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
        uint64_t now = metrics_sum(METRIC_MESSAGES_IN);
        assert_true(now >= before && now <= 20000);
        before = now;
    }
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metrics_sum(METRIC_MESSAGES_IN), 20000);
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
        "\n# HELP tidewire_http_responses_total HTTP answers by class of status.\n",
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
            assert_true(counter || strcmp(type, "gauge") == 0);
            size_t len = strlen(name);
            assert_int_equal(counter, len > 6 && strcmp(name + len - 6, "_total") == 0);
            continue;
        }
        samples++;
        assert_memory_equal(line, name, strlen(name));
        char after = line[strlen(name)];
        assert_true(after == ' ' || after == '{');
        *strrchr(line, ' ') = '\0';
        snprintf(want, sizeof want, "\n%s ", line);
        assert_int_equal(occurrences(text, want), 1);
    }
    assert_int_equal(samples, METRIC_COUNT);
    free(copy);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_any_block),    cmocka_unit_test(sums_blocks),
        cmocka_unit_test(gauge_across_blocks), cmocka_unit_test(counts_on_threads),
        cmocka_unit_test(renders_values),      cmocka_unit_test(renders_each_name_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
