/* SPDX-License-Identifier: MIT
 * The HTTP/1.x side of a connection. */
#include "http/http1.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <llhttp.h>

#include "base/clock.h"
#include "base/log.h"
#include "http/admission.h"
#include "http/forwarded.h"
#include "http/http1_session.h"
#include "http/reply.h"
#include "net/peers.h"
#include "net/proxyline.h"
#include "net/tls.h"

#define HTTP1_LINGER_S      2.0
#define HTTP1_STOP_GRACE_S  1.0  /* for a request that was on its way when the server stopped */
#define HTTP1_PROBE_S       1.0  /* between two looks at a peer that is not being read */
#define HTTP1_BODY_STEP     1024 /* bytes of a body that earn it another body_timeout */
#define HTTP1_TURN_MS       5    /* how long one connection's requests are answered before the others' */
#define HTTP1_REFUSAL_SLACK 64   /* connections beyond the limit that are told so rather than just closed */

/* Connections that are only being told that there is no room; they take nobody's place. */
static _Atomic uint64_t http1_refused;

static const struct conn_ops http1_ops;

static const struct http1_handler *http1_handler_of(const struct conn *c)
{
    return c->worker->layer[WORKER_HTTP];
}

/* What cannot be read on: the connection ends after this. */
static void http1_fail(struct conn *c, int status, const char *detail)
{
    struct http1 *h = conn_session(c);
    access_begin(&h->note);
    reply_last(c);
    reply_error(c, status, detail, NULL);
}

/* ---- what is kept in memory ---- */

static void http1_drop_body(struct conn *c, struct http1 *h)
{
    metrics_sub(c->worker->metrics, METRIC_REASSEMBLY_BYTES, h->body.cap);
    buf_fini(&h->body);
}

/* Whether `len` more bytes of input have no room in the process. */
static bool http1_has_no_room(const struct conn *c, size_t len)
{
    return worker_over_limit(c->worker, METRIC_REASSEMBLY_BYTES, c->worker->config->reassembly_limit, len);
}

/* Keeps input for later. False: there is no memory, and the connection is closed. */
static bool http1_keep(struct conn *c, const void *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t before = h->in.cap;
    if (len > 0 && buf_append(&h->in, data, len) < 0) {
        conn_close(c);
        return false;
    }
    metrics_add(c->worker->metrics, METRIC_REASSEMBLY_BYTES, h->in.cap - before);
    return true;
}

/* The same for what comes too early. Beyond reassembly_limit there is room for a sip, after which reading
 * stops; more closes the connection. */
static bool http1_keep_if_room(struct conn *c, const void *data, size_t len)
{
    const struct http1 *h = conn_session(c);
    if (h->in.len + len <= conn_sip(c) || !http1_has_no_room(c, len))
        return http1_keep(c, data, len);
    metrics_add(c->worker->metrics, METRIC_REASSEMBLY_REFUSED, 1);
    conn_close(c);
    return false;
}

static struct buf http1_take_kept(struct conn *c)
{
    struct http1 *h = conn_session(c);
    struct buf kept = h->in;
    h->in = (struct buf)BUF_INIT;
    metrics_sub(c->worker->metrics, METRIC_REASSEMBLY_BYTES, kept.cap);
    return kept;
}

/* Gives what was kept back to the connection, at its next turn. */
static void http1_resume(struct conn *c)
{
    struct buf kept = http1_take_kept(c);
    conn_resume(c, kept.data, kept.len);
    buf_fini(&kept);
}

static void http1_refuse_input(struct conn *c)
{
    metrics_add(c->worker->metrics, METRIC_REASSEMBLY_REFUSED, 1);
    http1_fail(c, 503, "The server is receiving too much at once; try again later.");
}

static void http1_free(struct conn *c, struct http1 *h)
{
    http1_drop_body(c, h);
    metrics_sub(c->worker->metrics, METRIC_REASSEMBLY_BYTES, h->in.cap);
    buf_fini(&h->in);
    head_unref(h->head);
    free(h->note);
    free(h);
}

