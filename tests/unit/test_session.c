/* SPDX-License-Identifier: MIT
 * A WebSocket at work: handshake, messages, mistakes of the peer, slow peers and silent ones. */
#include "session_fixture.h"

/* ---- the handshake ---- */

static void frames_behind_the_head(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    buf_puts(&out, UPGRADE);
    put_frame(&out, FIN | TEXT, "early", 5);
    put_frame(&out, TEXT, "bi", 2);
    for (size_t cut = 1; cut < out.len; cut++) {
        if (cut > 1) {
            close_peer();
            ws.closed = 0;
            buf_fini(&ws.heard);
            connect_peer();
        }
        peer_writes(out.data, cut);
        peer_writes(out.data + cut, out.len - cut);
        assert_peer_reads(ACCEPTED, strlen(ACCEPTED));
        assert_heard("t:early\n");
        assert_open();
        peer_sends(FIN | CONTINUATION, "rd");
        assert_heard("t:early\nt:bird\n");
    }
    buf_fini(&out);
}

/* How much the metrics have risen since the last call, in the order of the list. */
static void assert_risen(const uint64_t *by)
{
    static const enum metric ids[] = {
        METRIC_MESSAGES_IN_TEXT,
        METRIC_MESSAGE_BYTES_IN_TEXT,
        METRIC_MESSAGES_IN_BINARY,
        METRIC_MESSAGE_BYTES_IN_BINARY,
        METRIC_MESSAGES_OUT_TEXT,
        METRIC_MESSAGE_BYTES_OUT_TEXT,
        METRIC_MESSAGES_OUT_BINARY,
        METRIC_MESSAGE_BYTES_OUT_BINARY,
        METRIC_PINGS_IN,
        METRIC_PONGS_IN,
        METRIC_PINGS_OUT,
        METRIC_PONGS_OUT,
    };
    static uint64_t before[sizeof ids / sizeof ids[0]];
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        uint64_t now = metrics_sum(ids[i]);
        if (by != NULL && now - before[i] != by[i])
            fail_msg("number %zu has risen by %d", i, (int)(now - before[i]));
        before[i] = now;
    }
}

