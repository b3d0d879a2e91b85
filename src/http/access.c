/* SPDX-License-Identifier: MIT
 * Lines of the access log. */
#include "http/access.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/logline.h"
#include "http/http1.h"
#include "http/http1_session.h"
#include "net/worker.h"

#define ACCESS_USUAL 512 /* bytes; most lines are shorter */

_Atomic bool access_flag;

void access_use(struct logsink_target *to)
{
    bool on = to->fd >= 0;
    if (!on)
        atomic_store(&access_flag, false);
    logsink_use(LOGSINK_ACCESS, to);
    if (on)
        atomic_store(&access_flag, true);
}

uint64_t access_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void access_begin(struct access_note **note)
{
    if (!access_is_on() || *note != NULL || (*note = calloc(1, sizeof **note)) == NULL)
        return;
    (*note)->began_us = access_now_us();
}

/* ---- the lines ---- */

struct access_span {
    const char *text;
    size_t len;
};

/* Cut between characters. */
static struct access_span access_span(const char *text, size_t len, size_t limit)
{
    if (len > limit)
        for (len = limit; len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80;)
            len--;
    return (struct access_span){text, len};
}

static struct access_span access_path(const struct head *h)
{
    return access_span(head_bytes(h) + h->path.at, h->path.len, ACCESS_PATH_MAX);
}

static struct access_span access_method(const struct head *h)
{
    return access_span(head_bytes(h) + h->method_name.at, h->method_name.len, h->method_name.len);
}

/* The first field of that name. */
static struct access_span access_field(const struct head *h, const char *name)
{
    int i = h != NULL ? head_find(h, name, strlen(name), 0) : -1;
    if (i < 0)
        return (struct access_span){"", 0};
    return access_span(head_bytes(h) + h->fields[i].value.at, h->fields[i].value.len, ACCESS_AGENT_MAX);
}

static double access_ms(const struct access_line *l)
{
    return (double)l->took_us / 1000;
}

static bool access_is_ours(const struct access_line *l)
{
    return l->ws != NULL && l->ws->is_client;
}

static void access_quote(struct buf *out, struct access_span s)
{
    logline_quote(out, s.text, s.len);
}

static void access_text_request(struct buf *out, const struct access_line *l)
{
    if (l->head == NULL) {
        buf_puts(out, "-");
        return;
    }
    access_quote(out, access_method(l->head));
    buf_puts(out, " ");
    if (access_is_ours(l)) {
        buf_puts(out, "ws://");
        access_quote(out, access_field(l->head, "Host"));
    }
    access_quote(out, access_path(l->head));
    buf_printf(out, " HTTP/1.%u", l->head->minor);
}

void access_text(struct buf *out, const struct access_line *l)
{
    char when[40];
    struct tm tm;
    struct access_span agent = access_field(l->head, "User-Agent");
    gmtime_r(&l->at.tv_sec, &tm);
    strftime(when, sizeof when, "%d/%b/%Y:%H:%M:%S +0000", &tm);
    buf_printf(out, "%s - - [%s] \"", l->address, when);
    access_text_request(out, l);
    buf_printf(out, "\" %d %llu \"-\" \"", l->status, (unsigned long long)l->bytes);
    if (agent.len > 0)
        access_quote(out, agent);
    else
        buf_puts(out, "-");
    buf_printf(out, "\" %.3fms route=\"", access_ms(l));
    access_quote(out, access_span(l->route != NULL ? l->route : "-", l->route != NULL ? strlen(l->route) : 1,
                                  ACCESS_PATH_MAX));
    buf_printf(out, "\" worker=%u connection=%llu", l->worker, (unsigned long long)l->conn);
    if (l->cut)
        buf_puts(out, " cut");
    if (l->ws != NULL)
        buf_printf(out, " %s in=%llu/%llu out=%llu/%llu close=%u by=%s",
                   l->ws->is_client ? "client" : "websocket", (unsigned long long)l->ws->messages_in,
                   (unsigned long long)l->ws->bytes_in, (unsigned long long)l->ws->messages_out,
                   (unsigned long long)l->ws->bytes_out, l->ws->code, l->ws->closed_by);
    buf_puts(out, "\n");
}