/* ---- deadlines ---- */

/* The wheel is to look in `seconds`, or sooner, whether the peer takes what it is sent, and when it is not
 * being read, whether it is there at all. */
static void http1_set_deadline(struct conn *c, double seconds)
{
    double send_timeout = c->worker->config->send_timeout;
    seconds = seconds < send_timeout ? seconds : send_timeout;
    conn_set_deadline(c, c->paused && seconds > HTTP1_PROBE_S ? HTTP1_PROBE_S : seconds);
}

/* Sets when what is being waited for is too late. */
static void http1_wait(struct conn *c, double seconds)
{
    struct http1 *h = conn_session(c);
    h->due = c->worker->wheel.now + (uint32_t)(seconds * 1000 / WHEEL_TICK_MS);
    http1_set_deadline(c, seconds);
}

static bool http1_is_too_late(const struct conn *c)
{
    const struct http1 *h = conn_session(c);
    return (int32_t)(h->due - c->worker->wheel.now) <= 0;
}

static bool http1_is_stopping(const struct conn *c)
{
    return c->worker->stopping;
}

static void http1_wait_for_head(struct conn *c)
{
    const struct config *config = c->worker->config;
    http1_wait(c, http1_is_stopping(c) ? HTTP1_STOP_GRACE_S : config->keep_alive_timeout);
}

void http1_done(struct conn *c)
{
    struct http1 *h = conn_session(c);
    bool put_off = h->request != NULL;
    if (h->note != NULL)
        access_request(c, &h->note);
    h->request = NULL;
    h->streaming = false;
    h->mute = false;
    h->answered = true;
    h->state = HTTP1_HEAD;
    http1_drop_body(c, h);
    head_unref(h->head);
    h->head = NULL;
    c->sips = false;
    if (!h->keep || http1_is_stopping(c) || (h->ended && h->in.len == 0)) {
        conn_finish(c, HTTP1_LINGER_S);
        return;
    }
    http1_wait_for_head(c);
    if (put_off)
        http1_resume(c);
}

/* ---- requests that take their time ---- */

void http1_put_off(struct conn *c, void *request, double seconds, bool needs_peer)
{
    struct http1 *h = conn_session(c);
    h->request = request;
    h->needs_peer = needs_peer;
    c->sips = true;
    http1_wait(c, seconds > 0 ? seconds : 1e7);
}

/* Until the request's time is over, with looks at a peer that is not being read. */
static void http1_wait_on(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    int32_t left = (int32_t)(h->due - c->worker->wheel.now);
    http1_set_deadline(c, left > 0 ? left * (WHEEL_TICK_MS / 1000.0) : 0);
}

/* What comes behind a request that is ASKED. */
static size_t http1_keep_early(struct conn *c, const uint8_t *data, size_t len)
{
    const struct http1 *h = conn_session(c);
    if (http1_keep_if_room(c, data, len) &&
        (h->in.len > (size_t)c->worker->config->read_ahead || http1_has_no_room(c, 0))) {
        conn_pause(c);
        http1_wait_on(c);
    }
    return len;
}

static void http1_give_up_request(struct conn *c)
{
    struct http1 *h = conn_session(c);
    void *request = h->request;
    h->request = NULL;
    if (request != NULL)
        http1_handler_of(c)->on_gone(c, request);
}

void http1_hand_over(struct conn *c, const struct conn_ops *ops, void *session)
{
    struct http1 *h = conn_session(c);
    bool put_off = h->request != NULL;
    struct buf early = http1_take_kept(c);
    http1_free(c, h);
    conn_set_session(c, ops, session);
    if (put_off)
        conn_resume(c, early.data, early.len);
    buf_fini(&early);
}

/* ---- the body ---- */