static void counted(void **state)
{
    (void)state;
    assert_int_equal(metrics_sum(METRIC_WEBSOCKETS), 1);
    assert_risen(NULL);
    peer_sends(FIN | TEXT, "abc");
    assert_risen((const uint64_t[]){1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    peer_sends(FIN | BINARY, "ab");
    assert_risen((const uint64_t[]){0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0});
    peer_sends(FIN | PING, "a");
    assert_risen((const uint64_t[]){0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1});
    peer_sends(FIN | PONG, "a");
    assert_risen((const uint64_t[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0});
    assert_int_equal(session_send(ws.session, true, "b", 1), SESSION_SENT);
    assert_risen((const uint64_t[]){0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0});
    assert_int_equal(session_send(ws.session, false, "cdef", 4), SESSION_SENT);
    assert_risen((const uint64_t[]){0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0});
    assert_int_equal(session_send_control(ws.session, true, "", 0), SESSION_SENT);
    assert_risen((const uint64_t[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0});
    assert_int_equal(metrics_sum(METRIC_FRAME_CONTEXTS), 0);
}

/* ---- messages ---- */

static void text_and_binary(void **state)
{
    (void)state;
    peer_sends(FIN | TEXT, "caf\xc3\xa9");
    peer_sends(FIN | BINARY, "\xff\xfe");
    peer_sends(FIN | TEXT, "");
    peer_sends(FIN | BINARY, "");
    assert_heard("t:caf\xc3\xa9\nb:\xff\xfe\nt:\nb:\n");
    assert_open();
}

static void lengths(void **state)
{
    (void)state;
    static const size_t cases[] = {1, 125, 126, 4082, 4086, 4090, 4096, 4097, 65535, 65536, 1 << 20};
    static char data[1 << 20];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)('a' + i % 23);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int text = 0; text < 2; text++) {
            struct buf out = BUF_INIT;
            put_frame(&out, FIN | (text ? TEXT : BINARY), data, cases[i]);
            for (size_t at = 0; at < out.len; at += 50000)
                peer_writes(out.data + at, out.len - at < 50000 ? out.len - at : 50000);
            assert_int_equal(ws.heard.len, cases[i] + 3);
            assert_int_equal(ws.heard.data[0], text ? 't' : 'b');
            assert_memory_equal(ws.heard.data + 2, data, cases[i]);
            ws.heard.len = 0;
            buf_fini(&out);
        }
    assert_int_equal(metrics_sum(METRIC_FRAME_CONTEXTS), 0);
    assert_int_equal(metrics_sum(METRIC_REASSEMBLY_BYTES), 0);
    assert_open();
}

static void a_byte_at_a_time(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    put_frame(&out, FIN | TEXT, "caf\xc3\xa9", 5);
    put_frame(&out, FIN | PING, "ping", 4);
    put_frame(&out, TEXT, "\xe2\x82", 2);
    put_frame(&out, FIN | PING, "pong", 4);
    put_frame(&out, FIN | PING, "pang", 4);
    put_frame(&out, CONTINUATION, "", 0);
    put_frame(&out, FIN | CONTINUATION, "\xac", 1);
    for (size_t i = 0; i < out.len; i++)
        peer_writes(out.data + i, 1);
    assert_heard("t:caf\xc3\xa9\nt:\xe2\x82\xac\n");
    assert_peer_reads("\x8a\4ping\x8a\4pong\x8a\4pang", 18);
    assert_open();
    buf_fini(&out);
}

/* RFC 6455, 5.4: control frames may stand between fragments, and are answered at once. */
static void fragments_around_a_ping(void **state)
{
    (void)state;
    peer_sends(BINARY, "one ");
    peer_sends(FIN | PING, "are you there");
    assert_gets(PONG, "are you there");
    peer_sends(CONTINUATION, "two ");
    assert_heard("");
    peer_sends(FIN | CONTINUATION, "three");
    assert_heard("b:one two three\n");
    assert_open();
}

static void unasked_pong(void **state)
{
    (void)state;
    peer_sends(FIN | PONG, "unasked");
    assert_peer_reads("", 0);
    assert_open();
    assert_string_equal(ws.controls, ">7");
}

static void pings_are_told(void **state)
{
    (void)state;
    peer_sends(FIN | PING, "one");
    peer_sends(FIN | PING, "");
    peer_sends(FIN | PONG, "four");
    assert_string_equal(ws.controls, "<3<0>4");
    session_close(ws.session, CLOSECODE_NORMAL, "", 0);
    peer_sends(FIN | PING, "late");
    assert_string_equal(ws.controls, "<3<0>4");
}

static void drain_is_told_over_half(void **state)
{
    (void)state;
    limits.send_limit = 1000;
    assert_int_equal(session_send(ws.session, false, "x", 1), SESSION_SENT);
    run();
    assert_int_equal(ws.drained, 0);
    char data[600] = {0};
    assert_int_equal(session_send(ws.session, false, data, sizeof data), SESSION_SENT);
    assert_int_equal(ws.drained, 0);
    run();
    assert_int_equal(ws.drained, 1);
    run();
    assert_int_equal(ws.drained, 1);
}

static void sends_text_and_binary(void **state)
{
    (void)state;
    assert_int_equal(session_send(ws.session, true, "hello", 5), SESSION_SENT);
    run();
    assert_gets(TEXT, "hello");
    assert_int_equal(session_send(ws.session, false, "", 0), SESSION_SENT);
    run();
    assert_gets(BINARY, "");
}

static void do_echo(struct session *s)
{
    assert_int_equal(session_send(s, true, ws.heard.data, ws.heard.len), SESSION_SENT);
    ws.heard.len = 0;
}

static void answers_in_order(void **state)
{
    (void)state;
    ws.on_message = do_echo;
    peer_sends_together(
        (struct frame[]){{FIN | TEXT, "1"}, {FIN | PING, "2"}, {FIN | BINARY, "3"}, {0, NULL}});
    assert_peer_reads("\x81\4t:1\n\x8a\1"
                      "2\x81\4b:3\n",
                      15);
}

/* ---- the peer's mistakes ---- */

struct fault_case {
    const char *what;
    struct frame frames[4];
    unsigned code;
    const char *reason;
};

#define PROTOCOL 1002, "protocol error"
#define INVALID  1007, "invalid UTF-8"
#define BIG      1009, "message too big"

static const struct fault_case fault_cases[] = {
    {"RSV1", {{FIN | 0x40 | TEXT, "x"}}, PROTOCOL},
    {"RSV2", {{FIN | 0x20 | TEXT, "x"}}, PROTOCOL},
    {"RSV3", {{FIN | 0x10 | TEXT, "x"}}, PROTOCOL},
    {"RSV1 on a ping", {{FIN | 0x40 | PING, "x"}}, PROTOCOL},
    {"opcode 3", {{FIN | 3, "x"}}, PROTOCOL},
    {"opcode 7", {{FIN | 7, ""}}, PROTOCOL},
    {"opcode 11", {{FIN | 11, ""}}, PROTOCOL},
    {"opcode 15", {{FIN | 15, ""}}, PROTOCOL},
    {"continuation of nothing", {{FIN | CONTINUATION, "x"}}, PROTOCOL},
    {"continuation after the end", {{TEXT, "a"}, {FIN | CONTINUATION, "b"}, {CONTINUATION, "c"}}, PROTOCOL},
    {"text inside a message", {{TEXT, "a"}, {FIN | TEXT, "b"}}, PROTOCOL},
    {"binary inside a message", {{TEXT, "a"}, {BINARY, "b"}}, PROTOCOL},
    {"fragmented ping", {{PING, "x"}}, PROTOCOL},
    {"fragmented close", {{CLOSE, ""}}, PROTOCOL},
    {"close with one byte", {{FIN | CLOSE, "\x03"}}, PROTOCOL},
    {"close with 1005", {{FIN | CLOSE, "\x03\xed"}}, PROTOCOL},
    {"close with 1006", {{FIN | CLOSE, "\x03\xee"}}, PROTOCOL},
    {"close with 2999", {{FIN | CLOSE, "\x0b\xb7"}}, PROTOCOL},
    {"close with 5000", {{FIN | CLOSE, "\x13\x88"}}, PROTOCOL},
    {"close whose reason is not UTF-8", {{FIN | CLOSE, "\x03\xe8\xff"}}, INVALID},
    {"text that is not UTF-8", {{FIN | TEXT, "a\xff"}}, INVALID},
    {"text that ends inside a character", {{FIN | TEXT, "caf\xc3"}}, INVALID},
    {"text cut inside a character", {{TEXT, "caf\xc3"}, {FIN | CONTINUATION, ""}}, INVALID},
    {"a fragment that is not UTF-8", {{TEXT, "a\xc0"}}, INVALID},
    {"a character that goes on wrongly", {{TEXT, "\xe2\x82"}, {CONTINUATION, "x"}}, INVALID},
    {"a surrogate in two fragments", {{TEXT, "\xed"}, {CONTINUATION, "\xa0"}}, INVALID},
    {"too big", {{FIN | TEXT, "12345678901234567"}}, BIG},
    {"too big together", {{TEXT, "1234567890"}, {FIN | CONTINUATION, "1234567"}}, BIG},
};

static void check_fault(const struct fault_case *f, bool bytewise)
{
    uint64_t faults = metrics_sum(METRIC_PROTOCOL_ERRORS);
    struct buf out = BUF_INIT;
    for (const struct frame *frame = f->frames; frame->text != NULL; frame++)
        put_frame(&out, frame->first, frame->text, strlen(frame->text));
    size_t wrong = ws.heard.len;
    put_frame(&out, FIN | PING, "never answered", 14);
    for (size_t at = 0; at < out.len; at += bytewise ? 1 : out.len)
        peer_writes(out.data + at, bytewise ? 1 : out.len);
    buf_fini(&out);
    if (ws.closed != 1 || ws.code != f->code)
        fail_msg("%s: %u", f->what, ws.code);
    assert_gets_close(f->code, f->reason);
    assert_peer_reads_end();
    assert_true(ws.heard.len >= wrong);
    assert_int_equal(metrics_sum(METRIC_PROTOCOL_ERRORS) - faults, 1);
    assert_int_equal(metrics_sum(METRIC_FRAME_CONTEXTS), 0);
    assert_int_equal(metrics_sum(METRIC_REASSEMBLY_BYTES), 0);
}

static void faults(void **state)
{
    for (size_t i = 0; i < sizeof fault_cases / sizeof fault_cases[0]; i++)
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            limits.max_message = 16;
            check_fault(&fault_cases[i], bytewise);
            tear_down(state);
            set_up(state);
        }
}

static void not_masked(void **state)
{
    (void)state;
    peer_writes("\x81\x02hi", 4);
    assert_closed(1002, "");
    assert_gets_close(1002, "protocol error");
    assert_heard("");
}

/* Not even the Close of a peer that is failed is waited for, nor is a second Close sent. */
static void fault_after_our_close(void **state)
{
    (void)state;
    session_close(ws.session, 4000, "", 0);
    run();
    assert_gets(CLOSE, "\x0f\xa0");
    peer_sends(FIN | 3, "");
    assert_closed(1002, "");
    assert_peer_reads_end();
}

/* The header says that it will be too big: nothing of it has to be read. */
static void too_big_is_known_early(void **state)
{
    (void)state;
    limits.max_message = 1000;
    peer_writes("\x82\xfe\x03\xe9kkkk", 8);
    assert_closed(1009, "");
    assert_int_equal(metrics_sum(METRIC_REASSEMBLY_BYTES), 0);
}

static void just_not_too_big(void **state)
{
    (void)state;
    limits.max_message = 16;
    peer_sends(FIN | TEXT, "1234567890123456");
    peer_sends(TEXT, "1234567890");
    peer_sends(FIN | PING, "which does not count");
    assert_gets(PONG, "which does not count");
    peer_sends(CONTINUATION, "123456");
    peer_sends(FIN | CONTINUATION, "");
    assert_heard("t:1234567890123456\nt:1234567890123456\n");
    assert_open();
}

/* RFC 6455, 8.1, fail-fast: the bad byte is enough, the frame need not end. */
static void bad_text_is_known_early(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    put_frame(&out, FIN | TEXT,
              "ab\xff"
              "cdefgh",
              9);
    peer_writes(out.data, 6 + 2);
    assert_open();
    peer_writes(out.data + 8, 1);
    assert_closed(1007, "");
    buf_fini(&out);
}

/* ---- the send limit ---- */

static char payload[1 << 20];

static void slow_consumer(void **state)
{
    (void)state;
    uint64_t slow = metrics_sum(METRIC_SLOW_CLOSED);
    limits.send_limit = 100000;
    enum session_sent sent = SESSION_SENT;
    int n = 0;
    for (; sent == SESSION_SENT; n++) {
        assert_true(n < 1000);
        sent = session_send(ws.session, false, payload, 10000);
        assert_true(ws.session->conn->out.bytes <= 100000 + 200);
        if (n % 3 == 0)
            run();
    }
    assert_int_equal(sent, SESSION_QUEUE_FULL);
    assert_int_equal(session_send(ws.session, false, payload, 1), SESSION_NOT_OPEN);
    assert_int_equal(metrics_sum(METRIC_SLOW_CLOSED) - slow, 1);
    assert_int_equal(ws.closed, 0);
    run();
    assert_closed(1013, "");
    assert_int_equal(worker->nconns, 1);

    /* The peer wakes up: it gets whole frames, and the Close behind them. */
    struct buf got = BUF_INIT;
    for (;;) {
        assert_int_equal(buf_reserve(&got, 20000), 0);
        ssize_t len = recv(ws.peer, got.data + got.len, 20000, MSG_DONTWAIT);
        if (len <= 0)
            break;
        got.len += (size_t)len;
        run();
    }
    size_t frames = (size_t)(n - 1) * (4 + 10000);
    assert_true(got.len > frames);
    assert_memory_equal(got.data + frames,
                        "\x88\x11\x03\xf5"
                        "send queue full",
                        got.len - frames);
    buf_fini(&got);
}

static void slow_consumer_never_wakes(void **state)
{
    (void)state;
    limits.send_limit = 100000;
    while (session_send(ws.session, false, payload, 10000) == SESSION_SENT)
        ;
    run();
    assert_closed(1013, "");
    wait_for(config.close_timeout);
    assert_int_equal(worker->nconns, 0);
}

/* An empty queue always takes one message, and what the kernel takes does not count. */
static void limit_counts_what_the_kernel_refused(void **state)
{
    (void)state;
    limits.send_limit = 10;
    for (int i = 0; i < 5; i++)
        assert_int_equal(session_send(ws.session, false, payload, 1000), SESSION_SENT);
    assert_int_equal(session_send(ws.session, false, payload, sizeof payload), SESSION_SENT);
    assert_open();
    assert_int_equal(session_send(ws.session, false, payload, 1), SESSION_QUEUE_FULL);
    run();
    assert_closed(1013, "");
}

static void peer_is_gone_when_the_queue_is_full(void **state)
{
    (void)state;
    limits.send_limit = 100000;
    while (ws.session->conn->out.bytes < 90000) {
        assert_int_equal(session_send(ws.session, false, payload, 10000), SESSION_SENT);
        run();
    }
    close(ws.peer);
    ws.peer = -1;
    assert_int_equal(session_send(ws.session, false, payload, 20000), SESSION_NOT_OPEN);
    run();
    assert_closed(CLOSECODE_ABNORMAL, "");
}

/* ---- keep-alive ---- */

static unsigned ticks_of(double seconds)
{
    return (unsigned)(seconds * 1000 / WHEEL_TICK_MS);
}

static void pings_a_silent_peer_then_cuts(void **state)
{
    (void)state;
    uint64_t cut = metrics_sum(METRIC_PING_TIMEOUTS);
    tick(ticks_of(config.ping_interval));
    assert_peer_reads("", 0);
    tick(2);
    assert_gets(PING, "");
    tick(ticks_of(config.ping_interval) - 2);
    assert_open();
    tick(4);
    assert_closed(CLOSECODE_ABNORMAL, "");
    assert_int_equal(metrics_sum(METRIC_PING_TIMEOUTS) - cut, 1);
    assert_int_equal(worker->nconns, 0);
}

static void answered_pings_keep_it_open(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        wait_for(config.ping_interval);
        assert_gets(PING, "");
        peer_sends(FIN | PONG, "");
    }
    assert_open();
}

