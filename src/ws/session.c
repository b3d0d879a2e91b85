/* SPDX-License-Identifier: MIT
 * One WebSocket. */
#include "ws/session.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "http/access.h"
#include "http/http1.h"
#include "http/reply.h"
#include "ws/closecode.h"
#include "ws/subprotocol.h"
#include "ws/upgrade.h"

void session_limits_init(struct session_limits *l, const struct config *config)
{
    *l = (struct session_limits){
        .max_message = (uint64_t)config->max_message,
        .max_frame = config->max_frame > 0 ? (uint64_t)config->max_frame : UINT64_MAX,
        .send_limit = (uint64_t)config->send_limit,
        .read_ahead = (uint64_t)config->read_ahead,
        .idle_timeout = config->idle_timeout,
        .ping_interval = config->ping_interval,
        .close_timeout = config->close_timeout,
        .messages_per_second = config->messages_per_second,
        .drop = config->on_slow == CONFIG_ON_SLOW_DROP,
        .compression = config->compression,
        .compression_takeover = config->compression_takeover,
        .compression_min = (uint64_t)config->compression_min,
    };
}

struct session_more *session_need_more(struct session *s)
{
    if (s->more == NULL && (s->more = calloc(1, sizeof *s->more)) != NULL) {
        list_init(&s->more->tasks);
        list_init(&s->more->dones);
    }
    return s->more;
}

void session_tidy(struct session *s)
{
    struct session_more *more = s->more;
    if (inbound_is_idle(&more->in) && more->rx == NULL && list_empty(&more->tasks) &&
        list_empty(&more->dones) && more->arrival == NULL && more->close_reason == NULL) {
        free(more);
        s->more = NULL;
    }
}

struct session *session_find(struct worker *w, uint64_t id)
{
    const struct session_worker *l = w->layer[WORKER_WS];
    return sessions_find(&l->sessions, id);
}

/* ---- the access log ---- */

/* One side sends the first Close. */
static void session_note_close(struct session *s, enum session_closed_by by)
{
    struct session_counts *counts = session_counts(s);
    if (counts != NULL)
        counts->closed_by = (uint8_t)by;
}

/* Bytes that the worker's connections have sent, and are to send. */
static uint64_t session_outgoing(const struct session *s)
{
    const struct metrics *m = session_metrics(s);
    return metrics_get(m, METRIC_BYTES_OUT) + metrics_get(m, METRIC_QUEUED_BYTES);
}

static void session_log(struct session *s)
{
    static const char *const by[] = {"nobody", "us", "peer"};
    const struct session_handler *handler = session_layer(s)->handler;
    const struct session_counts *n = session_counts(s);
    access_session(s->conn, s->head,
                   &(struct access_websocket){
                       .began_us = n->began_us,
                       .messages_in = n->messages_in,
                       .messages_out = n->messages_out,
                       .bytes_in = n->bytes_in,
                       .bytes_out = n->bytes_out,
                       .code = s->close_code,
                       .closed_by = by[n->closed_by],
                       .is_client = s->is_client,
                       .route = handler->route_of != NULL ? handler->route_of(s) : NULL,
                   });
}

/* ---- ending ---- */

/* What was published to it before goes first. */
static void session_catch_up(struct session *s)
{
    if (s->subscriber != NULL)
        session_layer(s)->handler->catch_up(s);
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
    return conn_send_at_once(to, data, len);
}

static void session_write(struct session *s, uint8_t first, const void *data, size_t len)
{
    struct session_counts *counts = session_counts(s);
    uint64_t before = counts != NULL ? session_outgoing(s) : 0;
    if (framer_write(session_framers(s), first, data, len, session_sink, s->conn) < 0)
        conn_close(s->conn); /* out of memory: half a frame may be queued */
    else if (counts != NULL && s->conn->state == CONN_OPEN)
        counts->bytes_out += session_outgoing(s) - before;
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
    session_catch_up(s);
    if (s->state != SESSION_OPEN) /* it was too much for the peer */
        return;
    session_note_close(s, SESSION_CLOSED_BY_US);
    session_write_close(s, code, reason, reason_len);
    s->state = SESSION_CLOSING;
    inbound_forget_waiting(s);
    conn_set_deadline(s->conn, s->limits->close_timeout);
}