static void http1_ask(struct conn *c)
{
    struct http1 *h = conn_session(c);
    struct buf body = h->body;
    size_t counted = body.cap;
    h->state = HTTP1_ASKED;
    h->body = (struct buf)BUF_INIT;
    metrics_sub(c->worker->metrics, METRIC_REASSEMBLY_BYTES, counted);
    http1_handler_of(c)->on_request(c, h->head, &body);
    buf_fini(&body);
}

static bool http1_take_body(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t before = h->body.cap;
    if (len > h->max_body - h->body.len) {
        http1_fail(c, 413, "The request's body is longer than max_body allows.");
        return false;
    }
    if (h->body.cap - h->body.len < len && http1_has_no_room(c, len)) {
        http1_refuse_input(c);
        return false;
    }
    if (buf_append(&h->body, data, len) < 0) {
        http1_fail(c, 500, "The server is out of memory.");
        return false;
    }
    metrics_add(c->worker->metrics, METRIC_REASSEMBLY_BYTES, h->body.cap - before);
    return true;
}

static size_t http1_read_length(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t n = len < h->body_left ? len : (size_t)h->body_left;
    if (!http1_take_body(c, data, n))
        return len;
    h->body_left -= n;
    if (h->body_left == 0)
        http1_ask(c);
    return n;
}

static size_t http1_read_chunks(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t at = 0, used, piece_len;
    const uint8_t *piece;
    for (;;) {
        int got = chunked_feed(&h->chunked, data + at, len - at, &used, &piece, &piece_len);
        at += used;
        if (got == CHUNKED_PIECE && http1_take_body(c, piece, piece_len))
            continue;
        if (got == CHUNKED_MORE)
            return len;
        if (got == CHUNKED_END)
            http1_ask(c);
        else if (got == CHUNKED_BAD)
            http1_fail(c, 400, "The request's body is not well-formed chunks.");
        return c->state == CONN_OPEN ? at : len;
    }
}

static size_t http1_read_body(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    if (h->body.len - h->body_renewed >= HTTP1_BODY_STEP) {
        h->body_renewed = h->body.len;
        http1_wait(c, c->worker->config->body_timeout);
    }
    return h->head->flags & HEAD_CHUNKED ? http1_read_chunks(c, data, len) : http1_read_length(c, data, len);
}

/* ---- the head ---- */

static void http1_begin_body(struct conn *c)
{
    struct http1 *h = conn_session(c);
    const struct head *head = h->head;
    bool chunked = (head->flags & HEAD_CHUNKED) != 0;
    if (!chunked && head->content_length == 0) {
        http1_ask(c);
        return;
    }
    if (!chunked && head->content_length > h->max_body) {
        http1_fail(c, 413, "The request's body is longer than max_body allows.");
        return;
    }
    h->state = HTTP1_BODY;
    h->body_renewed = 0;
    if (chunked)
        memset(&h->chunked, 0, sizeof h->chunked);
    else
        h->body_left = head->content_length;
    if ((head->flags & HEAD_EXPECT_CONTINUE) && head->minor > 0)
        conn_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    http1_wait(c, c->worker->config->body_timeout);
}

/* The address of the client, behind trusted proxies what they say it is. */
static void http1_set_remote(const struct conn *c, struct http1 *h)
{
    const struct cidr_list *trusted = c->worker->trusted_proxies;
    struct sockaddr_storage client;
    if (trusted != NULL && forwarded_client(h->head, &h->peer.any, trusted, &client))
        head_set_remote(h->head, (const struct sockaddr *)&client);
    else
        head_set_remote(h->head, &h->peer.any);
}

/* For a head that cannot be parsed. Empty lines may stand before it. */
static bool http1_begins_with_head(const char *data, size_t len)
{
    for (; len > 2 && data[0] == '\r' && data[1] == '\n'; len -= 2)
        data += 2;
    return len > 5 && memcmp(data, "HEAD ", 5) == 0;
}

