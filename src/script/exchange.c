/* SPDX-License-Identifier: MIT
 * One request that the script answers. */
#include "script/exchange.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include <llhttp.h>

#include "base/clock.h"
#include "http/accept.h"
#include "http/gzip.h"
#include "http/http1.h"
#include "http/reply.h"
#include "script/dispatch.h"
#include "script/live.h"
#include "script/task.h"

#define EXCHANGE_GZIP_MIN 1024      /* bytes; below it the answer does not get shorter by much */
#define EXCHANGE_GZIP_MAX (8 << 20) /* beyond it the others would wait for too long */

static void exchange_wake_writers(struct exchange *x)
{
    while (!list_empty(&x->writers))
        task_wake(LIST_ENTRY(x->writers.next, struct task, wait));
}

static void exchange_unref(struct exchange *x, int ref)
{
    if (ref != LUA_NOREF)
        luaL_unref(x->vm->L, LUA_REGISTRYINDEX, ref);
}

static void exchange_free(struct exchange *x)
{
    exchange_wake_writers(x);
    list_remove(&x->link);
    x->vm->bindings->stream_forget(x->vm->L, x->stream);
    exchange_unref(x, x->stream);
    exchange_unref(x, x->request);
    head_unref(x->head);
    buf_fini(&x->body);
    buf_fini(&x->fields);
    buf_fini(&x->reply);
    vm_release_connection(x->vm);
    free(x);
}

/* ---- the answer ---- */

/* Whether the answer is compressed for who accepts that. */
static bool exchange_is_zippable(const struct exchange *x)
{
    return x->conn->worker->config->gzip && x->reply.len >= EXCHANGE_GZIP_MIN &&
           x->reply.len <= EXCHANGE_GZIP_MAX && x->status == 200 &&
           gzip_is_worth(x->type, x->fields.data, x->fields.len);
}

static bool exchange_accepts_gzip(const struct exchange *x)
{
    const char *field;
    size_t len;
    return x->head->method != HTTP_HEAD && head_single(x->head, "Accept-Encoding", &field, &len) &&
           accept_quality(field, len, "gzip") > 0;
}

/* A failure leaves the body as it was. */
static void exchange_zip(struct exchange *x)
{
    struct buf zipped = BUF_INIT;
    if (gzip_body(&zipped, x->reply.data, x->reply.len) == 0 && zipped.len < x->reply.len &&
        gzip_note(&x->fields) == 0) {
        struct buf plain = x->reply;
        x->reply = zipped;
        zipped = plain;
    }
    buf_fini(&zipped);
}

static void exchange_answer(struct exchange *x)
{
    if (exchange_is_zippable(x)) {
        buf_puts(&x->fields, "Vary: Accept-Encoding\r\n"); /* with either body: caches keep both */
        if (exchange_accepts_gzip(x))
            exchange_zip(x);
    }
    reply_send(x->conn, &(struct response){
                            .status = x->status,
                            .fields = x->fields.data,
                            .fields_len = x->fields.len,
                            .type = x->reply.len > 0 ? x->type : NULL,
                            .body = x->reply.data,
                            .body_len = x->reply.len,
                        });
}

/* A refusal without words of its own. */
static bool exchange_is_bare_error(const struct exchange *x)
{
    return x->status >= 300 && x->reply.len == 0 && !x->typed && response_has_body(x->status);
}

/* The fields as a string. */
static const char *exchange_fields(struct exchange *x)
{
    return buf_append(&x->fields, "", 1) == 0 ? x->fields.data : "";
}

/* Middleware has let the server's own answer pass: then it says what belongs to it. */
static void exchange_add_fallback(struct exchange *x)
{
    if (x->fallback.status != 0 && x->status == x->fallback.status && !x->streaming)
        buf_puts(&x->fields, x->fallback.fields);
}

/* The script has come to its end. Frees `x`. */
static void exchange_decide(struct exchange *x, enum sched_result result)
{
    exchange_add_fallback(x);
    if (x->upgrade && !(result == SCHED_OK && x->accepted))
        metrics_add(x->vm->metrics, METRIC_REFUSED_SCRIPT, 1);
    if (x->streaming)
        reply_end(x->conn, result == SCHED_OK);
    else if (result != SCHED_OK)
        reply_error(x->conn, 500, "The server's script failed.", NULL);
    else if (x->accepted)
        live_accept(x->conn, head_ref(x->head), x->vm, x->route, exchange_fields(x), &x->request);
    else if (exchange_is_bare_error(x))
        reply_error(x->conn, x->status, x->status == x->fallback.status ? x->fallback.detail : NULL,
                    exchange_fields(x));
    else
        exchange_answer(x);
    exchange_free(x);
}