void session_fail(struct session *s, unsigned code, const char *reason)
{
    if (s->state == SESSION_OPEN)
        session_catch_up(s);
    if (s->state == SESSION_ENDED)
        return;
    if (s->state == SESSION_OPEN) {
        session_note_close(s, SESSION_CLOSED_BY_US);
        session_write_close(s, code, reason, strlen(reason));
    }
    session_end(s, code);
    conn_finish(s->conn, s->limits->close_timeout);
}

/* ---- sending ---- */

/* The peer does not keep up: `count` messages find no room. */
static enum session_sent session_slow(struct session *s, size_t count)
{
    if (s->limits->drop)
        metrics_add(session_metrics(s), METRIC_SLOW_DROPPED, count);
    else {
        metrics_add(session_metrics(s), METRIC_SLOW_CLOSED, 1);
        session_fail(s, CLOSECODE_TRY_AGAIN_LATER, "send queue full");
    }
    return SESSION_QUEUE_FULL;
}

void session_drop(struct session *s, size_t count)
{
    if (session_is_open(s))
        session_slow(s, count);
}

/* With the process at queue_limit, what the kernel does not take at once has no place: half a frame is out by
 * then, so nothing can be said any more. */
static enum session_sent session_write_through(struct session *s)
{
    conn_flush(s->conn);
    if (s->conn->state != CONN_OPEN)
        return SESSION_NOT_OPEN;
    if (s->conn->out.bytes == 0)
        return SESSION_SENT;
    metrics_add(session_metrics(s), METRIC_SLOW_CLOSED, 1);
    session_lost(s);
    return SESSION_QUEUE_FULL;
}

/* Whether the queue has room for `count` messages of `len` bytes together, once the kernel has taken what it
 * takes. An empty one always has for one message. `tight` tells that the process is at queue_limit. */
static enum session_sent session_make_room(struct session *s, size_t len, size_t count, bool *tight)
{
    struct conn *c = s->conn;
    uint64_t limit = s->limits->send_limit;
    if (!session_is_open(s))
        return SESSION_NOT_OPEN;
    *tight = worker_over_limit(c->worker, METRIC_QUEUED_BYTES, c->worker->config->queue_limit, len);
    if (!*tight && c->out.bytes + len <= limit)
        return SESSION_SENT;
    if (c->out.bytes > 0)
        conn_flush(c); /* the limit counts what the kernel refused */
    if (c->state != CONN_OPEN)
        return SESSION_NOT_OPEN;
    bool fits = c->out.bytes == 0 ? count == 1 : !*tight && c->out.bytes + len <= limit;
    return fits ? SESSION_SENT : SESSION_QUEUE_FULL;
}

/* Messages have been queued, of which, or of what was ahead of them, the kernel has already taken `taken`
 * bytes. */
static enum session_sent session_queued(struct session *s, size_t count, uint64_t taken, bool tight)
{
    struct conn *c = s->conn;
    if (c->state != CONN_OPEN)
        return SESSION_NOT_OPEN;
    metrics_add(session_metrics(s), METRIC_MESSAGES_OUT, count);
    if (s->counted)
        session_counts(s)->messages_out += count;
    if (taken + c->out.bytes > s->limits->send_limit / 2) {
        s->drain_due = true;
        if (c->out.bytes > 0)
            c->tell_drained = true;
        else
            conn_later(c);
    }
    return tight ? session_write_through(s) : SESSION_SENT;
}

/* Compressed where that was agreed on and is worth it. */
static void session_write_message(struct session *s, uint8_t opcode, const void *data, size_t len)
{
    struct deflate_pool *pool = &session_layer(s)->deflate;
    const struct buf *packed = NULL;
    if (s->deflate != NULL && len > 0 && len >= s->limits->compression_min)
        packed = deflate_compress(pool, s->deflate, data, len);
    if (packed != NULL)
        session_write(s, opcode | FRAMER_RSV1, packed->data, packed->len);
    else
        session_write(s, opcode, data, len);
    if (s->deflate != NULL)
        deflate_trim(pool);
}