static void http1_on_head(struct conn *c, const char *data, size_t len)
{
    struct http1 *h = conn_session(c);
    struct head_fault fault;
    h->mute = http1_begins_with_head(data, len);
    if (head_parse(data, len, &h->head, &fault) < 0) {
        h->head = NULL;
        http1_fail(c, fault.status, fault.reason);
        return;
    }
    http1_set_remote(c, h);
    h->head->tls = c->secure ? tls_facts_ref(tls_facts(conn_tls(c))) : NULL;
    h->head->id = ++c->worker->request_seq * c->worker->count + (c->worker->index - 1);
    metrics_add(c->worker->metrics, METRIC_HTTP_REQUESTS, 1);
    memset(&h->scan, 0, sizeof h->scan);
    h->state = HTTP1_ASKED;
    h->keep = (h->head->flags & HEAD_KEEP_ALIVE) != 0;
    h->mute = h->head->method == HTTP_HEAD;
    if (http1_handler_of(c)->on_head(c, h->head, &h->max_body))
        http1_begin_body(c);
}

static void http1_on_bad_bytes(struct conn *c, uint8_t first)
{
    bool tls = first == 0x16; /* a TLS record of type handshake */
    http1_fail(c, 400,
               tls ? "This port speaks plain HTTP and WebSocket (http://, ws://), not TLS."
                   : "The request has a control character or a line that does not end with CR LF.");
}

/* The first max_head bytes are no whole head; the fault of its target, or of its fields (RFC 9112, 3). */
static void http1_on_long_head(struct conn *c, const uint8_t *head, size_t limit)
{
    size_t skip = 4; /* empty lines may stand before it, and no request line is as short */
    if (memchr(head + skip, '\n', limit - skip) == NULL)
        http1_fail(c, 414, "The request line is longer than max_head allows.");
    else
        http1_fail(c, 431, "The request line and headers are longer than max_head allows.");
}

/* `all` bytes of a head, from its first one, are there. Returns its length, 0 when it is not whole. */
static size_t http1_find_head(struct conn *c, const uint8_t *head, size_t all)
{
    struct http1 *h = conn_session(c);
    size_t limit = (size_t)c->worker->config->max_head;
    long end = head_scan(&h->scan, (const char *)head, all < limit ? all : limit);
    if (end > 0)
        return (size_t)end;
    if (end < 0)
        http1_on_bad_bytes(c, head[0]);
    else if (all >= limit)
        http1_on_long_head(c, head, limit);
    return 0;
}

/* Bytes of a head, or what is behind it. Returns how many were used. */
static size_t http1_read_head(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t before = h->in.len;
    if (before == 0) {
        access_begin(&h->note);
        size_t end = http1_find_head(c, data, len);
        if (end > 0) {
            http1_on_head(c, (const char *)data, end);
            return end;
        }
        if (c->state == CONN_OPEN)
            http1_wait(c, c->worker->config->handshake_timeout);
    }
    if (c->state != CONN_OPEN)
        return len;
    if (http1_has_no_room(c, len)) {
        http1_refuse_input(c);
        return len;
    }
    if (!http1_keep(c, data, len))
        return len;
    size_t end = before > 0 ? http1_find_head(c, (uint8_t *)h->in.data, h->in.len) : 0;
    if (end == 0)
        return len;
    struct buf whole = http1_take_kept(c); /* outlives the session when it is handed over */
    http1_on_head(c, whole.data, end);
    buf_fini(&whole);
    return end - before;
}

/* A peer that asks faster than it takes the answers is not read until it has. */
static bool http1_is_full(const struct conn *c)
{
    return c->out.bytes > CONN_READ_STOP;
}

static size_t http1_pause(struct conn *c, const uint8_t *data, size_t len)
{
    if (http1_keep_if_room(c, data, len)) {
        c->tell_drained = true;
        conn_pause(c);
    }
    return len;
}

static void http1_set_peer(struct http1 *h, const struct sockaddr *peer)
{
    size_t len = peer->sa_family == AF_INET6  ? sizeof h->peer.in6
                 : peer->sa_family == AF_INET ? sizeof h->peer.in
                                              : sizeof peer->sa_family;
    memcpy(&h->peer, peer, len);
}