static void idle_peer_is_told(void **state)
{
    (void)state;
    limits.idle_timeout = 20;
    limits.ping_interval = 0;
    upgrade_peer();
    wait_for(15);
    peer_sends(FIN | PONG, "");
    wait_for(15);
    assert_open();
    wait_for(5);
    assert_gets_close(1001, "idle");
    assert_int_equal(ws.closed, 0);
    peer_sends(FIN | CLOSE, "\x03\xe9");
    assert_closed(1001, "");
}

static void idle_peer_is_pinged_before(void **state)
{
    (void)state;
    limits.idle_timeout = 20;
    limits.ping_interval = 15;
    upgrade_peer();
    wait_for(15);
    assert_gets(PING, "");
    wait_for(5);
    assert_gets_close(1001, "idle");
    wait_for(config.close_timeout);
    assert_closed(CLOSECODE_ABNORMAL, "");
}

/* ---- a peer that takes what it is sent, but slowly, so that it is not read from ---- */

static void fill_queue(void)
{
    limits.send_limit = 1 << 30;
    for (int i = 0; i < 4; i++)
        assert_int_equal(session_send(ws.session, false, payload, sizeof payload), SESSION_SENT);
    run();
    assert_false(conn_is_reading(ws.session->conn));
}

/* What the kernel has, so that it takes more. */
static void peer_takes_some(void)
{
    char some[15000];
    while (recv(ws.peer, some, sizeof some, MSG_DONTWAIT) > 0)
        ;
    run();
    assert_false(conn_is_reading(ws.session->conn));
}