static void access_json_field(struct buf *out, const char *name, struct access_span s)
{
    buf_printf(out, ",\"%s\":\"", name);
    logline_escape(out, s.text, s.len, true);
    buf_puts(out, "\"");
}

void access_json(struct buf *out, const struct access_line *l)
{
    struct access_span agent = access_field(l->head, "User-Agent");
    const char *kind = l->ws == NULL ? "request" : l->ws->is_client ? "client" : "websocket";
    buf_puts(out, "{\"time\":\"");
    logline_time(out, &l->at);
    buf_printf(out, "\",\"access\":\"%s\",\"address\":\"%s\"", kind, l->address);
    if (l->head != NULL) {
        access_json_field(out, "method", access_method(l->head));
        if (access_is_ours(l))
            access_json_field(out, "host", access_field(l->head, "Host"));
        access_json_field(out, "path", access_path(l->head));
    }
    buf_printf(out, ",\"status\":%d,\"bytes\":%llu,\"ms\":%.3f", l->status, (unsigned long long)l->bytes,
               access_ms(l));
    if (l->cut)
        buf_puts(out, ",\"cut\":true");
    if (l->route != NULL)
        access_json_field(out, "route", access_span(l->route, strlen(l->route), ACCESS_PATH_MAX));
    buf_printf(out, ",\"worker\":%u,\"connection\":%llu", l->worker, (unsigned long long)l->conn);
    if (agent.len > 0)
        access_json_field(out, "user_agent", agent);
    if (l->ws != NULL)
        buf_printf(out,
                   ",\"messages_in\":%llu,\"bytes_in\":%llu,\"messages_out\":%llu,\"bytes_out\":%llu"
                   ",\"close_code\":%u,\"closed_by\":\"%s\"",
                   (unsigned long long)l->ws->messages_in, (unsigned long long)l->ws->bytes_in,
                   (unsigned long long)l->ws->messages_out, (unsigned long long)l->ws->bytes_out, l->ws->code,
                   l->ws->closed_by);
    buf_puts(out, "}\n");
}

/* Fills in what all lines have, and hands the line on. */
static void access_write(const struct conn *c, struct access_line *l, uint64_t began_us)
{
    struct buf line = BUF_INIT;
    clock_gettime(CLOCK_REALTIME, &l->at);
    l->took_us = access_now_us() - began_us;
    l->worker = c->worker->index;
    l->conn = c->id;
    buf_reserve(&line, ACCESS_USUAL);
    if (log_form() == LOG_JSON)
        access_json(&line, l);
    else
        access_text(&line, l);
    if (line.len > 0 && line.data[line.len - 1] == '\n') /* else there was no memory for all of it */
        logsink_put(LOGSINK_ACCESS, line.data, line.len, false);
    buf_fini(&line);
}

void access_request(const struct conn *c, struct access_note **owned)
{
    const struct http1 *h = conn_session(c);
    const struct http1_handler *handler = c->worker->layer[WORKER_HTTP];
    struct access_note *note = *owned;
    char address[INET6_ADDRSTRLEN];
    *owned = NULL;
    if (note->status != 0 || h->head != NULL) { /* else only a part of a head was there when the peer went */
        struct head nobody;
        head_set_remote(&nobody, &h->peer.any);
        head_remote_text(h->head != NULL ? h->head : &nobody, address, sizeof address);
        struct access_line l = {
            .address = address[0] != '\0' ? address : "-",
            .head = h->head,
            .status = note->status != 0 ? note->status : ACCESS_GONE,
            .bytes = note->bytes,
            .cut = note->cut || (note->status != 0 && c->state == CONN_DEAD),
        };
        if (h->head != NULL && handler->route_of != NULL)
            l.route = handler->route_of(c, h->head, h->request);
        access_write(c, &l, note->began_us);
    }
    free(note);
}

void access_session(const struct conn *c, const struct head *head, const struct access_websocket *ws)
{
    char address[INET6_ADDRSTRLEN];
    head_remote_text(head, address, sizeof address);
    struct access_line l = {
        .address = address[0] != '\0' ? address : "-",
        .head = head,
        .status = 101,
        .bytes = ws->bytes_out,
        .route = ws->route,
        .ws = ws,
    };
    access_write(c, &l, ws->began_us);
}
