/* SPDX-License-Identifier: MIT
 * A worker: how it stops, with connections and without, by hand and on its own thread. */
#include "conn_fixture.h"

static void stop_takes_leave_of_the_open_ones(void **state)
{
    (void)state;
    config.drain_timeout = 3600;
    open_probe(two);
    one->on['s'] = do_say_goodbye;
    conn_finish(two->c, 5);
    worker_stop(worker);
    run();
    assert_string_equal(one->trace, "s");
    assert_string_equal(two->trace, "");
    assert_peer_reads(one, "bye");
    close_peer(one);
    close_peer(two);
    run();
    assert_string_equal(one->trace, "sx");
    assert_string_equal(two->trace, "x");
}

static void drain_deadline_cuts(void **state)
{
    (void)state;
    config.drain_timeout = 0;
    open_probe(two);
    two->on['s'] = do_finish;
    worker_stop(worker);
    while (one->c != NULL)
        ev_run(worker->loop, EVRUN_ONCE);
    assert_string_equal(one->trace, "sx");
    assert_string_equal(two->trace, "sx");
    assert_int_equal(peer_reads(two), END);
}

static void ids_and_counts(void **state)
{
    (void)state;
    worker->count = 4;
    worker->index = 3;
    open_probe(two);
    assert_true(two->c->id > one->c->id);
    assert_int_equal(two->c->id % 4 + 1, 3);
    assert_int_equal(worker->nconns, 2);
    assert_int_equal(worker_total_conns(), 2);
    assert_int_equal(metrics_sum(METRIC_CONNECTIONS), 2);
    conn_close(one->c);
    run();
    assert_int_equal(worker->nconns, 1);
    assert_int_equal(metrics_sum(METRIC_CONNECTIONS), 1);
}

/* ---- on its own thread ---- */

static struct {
    unsigned starts, exits, deliveries;
    bool other_thread, finished;
} seen;

static pthread_t test_thread;

static void on_start(struct worker *w)
{
    assert_ptr_equal(w, worker);
    seen.starts++;
    seen.other_thread = !pthread_equal(pthread_self(), test_thread);
}

static void on_exit_hook(struct worker *w)
{
    assert_ptr_equal(w, worker);
    seen.exits++;
}

static const struct worker_hooks hooks = {.on_start = on_start, .on_exit = on_exit_hook};

static void deliver_note(struct mail *m, void *receiver)
{
    (void)m;
    assert_ptr_equal(receiver, worker);
    seen.deliveries++;
}

static void deliver_finished(struct mail *m, void *receiver)
{
    (void)m;
    (void)receiver;
    seen.finished = true;
}

/* It runs until it is told to stop, and says that it has. */
static void thread_from_start_to_finish(void **state)
{
    (void)state;
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct mailbox box;
    struct mail finished = {.deliver = deliver_finished}, note = {.deliver = deliver_note};
    memset(&seen, 0, sizeof seen);
    test_thread = pthread_self();
    mailbox_init(&box, loop, NULL);
    worker->hooks = &hooks;
    conn_close(one->c);
    run();
    assert_int_equal(worker_start(worker, &box, &finished), 0);
    worker_post(worker, &note);
    worker_stop(worker);
    ev_ref(loop); /* so that ONCE waits */
    while (!seen.finished)
        ev_run(loop, EVRUN_ONCE);
    ev_unref(loop);
    worker_join(worker);
    assert_int_equal(seen.starts, 1);
    assert_int_equal(seen.deliveries, 1);
    assert_int_equal(seen.exits, 1);
    assert_true(seen.other_thread);
    mailbox_fini(&box);
    ev_loop_destroy(loop);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(stop_takes_leave_of_the_open_ones),
        TEST(drain_deadline_cuts),
        TEST(ids_and_counts),
        TEST(thread_from_start_to_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