/* ---- the entry ---- */

static int exchange_on_suspend(void *owner, struct task *t)
{
    struct exchange *x = owner;
    x->task = t;
    return 0;
}

static void exchange_on_end(void *owner, struct task *t, enum sched_result result)
{
    (void)t;
    struct exchange *x = owner;
    x->task = NULL;
    if (x->put_off && x->conn->state == CONN_OPEN && result != SCHED_CANCELLED)
        exchange_decide(x, result); /* else exchange_on_gone follows */
}

static const struct task_owner exchange_owner = {
    .on_suspend = exchange_on_suspend,
    .on_end = exchange_on_end,
};

static double exchange_time_limit(const struct exchange *x)
{
    const struct config *config = x->conn->worker->config;
    if (x->upgrade)
        return config->handshake_timeout;
    if (x->streaming)
        return 0;
    return x->route >= 0 ? x->vm->routes[x->route].request_timeout : config->request_timeout;
}

void exchange_start(struct conn *c, struct head *head, struct vm *vm, const struct exchange *how,
                    struct buf *body)
{
    struct exchange *x = malloc(sizeof *x);
    if (x == NULL) {
        reply_error(c, 500, "The server is out of memory.", NULL);
        return;
    }
    *x = *how;
    x->conn = c;
    x->head = head_ref(head);
    x->vm = vm;
    x->request = x->stream = LUA_NOREF;
    list_init(&x->writers);
    list_init(&x->link);
    if (body != NULL) {
        x->body = *body;
        *body = (struct buf)BUF_INIT;
    }
    vm_hold_connection(vm);
    struct log_context about = vm_about(vm, c, x->route);
    enum sched_result result =
        sched_run(vm, &(struct sched_entry){
                          .body = vm->bindings->request,
                          .arg = x,
                          .about = &about,
                          .kind = &exchange_owner,
                          .owner = x,
                          .tally = x->route >= 0 ? vm->routes[x->route].limits.tally : NULL,
                      });
    if (result == SCHED_SUSPENDED) {
        x->put_off = true;
        list_append(&vm->exchanges, &x->link);
        http1_put_off(c, x, exchange_time_limit(x), x->upgrade);
    } else
        exchange_decide(x, result);
}

void exchange_on_gone(struct conn *c, void *request)
{
    (void)c;
    struct exchange *x = request;
    if (x->task != NULL)
        task_cancel(x->task);
    exchange_free(x);
}

bool exchange_cancel_some(struct vm *vm, uint64_t until_ms)
{
    while (!list_empty(&vm->exchanges)) {
        if (clock_now_ms() >= until_ms)
            return true;
        struct exchange *x = LIST_ENTRY(vm->exchanges.next, struct exchange, link);
        struct conn *c = x->conn;
        if (x->task != NULL)
            task_cancel(x->task);
        if (x->streaming)
            reply_end(c, false);
        else {
            reply_last(c);
            reply_error(c, 503, "The server's code was replaced while this request waited.",
                        "Retry-After: 1\r\n");
        }
        exchange_free(x);
    }
    return false;
}

/* ---- streaming ---- */

bool exchange_stream_begin(struct exchange *x)
{
    if (x->conn->state != CONN_OPEN)
        return false;
    x->streaming = true;
    bool wanted = reply_stream(x->conn, &(struct response){.status = x->status,
                                                           .fields = x->fields.data,
                                                           .fields_len = x->fields.len,
                                                           .type = x->type});
    if (x->put_off)
        http1_put_off(x->conn, x, 0, x->upgrade);
    return wanted;
}

bool exchange_stream_piece(struct exchange *x, const char *data, size_t len)
{
    if (x->conn->state != CONN_OPEN)
        return false;
    reply_piece(x->conn, data, len);
    return x->conn->state == CONN_OPEN;
}

bool exchange_stream_is_full(const struct exchange *x)
{
    const struct conn *c = x->conn;
    const struct config *config = c->worker->config;
    return c->out.bytes > (size_t)config->send_limit / 2 ||
           worker_over_limit(c->worker, METRIC_QUEUED_BYTES, config->queue_limit, 0);
}

void exchange_stream_wait(struct exchange *x, struct task *t)
{
    struct conn *c = x->conn;
    conn_flush(c);
    if (c->state == CONN_OPEN && c->out.bytes > 0) {
        c->tell_drained = true;
        list_append(&x->writers, &t->wait);
    } else
        task_wake(t); /* a quick peer: but the others want their turn */
}

void exchange_on_drained(struct conn *c, void *request)
{
    (void)c;
    exchange_wake_writers(request);
}
