/* SPDX-License-Identifier: MIT
 * For tests of a WebSocket: one over a socket pair, run by hand, and its peer. At the end of each test
 * on_close has come exactly once and nothing is left anywhere. */
#ifndef TIDEWIRE_TESTS_SESSION_FIXTURE_H
#define TIDEWIRE_TESTS_SESSION_FIXTURE_H

#include "worker_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "http/http1.h"
#include "ws/closecode.h"
#include "ws/session.h"
#include "ws/upgrade.h"

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, FIN = 0x80 };

/* The one WebSocket of a test. */
static struct {
    struct session *session; /* NULL once it is over */
    int peer;
    struct buf heard;                      /* messages: "t:" or "b:", the data, "\n" */
    char controls[64];                     /* pings and pongs: "<" or ">" and the payload's length */
    unsigned drained;                      /* how often on_drain was told */
    void (*on_message)(struct session *s); /* what the handler does besides */
    void (*on_close)(struct session *s);
    unsigned calls; /* of the handler for messages */
    bool in_callback;
    unsigned closed; /* how often */
    unsigned code;
    char reason[128];
    size_t reason_len;
} ws;

/* The handler asks for the next message itself. */
static bool takes_next;

/* ---- the layer above ---- */

static inline void on_message(struct session *s, bool text, const char *data, size_t len,
                              struct inbound_turn *turn)
{
    assert_ptr_equal(s, ws.session);
    assert_false(ws.in_callback);
    ws.in_callback = true;
    ws.calls++;
    do {
        buf_puts(&ws.heard, text ? "t:" : "b:");
        buf_append(&ws.heard, data, len);
        buf_puts(&ws.heard, "\n");
        if (ws.on_message != NULL)
            ws.on_message(s);
    } while (takes_next && turn != NULL && inbound_next(turn, &text, &data, &len));
    ws.in_callback = false;
}

static inline void on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    assert_ptr_equal(s, ws.session);
    assert_false(ws.in_callback);
    ws.closed++;
    ws.code = code;
    assert_true(reason_len < sizeof ws.reason);
    memcpy(ws.reason, reason, reason_len);
    ws.reason_len = reason_len;
    if (ws.on_close != NULL)
        ws.on_close(s);
    ws.session = NULL;
}

static inline void on_control(struct session *s, bool ping, const char *data, size_t len)
{
    assert_ptr_equal(s, ws.session);
    assert_false(ws.in_callback);
    assert_non_null(data);
    size_t at = strlen(ws.controls);
    snprintf(ws.controls + at, sizeof ws.controls - at, "%s%zu", ping ? "<" : ">", len);
}

static inline void on_drain(struct session *s)
{
    assert_ptr_equal(s, ws.session);
    assert_false(ws.in_callback);
    assert_int_equal(s->conn->out.bytes, 0);
    ws.drained++;
}

static void before_message(struct session *s)
{
    (void)s;
}

static const struct session_handler handler = {.before_message = before_message,
                                               .on_message = on_message,
                                               .on_control = on_control,
                                               .on_drain = on_drain,
                                               .on_close = on_close};

/* A test may change them while the WebSocket is open. */
static struct session_limits limits;

static inline bool on_head(struct conn *c, struct head *head, size_t *max_body)
{
    (void)max_body;
    ws.session = session_open(c, head_ref(head),
                              &(struct session_accept){.limits = &limits, .protocol = -1, .fields = ""});
    return false;
}

static struct http1_handler http_handler = {.on_head = on_head};

/* ---- the world ---- */

/* More than `seconds` and a bit. */
static inline void wait_for(double seconds)
{
    tick((unsigned)(seconds * 1000 / WHEEL_TICK_MS) + 2);
}

static inline void peer_writes(const void *data, size_t len)
{
    assert_int_equal(write(ws.peer, data, len), len);
    run();
}