/* Whether one more may begin a TLS handshake. */
static bool http1_may_shake_hands(const struct worker *w)
{
    if (!worker_over_limit(w, METRIC_TLS_HANDSHAKING, w->config->max_tls_handshakes, 1))
        return true;
    metrics_add(w->metrics, METRIC_REFUSED_TLS, 1);
    return false;
}

/* The proxy has said who is there: from here on it is as if that client had connected. */
static void http1_on_proxyline(struct conn *c, const struct proxyline *line)
{
    struct http1 *h = conn_session(c);
    const struct sockaddr *source = (const struct sockaddr *)&line->source;
    const char *detail;
    h->state = HTTP1_HEAD;
    if (source->sa_family != AF_UNSPEC)
        http1_set_peer(h, source);
    int refusal = admission_of_address(c->worker, &h->peer.any, &c->timer.user, &detail);
    if (c->secure && (refusal != 0 || !http1_may_shake_hands(c->worker)))
        conn_close(c);
    else if (refusal != 0)
        http1_fail(c, refusal, detail);
    else
        http1_wait(c, c->worker->config->handshake_timeout);
    if (conn_tls(c) != NULL)
        tls_start(conn_tls(c));
}

static void http1_refuse_proxy(struct conn *c, const char *why)
{
    struct log_context about = {.worker = c->worker->index, .conn = c->id};
    log_write(LOG_WARN, &about, "a connection to a proxy: address %s: closed", why);
    conn_close(c);
}

/* Returns how many bytes were used. */
static size_t http1_read_proxyline(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t before = h->in.len;
    size_t n = len < PROXYLINE_MAX_BYTES - before ? len : PROXYLINE_MAX_BYTES - before;
    struct proxyline line;
    if (!http1_keep(c, data, n))
        return len;
    int end = proxyline_parse((uint8_t *)h->in.data, h->in.len, &line);
    if (end < 0 || (end == 0 && h->in.len == PROXYLINE_MAX_BYTES)) {
        struct log_context about = {.worker = c->worker->index, .conn = c->id};
        log_write(LOG_WARN, &about,
                  "a connection that should begin with the PROXY protocol does not: closed");
        conn_close(c);
        return len;
    }
    if (end == 0)
        return n;
    struct buf whole = http1_take_kept(c);
    buf_fini(&whole);
    http1_on_proxyline(c, &line);
    return (size_t)end - before;
}

static size_t http1_on_data(struct conn *c, uint8_t *data, size_t len)
{
    size_t at = 0;
    uint64_t end_of_turn = 0; /* not asked for until there is a second request */
    while (at < len && c->state == CONN_OPEN && c->ops == &http1_ops) {
        const struct http1 *h = conn_session(c);
        if (h->state == HTTP1_PROXYLINE) {
            at += http1_read_proxyline(c, data + at, len - at);
            if (c->secure)
                return at; /* what follows is not plain */
        } else if (h->state == HTTP1_ASKED)
            return at + http1_keep_early(c, data + at, len - at);
        else if (h->state == HTTP1_BODY)
            at += http1_read_body(c, data + at, len - at);
        else if (http1_is_full(c))
            return at + http1_pause(c, data + at, len - at);
        else if (end_of_turn != 0 && clock_coarse_ms() > end_of_turn)
            return at;
        else {
            at += http1_read_head(c, data + at, len - at);
            if (end_of_turn == 0 && at < len)
                end_of_turn = clock_coarse_ms() + HTTP1_TURN_MS;
        }
    }
    if (at < len && c->state == CONN_OPEN)
        return at + c->ops->on_data(c, data + at, len - at);
    return len;
}

/* ---- the other events ---- */

