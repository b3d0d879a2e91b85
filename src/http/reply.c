/* SPDX-License-Identifier: MIT
 * Answers. */
#include "http/reply.h"

#include <stdio.h>
#include <string.h>

#include "http/accept.h"
#include "http/http1_session.h"
#include "net/worker.h"

static void reply_count(struct worker *w, int status)
{
    metrics_add(w->metrics,
                status >= 500   ? METRIC_HTTP_5XX
                : status >= 400 ? METRIC_HTTP_4XX
                : status >= 300 ? METRIC_HTTP_3XX
                                : METRIC_HTTP_2XX,
                1);
}

/* Of an answer that has no body: RFC 9110, 15.3.6, a 205 says so. */
static int64_t reply_no_length(int status)
{
    return status == 205 ? 0 : RESPONSE_UNTOLD;
}

/* Everything before the body, whose `length` may be one of RESPONSE_*. */
static void reply_head(struct conn *c, const struct response *r, int64_t length)
{
    struct http1 *h = conn_session(c);
    char lines[RESPONSE_LINES];
    bool keep = h->keep && !c->worker->stopping;
    bool old = h->head != NULL && h->head->minor == 0;
    const char *connection = r->status == 426 ? "Connection: Upgrade, close\r\n\r\n"
                             : !keep          ? "Connection: close\r\n\r\n"
                             : old            ? "Connection: keep-alive\r\n\r\n"
                                              : "\r\n";
    const char *type = response_has_body(r->status) ? r->type : NULL;
    h->keep = keep && r->status != 426;
    reply_count(c->worker, r->status);
    if (h->note != NULL)
        h->note->status = r->status;
    conn_send(c, lines, response_first_lines(r->status, type, length, lines));
    if (r->fields_len > 0)
        conn_send(c, r->fields, r->fields_len);
    conn_send(c, connection, strlen(connection));
}

/* With the process at queue_limit, what the kernel does not take at once of an answer has no place, but for
 * `allowed` bytes: the answer has begun, so nothing else can be said. */
static void reply_hold_to_limit(struct conn *c, size_t allowed)
{
    if (c->state == CONN_DEAD ||
        !worker_over_limit(c->worker, METRIC_QUEUED_BYTES, c->worker->config->queue_limit, 0))
        return;
    conn_flush(c);
    if (c->state == CONN_DEAD || c->out.bytes <= allowed)
        return;
    metrics_add(c->worker->metrics, METRIC_SLOW_CLOSED, 1);
    conn_close(c);
}

void reply_send(struct conn *c, const struct response *r)
{
    const struct http1 *h = conn_session(c);
    bool mute = h->mute || !response_has_body(r->status);
    reply_head(c, r,
               response_has_body(r->status) ? (int64_t)r->body_len
               : r->status == 205           ? 0 /* RFC 9110, 15.3.6: that one says that it is empty */
                                            : RESPONSE_UNTOLD);
    if (!mute && r->body_len > 0) {
        conn_send_at_once(c, r->body, r->body_len);
        if (h->note != NULL)
            h->note->bytes = r->body_len;
    }
    http1_done(c); /* before the flush, which may find the peer gone: that is to answer nothing more */
    reply_hold_to_limit(c, 0);
}

static bool reply_wants_json(const struct http1 *h)
{
    const char *accept;
    size_t len;
    return h->head != NULL && head_single(h->head, "Accept", &accept, &len) &&
           accept_prefers_json(accept, len);
}

void reply_error(struct conn *c, int status, const char *detail, const char *fields)
{
    bool json = reply_wants_json(conn_session(c));
    struct buf page = BUF_INIT;
    if (response_error_page(&page, status, detail, json) < 0)
        page.len = 0;
    reply_send(c, &(struct response){
                      .status = status,
                      .fields = fields,
                      .fields_len = fields != NULL ? strlen(fields) : 0,
                      .type = json ? RESPONSE_JSON : RESPONSE_TEXT,
                      .body = page.data,
                      .body_len = page.len,
                  });
    buf_fini(&page);
}

void reply_last(struct conn *c)
{
    struct http1 *h = conn_session(c);
    h->keep = false;
}

/* ---- streamed answers ---- */

bool reply_stream(struct conn *c, const struct response *r)
{
    struct http1 *h = conn_session(c);
    h->mute = h->mute || !response_has_body(r->status);
    h->chunks = h->head->minor > 0;
    h->streaming = true;
    if (!h->chunks) /* HTTP/1.0 knows no chunks: the end of the connection is the end of the body */
        h->keep = false;
    reply_head(c, r,
               response_has_body(r->status) && h->chunks ? RESPONSE_CHUNKED : reply_no_length(r->status));
    return !h->mute;
}

void reply_piece(struct conn *c, const void *data, size_t len)
{
    const struct http1 *h = conn_session(c);
    char size[24];
    if (h->mute || len == 0)
        return;
    if (h->chunks)
        conn_send(c, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
    conn_send(c, data, len);
    if (h->chunks)
        conn_send(c, "\r\n", 2);
    if (h->note != NULL)
        h->note->bytes += len;
    reply_hold_to_limit(c, (size_t)c->worker->config->send_limit);
}

void reply_end(struct conn *c, bool whole)
{
    struct http1 *h = conn_session(c);
    if (whole && h->chunks && !h->mute)
        conn_send(c, "0\r\n\r\n", 5);
    else if (!whole)
        h->keep = false;
    if (h->note != NULL)
        h->note->cut = !whole;
    http1_done(c);
}
