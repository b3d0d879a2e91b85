/* SPDX-License-Identifier: MIT
 * What is counted for each route: one place for each, for good, and a bound on how many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/tally.h"

#define WORKERS 2

static struct tally *route(const char *pattern)
{
    struct tally *t = tally_route("GET", pattern, false, WORKERS);
    assert_non_null(t);
    return t;
}

static char *render(void)
{
    struct buf b = BUF_INIT;
    assert_int_equal(tally_render(&b), 0);
    assert_int_equal(buf_append(&b, "", 1), 0);
    return b.data;
}

static void assert_line(const char *line)
{
    char *text = render(), whole[256];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (strstr(text, whole) == NULL)
        fail_msg("missing: %s", line);
    free(text);
}

static void a_route_keeps_its_place(void **state)
{
    (void)state;
    struct tally *a = route("/a"), *b = route("/b");
    assert_ptr_not_equal(a, b);
    assert_ptr_equal(route("/a"), a);
    assert_ptr_equal(route("/b"), b);
    assert_ptr_not_equal(tally_route("POST", "/a", false, WORKERS), a);
    assert_ptr_equal(route("/a"), a);
}

static void workers_are_added(void **state)
{
    (void)state;
    struct tally *t = route("/added");
    tally_call(&t[0]);
    tally_call(&t[1]);
    tally_call(&t[1]);
    tally_fail(&t[0], TALLY_ERROR);
    tally_fail(&t[1], TALLY_BUDGET);
    tally_fail(&t[1], TALLY_BUDGET);
    metrics_observe(&t[0].time, 1000);
    metrics_observe(&t[1].time, 3000);
    assert_line("tidewire_handler_calls_total{method=\"GET\",route=\"/added\"} 3");
    assert_line("tidewire_handler_errors_total{method=\"GET\",route=\"/added\",reason=\"error\"} 1");
    assert_line("tidewire_handler_errors_total{method=\"GET\",route=\"/added\",reason=\"budget\"} 2");
    assert_line("tidewire_handler_duration_seconds_sum{method=\"GET\",route=\"/added\"} 0.000004000");
    assert_line("tidewire_handler_duration_seconds_count{method=\"GET\",route=\"/added\"} 2");
}

static void what_is_for_no_route_has_a_place(void **state)
{
    (void)state;
    struct tally *t = tally_route(NULL, NULL, true, WORKERS);
    assert_non_null(t);
    tally_call(&t[1]);
    assert_ptr_equal(tally_route(NULL, NULL, true, WORKERS), t);
    assert_line("tidewire_handler_calls_total{method=\"*\",route=\"none\"} 1");
}

/* Two patterns that read the same would be two samples of one name, which no scraper takes. */
static void patterns_that_read_the_same_share_a_place(void **state)
{
    (void)state;
    assert_ptr_equal(route("/\377"), route("/\\xFF"));
    assert_ptr_not_equal(route("/\377"), route("/\376"));
    tally_call(route("/\"\\"));
    assert_line("tidewire_handler_calls_total{method=\"GET\",route=\"/\\\"\\\\\"} 1");
}

static unsigned timed_of(struct tally *t, unsigned calls, unsigned every)
{
    unsigned timed = 0;
    for (unsigned i = 0; i < calls; i++) {
        bool now = tally_call(t);
        timed += now && i % every == 0;
    }
    return timed;
}

static void each_run_of_an_infrequent_route_is_timed(void **state)
{
    (void)state;
    struct tally *t = route("/infrequent");
    assert_int_equal(timed_of(t, 1000, 1), 1000);
    for (int i = 0; i < 100; i++)
        assert_true(tally_resume(t));
}

/* One in 32, whatever the turns are in which the calls come. */
static void frequent_ones_are_sampled_evenly(void **state)
{
    (void)state;
    struct tally *t = tally_route("WEBSOCKET", "/frequent", true, WORKERS);
    assert_non_null(t);
    assert_true(tally_call(&t[1])); /* the first is timed, so that there is something */
    for (unsigned every = 1; every <= 64; every = every < 8 ? every + 1 : every * 2) {
        unsigned calls = 32 * 1000 * every, timed = timed_of(t, calls, every);
        if (timed < 800 || timed > 1200)
            fail_msg("%u of 32000 that come every %u calls", timed, every);
    }
}

static void too_many_routes_share_a_place(void **state)
{
    (void)state;
    char pattern[32];
    for (int i = 0; i < TALLY_ROUTES; i++) {
        snprintf(pattern, sizeof pattern, "/many/%d", i);
        route(pattern);
    }
    struct tally *other = route("/one/more");
    assert_ptr_equal(route("/and/another"), other);
    assert_ptr_equal(tally_route("WEBSOCKET", "/and/another", true, WORKERS), other);
    assert_ptr_not_equal(route("/a"), other); /* what has a place keeps it */
    assert_ptr_equal(route("/many/0"), route("/many/0"));
    tally_call(&other[1]);
    assert_line("tidewire_handler_calls_total{method=\"*\",route=\"other\"} 1");
    char *text = render();
    size_t places = 0;
    for (const char *at = text; (at = strstr(at, "\ntidewire_handler_calls_total{")) != NULL; at++)
        places++;
    assert_int_equal(places, TALLY_ROUTES + 1);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_route_keeps_its_place),
        cmocka_unit_test(workers_are_added),
        cmocka_unit_test(what_is_for_no_route_has_a_place),
        cmocka_unit_test(patterns_that_read_the_same_share_a_place),
        cmocka_unit_test(each_run_of_an_infrequent_route_is_timed),
        cmocka_unit_test(frequent_ones_are_sampled_evenly),
        cmocka_unit_test(too_many_routes_share_a_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
