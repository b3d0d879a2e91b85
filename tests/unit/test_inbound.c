/* SPDX-License-Identifier: MIT
 * What a WebSocket receives while one of its handlers is suspended, and when it comes too fast. */
#include "session_fixture.h"

/* The next message suspends its handler. */
static void do_hold(struct session *s)
{
    ws.on_message = NULL;
    assert_int_equal(inbound_hold(s), 0);
}

static void suspend_on(const char *text)
{
    ws.on_message = do_hold;
    peer_sends(FIN | TEXT, text);
    assert_int_equal(ws.session->more->in.suspended, 1);
}

static void go_on(void)
{
    inbound_release(ws.session);
    run();
}

static bool peer_can_write_more(void)
{
    char block[4096] = {0};
    return send(ws.peer, block, sizeof block, MSG_DONTWAIT) > 0;
}

static void messages_wait_and_come_in_order(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends(FIN | TEXT, "two");
    peer_sends_together(
        (struct frame[]){{TEXT, "th"}, {FIN | CONTINUATION, "ree"}, {FIN | BINARY, "four"}, {0}});
    assert_heard("t:one\n");
    assert_true(metrics_sum(METRIC_REASSEMBLY_BYTES) > 0);
    go_on();
    assert_heard("t:one\nt:two\nt:three\nb:four\n");
    assert_null(ws.session->more); /* nothing of it is kept */
    assert_int_equal(metrics_sum(METRIC_REASSEMBLY_BYTES), 0);
}

static void next_message_may_suspend_again(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends_together((struct frame[]){{FIN | TEXT, "two"}, {FIN | TEXT, "three"}, {0}});
    ws.on_message = do_hold;
    go_on();
    assert_heard("t:one\nt:two\n");
    go_on();
    assert_heard("t:one\nt:two\nt:three\n");
}

static void control_frames_do_not_wait(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends_together((struct frame[]){{FIN | TEXT, "two"}, {FIN | PING, "p"}, {FIN | PONG, ""}, {0}});
    assert_gets(PONG, "p");
    assert_string_equal(ws.controls, "<1>0");
    assert_heard("t:one\n");
    go_on();
    assert_heard("t:one\nt:two\n");
}

static void close_does_not_wait(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends(FIN | TEXT, "two");
    peer_sends(FIN | CLOSE, "\x0f\xa0"
                            "bye");
    assert_closed(4000, "bye");
    assert_gets_close(4000, "");
    assert_heard("t:one\n");
}

static void eof_does_not_wait(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends(FIN | TEXT, "two");
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_heard("t:one\n");
}

static void our_close_forgets_what_waits(void **state)
{
    (void)state;
    limits.read_ahead = 0;
    suspend_on("one");
    peer_sends_together((struct frame[]){{FIN | TEXT, "two"}, {FIN | CLOSE, "\x0f\xa0"}, {0}});
    assert_true(ws.session->conn->paused);
    session_close(ws.session, 4001, "", 0);
    run();
    assert_closed(4000, ""); /* the peer's, which was behind what has been read ahead */
    assert_heard("t:one\n");
}

static void reading_stops_at_read_ahead(void **state)
{
    (void)state;
    char hundred[101];
    memset(hundred, 'x', 100);
    hundred[100] = '\0';
    limits.read_ahead = 1000;
    suspend_on("one");
    int sent = 0;
    for (; !ws.session->conn->paused; sent++) {
        assert_true(sent < 100);
        peer_sends(FIN | BINARY, hundred);
    }
    assert_true(ws.session->more->in.waiting >= 1000 && ws.session->more->in.waiting < 1200);
    while (sent++ < 150) /* they stay in the kernel */
        peer_sends(FIN | BINARY, hundred);
    assert_true(ws.session->more->in.waiting < 1200 && ws.session->more->in.rest.len == 0);
    go_on();
    assert_int_equal(ws.heard.len, 6 + 150 * 103);
    assert_null(ws.session->more);
}

static void half_a_message_counts_as_read_ahead(void **state)
{
    (void)state;
    char hundred[101];
    memset(hundred, 'x', 100);
    hundred[100] = '\0';
    limits.read_ahead = 1000;
    suspend_on("one");
    peer_sends(BINARY, hundred);
    for (int i = 0; i < 30 && !ws.session->conn->paused; i++)
        peer_sends(CONTINUATION, hundred);
    assert_true(ws.session->conn->paused);
    peer_sends(FIN | CONTINUATION, "end");
    go_on();
    assert_memory_equal(ws.heard.data + ws.heard.len - 4, "end\n", 4);
}

