/* SPDX-License-Identifier: MIT
 * One WebSocket. */
#include "ws/session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "http/http1.h"
#include "ws/closecode.h"
#include "ws/sessions.h"
#include "ws/upgrade.h"

/* How long one connection's messages are handled before the others get their turn. */
#define SESSION_TURN_MS 5

struct session_worker {
    const struct session_handler *handler;
    struct framer_pool framers;
    struct sessions sessions;
};

/* What has come of a message that is not whole, and of a control frame that is not. */
struct session_partial {
    struct buf body;
    struct utf8 utf8;
    bool in_message;
    bool text;
    uint8_t control_len;
    uint8_t control[125];
};

static struct session_worker *session_layer(const struct session *s)
{
    return s->conn->worker->layer[WORKER_WS];
}

static struct metrics *session_metrics(const struct session *s)
{
    return s->conn->worker->metrics;
}

struct session *session_find(struct worker *w, uint64_t id)
{
    const struct session_worker *l = w->layer[WORKER_WS];
    return sessions_find(&l->sessions, id);
}

/* ---- ending ---- */

/* Not under framer_read, which is using both. */
static void session_drop_input(struct session *s)
{
    framer_abandon(&session_layer(s)->framers, &s->rx);
    if (s->partial == NULL)
        return;
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, s->partial->body.cap);
    buf_fini(&s->partial->body);
    free(s->partial);
    s->partial = NULL;
}

/* Every way out comes here once: nothing is read or sent any more, on_close is due. */
static void session_end(struct session *s, unsigned code)
{
    if (s->state == SESSION_ENDED)
        return;
    s->state = SESSION_ENDED;
    s->close_code = (uint16_t)code;
    conn_later(s->conn);
}

static int session_sink(void *to, const void *data, size_t len)
{
    return conn_send(to, data, len);
}

static void session_write(struct session *s, uint8_t opcode, const void *data, size_t len)
{
    if (framer_write(&session_layer(s)->framers, opcode, data, len, session_sink, s->conn) < 0)
        conn_close(s->conn); /* out of memory: half a frame may be queued */
}

static void session_write_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    uint8_t payload[125];
    size_t len = closecode_write(code, reason, reason_len, payload);
    session_write(s, WSLAY_CONNECTION_CLOSE, payload, len);
}

void session_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    if (s->state != SESSION_OPEN)
        return;
    session_write_close(s, code, reason, reason_len);
    s->state = SESSION_CLOSING;
    conn_set_deadline(s->conn, s->conn->worker->config->close_timeout);
}

void session_fail(struct session *s, unsigned code, const char *reason)
{
    if (s->state == SESSION_ENDED)
        return;
    if (s->state == SESSION_OPEN)
        session_write_close(s, code, reason, strlen(reason));
    session_end(s, code);
    conn_finish(s->conn, s->conn->worker->config->close_timeout);
}

/* ---- sending ---- */

enum session_sent session_send(struct session *s, bool text, const void *data, size_t len)
{
    struct conn *c = s->conn;
    size_t limit = (size_t)c->worker->config->send_limit;
    if (!session_is_open(s))
        return SESSION_NOT_OPEN;
    if (c->out.bytes > 0 && c->out.bytes + len > limit) {
        conn_flush(c); /* the limit counts what the kernel refused */
        if (c->state != CONN_OPEN)
            return SESSION_NOT_OPEN;
        if (c->out.bytes > 0 && c->out.bytes + len > limit) {
            metrics_add(session_metrics(s), METRIC_SLOW_CLOSED, 1);
            session_fail(s, CLOSECODE_TRY_AGAIN_LATER, "send queue full");
            return SESSION_QUEUE_FULL;
        }
    }
    session_write(s, text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, data, len);
    if (c->state != CONN_OPEN)
        return SESSION_NOT_OPEN;
    metrics_add(session_metrics(s), METRIC_MESSAGES_OUT, 1);
    if (c->out.bytes > limit / 2)
        s->drain_due = c->tell_drained = true;
    return SESSION_SENT;
}

enum session_sent session_send_control(struct session *s, bool ping, const void *data, size_t len)
{
    if (!session_is_open(s))
        return SESSION_NOT_OPEN;
    session_write(s, ping ? WSLAY_PING : WSLAY_PONG, data, len);
    return session_is_open(s) ? SESSION_SENT : SESSION_NOT_OPEN;
}

/* ---- receiving ---- */

