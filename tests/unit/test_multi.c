/* SPDX-License-Identifier: MIT
 * libcurl on a worker's loop: transfers of files, which need no server. */
#include "worker_fixture.h"

#include <string.h>

#include "client/multi.h"

enum { TRANSFERS = 3 };

static struct transfer {
    CURL *easy; /* NULL: it is over */
    unsigned told;
    CURLcode result;
    void (*then)(struct transfer *t); /* when it is told */
} transfers[TRANSFERS];

static void end(struct transfer *t)
{
    multi_remove(worker, t->easy);
    curl_easy_cleanup(t->easy);
    t->easy = NULL;
}

static void on_done(void *to, CURLcode result)
{
    struct transfer *t = to;
    t->told++;
    t->result = result;
    end(t);
    if (t->then != NULL)
        t->then(t);
}

static int begin(struct transfer *t, const char *url)
{
    t->easy = curl_easy_init();
    assert_non_null(t->easy);
    curl_easy_setopt(t->easy, CURLOPT_URL, url);
    curl_easy_setopt(t->easy, CURLOPT_NOBODY, 1L);
    return multi_add(worker, t->easy, on_done, t);
}

static int set_up(void **state)
{
    (void)state;
    memset(transfers, 0, sizeof transfers);
    worker_set_up();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    multi_fini(worker);
    for (int i = 0; i < TRANSFERS; i++)
        assert_null(transfers[i].easy);
    worker_tear_down();
    return 0;
}

static void wait_for(const struct transfer *t)
{
    while (t->told == 0)
        ev_run(worker->loop, EVRUN_ONCE);
}

static void transfer_is_told_once_and_later(void **state)
{
    (void)state;
    assert_null(worker->layer[WORKER_CLIENT]); /* made when it is needed */
    assert_int_equal(begin(&transfers[0], "file:///dev/null"), 0);
    assert_int_equal(begin(&transfers[1], "file:///no/such/file"), 0);
    assert_int_equal(transfers[0].told + transfers[1].told, 0);
    wait_for(&transfers[0]);
    wait_for(&transfers[1]);
    run();
    assert_int_equal(transfers[0].told, 1);
    assert_int_equal(transfers[0].result, CURLE_OK);
    assert_int_equal(transfers[1].told, 1);
    assert_int_equal(transfers[1].result, CURLE_FILE_COULDNT_READ_FILE);
}

static void removed_one_is_not_told(void **state)
{
    (void)state;
    assert_int_equal(begin(&transfers[0], "file:///dev/null"), 0);
    assert_int_equal(begin(&transfers[1], "file:///dev/null"), 0);
    end(&transfers[0]);
    wait_for(&transfers[1]);
    run();
    assert_int_equal(transfers[0].told, 0);
}

static void end_the_others(struct transfer *t)
{
    for (int i = 0; i < TRANSFERS; i++)
        if (&transfers[i] != t && transfers[i].easy != NULL)
            end(&transfers[i]);
}

/* Also when libcurl has finished those others in the same call. */
static void one_that_is_told_may_remove_the_others(void **state)
{
    (void)state;
    for (int i = 0; i < TRANSFERS; i++) {
        transfers[i].then = end_the_others;
        assert_int_equal(begin(&transfers[i], "file:///dev/null"), 0);
    }
    while (transfers[0].told + transfers[1].told + transfers[2].told == 0)
        ev_run(worker->loop, EVRUN_ONCE);
    run();
    assert_int_equal(transfers[0].told + transfers[1].told + transfers[2].told, 1);
}

static void begin_the_last(struct transfer *t)
{
    (void)t;
    assert_int_equal(begin(&transfers[2], "file:///dev/null"), 0);
}

static void one_that_is_told_may_add_another(void **state)
{
    (void)state;
    transfers[0].then = begin_the_last;
    assert_int_equal(begin(&transfers[0], "file:///dev/null"), 0);
    wait_for(&transfers[2]);
    assert_int_equal(transfers[2].result, CURLE_OK);
}

static void fail_to_begin(struct transfer *t)
{
    (void)t;
    assert_int_equal(begin(&transfers[2], "file:///dev/null"), -1);
    curl_easy_cleanup(transfers[2].easy);
    transfers[2].easy = NULL;
}

static void end_of_the_worker_ends_all(void **state)
{
    (void)state;
    transfers[0].then = fail_to_begin;
    assert_int_equal(begin(&transfers[0], "file:///dev/null"), 0);
    assert_int_equal(begin(&transfers[1], "file:///dev/null"), 0);
    multi_fini(worker);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(transfers[i].told, 1);
        assert_int_equal(transfers[i].result, CURLE_ABORTED_BY_CALLBACK);
    }
    fail_to_begin(NULL);
    multi_fini(worker); /* nothing */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(transfer_is_told_once_and_later),
        TEST(removed_one_is_not_told),
        TEST(one_that_is_told_may_remove_the_others),
        TEST(one_that_is_told_may_add_another),
        TEST(end_of_the_worker_ends_all),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
