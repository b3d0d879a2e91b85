/* SPDX-License-Identifier: MIT
 * A connection's life: sending, ending politely and at once, from wherever, and the peer's ways of ending it.
 */
#include "conn_fixture.h"

/* ---- what callbacks do ---- */

static void do_close(struct probe *p)
{
    conn_close(p->c);
    assert_int_equal(p->c->state, CONN_DEAD);
}

static void do_answer(struct probe *p)
{
    assert_int_equal(conn_send(p->c, p->got.data, p->got.len), 0);
    p->got.len = 0;
}

static void do_close_other(struct probe *p)
{
    if (p->other->c != NULL)
        conn_close(p->other->c);
}

static void do_ask_again(struct probe *p)
{
    if (strlen(p->trace) < 3)
        conn_later(p->c);
}

static void do_send_and_close(struct probe *p)
{
    assert_int_equal(conn_send(p->c, "lost", 4), 0);
    conn_close(p->c);
    assert_int_equal(conn_send(p->c, "ignored", 7), 0);
    conn_finish(p->c, 1);
    conn_close(p->c);
}

/* ---- sending ---- */

static void data_and_answer(void **state)
{
    (void)state;
    one->on['d'] = do_answer;
    peer_writes(one, "ping");
    run();
    assert_string_equal(one->trace, "d");
    assert_peer_reads(one, "ping");
    assert_int_equal(peer_reads(one), NOTHING);
    assert_int_equal(metrics_sum(METRIC_BYTES_IN), metrics_sum(METRIC_BYTES_OUT));
}

static void sends_at_the_end_of_the_iteration_or_when_flushed(void **state)
{
    (void)state;
    assert_int_equal(conn_send(one->c, "a", 1), 0);
    assert_int_equal(conn_send(one->c, "bc", 2), 0);
    assert_int_equal(peer_reads(one), NOTHING);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 3);
    run();
    assert_peer_reads(one, "abc");
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);

    assert_int_equal(conn_send(one->c, "now", 3), 0);
    conn_flush(one->c);
    assert_peer_reads(one, "now");
    run();
    assert_int_equal(peer_reads(one), NOTHING);
    assert_string_equal(one->trace, "");
}

static void big_write_resumes(void **state)
{
    (void)state;
    uint64_t before = metrics_sum(METRIC_BYTES_OUT);
    send_pattern(one->c, BIG);
    run();
    assert_true(one->c->out.bytes > 0 && one->c->out.bytes < BIG);
    size_t at = 0;
    for (size_t step = 1; at < BIG; step += 997) {
        size_t next = peer_reads_pattern(one, at, step);
        assert_true(next > at);
        at = next;
        assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), one->c->out.bytes);
        run();
    }
    assert_int_equal(one->c->out.bytes, 0);
    assert_int_equal(metrics_sum(METRIC_BYTES_OUT) - before, BIG);
    assert_int_equal(peer_reads(one), NOTHING);
    assert_int_equal(one->c->io.events & EV_WRITE, 0); /* or the loop would never rest */

    one->on['d'] = do_answer; /* reading and writing go on as before */
    peer_writes(one, "still there");
    run();
    assert_peer_reads(one, "still there");
}

/* What is large goes behind the queue, as far as the kernel takes it; the rest, and what follows, keeps its
 * order.
 */