static struct session_partial *session_partial_get(struct session *s)
{
    if (s->partial == NULL)
        s->partial = calloc(1, sizeof *s->partial);
    return s->partial;
}

/* Sequence, sizes and bits (RFC 6455, 5.2 to 5.5), before any payload is taken in. */
static unsigned session_on_header(void *to, const struct framer_header *h)
{
    struct session *s = to;
    const struct session_partial *p = s->partial;
    bool in_message = p != NULL && p->in_message;
    if (h->rsv != 0)
        return CLOSECODE_PROTOCOL_ERROR;
    switch (h->opcode) {
    case WSLAY_CONTINUATION_FRAME:
        if (!in_message)
            return CLOSECODE_PROTOCOL_ERROR;
        break;
    case WSLAY_TEXT_FRAME:
    case WSLAY_BINARY_FRAME:
        if (in_message)
            return CLOSECODE_PROTOCOL_ERROR;
        break;
    case WSLAY_CONNECTION_CLOSE:
    case WSLAY_PING:
    case WSLAY_PONG: return h->fin && h->length <= 125 ? 0 : CLOSECODE_PROTOCOL_ERROR;
    default: return CLOSECODE_PROTOCOL_ERROR;
    }
    uint64_t have = in_message ? p->body.len : 0;
    return h->length > (uint64_t)s->conn->worker->config->max_message - have ? CLOSECODE_TOO_BIG : 0;
}

static void session_deliver(struct session *s, bool text, const char *data, size_t len)
{
    if (!session_is_open(s)) /* after our Close nobody waits for messages */
        return;
    metrics_add(session_metrics(s), METRIC_MESSAGES_IN, 1);
    session_layer(s)->handler->on_message(s, text, data, len);
}

/* A piece of a message that is not whole in one piece. */
static unsigned session_gather(struct session *s, const struct framer_header *h, const uint8_t *data,
                               size_t len, bool last)
{
    struct session_partial *p = session_partial_get(s);
    if (p == NULL)
        return CLOSECODE_INTERNAL_ERROR;
    if (!p->in_message) {
        p->in_message = true;
        p->text = h->opcode == WSLAY_TEXT_FRAME;
        memset(&p->utf8, 0, sizeof p->utf8);
    }
    if (p->text && !utf8_feed(&p->utf8, data, len))
        return CLOSECODE_INVALID_DATA;
    size_t before = p->body.cap;
    if (buf_append(&p->body, data, len) < 0)
        return CLOSECODE_INTERNAL_ERROR;
    metrics_add(session_metrics(s), METRIC_REASSEMBLY_BYTES, p->body.cap - before);
    if (!last || !h->fin)
        return 0;
    if (p->text && !utf8_complete(&p->utf8))
        return CLOSECODE_INVALID_DATA;
    s->partial = NULL; /* the handler may end the session */
    session_deliver(s, p->text, p->body.data != NULL ? p->body.data : "", p->body.len);
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, p->body.cap);
    buf_fini(&p->body);
    free(p);
    return 0;
}

static unsigned session_on_close_frame(struct session *s, const uint8_t *payload, size_t len)
{
    struct closecode_payload close;
    unsigned fault = closecode_parse(payload, len, &close);
    if (fault != 0)
        return fault;
    if (close.reason_len > 0 && (s->close_reason = malloc(close.reason_len)) != NULL) {
        memcpy(s->close_reason, close.reason, close.reason_len);
        s->close_reason_len = close.reason_len;
    }
    if (s->state == SESSION_OPEN) /* echo the code (5.5.1) */
        session_write_close(s, close.code, NULL, 0);
    session_end(s, close.code);
    conn_finish(s->conn, s->conn->worker->config->close_timeout);
    return 0;
}

static unsigned session_on_control(struct session *s, uint8_t opcode, const uint8_t *payload, size_t len)
{
    if (opcode == WSLAY_CONNECTION_CLOSE)
        return session_on_close_frame(s, payload, len);
    if (!session_is_open(s))
        return 0;
    if (opcode == WSLAY_PING)
        session_write(s, WSLAY_PONG, payload, len);
    session_layer(s)->handler->on_control(s, opcode == WSLAY_PING, (const char *)payload, len);
    return 0;
}