/* Once there is room for it. What there is no room for is not compressed either: the peer would not know of
 * it. */
static enum session_sent session_send_message(struct session *s, uint8_t opcode, const void *data, size_t len)
{
    bool tight;
    enum session_sent room = session_make_room(s, len, 1, &tight);
    if (room == SESSION_QUEUE_FULL)
        return session_slow(s, 1);
    if (room != SESSION_SENT)
        return room;
    uint64_t before = metrics_get(session_metrics(s), METRIC_BYTES_OUT);
    session_write_message(s, opcode, data, len);
    return session_queued(s, 1, metrics_get(session_metrics(s), METRIC_BYTES_OUT) - before, tight);
}

enum session_sent session_send(struct session *s, bool text, const void *data, size_t len)
{
    session_catch_up(s);
    return session_send_message(s, text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, data, len);
}

/* A client's frames cannot be shared: each has its own mask. */
static enum session_sent session_send_as_client(struct session *s, const uint8_t *frames, size_t len)
{
    enum session_sent sent = SESSION_SENT;
    for (size_t at = 0, n; at < len && sent != SESSION_NOT_OPEN; at += framer_whole_size(frames + at)) {
        const uint8_t *payload = framer_payload(frames + at, &n);
        sent = session_send_message(s, frames[at] & 15, payload, n);
    }
    return sent == SESSION_NOT_OPEN ? SESSION_NOT_OPEN : SESSION_SENT;
}

enum session_sent session_send_block(struct session *s, struct block *b, size_t at, size_t len, size_t count)
{
    bool tight;
    if (s->is_client)
        return session_send_as_client(s, b->data + at, len);
    enum session_sent room = session_make_room(s, len, count, &tight);
    if (room == SESSION_QUEUE_FULL && count == 1)
        return session_slow(s, 1);
    if (room != SESSION_SENT)
        return room;
    conn_send_block(s->conn, b, at, len);
    if (s->counted)
        session_counts(s)->bytes_out += len;
    return session_queued(s, count, 0, tight);
}

size_t session_buffered(struct session *s)
{
    session_catch_up(s);
    return s->conn->out.bytes;
}

void session_when_sent(struct session *s, struct session_done *d)
{
    session_catch_up(s);
    size_t ahead = s->conn->out.bytes;
    struct session_more *more = ahead > 0 ? session_need_more(s) : NULL;
    if (more == NULL) {
        d->complete(d, ahead > 0 ? "out of memory" : NULL);
        return;
    }
    if (list_empty(&more->dones))
        more->taken = 0;
    d->end = more->taken + ahead;
    list_append(&more->dones, &d->link);
    s->conn->tell_sent = true;
}

static void session_on_sent(struct conn *c, size_t n)
{
    const struct session *s = conn_session(c);
    struct session_more *more = s->more;
    if (more == NULL) { /* nobody is interested any more */
        c->tell_sent = false;
        return;
    }
    more->taken += n;
    while (!list_empty(&more->dones)) {
        struct session_done *d = LIST_ENTRY(more->dones.next, struct session_done, link);
        if (d->end > more->taken)
            return;
        list_remove(&d->link);
        d->complete(d, NULL);
    }
    c->tell_sent = false;
    conn_later(c); /* to tidy up */
}

enum session_sent session_send_control(struct session *s, bool ping, const void *data, size_t len)
{
    session_catch_up(s);
    if (!session_is_open(s))
        return SESSION_NOT_OPEN;
    session_write(s, ping ? WSLAY_PING : WSLAY_PONG, data, len);
    return session_is_open(s) ? SESSION_SENT : SESSION_NOT_OPEN;
}

/* ---- control frames ---- */

