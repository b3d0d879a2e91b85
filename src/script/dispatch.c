/* SPDX-License-Identifier: MIT
 * Where requests and WebSocket events meet the script. */
#include "script/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include <llhttp.h>

#include "base/clock.h"
#include "bus/courier.h"
#include "bus/delivery.h"
#include "bus/topic.h"
#include "client/multi.h"
#include "http/gzip.h"
#include "http/http1.h"
#include "http/reply.h"
#include "script/exchange.h"
#include "script/handshake.h"
#include "script/job.h"
#include "script/live.h"
#include "script/migrate.h"
#include "script/timer.h"
#include "ws/closecode.h"
#include "ws/upgrade.h"

/* How long what has waited (script/job.h) goes on before the connections get their turn. */
#define DISPATCH_TURN_MS 5

/* How long live connections move to new code in one loop iteration. */
#define DISPATCH_SWEEP_MS 2

/* How often those that have still to move are looked at. */
#define DISPATCH_JUDGE_S 1.0

/* How long completions and tasks may go on when the worker has ended. */
#define DISPATCH_LAST_MS 1000

struct dispatch {
    struct vm *current;
    struct list vms;              /* it, and older ones that are still needed */
    _Atomic(struct vm *) pending; /* published, not yet current */
    struct mail publication;      /* in the worker's mailbox exactly while there is a pending VM */
    struct dispatch_options o;
    struct budget budget;
    struct migrate migrate;
    bool sweeping;
    ev_timer judge; /* while connections have to move that wait */
    struct {        /* the last request whose head came: mostly the next to be asked about */
        const struct head *head;
        uint64_t generation;
        int route;
        uint32_t allowed;
    } matched;
};

static struct dispatch *dispatch_of(const struct worker *w)
{
    return w->layer[WORKER_SCRIPT];
}

struct vm *dispatch_current(const struct worker *w)
{
    return dispatch_of(w)->current;
}

/* ---- VMs ---- */

static void dispatch_adopt(struct worker *w, struct vm *vm)
{
    struct dispatch *d = dispatch_of(w);
    vm_start(vm, w, &d->budget);
    list_append(&d->vms, &vm->link);
    d->current = vm;
}

static void dispatch_retire(struct worker *w, struct vm *vm)
{
    ev_timer_stop(w->loop, &vm->drain);
    vm_tell_stop(vm);
    list_remove(&vm->link);
    vm_stop(vm);
    reaper_bury(dispatch_of(w)->o.reaper, vm);
}

static void dispatch_start_sweep(struct worker *w)
{
    dispatch_of(w)->sweeping = true;
    w->due = true;
}

/* What still waits in the code of before a reload has had its time. Its connections go on in the new code. */
static void dispatch_on_drain(struct ev_loop *loop, ev_timer *drain, int revents)
{
    (void)loop;
    (void)revents;
    struct vm *vm = drain->data;
    struct log_context about = {.worker = vm->worker};
    if (vm->ntasks > 0)
        log_write(
            LOG_WARN, &about,
            "generation %llu: what was left at the end of reload_drain is cancelled: %llu tasks or timers",
            (unsigned long long)vm->generation, (unsigned long long)vm->ntasks);
    vm->drained = true;
    vm_give_up(vm);
    dispatch_start_sweep(vm->home); /* ends what its connections wait for; the rest: dispatch_on_due */
}

/* Nobody bounds how often scripts are reloaded: when too many versions are alive the oldest goes at once. */
static void dispatch_limit_versions(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    int64_t alive = 0;
    for (struct list *l = d->vms.next; l != &d->vms; l = l->next)
        alive += !LIST_ENTRY(l, struct vm, link)->drained;
    for (struct list *l = d->vms.next; l != &d->vms && alive > w->config->max_generations; l = l->next) {
        struct vm *vm = LIST_ENTRY(l, struct vm, link);
        if (vm->drained || vm == d->current)
            continue;
        ev_timer_stop(w->loop, &vm->drain);
        dispatch_on_drain(w->loop, &vm->drain, 0);
        alive--;
    }
}

static void dispatch_on_publication(struct mail *mail, void *receiver)
{
    (void)mail;
    struct worker *w = receiver;
    struct dispatch *d = dispatch_of(w);
    struct vm *old = d->current;
    dispatch_adopt(w, atomic_exchange(&d->pending, NULL));
    if (old == NULL) /* the worker has ended */
        return;
    vm_tell_start(d->current);
    migrate_begin(&d->migrate, d->current->generation);
    timer_stop_all(old, true);
    ev_timer_init(&old->drain, dispatch_on_drain, w->config->reload_drain, 0);
    old->drain.data = old;
    ev_timer_start(w->loop, &old->drain);
    dispatch_limit_versions(w);
    dispatch_start_sweep(w);
    ev_timer_again(w->loop, &d->judge);
}