static unsigned session_on_payload(void *to, const struct framer_header *h, const uint8_t *data, size_t len,
                                   bool last)
{
    struct session *s = to;
    if (wslay_is_ctrl_frame(h->opcode)) {
        if (len == h->length)
            return session_on_control(s, h->opcode, data, len);
        struct session_partial *p = session_partial_get(s);
        if (p == NULL)
            return CLOSECODE_INTERNAL_ERROR;
        memcpy(p->control + p->control_len, data, len);
        p->control_len = (uint8_t)(p->control_len + len);
        if (!last)
            return 0;
        uint8_t control[125], whole = p->control_len;
        memcpy(control, p->control, whole);
        p->control_len = 0;
        if (!p->in_message) {
            free(p);
            s->partial = NULL;
        }
        return session_on_control(s, h->opcode, control, whole);
    }
    bool whole = h->fin && h->opcode != WSLAY_CONTINUATION_FRAME && len == h->length;
    if (!whole)
        return session_gather(s, h, data, len, last);
    bool text = h->opcode == WSLAY_TEXT_FRAME;
    if (text && !utf8_valid(data, len))
        return CLOSECODE_INVALID_DATA;
    session_deliver(s, text, (const char *)data, len);
    return 0;
}

static const struct framer_events session_framer_events = {
    .on_header = session_on_header,
    .on_payload = session_on_payload,
};

static const char *session_fault_text(unsigned code)
{
    switch (code) {
    case CLOSECODE_INVALID_DATA: return "invalid UTF-8";
    case CLOSECODE_TOO_BIG: return "message too big";
    case CLOSECODE_INTERNAL_ERROR: return "out of memory";
    default: return "protocol error";
    }
}

static size_t session_on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct session *s = conn_session(c);
    const uint8_t *begin = data;
    uint64_t end_of_turn = 0; /* not asked for until there is a second frame */
    s->last_heard = c->worker->wheel.now;
    s->awaiting_pong = false;
    while (len > 0 && c->state == CONN_OPEN) {
        size_t used;
        unsigned fault =
            framer_read(&session_layer(s)->framers, &s->rx, data, len, &used, &session_framer_events, s);
        if (fault != 0) {
            if (fault != CLOSECODE_INTERNAL_ERROR)
                metrics_add(session_metrics(s), METRIC_PROTOCOL_ERRORS, 1);
            session_fail(s, fault, session_fault_text(fault));
            break;
        }
        data += used;
        len -= used;
        if (len == 0)
            break;
        uint64_t now = clock_coarse_ms();
        if (end_of_turn == 0)
            end_of_turn = now + SESSION_TURN_MS;
        else if (now > end_of_turn)
            break;
    }
    if (s->state == SESSION_ENDED)
        session_drop_input(s);
    return (size_t)(data - begin);
}

/* ---- the connection's other events ---- */

static void session_on_eof(struct conn *c)
{
    session_end(conn_session(c), CLOSECODE_ABNORMAL);
    conn_close(c);
}

static double session_since(const struct session *s, uint32_t tick)
{
    return (double)(s->conn->worker->wheel.now - tick) * WHEEL_TICK_MS / 1000;
}

/* When the peer last gave a sign of life: it sent something, or, while it is not read from because it is slow
 * to take what it is sent, it took some. */
static uint32_t session_last_sign(const struct session *s)
{
    uint32_t heard = s->last_heard, took = s->conn->last_sent;
    return !conn_is_reading(s->conn) && (int32_t)(took - heard) > 0 ? took : heard;
}

/* Sets the deadline for whatever is due first: the next ping, or the end of patience with an idle peer. */
static void session_schedule(struct session *s)
{
    const struct config *config = s->conn->worker->config;
    double wait = 3600;
    if (s->ping_ms > 0)
        wait = s->ping_ms / 1000.0 - session_since(s, s->last_ping);
    if (config->idle_timeout > 0) {
        double idle = config->idle_timeout - session_since(s, session_last_sign(s));
        wait = idle < wait ? idle : wait;
    }
    conn_set_deadline(s->conn, wait > 0 ? wait : 0);
}

/* Rounded, but never to 0, which would turn the pings off. */
static uint32_t session_ms(double seconds)
{
    uint32_t ms = (uint32_t)(seconds * 1000 + 0.5);
    return ms == 0 && seconds > 0 ? 1 : ms;
}

void session_set_ping_interval(struct session *s, double seconds)
{
    s->ping_ms = session_ms(seconds);
    s->awaiting_pong = false;
    s->last_ping = s->conn->worker->wheel.now;
    if (session_is_open(s))
        session_schedule(s);
}

