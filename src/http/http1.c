/* SPDX-License-Identifier: MIT
 * The HTTP side of a connection. */
#include "http/http1.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/peers.h"

#define HTTP1_LINGER_S      2.0
#define HTTP1_STOP_GRACE_S  1.0 /* for a request that was on its way when the server stopped */
#define HTTP1_PROBE_S       1.0 /* between two looks at a peer that is not being read */
#define HTTP1_REFUSAL_SLACK 64  /* connections beyond the limit that are told 503 rather than just closed */

/* Connections that are only being told 503; they take nobody's place. */
static _Atomic uint64_t http1_refused;

struct http1 {
    struct buf partial; /* a head that did not come in one piece; or what came behind one, early */
    struct head_scan scan;
    uint32_t due; /* tick of the worker's wheel at which handshake_timeout is over */
    bool refused;
    void *request; /* put off; or NULL */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } peer;
};

static void http1_free(struct http1 *h)
{
    buf_fini(&h->partial);
    free(h);
}

static void http1_count(struct worker *w, int status)
{
    metrics_add(w->metrics, status >= 500 ? METRIC_HTTP_5XX : METRIC_HTTP_4XX, 1);
}

void http1_refuse(struct conn *c, const struct response_error *r)
{
    struct buf answer = BUF_INIT;
    if (response_write_error(&answer, r) < 0 || conn_send(c, answer.data, answer.len) < 0)
        conn_close(c);
    buf_fini(&answer);
    struct http1 *h = conn_session(c);
    h->request = NULL;
    http1_count(c->worker, r->status);
    conn_finish(c, HTTP1_LINGER_S);
}

static void http1_refuse_with(struct conn *c, int status, const char *detail)
{
    http1_refuse(c, &(struct response_error){.status = status, .detail = detail});
}

/* As http1_refuse_with, for a head that is there but not parsed. */
static void http1_refuse_head(struct conn *c, const uint8_t *head, size_t len, int status, const char *detail)
{
    bool head_only = len > 5 && memcmp(head, "HEAD ", 5) == 0;
    http1_refuse(c, &(struct response_error){.status = status, .detail = detail, .head_only = head_only});
}

void http1_put_off(struct conn *c, void *request)
{
    struct http1 *h = conn_session(c);
    h->request = request;
    c->sips = true;
}

void http1_hand_over(struct conn *c, const struct conn_ops *ops, void *session)
{
    struct http1 *h = conn_session(c);
    bool put_off = h->request != NULL;
    struct buf early = h->partial;
    h->partial = (struct buf)BUF_INIT;
    http1_free(h);
    conn_set_session(c, ops, session);
    if (put_off)
        conn_resume(c, early.data, early.len);
    buf_fini(&early);
}

/* ---- the head ---- */

static const struct conn_ops http1_ops;

/* `data` goes on where h->partial ends; all of it is taken. */
static size_t http1_gather(struct conn *c, const uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    if (buf_append(&h->partial, data, len) < 0)
        conn_close(c);
    return len;
}

/* What comes behind a request that was put off. */
static size_t http1_keep_early(struct conn *c, const uint8_t *data, size_t len)
{
    const struct http1 *h = conn_session(c);
    http1_gather(c, data, len);
    if (c->state == CONN_OPEN && h->partial.len > (size_t)c->worker->config->read_ahead) {
        conn_pause(c);
        conn_set_deadline(c, HTTP1_PROBE_S);
    }
    return len;
}

/* `data` starts with a whole head of `head_len` bytes; the rest belongs to what follows it. */
static size_t http1_on_head(struct conn *c, uint8_t *data, size_t head_len, size_t len)
{
    const struct http1 *h = conn_session(c);
    struct head *head;
    struct head_fault fault;
    if (c->worker->stopping) {
        http1_refuse_head(c, data, head_len, 503, "The server is stopping.");
        return len;
    }
    if (head_parse((const char *)data, head_len, &head, &fault) < 0) {
        http1_refuse_head(c, data, head_len, fault.status, fault.reason);
        return len;
    }
    head_set_remote(head, &h->peer.any);
    const struct http1_handler *handler = c->worker->layer[WORKER_HTTP];
    handler->on_request(c, head);
    if (c->state != CONN_OPEN || len == head_len)
        return len;
    if (c->ops != &http1_ops)
        return head_len + c->ops->on_data(c, data + head_len, len - head_len);
    return head_len + http1_keep_early(c, data + head_len, len - head_len);
}

static void http1_on_bad_bytes(struct conn *c, uint8_t first)
{
    bool tls = first == 0x16; /* a TLS record of type handshake */
    http1_refuse_with(c, 400,
                      tls ? "This port speaks plain HTTP and WebSocket (http://, ws://), not TLS."
                          : "The request has a control character or a line that does not end with CR LF.");
}

static size_t http1_on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct http1 *h = conn_session(c);
    size_t limit = (size_t)c->worker->config->max_head, before = h->partial.len, all = before + len;
    uint8_t *head = data;
    if (h->request != NULL)
        return http1_keep_early(c, data, len);
    if (before > 0) {
        http1_gather(c, data, len);
        if (c->state != CONN_OPEN)
            return len;
        head = (uint8_t *)h->partial.data;
    }
    long end = head_scan(&h->scan, (const char *)head, all < limit ? all : limit);
    if (end < 0)
        http1_on_bad_bytes(c, head[0]);
    else if (end > 0) {
        struct buf keep = h->partial; /* outlives the session when it is handed over */
        h->partial = (struct buf)BUF_INIT;
        size_t used = http1_on_head(c, head, (size_t)end, all);
        buf_fini(&keep);
        return used - before;
    } else if (all >= limit)
        http1_refuse_with(c, 431, "The request line and headers are longer than max_head allows.");
    else if (before == 0)
        http1_gather(c, data, len);
    return len;
}