static void dispatch_on_judge(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct worker *w = timer->data;
    if (dispatch_of(w)->migrate.state == MIGRATE_MOVING)
        dispatch_start_sweep(w);
    else
        ev_timer_stop(loop, timer);
}

/* All that can move to the newest code now has. */
static void dispatch_report(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    struct migrate_report *report = malloc(sizeof *report);
    if (report == NULL)
        return;
    d->migrate.state = MIGRATE_TOLD;
    *report = (struct migrate_report){.mail.deliver = d->o.on_report,
                                      .generation = d->migrate.generation,
                                      .moved = d->migrate.moved,
                                      .failed = d->migrate.failed,
                                      .homeless = d->migrate.homeless};
    mailbox_post(d->o.reports, &report->mail);
}

static void dispatch_sweep(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    if (!d->sweeping)
        return;
    worker_settle(w); /* answers that are ready do not wait for it */
    d->sweeping = migrate_sweep(&d->migrate, w, clock_now_ms() + DISPATCH_SWEEP_MS);
    if (d->sweeping)
        w->due = true;
    else if (migrate_is_through(&d->migrate, w))
        dispatch_report(w);
}

void dispatch_on_moved(struct worker *w, struct session *s, enum live_followed how)
{
    struct dispatch *d = dispatch_of(w);
    migrate_count(&d->migrate, w, how);
    if (how == LIVE_FAILED && d->migrate.state == MIGRATE_ACCEPTED)
        session_fail(s, CLOSECODE_INTERNAL_ERROR, "internal error");
    dispatch_on_gone(w);
}

void dispatch_on_gone(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    if (!d->sweeping && migrate_one_less(&d->migrate))
        dispatch_start_sweep(w);
}

/* The main thread accepts a generation. */
struct dispatch_verdict {
    struct mail mail;
    uint64_t generation;
};

static void dispatch_on_verdict(struct mail *mail, void *receiver)
{
    struct dispatch_verdict *v = (struct dispatch_verdict *)mail;
    struct worker *w = receiver;
    if (dispatch_of(w) != NULL && dispatch_current(w) != NULL) {
        if (migrate_accept(&dispatch_of(w)->migrate, v->generation))
            dispatch_start_sweep(w);
    }
    free(v);
}

void dispatch_accept(struct worker *w, uint64_t generation)
{
    struct dispatch_verdict *v = malloc(sizeof *v);
    if (v == NULL)
        return;
    *v = (struct dispatch_verdict){.mail.deliver = dispatch_on_verdict, .generation = generation};
    worker_post(w, &v->mail);
}

static void dispatch_on_due(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    uint64_t until = clock_coarse_ms() + DISPATCH_TURN_MS;
    for (struct list *l = d->vms.next, *next; l != &d->vms; l = next) {
        struct vm *vm = LIST_ENTRY(l, struct vm, link);
        next = l->next;
        bool more = job_run_some(vm, until);
        if (vm->drained) /* what is left of it, and what its last connections have begun since */
            more = vm_cancel_some(vm, until) || exchange_cancel_some(vm, until) || more;
        if (more)
            w->due = true;
        else if (vm != d->current && vm->holds == 0 && vm_give_up(vm))
            w->due = true; /* for those who hear of it */
        else if (vm != d->current && vm->holds == 0)
            dispatch_retire(w, vm);
    }
    courier_flush(w);
    delivery_flush(w);
    dispatch_sweep(w);
}

void dispatch_publish(struct worker *w, struct vm *vm)
{
    struct dispatch *d = dispatch_of(w);
    struct vm *overtaken = atomic_exchange(&d->pending, vm);
    if (overtaken != NULL) /* its mail has not been read yet and will find the newer one */
        reaper_bury(d->o.reaper, overtaken);
    else
        worker_post(w, &d->publication);
}

/* ---- requests ---- */

static enum router_method dispatch_method(const struct head *head)
{
    switch (head->method) {
    case HTTP_GET: return ROUTER_GET;
    case HTTP_HEAD: return ROUTER_HEAD;
    case HTTP_POST: return ROUTER_POST;
    case HTTP_PUT: return ROUTER_PUT;
    case HTTP_PATCH: return ROUTER_PATCH;
    case HTTP_DELETE: return ROUTER_DELETE;
    case HTTP_OPTIONS: return ROUTER_OPTIONS;
    default: return ROUTER_NO_METHOD;
    }
}