static void session_keep_alive(struct session *s)
{
    const struct config *config = s->conn->worker->config;
    uint32_t sign = session_last_sign(s);
    if (config->idle_timeout > 0 && session_since(s, sign) >= config->idle_timeout) {
        session_close(s, CLOSECODE_GOING_AWAY, "idle", 4);
        return;
    }
    if (s->ping_ms > 0 && session_since(s, s->last_ping) >= s->ping_ms / 1000.0) {
        bool taking = !conn_is_reading(s->conn) && (int32_t)(sign - s->last_ping) >= 0;
        if (s->awaiting_pong && !taking) {
            metrics_add(session_metrics(s), METRIC_PING_TIMEOUTS, 1);
            session_on_eof(s->conn);
            return;
        }
        session_write(s, WSLAY_PING, NULL, 0);
        s->awaiting_pong = true;
        s->last_ping = s->conn->worker->wheel.now;
    }
    session_schedule(s);
}

static void session_on_timeout(struct conn *c)
{
    struct session *s = conn_session(c);
    if (s->state == SESSION_OPEN)
        session_keep_alive(s);
    else
        session_on_eof(c);
}

static void session_on_stop(struct conn *c)
{
    session_close(conn_session(c), CLOSECODE_GOING_AWAY, "server is stopping", 18);
}

static void session_on_later(struct conn *c)
{
    struct session *s = conn_session(c);
    if (s->drain_due && c->out.bytes > 0)
        c->tell_drained = true; /* it has filled again since */
    else if (s->drain_due && session_is_open(s)) {
        s->drain_due = false;
        session_layer(s)->handler->on_drain(s);
    }
    if (s->state != SESSION_ENDED || s->told)
        return;
    s->told = true;
    sessions_remove(&session_layer(s)->sessions, s);
    metrics_sub(c->worker->metrics, METRIC_WEBSOCKETS, 1);
    const char *reason = s->close_reason != NULL ? s->close_reason : "";
    session_layer(s)->handler->on_close(s, s->close_code, reason, s->close_reason_len);
}

static void session_on_dead(struct conn *c)
{
    struct session *s = conn_session(c);
    if (s->state != SESSION_ENDED) { /* cut without a word: session_end would ask for what follows here */
        s->state = SESSION_ENDED;
        s->close_code = CLOSECODE_ABNORMAL;
    }
    session_on_later(c);
    session_drop_input(s);
    free(s->close_reason);
    head_unref(s->head);
    free(s);
}

static const struct conn_ops session_ops = {
    .on_data = session_on_data,
    .on_eof = session_on_eof,
    .on_timeout = session_on_timeout,
    .on_stop = session_on_stop,
    .on_later = session_on_later,
    .on_dead = session_on_dead,
};

/* ---- beginning ---- */

struct session *session_open(struct conn *c, struct head *head)
{
    struct session *s = calloc(1, sizeof *s);
    char accept[UPGRADE_ACCEPT_LEN + 1], answer[160];
    if (s == NULL || upgrade_accept(head, accept) < 0) {
        free(s);
        head_unref(head);
        http1_refuse(c, &(struct response_error){.status = 500, .detail = "The server is out of memory."});
        return NULL;
    }
    s->conn = c;
    if (sessions_add(&session_layer(s)->sessions, s) < 0) {
        free(s);
        head_unref(head);
        conn_close(c);
        return NULL;
    }
    s->head = head;
    s->ping_ms = session_ms(c->worker->config->ping_interval);
    s->last_heard = s->last_ping = c->worker->wheel.now;
    http1_hand_over(c, &session_ops, s);
    metrics_add(session_metrics(s), METRIC_UPGRADES, 1);
    metrics_add(session_metrics(s), METRIC_WEBSOCKETS, 1);
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n",
                     accept);
    if (conn_send(c, answer, (size_t)n) < 0)
        return NULL; /* freed at the end of the iteration */
    session_schedule(s);
    return s;
}

int session_worker_init(struct worker *w, const struct session_handler *handler)
{
    struct session_worker *l = calloc(1, sizeof *l);
    if (l == NULL || framer_pool_init(&l->framers, w->metrics) < 0) {
        free(l);
        return -1;
    }
    l->handler = handler;
    w->layer[WORKER_WS] = l;
    return 0;
}

void session_worker_fini(struct worker *w)
{
    struct session_worker *l = w->layer[WORKER_WS];
    if (l == NULL)
        return;
    framer_pool_fini(&l->framers);
    sessions_fini(&l->sessions);
    free(l);
    w->layer[WORKER_WS] = NULL;
}