static void large_leaves_at_once(void **state)
{
    (void)state;
    char *data = malloc(BIG);
    assert_non_null(data);
    for (size_t i = 0; i < BIG; i++)
        data[i] = pattern_at(i);
    uint64_t before = metrics_sum(METRIC_BYTES_OUT);
    assert_int_equal(conn_send_at_once(one->c, data, 100), 0); /* small: that can wait */
    assert_int_equal(peer_reads_pattern(one, 0, 1), 0);
    assert_int_equal(conn_send_at_once(one->c, data + 100, 60000), 0);
    assert_int_equal(one->c->out.bytes, 0);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
    assert_int_equal(metrics_sum(METRIC_BYTES_OUT) - before, 60100);
    assert_int_equal(peer_reads_pattern(one, 0, 60100), 60100);

    assert_int_equal(conn_send_at_once(one->c, data + 60100, BIG - 60200), 0); /* too much for the kernel */
    assert_true(one->c->out.bytes > 0 && one->c->out.bytes < BIG - 60200);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), one->c->out.bytes);
    run();
    assert_int_equal(conn_send_at_once(one->c, data + BIG - 100, 100), 0);
    peer_reads_the_rest(one, 60100);
    assert_int_equal(metrics_sum(METRIC_BYTES_OUT) - before, BIG);
    free(data);
}

static void large_to_a_peer_that_is_gone(void **state)
{
    (void)state;
    static char data[100000];
    close_peer(one);
    assert_int_equal(conn_send_at_once(one->c, data, sizeof data), 0);
    assert_int_equal(conn_send_at_once(one->c, data, sizeof data), 0);
    assert_int_equal(one->c->state, CONN_OPEN); /* who sends is not pulled the rug from under */
    run();
    assert_string_equal(one->trace, "ex");
}

/* While much waits to be sent, what the peer writes waits too; afterwards none of it is lost. */
static void does_not_read_while_much_waits(void **state)
{
    (void)state;
    send_pattern(one->c, BIG);
    run();
    peer_writes(one, "patience");
    run();
    assert_string_equal(one->trace, "");
    size_t at = 0;
    while (one->trace[0] == '\0') {
        size_t next = peer_reads_pattern(one, at, 5000);
        assert_true(next > at);
        at = next;
        run();
    }
    assert_true(one->c->out.bytes <= CONN_READ_STOP);
    assert_int_equal(one->got.len, 8);
    assert_memory_equal(one->got.data, "patience", 8);
    peer_reads_the_rest(one, at);
    peer_writes(one, "!");
    run();
    assert_int_equal(one->got.len, 9);
}

/* A peer that asks and asks and never reads is stopped by its own answers. */
static void answers_stop_reading(void **state)
{
    (void)state;
    char question[4096];
    memset(question, '?', sizeof question);
    one->on['d'] = do_answer;
    size_t asked = 0;
    for (int i = 0; i < 2000; i++) {
        ssize_t n = send(one->peer, question, sizeof question, MSG_DONTWAIT);
        asked += n > 0 ? (size_t)n : 0;
        run();
        assert_true(one->c->out.bytes <= CONN_READ_STOP + WORKER_INPUT);
        memset(one->trace, 0, sizeof one->trace);
    }
    assert_true(one->c->out.bytes > CONN_READ_STOP);
    size_t answered = 0;
    for (int i = 0; i < 100000 && answered < asked; i++) {
        while (peer_reads(one) == '?')
            answered++;
        memset(one->trace, 0, sizeof one->trace);
        run();
    }
    assert_int_equal(answered, asked);
}

/* ---- input that is held ---- */

static void held_input_comes_again(void **state)
{
    (void)state;
    one->bite = 3;
    peer_writes(one, "abcdefgh");
    run();
    peer_writes(one, "ij");
    run();
    assert_string_equal(one->trace, "dddd");
    assert_int_equal(one->got.len, 10);
    assert_memory_equal(one->got.data, "abcdefghij", 10);
}

/* What comes meanwhile is not read before what is held, nor is the end noticed before it. */
static void held_input_comes_first(void **state)
{
    (void)state;
    one->bite = 1;
    peer_writes(one, "abcdefghij");
    ev_run(worker->loop, EVRUN_NOWAIT);
    peer_writes(one, "klm");
    close_peer(one);
    run();
    assert_string_equal(one->trace, "dddddddddddddex");
    assert_memory_equal(one->got.data, "abcdefghijklm", 13);
}

