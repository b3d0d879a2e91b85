/* SPDX-License-Identifier: MIT
 * Every way in which a WebSocket ends: by the peer, by us, by a handler, by the connection under it. */
#include "session_fixture.h"

/* ---- the peer ends it ---- */

static void peer_closes_with(const char *payload, const char *echo, unsigned code, const char *reason)
{
    peer_sends(FIN | CLOSE, payload);
    assert_closed(code, reason);
    assert_gets(CLOSE, echo);
    assert_peer_reads_end();
    assert_int_equal(worker->nconns, 1); /* it lingers until the peer ends */
}

static void peer_closes(void **state)
{
    (void)state;
    peer_closes_with("\x0f\xa1see you", "\x0f\xa1", 4001, "see you");
}

static void peer_closes_without_reason(void **state)
{
    (void)state;
    peer_closes_with("\x03\xe8", "\x03\xe8", 1000, "");
}

static void peer_closes_without_code(void **state)
{
    (void)state;
    peer_closes_with("", "", CLOSECODE_NO_STATUS, "");
}

static void peer_closes_in_pieces(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    put_frame(&out, FIN | CLOSE, "\x03\xe8 good bye", 11);
    for (size_t i = 0; i < out.len; i++)
        peer_writes(out.data + i, 1);
    assert_closed(1000, " good bye");
    assert_gets(CLOSE, "\x03\xe8");
    buf_fini(&out);
}

static void peer_closes_with_a_nul(void **state)
{
    (void)state;
    peer_writes("\x88\x85\0\0\0\0\x03\xe8"
                "a\0b",
                11);
    assert_int_equal(ws.code, 1000);
    assert_int_equal(ws.reason_len, 3);
    assert_memory_equal(ws.reason, "a\0b", 3);
}

static void nothing_counts_after_the_peers_close(void **state)
{
    (void)state;
    peer_sends_together((struct frame[]){{FIN | TEXT, "before"},
                                         {TEXT, "half"},
                                         {FIN | CLOSE, "\x03\xe8"},
                                         {FIN | PING, "late"},
                                         {FIN | TEXT, "late"},
                                         {FIN | CLOSE, "\x03\xe9"},
                                         {0, NULL}});
    peer_sends(FIN | TEXT, "later");
    assert_heard("t:before\n");
    assert_closed(1000, "");
    assert_gets(CLOSE, "\x03\xe8");
    assert_peer_reads_end();
}

