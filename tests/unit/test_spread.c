/* SPDX-License-Identifier: MIT
 * Spreading new connections: who gets one, what is on its way to whom, and what becomes of it when a worker
 * is late, stops, or never runs. Three workers without threads; the test delivers their mail. */
#include "worker_fixture.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORKERS 3

static struct worker *workers[WORKERS];

/* Connections started by each, and the last one's particulars. */
static struct {
    unsigned n;
    struct sockaddr_storage peer;
    bool proxied;
} got[WORKERS];

static void on_accept(struct worker *w, int fd, const struct sockaddr *peer, struct spread_how how)
{
    unsigned i = w->index - 1;
    got[i].n++;
    got[i].proxied = how.proxied;
    memcpy(&got[i].peer, peer, sizeof got[i].peer);
    close(fd);
    worker_conn_opened(w);
}

static const struct worker_hooks hooks = {.on_accept = on_accept};

static int set_up(void **state)
{
    (void)state;
    worker_set_up();
    memset(got, 0, sizeof got);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = i == 0 ? worker : worker_create(i + 1, &config, &hooks);
        assert_non_null(workers[i]);
        workers[i]->hooks = &hooks;
        workers[i]->count = WORKERS;
        workers[i]->peers = workers;
        spread_open(workers[i]);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned i = 0; i < WORKERS; i++) {
        spread_abandon(workers[i]);
        while (workers[i]->nconns > 0) {
            metrics_sub(workers[i]->metrics, METRIC_CONNECTIONS, 1); /* as conn_close does */
            metrics_add(workers[i]->metrics, METRIC_CONNECTIONS_CLOSED, 1);
            worker_conn_closed(workers[i]);
        }
        if (i > 0)
            worker_destroy(workers[i]);
    }
    worker_tear_down();
    return 0;
}

static int a_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void place(struct spread_batch *b, unsigned n)
{
    struct sockaddr_storage peer = {.ss_family = AF_UNIX};
    for (unsigned i = 0; i < n; i++)
        spread_place(b, a_descriptor(), &peer, (struct spread_how){0});
}

/* One batch of `n`, accepted by the first worker. */
static void burst(unsigned n)
{
    struct spread_batch b;
    spread_begin(&b, worker);
    place(&b, n);
    spread_end(&b);
}

static void deliver(void)
{
    for (unsigned i = 0; i < WORKERS; i++)
        mailbox_flush(&workers[i]->mailbox);
}

static void assert_got(unsigned a, unsigned b, unsigned c)
{
    assert_int_equal(got[0].n, a);
    assert_int_equal(got[1].n, b);
    assert_int_equal(got[2].n, c);
}

static void small_imbalance_stays(void **state)
{
    (void)state;
    burst(SPREAD_SLACK + 1);
    deliver();
    assert_got(SPREAD_SLACK + 1, 0, 0);
}

/* The load counts what is on its way, or all would go to one. */
static void burst_is_even_before_any_mail_is_read(void **state)
{
    (void)state;
    burst(304);
    assert_got(104, 0, 0);
    deliver();
    assert_got(104, 100, 100);
    assert_int_equal(metrics_get(worker->metrics, METRIC_HANDED_OVER), 200);
    assert_int_equal(workers[1]->spread.arriving, 0);
}

static void one_mail_for_each_batch_and_worker(void **state)
{
    (void)state;
    burst(50);
    burst(50); /* nobody has read the first mail */
    for (unsigned i = 1; i < WORKERS; i++) {
        assert_ptr_equal(workers[i]->mailbox.head, &workers[i]->spread.note);
        assert_null(workers[i]->spread.note.next);
    }
    deliver();
    assert_int_equal(got[0].n + got[1].n + got[2].n, 100);
}

static void peer_and_proxied_go_with_it(void **state)
{
    (void)state;
    struct spread_batch b;
    struct sockaddr_storage peer;
    burst(SPREAD_SLACK + 1);
    memset(&peer, 'p', sizeof peer);
    spread_begin(&b, worker);
    spread_place(&b, a_descriptor(), &peer, (struct spread_how){.proxied = true});
    spread_end(&b);
    deliver();
    assert_got(SPREAD_SLACK + 1, 1, 0);
    assert_true(got[1].proxied);
    assert_memory_equal(&got[1].peer, &peer, sizeof peer);
}

static void late_one_gets_nothing(void **state)
{
    (void)state;
    atomic_store(&workers[1]->since_ms, 1);
    assert_true(worker_is_late(workers[1]));
    burst(100);
    deliver();
    assert_got(52, 0, 48);
    atomic_store(&workers[1]->since_ms, 0);
    burst(40);
    deliver();
    assert_got(52, 40, 48);
}

static void what_a_late_one_got_is_taken_back(void **state)
{
    (void)state;
    burst(64);
    assert_int_equal(workers[1]->spread.arriving, 20);
    atomic_store(&workers[1]->since_ms, 1);
    spread_take_back(workers[2], workers[1]);
    assert_int_equal(workers[1]->spread.arriving, 0);
    deliver(); /* its note finds nothing */
    assert_int_equal(got[1].n, 0);
    assert_int_equal(got[0].n + got[2].n, 64);
    atomic_store(&workers[1]->since_ms, 0);
    burst(1);
    deliver(); /* the next note comes */
    assert_int_equal(got[1].n, 1);
}

static void one_that_stops_starts_what_is_on_its_way_and_takes_no_more(void **state)
{
    (void)state;
    burst(64);
    spread_close(workers[1]);
    assert_int_equal(got[1].n, 20);
    burst(30);
    deliver();
    assert_int_equal(got[1].n, 20);
    assert_int_equal(got[0].n + got[2].n, 74);
    spread_close(worker);
    unsigned before = got[0].n;
    burst(30); /* accepted last: it keeps them */
    assert_int_equal(got[0].n, before + 30);
}

/* It closed after it had been chosen. */
static void refused_ones_start_where_they_were_accepted(void **state)
{
    (void)state;
    struct spread_batch b;
    spread_begin(&b, worker);
    place(&b, 64);
    assert_got(24, 0, 0);
    spread_close(workers[1]);
    spread_end(&b);
    assert_int_equal(workers[1]->spread.arriving, 0);
    deliver();
    assert_got(44, 0, 20);
}

/* The descriptors are closed: the same numbers come again. */
static void one_that_never_ran_closes_what_is_on_its_way(void **state)
{
    (void)state;
    int lowest = a_descriptor();
    close(lowest);
    burst(64);
    spread_abandon(workers[1]);
    spread_abandon(workers[2]);
    deliver();
    assert_got(24, 0, 0);
    int now = a_descriptor();
    assert_int_equal(now, lowest);
    close(now);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(small_imbalance_stays),
        TEST(burst_is_even_before_any_mail_is_read),
        TEST(one_mail_for_each_batch_and_worker),
        TEST(peer_and_proxied_go_with_it),
        TEST(late_one_gets_nothing),
        TEST(what_a_late_one_got_is_taken_back),
        TEST(one_that_stops_starts_what_is_on_its_way_and_takes_no_more),
        TEST(refused_ones_start_where_they_were_accepted),
        TEST(one_that_never_ran_closes_what_is_on_its_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