int dispatch_match(const struct router *r, const struct head *head, struct router_match *m)
{
    const char *path = head_bytes(head) + head->path.at;
    enum router_method method = dispatch_method(head);
    if (upgrade_wanted(head) && router_match(r, ROUTER_WEBSOCKET, path, head->path.len, m) >= 0)
        return m->route;
    if (router_match(r, method == ROUTER_NO_METHOD ? ROUTER_GET : method, path, head->path.len, m) < 0 &&
        method == ROUTER_HEAD)
        router_match(r, ROUTER_GET, path, head->path.len, m);
    return method == ROUTER_NO_METHOD ? -1 : m->route;
}

/* The methods that a path has, for the field Allow. */
static void dispatch_write_allow(uint32_t allowed, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "Allow: ");
    if (allowed & 1u << ROUTER_GET)
        allowed |= 1u << ROUTER_HEAD;
    if (allowed & 1u << ROUTER_WEBSOCKET)
        allowed |= 1u << ROUTER_GET;
    allowed |= 1u << ROUTER_OPTIONS;
    for (enum router_method m = 0; m < ROUTER_WEBSOCKET; m++)
        if (allowed & 1u << m)
            at += (size_t)snprintf(out + at, size - at, "%s%s", at > 7 ? ", " : "", router_method_name(m));
    snprintf(out + at, size - at, "\r\n");
}

/* What the server says to a request that fits no route. */
static struct exchange_fallback dispatch_fallback(const struct head *head, uint32_t allowed)
{
    struct exchange_fallback f = {.status = 404, .detail = "No route of this server fits this path."};
    bool any = head->method == HTTP_OPTIONS && head->path.len == 1 && head_bytes(head)[head->path.at] == '*';
    if (any || allowed != 0)
        dispatch_write_allow(any ? ~0u : allowed, f.fields, sizeof f.fields);
    if (any || (allowed != 0 && head->method == HTTP_OPTIONS)) {
        f.status = 204;
        f.detail = NULL;
    } else if (allowed == 1u << ROUTER_WEBSOCKET && (head->method == HTTP_GET || head->method == HTTP_HEAD)) {
        f.status = 426;
        f.detail = "This address is a WebSocket: connect with a WebSocket client (ws://).";
        snprintf(f.fields, sizeof f.fields, HANDSHAKE_UPGRADE);
    } else if (allowed != 0) {
        f.status = 405;
        f.detail = allowed == 1u << ROUTER_WEBSOCKET
                       ? "This address is a WebSocket: the handshake is a GET request."
                       : "This address does not answer to that method; the field Allow says to which.";
    }
    return f;
}

static bool dispatch_has_body(const struct head *head)
{
    return (head->flags & HEAD_CHUNKED) || head->content_length > 0;
}

static void dispatch_answer_fallback(struct conn *c, const struct head *head,
                                     const struct exchange_fallback *f)
{
    if (dispatch_has_body(head) || upgrade_wanted(head)) /* nobody is going to read what follows */
        reply_last(c);
    if (f->status >= 400)
        reply_error(c, f->status, f->detail, f->fields);
    else
        reply_send(
            c, &(struct response){.status = f->status, .fields = f->fields, .fields_len = strlen(f->fields)});
}

/* Finds the route of a request in the current code and notes it in d->matched. */
static void dispatch_find(struct dispatch *d, const struct head *head)
{
    struct router_match m;
    d->matched.route = dispatch_match(d->current->router, head, &m);
    d->matched.allowed = m.allowed;
    d->matched.head = head;
    d->matched.generation = d->current->generation;
}

static bool dispatch_on_head(struct conn *c, struct head *head, size_t *max_body)
{
    struct dispatch *d = dispatch_of(c->worker);
    struct vm *vm = d->current;
    dispatch_find(d, head);
    int route = d->matched.route;
    *max_body = (size_t)c->worker->config->max_body;
    if (route < 0) {
        struct exchange_fallback f = dispatch_fallback(head, d->matched.allowed);
        if (vm->fallback == LUA_NOREF)
            dispatch_answer_fallback(c, head, &f);
        return vm->fallback != LUA_NOREF;
    }
    *max_body = (size_t)vm->routes[route].max_body;
    if (router_route(vm->router, (size_t)route)->method != ROUTER_WEBSOCKET)
        return true;
    handshake_on_request(c, head, vm, route);
    return false;
}

