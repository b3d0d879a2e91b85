/* SPDX-License-Identifier: MIT
 * Whether a request that asks for a WebSocket gets one. */
#include "script/handshake.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include <llhttp.h>

#include "base/clock.h"
#include "base/rate.h"
#include "http/http1.h"
#include "script/dispatch.h"
#include "script/task.h"
#include "ws/origin.h"
#include "ws/upgrade.h"

static void handshake_free(struct handshake *h)
{
    head_unref(h->head);
    if (h->request != LUA_NOREF)
        luaL_unref(h->vm->L, LUA_REGISTRYINDEX, h->request);
    buf_fini(&h->fields);
    buf_fini(&h->body);
    vm_release_connection(h->vm);
    free(h);
}

static void handshake_refuse(struct handshake *h, struct response_error *refusal)
{
    refusal->head_only = h->head->method == HTTP_HEAD;
    metrics_add(h->vm->metrics, METRIC_REFUSED_SCRIPT, 1);
    http1_refuse(h->conn, refusal);
}

/* should_upgrade has come to its end. Frees `h`. */
static void handshake_decide(struct handshake *h, enum sched_result result)
{
    if (result != SCHED_OK)
        handshake_refuse(h, &(struct response_error){.status = 500, .detail = "The server's script failed."});
    else if (h->status != 0)
        handshake_refuse(h, &(struct response_error){
                                .status = h->status,
                                .fields = h->fields.len > 0 ? h->fields.data : NULL,
                                .body = h->body.len > 0 ? h->body.data : NULL,
                                .body_len = h->body.len,
                            });
    else
        dispatch_accept(h->conn, head_ref(h->head), h->vm, h->route, h->fields.len > 0 ? h->fields.data : "",
                        &h->request);
    handshake_free(h);
}

static int handshake_on_suspend(void *owner, struct task *t)
{
    struct handshake *h = owner;
    h->task = t;
    return 0;
}

static void handshake_on_end(void *owner, struct task *t, enum sched_result result)
{
    (void)t;
    struct handshake *h = owner;
    h->task = NULL;
    if (h->put_off && h->conn->state == CONN_OPEN && result != SCHED_CANCELLED)
        handshake_decide(h, result); /* else handshake_on_gone follows */
}

static const struct task_owner handshake_owner = {
    .on_suspend = handshake_on_suspend,
    .on_end = handshake_on_end,
};

static void handshake_ask_script(struct conn *c, struct head *head, struct vm *vm, int route)
{
    struct handshake *h = calloc(1, sizeof *h);
    if (h == NULL) {
        head_unref(head);
        http1_refuse(c, &(struct response_error){.status = 500, .detail = "The server is out of memory."});
        return;
    }
    *h = (struct handshake){.conn = c, .head = head, .vm = vm, .route = route, .request = LUA_NOREF};
    vm_hold_connection(vm);
    struct log_context about = {
        .worker = c->worker->index, .conn = c->id, .route = router_route(vm->router, (size_t)route)->pattern};
    enum sched_result result = sched_run(vm, &(struct sched_entry){
                                                 .body = vm->bindings->ws_upgrade,
                                                 .arg = h,
                                                 .about = &about,
                                                 .kind = &handshake_owner,
                                                 .owner = h,
                                             });
    if (result == SCHED_SUSPENDED) {
        h->put_off = true;
        http1_put_off(c, h);
    } else
        handshake_decide(h, result);
}

void handshake_on_gone(struct conn *c, void *request)
{
    (void)c;
    struct handshake *h = request;
    if (h->task != NULL)
        task_cancel(h->task);
    handshake_free(h);
}

/* Cross-site WebSocket hijacking: a browser sends the user's cookies along with whatever page asks, but says
 * which page it was (RFC 6455, 10.2). Clients that are no browsers send no Origin. */
static bool handshake_origin_fits(const struct vm *vm, int route, const struct head *head,
                                  const char **origin, size_t *len)
{
    const struct config_list *allowed = vm->routes[route].origins;
    const char *host = NULL;
    size_t host_len = 0;
    if (allowed == NULL)
        allowed = &vm->config->origins;
    *origin = "";
    *len = 0;
    if (head_find(head, "Origin", 6, 0) < 0)
        return true;
    head_single(head, "Origin", origin, len); /* two of them fit nothing but "*" */
    head_single(head, "Host", &host, &host_len);
    for (size_t i = 0; i < allowed->n; i++)
        if (origin_matches(allowed->item[i], strlen(allowed->item[i]), *origin, *len, host, host_len))
            return true;
    return false;
}

static void handshake_log_origin(const struct conn *c, const struct vm *vm, int route, const char *origin,
                                 size_t len)
{
    struct log_context about = {
        .worker = c->worker->index, .conn = c->id, .route = router_route(vm->router, (size_t)route)->pattern};
    log_write(LOG_INFO, &about, "refused a page of origin \"%.*s\": not in origins (see the route's options)",
              (int)(len < 200 ? len : 200), origin);
}

static _Atomic uint64_t handshake_rate; /* handshakes_per_second */

static bool handshake_too_many(const struct worker *w)
{
    double limit = w->config->handshakes_per_second;
    return limit > 0 && !rate_take(&handshake_rate, clock_coarse_ms() * 1000, limit, limit);
}

/* What keeps a handshake from being accepted; status 0 when nothing does. */
static struct response_error handshake_check(struct conn *c, const struct head *head, const struct vm *vm,
                                             int route)
{
    const char *reason, *origin;
    size_t len;
    struct metrics *m = c->worker->metrics;
    int status = upgrade_check(head, &reason);
    if (status != 0)
        return (struct response_error){
            .status = status, .detail = reason, .fields = status == 426 ? HANDSHAKE_UPGRADE : NULL};
    if (!handshake_origin_fits(vm, route, head, &origin, &len)) {
        metrics_add(m, METRIC_REFUSED_ORIGIN, 1);
        handshake_log_origin(c, vm, route, origin, len);
        return (struct response_error){.status = 403,
                                       .detail = "Pages of this origin may not connect here (see origins)."};
    }
    if (handshake_too_many(c->worker)) {
        metrics_add(m, METRIC_REFUSED_RATE, 1);
        return (struct response_error){.status = 503,
                                       .detail = "Too many clients connect at once; try again in a moment.",
                                       .fields = "Retry-After: 1\r\n"};
    }
    return (struct response_error){.status = 0};
}

void handshake_on_request(struct conn *c, struct head *head, struct vm *vm, int route)
{
    struct response_error refusal = handshake_check(c, head, vm, route);
    int none = LUA_NOREF;
    if (refusal.status != 0) {
        refusal.head_only = head->method == HTTP_HEAD;
        http1_refuse(c, &refusal);
        head_unref(head);
    } else if (vm->routes[route].should_upgrade != LUA_NOREF)
        handshake_ask_script(c, head, vm, route);
    else
        dispatch_accept(c, head, vm, route, "", &none);
}