static void the_others_get_their_turn(void **state)
{
    (void)state;
    open_probe(two);
    one->bite = 1;
    peer_writes(one, "0123456789");
    ev_run(worker->loop, EVRUN_NOWAIT);
    peer_writes(two, "quick");
    ev_run(worker->loop, EVRUN_NOWAIT);
    ev_run(worker->loop, EVRUN_NOWAIT);
    assert_string_equal(two->trace, "d");
    assert_true(one->got.len < 10);
    run();
    assert_memory_equal(one->got.data, "0123456789", 10);
}

static void answers_while_input_is_held(void **state)
{
    (void)state;
    one->bite = 2;
    one->on['d'] = do_answer;
    peer_writes(one, "abcdef");
    run();
    assert_peer_reads(one, "abcdef");
}

/* The queue is full when held input is due; it is dealt with all the same, and then nothing is read. */
static void held_input_and_a_full_queue(void **state)
{
    (void)state;
    one->bite = 1;
    peer_writes(one, "abc");
    ev_run(worker->loop, EVRUN_NOWAIT);
    assert_true(one->c->holds);
    send_pattern(one->c, BIG);
    run();
    assert_int_equal(one->got.len, 3);
    assert_false(conn_is_reading(one->c));
    peer_writes(one, "d");
    run();
    assert_int_equal(one->got.len, 3);
    peer_reads_the_rest(one, 0);
    assert_true(conn_is_reading(one->c));
    assert_memory_equal(one->got.data, "abcd", 4);
}

/* Whoever ends the connection, what it holds goes with it. */
static void ends_while_input_is_held(void **state)
{
    (void)state;
    static const char *const traces[] = {"dx", "dx", "d", "dtx", "dlx"};
    for (int how = 0; how < 5; how++) {
        one->bite = 1;
        peer_writes(one, "abcdefghijklmnopqrstuvwxyz");
        while (!ev_is_active(&worker->spin))
            ev_run(worker->loop, EVRUN_NOWAIT);
        assert_true(one->c->holds);
        memset(one->trace + 1, 0, sizeof one->trace - 1);
        one->on['d'] = how == 0 ? do_close : how == 2 ? do_finish : NULL;
        one->on['t'] = one->on['l'] = do_close;
        if (how == 0 || how == 2)
            one->trace[0] = '\0';
        if (how == 1)
            conn_close(one->c);
        if (how == 3)
            conn_set_deadline(one->c, 0), wheel_advance(&worker->wheel, conn_on_deadline, worker);
        if (how == 4)
            conn_later(one->c);
        run();
        assert_string_equal(one->trace, traces[how]);
        close_peer(one);
        run();
        assert_null(one->c);
        assert_true(list_empty(&worker->ready));
        assert_false(ev_is_active(&worker->spin));
        buf_fini(&one->got);
        open_probe(one);
    }
}

static void closes_another_that_holds_input(void **state)
{
    (void)state;
    open_probe(two);
    one->bite = two->bite = 1;
    peer_writes(one, "abcdefghij");
    peer_writes(two, "abcdefghij");
    ev_run(worker->loop, EVRUN_NOWAIT);
    assert_true(one->c->holds);
    assert_true(two->c->holds);
    for (size_t i = 0; i < 2; i++) {
        probes[i].other = &probes[1 - i];
        probes[i].on['d'] = do_close_other;
    }
    run();
    assert_int_equal((one->c == NULL) + (two->c == NULL), 1);
    assert_int_equal(one->c != NULL ? one->got.len : two->got.len, 10);
}

/* ---- ending politely ---- */

static void finish_lingers_until_the_peer_ends(void **state)
{
    (void)state;
    assert_int_equal(conn_send(one->c, "last", 4), 0);
    conn_finish(one->c, 5);
    assert_int_equal(one->c->state, CONN_FLUSHING);
    assert_int_equal(conn_send(one->c, "ignored", 7), 0);
    run();
    assert_int_equal(one->c->state, CONN_LINGERING);
    assert_peer_reads(one, "last");
    assert_int_equal(peer_reads(one), END);
    peer_writes(one, "thrown away");
    run();
    peer_writes(one, "too");
    run();
    assert_int_equal(one->c->state, CONN_LINGERING);
    assert_string_equal(one->trace, "");
    close_peer(one);
    run();
    assert_string_equal(one->trace, "x");
}