static unsigned session_on_close_frame(struct session *s, const uint8_t *payload, size_t len)
{
    struct closecode_payload close;
    unsigned fault = closecode_parse(payload, len, &close);
    if (fault != 0)
        return fault;
    struct session_more *more = close.reason_len > 0 ? session_need_more(s) : NULL;
    if (more != NULL && (more->close_reason = malloc(close.reason_len)) != NULL) {
        memcpy(more->close_reason, close.reason, close.reason_len);
        more->close_reason_len = close.reason_len;
    }
    session_catch_up(s);
    if (s->state == SESSION_OPEN) { /* echo the code (5.5.1) */
        session_note_close(s, SESSION_CLOSED_BY_PEER);
        session_write_close(s, close.code, NULL, 0);
    }
    session_end(s, close.code);
    conn_finish(s->conn, s->limits->close_timeout);
    return 0;
}

unsigned session_on_control_frame(struct session *s, uint8_t opcode, const uint8_t *payload, size_t len)
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

/* ---- the connection's other events ---- */

void session_lost(struct session *s)
{
    session_end(s, CLOSECODE_ABNORMAL);
    conn_close(s->conn);
}

static void session_on_eof(struct conn *c)
{
    session_lost(conn_session(c));
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
    double idle_timeout = s->limits->idle_timeout, wait = 3600;
    if (s->ping_ms > 0)
        wait = s->ping_ms / 1000.0 - session_since(s, s->last_ping);
    if (idle_timeout > 0) {
        double idle = idle_timeout - session_since(s, session_last_sign(s));
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
    if (session_is_open(s) && !s->conn->paused)
        session_schedule(s);
}

void session_limits_changed(struct session *s)
{
    if (!session_is_open(s))
        return;
    if (s->more != NULL)
        atomic_store(&s->more->in.rate, 0); /* the new rate begins anew */
    if (s->conn->paused)
        conn_set_deadline(s->conn, inbound_patience(s));
    else
        session_schedule(s);
}

void session_restart_clock(struct session *s)
{
    session_heard(s);
    s->last_ping = s->last_heard;
    session_schedule(s);
}

static void session_keep_alive(struct session *s)
{
    double idle_timeout = s->limits->idle_timeout;
    uint32_t sign = session_last_sign(s);
    if (idle_timeout > 0 && session_since(s, sign) >= idle_timeout) {
        session_close(s, CLOSECODE_GOING_AWAY, "idle", 4);
        return;
    }
    if (s->ping_ms > 0 && session_since(s, s->last_ping) >= s->ping_ms / 1000.0) {
        bool taking = !conn_is_reading(s->conn) && (int32_t)(sign - s->last_ping) >= 0;
        if (s->awaiting_pong && !taking) {
            metrics_add(session_metrics(s), METRIC_PING_TIMEOUTS, 1);
            session_lost(s);
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
    if (s->state != SESSION_OPEN)
        session_lost(s);
    else if (c->paused) /* and so is the ping clock: we could not see a pong */
        inbound_on_timeout(s);
    else
        session_keep_alive(s);
}

static void session_tell_close(struct session *s)
{
    const struct session_more *more = s->more;
    const char *reason = more != NULL && more->close_reason != NULL ? more->close_reason : "";
    s->told = true;
    sessions_remove(&session_layer(s)->sessions, s);
    if (!s->is_client)
        metrics_sub(session_metrics(s), METRIC_WEBSOCKETS, 1);
    if (s->counted)
        session_log(s);
    session_layer(s)->handler->on_close(s, s->close_code, reason, more != NULL ? more->close_reason_len : 0);
    s->limits = &session_layer(s)->defaults; /* the handler's may go with it */
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
    farewell_look_again(s);
    if (s->state == SESSION_ENDED && !s->told)
        session_tell_close(s);
    if (s->more != NULL)
        session_tidy(s);
}

/* What was to be told when it had been sent never will be. */
static void session_fail_dones(struct session_more *more)
{
    while (!list_empty(&more->dones)) {
        struct session_done *d = LIST_ENTRY(more->dones.next, struct session_done, link);
        list_remove(&d->link);
        d->complete(d, "closed");
    }
}

static void session_drop_deflate(struct session *s)
{
    if (s->deflate != NULL)
        metrics_sub(session_metrics(s), METRIC_COMPRESSED, 1);
    deflate_destroy(&session_layer(s)->deflate, &s->deflate);
}

static void session_on_dead(struct conn *c)
{
    struct session *s = conn_session(c);
    if (s->state != SESSION_ENDED) { /* cut without a word: session_end would ask for what follows here */
        s->state = SESSION_ENDED;
        s->close_code = CLOSECODE_ABNORMAL;
    }
    session_on_later(c);
    inbound_drop(s);
    session_drop_deflate(s);
    if (s->more != NULL) {
        session_fail_dones(s->more);
        free(s->more->close_reason);
        free(s->more);
    }
    head_unref(s->head);
    free(s);
}

static const struct conn_ops session_ops = {
    .on_data = inbound_on_data,
    .on_room = inbound_on_room,
    .on_eof = session_on_eof,
    .on_timeout = session_on_timeout,
    .on_stop = farewell_on_stop,
    .on_later = session_on_later,
    .on_sent = session_on_sent,
    .on_dead = session_on_dead,
};

/* ---- beginning ---- */

/* What we ask for. Without context takeover the largest windows cost nothing for long. */
static struct extensions_terms session_wish(const struct worker *w, bool takeover)
{
    uint8_t bits = takeover ? (uint8_t)w->config->compression_window : 15;
    return (struct extensions_terms){true, takeover, takeover, bits, bits};
}

struct extensions_terms session_offer(const struct worker *w, const struct session_limits *l)
{
    struct extensions_terms wish = session_wish(w, l->compression_takeover);
    enum deflate_room room = l->compression ? deflate_room(w, deflate_cost(&wish, true)) : DEFLATE_NO_ROOM;
    if (room == DEFLATE_ROOM_SHARED)
        wish = session_wish(w, false);
    wish.deflate = room != DEFLATE_NO_ROOM;
    metrics_add(w->metrics, METRIC_COMPRESSION_BYTES, deflate_cost(&wish, true));
    if (l->compression && room != DEFLATE_ROOM)
        metrics_add(w->metrics, METRIC_COMPRESSION_REDUCED, 1);
    return wish;
}

void session_offer_over(const struct worker *w, const struct extensions_terms *offered)
{
    metrics_sub(w->metrics, METRIC_COMPRESSION_BYTES, deflate_cost(offered, true));
}

/* What the client offers, the route wants and compression_limit has room for; false is no compression. */
static bool session_agree(const struct session *s, struct extensions_terms *agreed,
                          char answer[EXTENSIONS_TEXT_MAX])
{
    const struct worker *w = s->conn->worker;
    struct extensions_terms wish = session_wish(w, s->limits->compression_takeover);
    if (!s->limits->compression || !extensions_accept(s->head, &wish, agreed, answer))
        return false;
    uint64_t cost = deflate_cost(agreed, false);
    enum deflate_room room = deflate_room(w, cost);
    if (room == DEFLATE_ROOM || (room == DEFLATE_ROOM_SHARED && cost == 0))
        return true;
    metrics_add(session_metrics(s), METRIC_COMPRESSION_REDUCED, 1);
    wish = session_wish(w, false);
    return room == DEFLATE_ROOM_SHARED && extensions_accept(s->head, &wish, agreed, answer);
}

/* 0, or -1 when memory runs out. */
static int session_set_terms(struct session *s, const struct extensions_terms *terms)
{
    if (!terms->deflate)
        return 0;
    s->deflate = deflate_create(&session_layer(s)->deflate, terms, s->is_client);
    if (s->deflate == NULL)
        return -1;
    metrics_add(session_metrics(s), METRIC_COMPRESSED, 1);
    return 0;
}

/* The 101 (RFC 6455, 4.2.2). */
static int session_write_answer(struct session *s, const struct session_accept *how, struct buf *out)
{
    char accept[UPGRADE_ACCEPT_LEN + 1], extensions[EXTENSIONS_TEXT_MAX];
    struct extensions_terms terms = {0};
    if (upgrade_accept(s->head, accept) < 0 ||
        buf_printf(out,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %s\r\n",
                   accept) < 0)
        return -1;
    if (how->protocol >= 0) {
        size_t len;
        const char *name = subprotocol_offer(s->head, (unsigned)how->protocol, &len);
        if (buf_printf(out, "Sec-WebSocket-Protocol: %.*s\r\n", (int)len, name) < 0)
            return -1;
    }
    if (session_agree(s, &terms, extensions) &&
        (session_set_terms(s, &terms) < 0 ||
         buf_printf(out, "Sec-WebSocket-Extensions: %s\r\n", extensions) < 0))
        return -1;
    return buf_puts(out, how->fields) < 0 || buf_puts(out, "\r\n") < 0 ? -1 : 0;
}

static struct session *session_create(struct conn *c, struct head *head, const struct session_accept *how)
{
    bool counted = access_is_on();
    struct session *s = calloc(1, sizeof *s + (counted ? sizeof(struct session_counts) : 0));
    if (s == NULL)
        return NULL;
    s->counted = counted;
    if (counted)
        session_counts(s)->began_us = access_now_us();
    s->conn = c;
    s->head = head;
    s->limits = how->limits;
    s->ping_ms = session_ms(how->limits->ping_interval);
    s->last_heard = s->last_ping = c->worker->wheel.now;
    s->protocol = (uint8_t)(how->protocol + 1);
    return s;
}

/* One that has not begun. */
static void session_discard(struct session *s)
{
    if (s != NULL)
        session_drop_deflate(s);
    free(s);
}

/* From now on the connection is the session's. */
static void session_begin(struct session *s)
{
    s->conn->sips = session_sips(s);
    if (!s->is_client)
        metrics_add(session_metrics(s), METRIC_WEBSOCKETS, 1);
}

struct session *session_open(struct conn *c, struct head *head, const struct session_accept *how)
{
    struct session *s = session_create(c, head, how);
    struct buf answer = BUF_INIT;
    if (s == NULL || session_write_answer(s, how, &answer) < 0 ||
        sessions_add(&session_layer(s)->sessions, s) < 0) {
        buf_fini(&answer);
        session_discard(s);
        head_unref(head);
        reply_error(c, 500, "The server is out of memory.", NULL);
        return NULL;
    }
    session_begin(s);
    http1_hand_over(c, &session_ops, s);
    metrics_add(session_metrics(s), METRIC_UPGRADES, 1);
    int sent = conn_send(c, answer.data, answer.len);
    buf_fini(&answer);
    if (sent < 0) {
        s->limits = &session_layer(s)->defaults; /* freed at the end of the iteration, as nobody's */
        return NULL;
    }
    session_schedule(s);
    return s;
}

struct session *session_open_client(struct conn *c, struct head *head, const struct session_accept *how,
                                    const struct extensions_terms *terms)
{
    struct session *s = session_create(c, head, how);
    if (s != NULL)
        s->is_client = true;
    if (s == NULL || session_set_terms(s, terms) < 0 || sessions_add(&session_layer(s)->sessions, s) < 0) {
        session_discard(s);
        head_unref(head);
        conn_close(c);
        return NULL;
    }
    session_begin(s);
    conn_set_session(c, &session_ops, s);
    session_schedule(s);
    return s;
}

int session_worker_init(struct worker *w, const struct session_handler *handler)
{
    struct session_worker *l = calloc(1, sizeof *l);
    if (l == NULL)
        return -1;
    framer_pool_init(&l->framers[0], w->metrics, false);
    framer_pool_init(&l->framers[1], w->metrics, true);
    deflate_pool_init(&l->deflate, w);
    l->handler = handler;
    session_limits_init(&l->defaults, w->config);
    w->layer[WORKER_WS] = l;
    return 0;
}

void session_worker_fini(struct worker *w)
{
    struct session_worker *l = w->layer[WORKER_WS];
    if (l == NULL)
        return;
    farewell_fini(w);
    framer_pool_fini(&l->framers[0]);
    framer_pool_fini(&l->framers[1]);
    deflate_pool_fini(&l->deflate);
    buf_fini(&l->inflated);
    sessions_fini(&l->sessions);
    free(l);
    w->layer[WORKER_WS] = NULL;
}