static void peer_vanishes(void **state)
{
    (void)state;
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void peer_vanishes_inside(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    put_frame(&out, TEXT, "a fragment", 10);
    put_frame(&out, FIN | PING, "half a ping", 11);
    peer_writes(out.data, out.len - 3);
    assert_int_equal(metrics_sum(METRIC_FRAME_CONTEXTS), 1);
    assert_true(metrics_sum(METRIC_REASSEMBLY_BYTES) >= 10);
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
    buf_fini(&out);
}

static void peer_ends_its_side(void **state)
{
    (void)state;
    assert_int_equal(shutdown(ws.peer, SHUT_WR), 0);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void peer_resets(void **state)
{
    (void)state;
    assert_int_equal(session_send(ws.session, true, "unread", 6), SESSION_SENT);
    run();
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void peer_is_gone_when_sending(void **state)
{
    (void)state;
    close(ws.peer);
    ws.peer = -1;
    assert_int_equal(session_send(ws.session, true, "void", 4), SESSION_SENT);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

/* ---- we end it ---- */

static void close_and_answer(void **state)
{
    (void)state;
    assert_int_equal(session_send(ws.session, true, "last", 4), SESSION_SENT);
    session_close(ws.session, 4000, "done", 4);
    assert_false(session_is_open(ws.session));
    assert_int_equal(session_send(ws.session, true, "late", 4), SESSION_NOT_OPEN);
    session_close(ws.session, 4001, "twice", 5);
    run();
    assert_peer_reads("\x81\4last\x88\6\x0f\xa0"
                      "done",
                      14);
    assert_int_equal(ws.closed, 0);
    peer_sends(FIN | CLOSE, "\x0f\xa0");
    assert_closed(4000, "");
    assert_peer_reads_end();
}

static void close_without_code(void **state)
{
    (void)state;
    session_close(ws.session, CLOSECODE_NO_STATUS, NULL, 0);
    run();
    assert_gets(CLOSE, "");
    peer_sends(FIN | CLOSE, "");
    assert_closed(CLOSECODE_NO_STATUS, "");
}

/* Data that was on its way is thrown away, pings are not answered any more, and the peer's Close still comes.
 */
static void messages_after_our_close(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    run();
    assert_gets(CLOSE, "\x03\xe8");
    peer_sends(FIN | TEXT, "on its way");
    peer_sends(TEXT, "in two");
    peer_sends(FIN | PING, "x");
    peer_sends(FIN | CONTINUATION, " pieces");
    assert_heard("");
    assert_peer_reads("", 0);
    assert_int_equal(ws.closed, 0);
    peer_sends(FIN | CLOSE, "\x03\xe9why");
    assert_closed(1001, "why");
}

static void close_is_never_answered(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    run();
    tick((unsigned)(config.close_timeout * 1000 / WHEEL_TICK_MS));
    assert_int_equal(ws.closed, 0);
    tick(2);
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_int_equal(worker->nconns, 0);
}

/* What the peer sends meanwhile does not put the deadline off. */
static void close_is_answered_with_chatter(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    for (int i = 0; i < 100 && ws.closed == 0; i++) {
        peer_sends(FIN | TEXT, "blah");
        tick(1);
    }
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_heard("");
}

static void close_then_peer_vanishes(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void fails(void **state)
{
    (void)state;
    session_fail(ws.session, 1011, "handler failed");
    assert_int_equal(ws.closed, 0); /* outside every other callback */
    session_fail(ws.session, 1002, "twice");
    session_close(ws.session, 1000, "", 0);
    run();
    assert_closed(1011, "");
    assert_gets_close(1011, "handler failed");
    assert_peer_reads_end();
    peer_sends(FIN | TEXT, "late");
    assert_heard("");
}

static void fails_after_close(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    session_fail(ws.session, 1011, "handler failed");
    run();
    assert_closed(1011, "");
    assert_gets(CLOSE, "\x03\xe8"); /* one Close is all there is */
    assert_peer_reads_end();
}

static void lingers_no_longer_than_close_timeout(void **state)
{
    (void)state;
    session_fail(ws.session, 1011, "");
    run();
    assert_int_equal(worker->nconns, 1);
    wait_for(config.close_timeout);
    assert_int_equal(worker->nconns, 0);
    assert_closed(1011, "");
}

/* The connection is cut under an open WebSocket, as at the end of drain_timeout or without memory. */
static void connection_is_cut(void **state)
{
    (void)state;
    conn_close(ws.session->conn);
    assert_false(session_is_open(ws.session));
    assert_int_equal(session_send(ws.session, true, "x", 1), SESSION_NOT_OPEN);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_int_equal(worker->nconns, 0);
}

static void connection_is_cut_while_closing(void **state)
{
    (void)state;
    session_close(ws.session, 1000, "", 0);
    run();
    conn_close(ws.session->conn);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_int_equal(worker->nconns, 0);
}

static void connection_is_cut_inside_a_message(void **state)
{
    (void)state;
    peer_sends(TEXT, "a fragment");
    peer_writes("\x89\x85kkkkab", 8);
    conn_close(ws.session->conn);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void server_stops(void **state)
{
    (void)state;
    config.drain_timeout = 3600;
    worker_stop(worker);
    run();
    assert_gets_close(1001, "server is stopping");
    assert_int_equal(ws.closed, 0);
    peer_sends(FIN | CLOSE, "\x03\xe9");
    assert_closed(1001, "");
}

static void server_stops_and_the_peer_does_not_care(void **state)
{
    (void)state;
    config.drain_timeout = 0;
    worker_stop(worker);
    while (ws.closed == 0)
        ev_run(worker->loop, EVRUN_ONCE);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_int_equal(worker->nconns, 0);
}

/* ---- what handlers do ---- */

static void do_close(struct session *s)
{
    session_close(s, 4000, "enough", 6);
    assert_int_equal(session_send(s, true, "x", 1), SESSION_NOT_OPEN);
}

static void do_fail(struct session *s)
{
    session_fail(s, 1011, "broken");
    session_close(s, 4000, "", 0);
    assert_int_equal(session_send(s, true, "x", 1), SESSION_NOT_OPEN);
}

static void do_close_then_fail(struct session *s)
{
    do_close(s);
    do_fail(s);
}

static void do_cut(struct session *s)
{
    conn_close(s->conn);
}

static const struct frame after_the_message[] = {
    {FIN | TEXT, "more"}, {FIN | PING, "p"}, {BINARY, "half"}, {0, NULL}};

/* A message in each shape, then more: frames that follow are not delivered when the handler has ended it. */
static const struct frame message_shapes[][8] = {
    {{FIN | TEXT, "message"}},
    {{FIN | BINARY, "message"}},
    {{TEXT, "mess"}, {FIN | CONTINUATION, "age"}},
    {{BINARY, "mess"}, {FIN | PONG, "x"}, {FIN | CONTINUATION, "age"}},
};

static void with_each_shape(void **state, void (*what)(struct session *s), unsigned code, bool answer)
{
    for (size_t i = 0; i < sizeof message_shapes / sizeof message_shapes[0]; i++)
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            struct buf out = BUF_INIT;
            ws.on_message = what;
            for (const struct frame *f = message_shapes[i]; f->text != NULL; f++)
                put_frame(&out, f->first, f->text, strlen(f->text));
            for (const struct frame *f = after_the_message; f->text != NULL; f++)
                put_frame(&out, f->first, f->text, strlen(f->text));
            for (size_t at = 0; at < out.len; at += bytewise ? 1 : out.len)
                if (worker->nconns > 0)
                    (void)!write(ws.peer, out.data + at, bytewise ? 1 : out.len), run();
            buf_fini(&out);
            assert_int_equal(ws.heard.len, strlen("t:message\n"));
            if (answer) {
                assert_int_equal(ws.closed, 0);
                peer_sends(FIN | CONTINUATION, "");
                peer_sends(FIN | CLOSE, "\x0f\xa0");
            }
            assert_closed(code, "");
            tear_down(state);
            set_up(state);
        }
}

static void close_in_on_message(void **state)
{
    with_each_shape(state, do_close, 4000, true);
}

static void fail_in_on_message(void **state)
{
    with_each_shape(state, do_fail, 1011, false);
}

static void close_then_fail_in_on_message(void **state)
{
    with_each_shape(state, do_close_then_fail, 1011, false);
}

static void connection_is_cut_in_on_message(void **state)
{
    with_each_shape(state, do_cut, CLOSECODE_ABNORMAL, false);
}

static void do_flood(struct session *s)
{
    static const char payload[10000];
    while (session_send(s, false, payload, sizeof payload) == SESSION_SENT)
        ;
}

static void slow_consumer_in_on_message(void **state)
{
    limits.send_limit = 100000;
    with_each_shape(state, do_flood, 1013, false);
}

static void do_everything(struct session *s)
{
    assert_int_equal(session_send(s, true, "x", 1), SESSION_NOT_OPEN);
    session_close(s, 4000, "", 0);
    session_fail(s, 1011, "");
    assert_int_equal(s->state, SESSION_ENDED);
}

static void on_close_is_too_late_for_everything(void **state)
{
    (void)state;
    ws.on_close = do_everything;
    peer_sends(FIN | CLOSE, "\x03\xe8");
    assert_closed(1000, "");
    assert_gets(CLOSE, "\x03\xe8");
    assert_peer_reads_end();
}

static void on_close_after_the_peer_has_vanished(void **state)
{
    (void)state;
    ws.on_close = do_everything;
    close_peer();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(peer_closes),
                                       TEST(peer_closes_without_reason),
                                       TEST(peer_closes_without_code),
                                       TEST(peer_closes_in_pieces),
                                       TEST(peer_closes_with_a_nul),
                                       TEST(nothing_counts_after_the_peers_close),
                                       TEST(peer_vanishes),
                                       TEST(peer_vanishes_inside),
                                       TEST(peer_ends_its_side),
                                       TEST(peer_resets),
                                       TEST(peer_is_gone_when_sending),
                                       TEST(close_and_answer),
                                       TEST(close_without_code),
                                       TEST(messages_after_our_close),
                                       TEST(close_is_never_answered),
                                       TEST(close_is_answered_with_chatter),
                                       TEST(close_then_peer_vanishes),
                                       TEST(fails),
                                       TEST(fails_after_close),
                                       TEST(lingers_no_longer_than_close_timeout),
                                       TEST(server_stops),
                                       TEST(close_in_on_message),
                                       TEST(fail_in_on_message),
                                       TEST(close_then_fail_in_on_message),
                                       TEST(on_close_is_too_late_for_everything),
                                       TEST(on_close_after_the_peer_has_vanished),
                                       TEST(slow_consumer_in_on_message),
                                       TEST(connection_is_cut),
                                       TEST(connection_is_cut_while_closing),
                                       TEST(connection_is_cut_inside_a_message),
                                       TEST(connection_is_cut_in_on_message),
                                       TEST(server_stops_and_the_peer_does_not_care)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    takes_next = true;
    return cmocka_run_group_tests(tests, NULL, NULL) + failed;
}