static void lingers_until_the_deadline(void **state)
{
    (void)state;
    conn_finish(one->c, 1);
    conn_finish(one->c, 9);
    run();
    assert_int_equal(peer_reads(one), END);
    tick(10);
    assert_non_null(one->c);
    assert_int_equal(one->c->state, CONN_LINGERING);
    tick(1);
    assert_string_equal(one->trace, "x");
}

static void finish_waits_for_a_full_queue(void **state)
{
    (void)state;
    send_pattern(one->c, BIG);
    conn_finish(one->c, 5);
    run();
    assert_int_equal(one->c->state, CONN_FLUSHING);
    peer_writes(one, "not looked at");
    peer_reads_the_rest(one, 0);
    assert_int_equal(one->c->state, CONN_LINGERING);
    assert_int_equal(peer_reads(one), END);
    close_peer(one);
    run();
    assert_string_equal(one->trace, "x");
}

/* A peer that has ended its own side may still read. */
static void finish_after_a_half_close(void **state)
{
    (void)state;
    send_pattern(one->c, BIG);
    conn_finish(one->c, 5);
    run();
    assert_int_equal(shutdown(one->peer, SHUT_WR), 0);
    peer_reads_the_rest(one, 0);
    assert_int_equal(peer_reads(one), END);
    assert_string_equal(one->trace, "x");
}

static void deadline_while_flushing(void **state)
{
    (void)state;
    one->on['t'] = do_close;
    send_pattern(one->c, BIG);
    conn_finish(one->c, 1);
    run();
    tick(10);
    assert_string_equal(one->trace, "");
    tick(1);
    assert_string_equal(one->trace, "tx");
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
}

/* ---- the peer ends ---- */

static void peer_closes(void **state)
{
    (void)state;
    close_peer(one);
    run();
    assert_string_equal(one->trace, "ex");
}

static void last_words_then_end(void **state)
{
    (void)state;
    one->on['e'] = do_say_goodbye;
    peer_writes(one, "question");
    assert_int_equal(shutdown(one->peer, SHUT_WR), 0);
    run();
    assert_peer_reads(one, "bye");
    assert_int_equal(peer_reads(one), END);
    assert_string_equal(one->trace, "dex");
}

/* It closes with something unread, which resets. */
static void peer_resets(void **state)
{
    (void)state;
    for (int lingering = 0; lingering < 2; lingering++) {
        assert_int_equal(conn_send(one->c, "unread", 6), 0);
        if (lingering)
            conn_finish(one->c, 5);
        run();
        close_peer(one);
        run();
        assert_string_equal(one->trace, lingering ? "x" : "ex");
        if (!lingering)
            open_probe(one);
    }
}

static void peer_resets_with_a_full_queue(void **state)
{
    (void)state;
    for (int finishing = 0; finishing < 2; finishing++) {
        send_pattern(one->c, BIG);
        if (finishing)
            conn_finish(one->c, 5);
        run();
        close_peer(one);
        run();
        assert_string_equal(one->trace, finishing ? "x" : "ex");
        if (!finishing)
            open_probe(one);
    }
}

/* The first that is noticed is that nothing can be sent. */
static void peer_is_gone_when_sending(void **state)
{
    (void)state;
    close_peer(one);
    assert_int_equal(conn_send(one->c, "into the void", 13), 0);
    conn_flush(one->c);
    assert_string_equal(one->trace, "e");
    assert_int_equal(one->c->state, CONN_DEAD);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
    run();
    assert_string_equal(one->trace, "ex");
}

static void do_open_two(struct probe *p)
{
    conn_close(p->c);
    open_probe(two);
    assert_int_equal(two->c->io.fd, p->c->io.fd);
    peer_writes(two, "mine");
}