static void nothing_is_read_ahead_when_it_is_off(void **state)
{
    (void)state;
    limits.read_ahead = 0;
    suspend_on("one");
    assert_true(ws.session->conn->paused);
    while (peer_can_write_more())
        run();
    assert_null(ws.session->more->in.first);
}

static void what_was_read_already_is_kept(void **state)
{
    (void)state;
    limits.read_ahead = 0;
    ws.on_message = do_hold;
    peer_sends_together((struct frame[]){{FIN | TEXT, "one"}, {FIN | TEXT, "two"}, {FIN | PING, "p"}, {0}});
    assert_heard("t:one\n");
    assert_peer_reads("", 0);
    go_on();
    assert_heard("t:one\nt:two\n");
    assert_gets(PONG, "p");
}

static void ping_clock_stops_with_the_reading(void **state)
{
    (void)state;
    limits.read_ahead = 0;
    session_set_ping_interval(ws.session, 10);
    suspend_on("one");
    wait_for(100);
    assert_peer_reads("", 0);
    assert_open();
    go_on();
    wait_for(9);
    assert_peer_reads("", 0); /* it begins anew */
    wait_for(1);
    assert_gets(PING, "");
    wait_for(10);
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void ping_clock_goes_on_while_reading(void **state)
{
    (void)state;
    session_set_ping_interval(ws.session, 10);
    suspend_on("one");
    wait_for(10);
    assert_gets(PING, "");
    wait_for(10);
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void peer_that_goes_is_noticed_without_reading(void **state)
{
    (void)state;
    limits.read_ahead = 0;
    suspend_on("one");
    peer_sends(FIN | TEXT, "two"); /* stands before the end of the stream */
    close_peer();
    wait_for(2);
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_heard("t:one\n");
}

static void only_so_many_are_suspended(void **state)
{
    (void)state;
    for (int i = 0; i < INBOUND_SUSPENDED_MAX; i++)
        assert_int_equal(inbound_hold(ws.session), 0);
    assert_int_equal(inbound_hold(ws.session), -2);
    peer_sends(FIN | TEXT, "one");
    for (int i = 0; i < INBOUND_SUSPENDED_MAX; i++) {
        assert_heard("");
        go_on();
    }
    assert_heard("t:one\n");
}

static void handler_that_closes_leaves_nothing(void **state)
{
    (void)state;
    suspend_on("one");
    peer_sends_together((struct frame[]){{FIN | TEXT, "two"}, {FIN | TEXT, "three"}, {0}});
    session_fail(ws.session, CLOSECODE_INTERNAL_ERROR, "x");
    inbound_release(ws.session);
    run();
    assert_closed(CLOSECODE_INTERNAL_ERROR, "");
    assert_heard("t:one\n");
}

static void reassembly_has_a_limit_for_all(void **state)
{
    (void)state;
    config.reassembly_limit = 5000;
    struct buf out = BUF_INIT;
    char *much = calloc(1, 20000);
    put_frame(&out, BINARY, much, 20000);
    peer_writes(out.data, out.len);
    free(much);
    buf_fini(&out);
    assert_closed(CLOSECODE_TRY_AGAIN_LATER, "");
    assert_true(metrics_sum(METRIC_REASSEMBLY_REFUSED) > 0);
}

/* ---- several messages in one read ---- */

/* Which of them a call of the handler gets, when it asks for more. */
static void assert_calls(unsigned calls)
{
    if (takes_next)
        assert_int_equal(ws.calls, calls);
}

static void whole_messages_are_there_one_after_the_other(void **state)
{
    (void)state;
    peer_sends_together(
        (struct frame[]){{FIN | TEXT, "one"}, {FIN | BINARY, ""}, {FIN | TEXT, "three"}, {TEXT, "fo"}, {0}});
    assert_heard("t:one\nb:\nt:three\n");
    assert_calls(1);
    peer_sends_together((struct frame[]){{FIN | CONTINUATION, "ur"}, {FIN | TEXT, "five"}, {0}});
    assert_heard("t:one\nb:\nt:three\nt:four\nt:five\n");
    assert_calls(3);
}

static void other_frames_come_in_between(void **state)
{
    (void)state;
    peer_sends_together((struct frame[]){{FIN | TEXT, "1"},
                                         {FIN | TEXT, "2"},
                                         {FIN | PING, "p"},
                                         {FIN | TEXT, "3"},
                                         {FIN | TEXT, "4"},
                                         {FIN | CLOSE, "\x0f\xa0"},
                                         {FIN | TEXT, "5"},
                                         {0}});
    assert_heard("t:1\nt:2\nt:3\nt:4\n");
    assert_string_equal(ws.controls, "<1");
    assert_calls(2);
    assert_closed(4000, "");
}

static void a_fault_comes_after_what_was_good(void **state)
{
    (void)state;
    uint64_t before = metrics_sum(METRIC_PROTOCOL_ERRORS);
    peer_sends_together((struct frame[]){{FIN | TEXT, "1"}, {FIN | TEXT, "2"}, {FIN | TEXT, "\xff"}, {0}});
    assert_heard("t:1\nt:2\n");
    assert_calls(1);
    assert_closed(CLOSECODE_INVALID_DATA, "");
    assert_int_equal(metrics_sum(METRIC_PROTOCOL_ERRORS) - before, 1);
}

static void after_one_that_waits_none_is_given(void **state)
{
    (void)state;
    ws.on_message = do_hold;
    peer_sends_together((struct frame[]){{FIN | TEXT, "1"}, {FIN | TEXT, "2"}, {FIN | TEXT, "3"}, {0}});
    assert_heard("t:1\n");
    go_on();
    assert_heard("t:1\nt:2\nt:3\n");
    assert_calls(3);
}

static void a_message_is_not_read_behind_its_input(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    put_frame(&out, FIN | TEXT, "1", 1);
    put_frame(&out, FIN | TEXT, "second", 6);
    for (size_t cut = 1; cut < out.len; cut++) {
        peer_writes(out.data, cut);
        peer_writes(out.data + cut, out.len - cut);
        assert_heard("t:1\nt:second\n");
        ws.heard.len = 0;
    }
    buf_fini(&out);
}

/* ---- messages_per_second ---- */

/* As time does. */
static void one_more_comes_free(void)
{
    ws.session->more->in.rate = 0;
    wait_for(1);
}

static void too_many_wait_for_their_time(void **state)
{
    (void)state;
    limits.messages_per_second = 0.001; /* nothing comes back during the test */
    peer_sends_together(
        (struct frame[]){{FIN | TEXT, "1"}, {FIN | TEXT, "2"}, {FIN | PING, "p"}, {FIN | TEXT, "3"}, {0}});
    assert_heard("t:1\n");
    assert_true(ws.session->conn->paused);
    wait_for(10);
    assert_heard("t:1\n");
    one_more_comes_free();
    assert_heard("t:1\nt:2\n");
    assert_peer_reads("", 0);
    one_more_comes_free();
    assert_gets(PONG, "p");
    assert_heard("t:1\nt:2\n");
    one_more_comes_free();
    assert_heard("t:1\nt:2\nt:3\n");
}

static void do_limit(struct session *s)
{
    (void)s;
    limits.messages_per_second = 0.001;
}

static void each_of_several_in_one_read_counts(void **state)
{
    (void)state;
    ws.on_message = do_limit;
    peer_sends_together((struct frame[]){{FIN | TEXT, "1"}, {FIN | TEXT, "2"}, {FIN | TEXT, "3"}, {0}});
    assert_heard("t:1\nt:2\n"); /* the first came when there was no limit */
    assert_true(ws.session->conn->paused);
    one_more_comes_free();
    assert_heard("t:1\nt:2\nt:3\n");
}

static void fragments_count_once(void **state)
{
    (void)state;
    limits.messages_per_second = 2;
    peer_sends_together((struct frame[]){
        {TEXT, "a"}, {CONTINUATION, "b"}, {CONTINUATION, "c"}, {FIN | CONTINUATION, "d"}, {0}});
    assert_heard("t:abcd\n");
    assert_false(ws.session->conn->paused);
    peer_sends(FIN | TEXT, "e");
    assert_heard("t:abcd\nt:e\n");
    assert_true(ws.session->conn->paused);
}

static void our_close_ends_the_wait(void **state)
{
    (void)state;
    limits.messages_per_second = 0.001;
    peer_sends_together(
        (struct frame[]){{FIN | TEXT, "1"}, {FIN | TEXT, "2"}, {FIN | CLOSE, "\x0f\xa0"}, {0}});
    assert_open();
    session_close(ws.session, 4001, "", 0);
    run();
    assert_closed(4000, "");
}

/* ---- completions ---- */

static struct {
    struct session_done done[3];
    char told[32]; /* which, and '+' or '-' */
} sent;

static void on_done(struct session_done *d, const char *why)
{
    size_t at = strlen(sent.told);
    snprintf(sent.told + at, sizeof sent.told - at, "%d%s", (int)(d - sent.done), why == NULL ? "+" : "-");
}

static void send_and_tell(int i, size_t len)
{
    char *data = calloc(1, len);
    assert_int_equal(session_send(ws.session, false, data, len), SESSION_SENT);
    sent.done[i].complete = on_done;
    session_when_sent(ws.session, &sent.done[i]);
    free(data);
}

static void done_when_the_kernel_has_it(void **state)
{
    (void)state;
    memset(&sent, 0, sizeof sent);
    send_and_tell(0, 10);
    send_and_tell(1, 10);
    assert_string_equal(sent.told, "");
    run();
    assert_string_equal(sent.told, "0+1+");
    assert_null(ws.session->more);
    char data[64];
    assert_int_equal(recv(ws.peer, data, sizeof data, 0), 24);
}

static void done_fails_with_the_connection(void **state)
{
    (void)state;
    memset(&sent, 0, sizeof sent);
    limits.send_limit = 1 << 24;
    send_and_tell(0, 10);
    send_and_tell(1, 1 << 22); /* more than the kernel takes */
    send_and_tell(2, 10);
    run();
    assert_string_equal(sent.told, "0+");
    close_peer();
    assert_string_equal(sent.told, "0+1-2-");
}

/* ---- on_slow, queue_limit ---- */

static enum session_sent send_block(size_t len)
{
    char *data = calloc(1, len);
    enum session_sent result = session_send(ws.session, false, data, len);
    free(data);
    return result;
}

static void slow_peer_loses_messages_when_told_so(void **state)
{
    (void)state;
    limits.send_limit = 1 << 20;
    limits.drop = true;
    uint64_t full = 0, before = metrics_sum(METRIC_SLOW_DROPPED);
    for (int i = 0; i < 100; i++)
        full += send_block(100000) == SESSION_QUEUE_FULL;
    assert_true(full > 0);
    assert_open();
    assert_int_equal(metrics_sum(METRIC_SLOW_DROPPED) - before, full);
    assert_true(ws.session->conn->out.bytes <= limits.send_limit);
}

static void beyond_queue_limit_only_what_the_kernel_takes(void **state)
{
    (void)state;
    config.queue_limit = 10;
    assert_int_equal(send_block(1000), SESSION_SENT);
    assert_int_equal(ws.session->conn->out.bytes, 0); /* written at once */
    char data[2000];
    assert_int_equal(recv(ws.peer, data, sizeof data, 0), 1004);
    assert_int_equal(send_block(1 << 22), SESSION_QUEUE_FULL);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(messages_wait_and_come_in_order),
        TEST(next_message_may_suspend_again),
        TEST(control_frames_do_not_wait),
        TEST(close_does_not_wait),
        TEST(eof_does_not_wait),
        TEST(our_close_forgets_what_waits),
        TEST(reading_stops_at_read_ahead),
        TEST(half_a_message_counts_as_read_ahead),
        TEST(nothing_is_read_ahead_when_it_is_off),
        TEST(what_was_read_already_is_kept),
        TEST(ping_clock_stops_with_the_reading),
        TEST(ping_clock_goes_on_while_reading),
        TEST(peer_that_goes_is_noticed_without_reading),
        TEST(only_so_many_are_suspended),
        TEST(handler_that_closes_leaves_nothing),
        TEST(reassembly_has_a_limit_for_all),
        TEST(whole_messages_are_there_one_after_the_other),
        TEST(other_frames_come_in_between),
        TEST(a_fault_comes_after_what_was_good),
        TEST(after_one_that_waits_none_is_given),
        TEST(a_message_is_not_read_behind_its_input),
        TEST(too_many_wait_for_their_time),
        TEST(each_of_several_in_one_read_counts),
        TEST(fragments_count_once),
        TEST(our_close_ends_the_wait),
        TEST(done_when_the_kernel_has_it),
        TEST(done_fails_with_the_connection),
        TEST(slow_peer_loses_messages_when_told_so),
        TEST(beyond_queue_limit_only_what_the_kernel_takes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    takes_next = true;
    return cmocka_run_group_tests(tests, NULL, NULL) + failed;
}