static void http1_on_eof(struct conn *c)
{
    struct http1 *h = conn_session(c);
    if (h->state == HTTP1_ASKED && h->request != NULL && !h->needs_peer) {
        h->ended = true; /* it may still read: the answer follows */
        conn_pause(c);
        http1_wait_on(c);
    } else if (h->state == HTTP1_HEAD && h->in.len > 0)
        http1_fail(c, 400, "The request ended before its headers did.");
    else if (h->state == HTTP1_BODY)
        http1_fail(c, 400, "The request ended before its body did.");
    else if (conn_is_sending(c))
        conn_finish(c, HTTP1_LINGER_S);
    else
        conn_close(c);
}

/* The deadline while a request is put off: its time is over, or a look at a peer that is not being read. */
static void http1_on_wait(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    bool stopping = http1_is_stopping(c) && h->needs_peer; /* other answers get until the drain deadline */
    if (!h->streaming && (stopping || http1_is_too_late(c))) {
        bool needs_peer = h->needs_peer;
        http1_give_up_request(c);
        http1_fail(c, 503,
                   stopping     ? "The server is stopping."
                   : needs_peer ? "The decision took longer than handshake_timeout."
                                : "The answer took longer than request_timeout.");
    } else if (c->paused && conn_peer_gone(c, h->needs_peer))
        conn_close(c);
    else if (http1_is_too_late(c))
        http1_set_deadline(c, 3600);
    else
        http1_wait_on(c);
}

/* Whether the peer goes on taking what it is sent; then it gets more time. */
static bool http1_is_taking(struct conn *c)
{
    conn_flush(c); /* some may not have been offered yet */
    if (c->state == CONN_DEAD)
        return true;
    uint32_t since = c->worker->wheel.now - c->last_sent;
    double left = c->worker->config->send_timeout - since * (WHEEL_TICK_MS / 1000.0);
    if (left <= 0 && conn_is_sending(c))
        return false;
    conn_set_deadline(c, left > 0 ? left : 0);
    return true;
}

/* The time between two requests begins when the answer has gone, not when it was queued. */
static void http1_renew_keep_alive(struct conn *c)
{
    struct http1 *h = conn_session(c);
    uint32_t ticks = (uint32_t)(c->worker->config->keep_alive_timeout * 1000 / WHEEL_TICK_MS);
    uint32_t due = c->last_sent + ticks;
    if (h->state == HTTP1_HEAD && h->answered && h->in.len == 0 && (int32_t)(due - h->due) > 0)
        h->due = due;
}

static void http1_on_timeout(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    if (!http1_is_stopping(c))
        http1_renew_keep_alive(c);
    if (conn_is_shaking_hands(c) && (http1_is_stopping(c) || http1_is_too_late(c)))
        conn_close(c);
    else if (conn_is_sending(c) && !conn_is_shaking_hands(c)) {
        if (!http1_is_taking(c))
            conn_close(c);
    } else if (c->state != CONN_OPEN)
        conn_close(c);
    else if (h->request != NULL)
        http1_on_wait(c);
    else if (!http1_is_too_late(c) && (!http1_is_stopping(c) || h->state == HTTP1_BODY))
        http1_wait_on(c);
    else if (h->state == HTTP1_PROXYLINE)
        http1_refuse_proxy(c, "did not send its PROXY protocol within proxy_timeout");
    else if (h->state == HTTP1_HEAD && h->in.len == 0 && (h->answered || http1_is_stopping(c)))
        conn_close(c); /* nothing was asked, or nothing more */
    else if (http1_is_stopping(c))
        http1_fail(c, 503, "The server is stopping.");
    else
        http1_fail(c, 408,
                   h->state == HTTP1_BODY ? "The request's body did not arrive within body_timeout."
                                          : "The request's headers did not arrive within handshake_timeout.");
}

/* A request that is under way is answered yet, and so is one that has arrived and was not read. */
static void http1_on_stop(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    bool deciding = h->request != NULL && h->needs_peer && !h->streaming;
    if (h->state == HTTP1_HEAD && h->answered && h->in.len == 0 && !conn_has_input(c))
        conn_finish(c, HTTP1_LINGER_S);
    else if (deciding || h->state == HTTP1_HEAD || h->state == HTTP1_PROXYLINE)
        conn_set_deadline(c, HTTP1_STOP_GRACE_S);
}