/* One socket event says both that it can be written to, which fails, and that it can be read. By then its
 * descriptor may belong to another connection. */
static void descriptor_of_a_dead_connection_is_left_alone(void **state)
{
    (void)state;
    one->on['e'] = do_open_two;
    while (one->c->out.bytes == 0) { /* little waits, so it is read from as well */
        send_pattern(one->c, 10000);
        run();
    }
    close_peer(one);
    run();
    assert_string_equal(one->trace, "ex");
    assert_string_equal(two->trace, "d");
}

static void goodbye_to_a_peer_that_is_gone(void **state)
{
    (void)state;
    one->on['e'] = do_say_goodbye;
    close_peer(one);
    run();
    assert_string_equal(one->trace, "ex");
}

/* ---- closing at once, wherever ---- */

static void close_is_immediate(void **state)
{
    (void)state;
    assert_int_equal(conn_send(one->c, "lost", 4), 0);
    conn_close(one->c);
    assert_int_equal(peer_reads(one), END);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
    assert_string_equal(one->trace, ""); /* not freed under the caller */
    conn_close(one->c);
    conn_set_deadline(one->c, 0);
    tick(3);
    assert_string_equal(one->trace, "x");
}

static void close_inside_callbacks(void **state)
{
    (void)state;
    void (*const how[])(struct probe *) = {do_close, do_send_and_close};
    for (size_t i = 0; i < 2; i++) {
        one->on['d'] = how[i];
        peer_writes(one, "x");
        run();
        assert_string_equal(one->trace, "dx");
        close_peer(one);
        buf_fini(&one->got);

        open_probe(one);
        one->on['e'] = how[i];
        close_peer(one);
        run();
        assert_string_equal(one->trace, "ex");

        open_probe(one);
        one->on['t'] = how[i];
        conn_set_deadline(one->c, 0);
        tick(1);
        assert_string_equal(one->trace, "tx");
        close_peer(one);

        open_probe(one);
        one->on['l'] = how[i];
        conn_later(one->c);
        run();
        assert_string_equal(one->trace, "lx");
        close_peer(one);
        open_probe(one);
    }
}

static void finish_inside_callbacks(void **state)
{
    (void)state;
    one->on['d'] = do_say_goodbye;
    peer_writes(one, "x");
    run();
    assert_peer_reads(one, "bye");
    assert_int_equal(peer_reads(one), END);
    close_peer(one);
    run();
    assert_string_equal(one->trace, "dx");
    buf_fini(&one->got);

    open_probe(one);
    one->on['l'] = do_say_goodbye;
    conn_later(one->c);
    run();
    assert_peer_reads(one, "bye");
    assert_int_equal(peer_reads(one), END);
    close_peer(one);
    run();
    assert_string_equal(one->trace, "lx");

    open_probe(one);
    one->on['t'] = do_finish;
    conn_set_deadline(one->c, 0);
    tick(1);
    assert_int_equal(peer_reads(one), END);
    close_peer(one);
    run();
    assert_string_equal(one->trace, "tx");
}

/* Both have something to read in the same iteration; the first one's callback closes the other. */
static void close_another_that_is_ready(void **state)
{
    (void)state;
    open_probe(two);
    for (size_t i = 0; i < 2; i++) {
        probes[i].other = &probes[1 - i];
        probes[i].on['d'] = do_close_other;
        peer_writes(&probes[i], "x");
    }
    run();
    assert_int_equal((one->c == NULL) + (two->c == NULL), 1);
    assert_string_equal(one->c != NULL ? one->trace : two->trace, "d");
    assert_string_equal(one->c == NULL ? one->trace : two->trace, "x");
}

static void close_another_from_later(void **state)
{
    (void)state;
    open_probe(two);
    for (size_t i = 0; i < 2; i++) {
        probes[i].other = &probes[1 - i];
        probes[i].on['l'] = do_close_other;
        conn_later(probes[i].c);
    }
    run();
    assert_int_equal((one->c == NULL) + (two->c == NULL), 2);
    /* What was asked for comes even when the connection has been closed meanwhile. */
    assert_string_equal(one->trace, "lx");
    assert_string_equal(two->trace, "lx");
}