static void dispatch_on_request(struct conn *c, struct head *head, struct buf *body)
{
    struct dispatch *d = dispatch_of(c->worker);
    struct vm *vm = d->current;
    if (d->matched.head != head || d->matched.generation != vm->generation) /* its body took its time */
        dispatch_find(d, head);
    struct exchange how = {.route = d->matched.route};
    bool fits = how.route >= 0 && router_route(vm->router, (size_t)how.route)->method != ROUTER_WEBSOCKET;
    how.chain = fits ? vm->routes[how.route].chain : vm->fallback;
    if (!fits) {
        how.route = -1;
        how.fallback = dispatch_fallback(head, d->matched.allowed);
        if (upgrade_wanted(head)) /* frames may follow */
            reply_last(c);
    }
    if (how.chain == LUA_NOREF)
        dispatch_answer_fallback(c, head, &how.fallback);
    else
        exchange_start(c, head, vm, &how, body);
}

static const char *dispatch_route_of(const struct conn *c, const struct head *head, void *request)
{
    struct dispatch *d = dispatch_of(c->worker);
    if (request != NULL)
        return exchange_pattern(request);
    if (d->current == NULL) /* the worker has ended */
        return NULL;
    if (d->matched.head != head || d->matched.generation != d->current->generation)
        dispatch_find(d, head);
    int route = d->matched.route;
    return route >= 0 ? router_route(d->current->router, (size_t)route)->pattern : NULL;
}

static const struct http1_handler dispatch_requests = {
    .on_head = dispatch_on_head,
    .on_request = dispatch_on_request,
    .on_gone = exchange_on_gone,
    .on_drained = exchange_on_drained,
    .route_of = dispatch_route_of,
};

/* ---- the worker ---- */

static void dispatch_on_start(struct worker *w)
{
    budget_adopt(&dispatch_of(w)->budget);
    vm_tell_start(dispatch_current(w));
}

/* Completions are told of the end of their connections, and what that wakes goes on, for a while. */
static void dispatch_run_last_jobs(struct dispatch *d)
{
    uint64_t until = clock_now_ms() + DISPATCH_LAST_MS;
    bool more = true;
    while (more && clock_now_ms() < until) {
        more = false;
        for (struct list *l = d->vms.next; l != &d->vms; l = l->next)
            more |= job_run_some(LIST_ENTRY(l, struct vm, link), until);
    }
}

static void dispatch_retire_all(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    while (!list_empty(&d->vms))
        dispatch_retire(w, LIST_ENTRY(d->vms.next, struct vm, link));
    d->current = NULL;
}

static void dispatch_on_exit(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    dispatch_run_last_jobs(d);
    gzip_thread_fini();
    ev_timer_stop(w->loop, &d->judge);
    multi_fini(w); /* whom it tells must still be there */
    dispatch_retire_all(w);
    courier_flush(w);
}

const struct worker_hooks dispatch_worker_hooks = {
    .on_start = dispatch_on_start,
    .on_accept = http1_on_accept,
    .on_due = dispatch_on_due,
    .on_exit = dispatch_on_exit,
};

struct budget *dispatch_budget(struct worker *w)
{
    return &dispatch_of(w)->budget;
}

int dispatch_worker_init(struct worker *w, struct vm *vm, const struct dispatch_options *o)
{
    struct dispatch *d = calloc(1, sizeof *d);
    if (d == NULL || session_worker_init(w, &live_sessions) < 0 || courier_init(w) < 0 ||
        topic_worker_init(w) < 0) {
        free(d);
        return -1;
    }
    d->o = *o;
    d->migrate = (struct migrate){.generation = vm->generation, .state = MIGRATE_ACCEPTED};
    list_init(&d->vms);
    ev_timer_init(&d->judge, dispatch_on_judge, 0, DISPATCH_JUDGE_S);
    d->judge.data = w;
    d->publication.deliver = dispatch_on_publication;
    budget_init(&d->budget, "handler_budget", w->config->handler_budget);
    w->layer[WORKER_HTTP] = (void *)(uintptr_t)&dispatch_requests;
    w->layer[WORKER_SCRIPT] = d;
    dispatch_adopt(w, vm);
    return 0;
}

void dispatch_worker_fini(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    if (d == NULL)
        return;
    mailbox_flush(&w->mailbox); /* a publication that came too late */
    dispatch_retire_all(w);
    topic_worker_fini(w);
    courier_fini(w);
    session_worker_fini(w);
    free(d);
    w->layer[WORKER_SCRIPT] = NULL;
}