/* Exactly these bytes, and nothing behind them yet. */
static inline void assert_peer_reads(const void *want, size_t len)
{
    char data[256];
    assert_true(len < sizeof data);
    ssize_t n = recv(ws.peer, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        n = 0;
    assert_int_equal(n, len);
    assert_memory_equal(data, want, len);
}

static inline void assert_peer_reads_end(void)
{
    char byte;
    assert_int_equal(recv(ws.peer, &byte, 1, MSG_DONTWAIT), 0);
}

static inline void close_peer(void)
{
    close(ws.peer);
    ws.peer = -1;
    run();
}

#define UPGRADE                                                                                              \
    "GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                         \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
#define ACCEPTED                                                                                             \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                      \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

static inline void connect_peer(void)
{
    int fds[2];
    const struct sockaddr peer = {.sa_family = AF_UNIX};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    ws.peer = fds[1];
    http1_on_accept(worker, fds[0], &peer, (struct spread_how){0});
    assert_int_equal(worker->nconns, 1);
}

static inline int set_up_connected(void **state)
{
    (void)state;
    worker_set_up();
    assert_int_equal(upgrade_init(), 0);
    worker->layer[WORKER_HTTP] = &http_handler;
    assert_int_equal(session_worker_init(worker, &handler), 0);
    session_limits_init(&limits, &config);
    memset(&ws, 0, sizeof ws);
    connect_peer();
    return 0;
}

static inline void upgrade_peer(void)
{
    peer_writes(UPGRADE, strlen(UPGRADE));
    assert_peer_reads(ACCEPTED, strlen(ACCEPTED));
    assert_non_null(ws.session);
}

static inline int set_up(void **state)
{
    set_up_connected(state);
    upgrade_peer();
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    if (ws.peer >= 0)
        close_peer();
    if (ws.closed == 0) /* nothing was being read */
        wait_for(2);
    assert_int_equal(ws.closed, 1);
    assert_int_equal(metrics_sum(METRIC_WEBSOCKETS), 0);
    assert_int_equal(metrics_sum(METRIC_FRAME_CONTEXTS), 0);
    assert_int_equal(metrics_sum(METRIC_REASSEMBLY_BYTES), 0);
    buf_fini(&ws.heard);
    session_worker_fini(worker);
    worker_tear_down();
    return 0;
}

/* ---- what clients send, and what they get ---- */

static inline void put_frame(struct buf *out, uint8_t first, const void *payload, size_t len)
{
    static const uint8_t key[4] = {0xa5, 0x10, 0x0f, 0x7e};
    uint8_t header[14] = {first};
    size_t n = 2;
    if (len < 126)
        header[1] = (uint8_t)len;
    else {
        size_t bytes = len < 65536 ? 2 : 8;
        header[1] = bytes == 2 ? 126 : 127;
        for (size_t i = 0; i < bytes; i++)
            header[n++] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    }
    header[1] |= 0x80;
    memcpy(header + n, key, sizeof key);
    assert_int_equal(buf_append(out, header, n + sizeof key), 0);
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = ((const uint8_t *)payload)[i] ^ key[i % 4];
        assert_int_equal(buf_append(out, &byte, 1), 0);
    }
}

static inline void peer_sends(uint8_t first, const char *text)
{
    struct buf out = BUF_INIT;
    put_frame(&out, first, text, strlen(text));
    peer_writes(out.data, out.len);
    buf_fini(&out);
}

/* Several frames in one packet: { first byte, text } up to a NULL text. */
struct frame {
    uint8_t first;
    const char *text;
};

static inline void peer_sends_together(const struct frame *frames)
{
    struct buf out = BUF_INIT;
    for (; frames->text != NULL; frames++)
        put_frame(&out, frames->first, frames->text, strlen(frames->text));
    peer_writes(out.data, out.len);
    buf_fini(&out);
}

static inline void assert_heard(const char *messages)
{
    assert_int_equal(ws.heard.len, strlen(messages));
    assert_memory_equal(ws.heard.data, messages, ws.heard.len);
}

/* One unmasked frame with FIN and a short payload. */
static inline void assert_gets(uint8_t opcode, const char *text)
{
    char want[128] = {(char)(FIN | opcode), (char)strlen(text)};
    memcpy(want + 2, text, strlen(text));
    assert_peer_reads(want, 2 + strlen(text));
}

static inline void assert_gets_close(unsigned code, const char *reason)
{
    char payload[128] = {(char)(code >> 8), (char)code}; /* no code here has a zero byte */
    memcpy(payload + 2, reason, strlen(reason));
    assert_gets(CLOSE, payload);
}

static inline void assert_open(void)
{
    assert_non_null(ws.session);
    assert_int_equal(ws.closed, 0);
    assert_true(session_is_open(ws.session));
}

static inline void assert_closed(unsigned code, const char *reason)
{
    assert_int_equal(ws.closed, 1);
    assert_int_equal(ws.code, code);
    assert_string_equal(ws.reason, reason);
    assert_int_equal(ws.reason_len, strlen(reason));
}

#endif