/* The queue has emptied. */
static void http1_on_later(struct conn *c)
{
    struct http1 *h = conn_session(c);
    if (c->state != CONN_OPEN)
        return;
    if (h->request != NULL)
        http1_handler_of(c)->on_drained(c, h->request);
    else if (c->paused && c->out.bytes > 0)
        c->tell_drained = true; /* it has filled again since */
    else if (c->paused)
        http1_resume(c);
}

static void http1_on_dead(struct conn *c)
{
    struct http1 *h = conn_session(c);
    if (h->note != NULL)
        access_request(c, &h->note);
    http1_give_up_request(c);
    if (h->refused)
        atomic_fetch_sub(&http1_refused, 1);
    http1_free(c, h);
}

static const struct conn_ops http1_ops = {
    .on_data = http1_on_data,
    .on_eof = http1_on_eof,
    .on_timeout = http1_on_timeout,
    .on_stop = http1_on_stop,
    .on_later = http1_on_later,
    .on_dead = http1_on_dead,
};

/* ---- accepting ---- */

static struct http1 *http1_create(const struct sockaddr *peer, bool proxied)
{
    struct http1 *h = calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    h->state = proxied ? HTTP1_PROXYLINE : HTTP1_HEAD;
    http1_set_peer(h, peer);
    return h;
}

/* Whether a connection that is to begin with the PROXY protocol comes from one who may say so. */
static bool http1_is_trusted(const struct worker *w, const struct sockaddr *peer)
{
    if (w->trusted_proxies != NULL && cidr_list_has(w->trusted_proxies, peer))
        return true;
    struct log_context about = {.worker = w->index};
    log_write(LOG_WARN, &about, "a connection to a proxy: address is not from trusted_proxies: closed");
    return false;
}

/* The connection, with its TLS. NULL: it is not to be, and nothing is left of it. */
static struct conn *http1_open(struct worker *w, int fd, struct http1 *h, struct spread_how how)
{
    struct tls *tls = NULL;
    if (how.tls != NULL && h != NULL && (how.proxied || http1_may_shake_hands(w)))
        tls = tls_create(w, tlscontext_ref(how.tls), NULL);
    if (h == NULL || (how.tls != NULL && tls == NULL)) {
        close(fd);
        return NULL;
    }
    struct conn *c = conn_create(w, fd, &http1_ops, h, tls);
    if (c != NULL && tls != NULL && !how.proxied)
        tls_start(tls);
    return c;
}

void http1_on_accept(struct worker *w, int fd, const struct sockaddr *peer, struct spread_how how)
{
    uint32_t place = 0;
    const char *detail;
    int refusal = admission_to_server(w, atomic_load(&http1_refused), &detail);
    if (refusal == 0 && !how.proxied)
        refusal = admission_of_address(w, peer, &place, &detail);
    bool slack = refusal == 0 || (atomic_load(&http1_refused) < HTTP1_REFUSAL_SLACK && how.tls == NULL);
    bool trusted = !how.proxied || http1_is_trusted(w, peer);
    struct http1 *h = slack && trusted ? http1_create(peer, how.proxied) : NULL;
    struct conn *c = http1_open(w, fd, h, how);
    tlscontext_unref(how.tls);
    if (c == NULL) {
        free(h);
        peers_leave(place);
        return;
    }
    c->timer.user = place;
    http1_wait(c, w->stopping   ? HTTP1_STOP_GRACE_S
                  : how.proxied ? w->config->proxy_timeout
                                : w->config->handshake_timeout);
    if (refusal != 0) {
        h->refused = true;
        atomic_fetch_add(&http1_refused, 1);
        http1_fail(c, refusal, detail);
    }
}