static void close_another_from_dead(void **state)
{
    (void)state;
    open_probe(two);
    one->other = two;
    one->on['x'] = do_close_other;
    conn_close(one->c);
    run();
    assert_string_equal(one->trace, "x");
    assert_string_equal(two->trace, "x");
}

/* Both deadlines pass in the same tick. */
static void close_another_that_is_due(void **state)
{
    (void)state;
    open_probe(two);
    for (size_t i = 0; i < 2; i++) {
        probes[i].other = &probes[1 - i];
        probes[i].on['t'] = do_close_other;
        conn_set_deadline(probes[i].c, 0.5);
    }
    tick(20);
    assert_int_equal((one->c == NULL) + (two->c == NULL), 1);
}

/* ---- later, deadlines ---- */

static void later_once(void **state)
{
    (void)state;
    conn_later(one->c);
    conn_later(one->c);
    assert_string_equal(one->trace, "");
    run();
    assert_string_equal(one->trace, "l");
    run();
    assert_string_equal(one->trace, "l");

    one->on['l'] = do_ask_again;
    conn_later(one->c);
    run();
    assert_string_equal(one->trace, "lll");
}

static void later_then_dead(void **state)
{
    (void)state;
    conn_close(one->c);
    conn_later(one->c);
    run();
    assert_string_equal(one->trace, "lx");
}

static void later_sends(void **state)
{
    (void)state;
    buf_puts(&one->got, "said later");
    one->on['l'] = do_answer;
    conn_later(one->c);
    ev_run(worker->loop, EVRUN_NOWAIT);
    assert_peer_reads(one, "said later");
}

static void deadline_moves(void **state)
{
    (void)state;
    conn_set_deadline(one->c, 1);
    tick(5);
    conn_set_deadline(one->c, 1);
    tick(10);
    assert_string_equal(one->trace, "");
    tick(1);
    assert_string_equal(one->trace, "t");
    tick(1000);
    assert_string_equal(one->trace, "t");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(data_and_answer),
                                       TEST(sends_at_the_end_of_the_iteration_or_when_flushed),
                                       TEST(big_write_resumes),
                                       TEST(large_leaves_at_once),
                                       TEST(large_to_a_peer_that_is_gone),
                                       TEST(does_not_read_while_much_waits),
                                       TEST(answers_stop_reading),
                                       TEST(held_input_comes_again),
                                       TEST(held_input_comes_first),
                                       TEST(the_others_get_their_turn),
                                       TEST(answers_while_input_is_held),
                                       TEST(held_input_and_a_full_queue),
                                       TEST(ends_while_input_is_held),
                                       TEST(closes_another_that_holds_input),
                                       TEST(finish_lingers_until_the_peer_ends),
                                       TEST(lingers_until_the_deadline),
                                       TEST(finish_waits_for_a_full_queue),
                                       TEST(finish_after_a_half_close),
                                       TEST(deadline_while_flushing),
                                       TEST(peer_closes),
                                       TEST(last_words_then_end),
                                       TEST(peer_resets),
                                       TEST(peer_resets_with_a_full_queue),
                                       TEST(peer_is_gone_when_sending),
                                       TEST(descriptor_of_a_dead_connection_is_left_alone),
                                       TEST(goodbye_to_a_peer_that_is_gone),
                                       TEST(close_is_immediate),
                                       TEST(close_inside_callbacks),
                                       TEST(finish_inside_callbacks),
                                       TEST(close_another_that_is_ready),
                                       TEST(close_another_from_later),
                                       TEST(close_another_from_dead),
                                       TEST(close_another_that_is_due),
                                       TEST(later_once),
                                       TEST(later_then_dead),
                                       TEST(later_sends),
                                       TEST(deadline_moves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