/* ---- the other events ---- */

static void http1_give_up_request(struct conn *c)
{
    struct http1 *h = conn_session(c);
    const struct http1_handler *handler = c->worker->layer[WORKER_HTTP];
    void *request = h->request;
    h->request = NULL;
    if (request != NULL)
        handler->on_gone(c, request);
}

static void http1_on_eof(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    if (h->request == NULL && h->partial.len > 0)
        http1_refuse_with(c, 400, "The request ended before its headers did.");
    else
        conn_close(c);
}

/* The deadline while a request is put off: handshake_timeout, or a look at a peer that is not being read. */
static void http1_on_wait(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    const struct wheel *wheel = &c->worker->wheel;
    int32_t left = (int32_t)(h->due - wheel->now);
    if (c->worker->stopping || left <= 0) {
        http1_give_up_request(c);
        http1_refuse_with(c, 503,
                          c->worker->stopping ? "The server is stopping."
                                              : "The decision took longer than handshake_timeout.");
    } else if (c->paused && conn_peer_gone(c, true))
        conn_close(c);
    else {
        double seconds = left * WHEEL_TICK_MS / 1000.0;
        conn_set_deadline(c, c->paused && seconds > HTTP1_PROBE_S ? HTTP1_PROBE_S : seconds);
    }
}

static void http1_on_timeout(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    if (c->state != CONN_OPEN)
        conn_close(c);
    else if (h->request != NULL)
        http1_on_wait(c);
    else if (c->worker->stopping && h->partial.len == 0)
        conn_close(c); /* nothing was asked */
    else if (c->worker->stopping)
        http1_refuse_with(c, 503, "The server is stopping.");
    else
        http1_refuse_with(c, 408, "The request's headers did not arrive within handshake_timeout.");
}

static void http1_on_stop(struct conn *c)
{
    conn_set_deadline(c, HTTP1_STOP_GRACE_S);
}

static void http1_on_dead(struct conn *c)
{
    const struct http1 *h = conn_session(c);
    http1_give_up_request(c);
    if (h->refused)
        atomic_fetch_sub(&http1_refused, 1);
    http1_free(conn_session(c));
}

static const struct conn_ops http1_ops = {
    .on_data = http1_on_data,
    .on_eof = http1_on_eof,
    .on_timeout = http1_on_timeout,
    .on_stop = http1_on_stop,
    .on_dead = http1_on_dead,
};

/* Why a new connection gets no place; status 0 when it does. `*place` is then its place in the count of its
 * address. */
static struct response_error http1_no_room(struct worker *w, const struct sockaddr *peer, uint32_t *place)
{
    uint64_t limit = (uint64_t)w->config->max_connections;
    uint64_t per_address = (uint64_t)w->config->max_connections_per_address;
    *place = 0;
    if (limit > 0 && worker_total_conns() - atomic_load(&http1_refused) >= limit) {
        metrics_add(w->metrics, METRIC_REFUSED_FULL, 1);
        return (struct response_error){
            .status = 503, .detail = "The server has as many connections as it may; try again later."};
    }
    if (per_address > 0 && (*place = peers_enter(peer, per_address)) == 0) {
        metrics_add(w->metrics, METRIC_REFUSED_ADDRESS, 1);
        return (struct response_error){
            .status = 429,
            .detail = "Your address has as many connections as it may (max_connections_per_address)."};
    }
    return (struct response_error){.status = 0};
}

static struct http1 *http1_create(const struct sockaddr *peer)
{
    struct http1 *h = calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    size_t peer_len = peer->sa_family == AF_INET6  ? sizeof h->peer.in6
                      : peer->sa_family == AF_INET ? sizeof h->peer.in
                                                   : sizeof peer->sa_family;
    memcpy(&h->peer, peer, peer_len);
    return h;
}

void http1_on_accept(struct worker *w, int fd, const struct sockaddr *peer)
{
    uint32_t place;
    struct response_error refusal = http1_no_room(w, peer, &place);
    bool slack = refusal.status == 0 || atomic_load(&http1_refused) < HTTP1_REFUSAL_SLACK;
    struct http1 *h = slack ? http1_create(peer) : NULL;
    struct conn *c = NULL;
    if (h == NULL)
        close(fd);
    else
        c = conn_create(w, fd, &http1_ops, h);
    if (c == NULL) {
        if (h != NULL)
            http1_free(h);
        peers_leave(place);
        return;
    }
    c->timer.user = place;
    h->due = w->wheel.now + (uint32_t)(w->config->handshake_timeout * 1000 / WHEEL_TICK_MS);
    conn_set_deadline(c, w->stopping ? HTTP1_STOP_GRACE_S : w->config->handshake_timeout);
    if (refusal.status != 0) {
        h->refused = true;
        atomic_fetch_add(&http1_refused, 1);
        http1_refuse(c, &refusal);
    }
}