static void slow_peer_is_not_silent(void **state)
{
    (void)state;
    limits.idle_timeout = 0;
    fill_queue();
    for (int i = 0; i < 15; i++) {
        tick(ticks_of(config.ping_interval) / 2);
        peer_takes_some();
        assert_open();
    }
}

static void slow_peer_that_stops_is_cut(void **state)
{
    (void)state;
    fill_queue();
    wait_for(4 * config.ping_interval);
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void slow_peer_is_not_idle(void **state)
{
    (void)state;
    limits.idle_timeout = 20;
    limits.ping_interval = 0;
    upgrade_peer();
    fill_queue();
    for (int i = 0; i < 15; i++) {
        tick(ticks_of(limits.idle_timeout) / 2);
        peer_takes_some();
        assert_open();
    }
}

static void slow_peer_that_stops_is_idle(void **state)
{
    (void)state;
    limits.idle_timeout = 20;
    limits.ping_interval = 0;
    upgrade_peer();
    fill_queue();
    wait_for(2 * limits.idle_timeout + config.close_timeout);
    assert_closed(CLOSECODE_ABNORMAL, "");
}

static void everything_off(void **state)
{
    (void)state;
    limits.ping_interval = limits.idle_timeout = 0;
    upgrade_peer();
    wait_for(10000);
    assert_peer_reads("", 0);
    assert_open();
}

int main(void)
{
#define TEST(name)      cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define CONNECTED(name) cmocka_unit_test_setup_teardown(name, set_up_connected, tear_down)
    const struct CMUnitTest tests[] = {CONNECTED(frames_behind_the_head),
                                       TEST(counted),
                                       TEST(text_and_binary),
                                       TEST(lengths),
                                       TEST(a_byte_at_a_time),
                                       TEST(fragments_around_a_ping),
                                       TEST(unasked_pong),
                                       TEST(pings_are_told),
                                       TEST(drain_is_told_over_half),
                                       TEST(sends_text_and_binary),
                                       TEST(answers_in_order),
                                       TEST(faults),
                                       TEST(not_masked),
                                       TEST(fault_after_our_close),
                                       TEST(too_big_is_known_early),
                                       TEST(just_not_too_big),
                                       TEST(bad_text_is_known_early),
                                       TEST(slow_consumer),
                                       TEST(slow_consumer_never_wakes),
                                       TEST(limit_counts_what_the_kernel_refused),
                                       TEST(peer_is_gone_when_the_queue_is_full),
                                       TEST(pings_a_silent_peer_then_cuts),
                                       TEST(answered_pings_keep_it_open),
                                       CONNECTED(idle_peer_is_told),
                                       CONNECTED(idle_peer_is_pinged_before),
                                       TEST(slow_peer_is_not_silent),
                                       TEST(slow_peer_that_stops_is_cut),
                                       CONNECTED(slow_peer_is_not_idle),
                                       CONNECTED(slow_peer_that_stops_is_idle),
                                       CONNECTED(everything_off)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
