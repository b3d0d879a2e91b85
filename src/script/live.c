/* SPDX-License-Identifier: MIT
 * Live WebSockets and the script. */
#include "script/live.h"

#include <stdatomic.h>
#include <stdlib.h>

#include <lauxlib.h>

#include "base/clock.h"
#include "bus/delivery.h"
#include "bus/topic.h"
#include "http/reply.h"
#include "script/dispatch.h"
#include "script/handshake.h"
#include "script/task.h"
#include "ws/closecode.h"
#include "ws/subprotocol.h"

/* How long a route's function that waits can still fail the move. */
#define LIVE_ARRIVAL_MS 1000

/* WebSockets by the generation whose code they run, in all workers; by its number modulo LIVE_GENERATIONS,
 * which is more than are alive at once (max_generations). */
static _Atomic int64_t live_counts[LIVE_GENERATIONS];

static void live_count(const struct vm *vm, int by)
{
    atomic_fetch_add_explicit(&live_counts[vm->generation % LIVE_GENERATIONS], by, memory_order_relaxed);
}

int64_t live_sockets(uint64_t generation)
{
    return atomic_load_explicit(&live_counts[generation % LIVE_GENERATIONS], memory_order_relaxed);
}

/* The same for states of Lua. */
static _Atomic int64_t live_states[LIVE_GENERATIONS];

void live_count_state(const struct vm *vm, int by)
{
    atomic_fetch_add_explicit(&live_states[vm->generation % LIVE_GENERATIONS], by, memory_order_relaxed);
}

bool live_is_alive(uint64_t generation)
{
    return atomic_load_explicit(&live_states[generation % LIVE_GENERATIONS], memory_order_relaxed) > 0;
}

static void live_check(struct session *s, enum sched_result result)
{
    if (result == SCHED_FAILED || result == SCHED_CUT)
        session_fail(s, CLOSECODE_INTERNAL_ERROR, "internal error");
}

static void live_on_arrival_end(struct session *s, enum sched_result result);
static void live_one_less(const struct session *s);
static bool live_can_follow(const struct session *s, const struct vm *to);

static int live_on_suspend(void *owner, struct task *t)
{
    struct session *s = owner;
    int rc = inbound_hold(s);
    if (rc == 0)
        list_append(&s->more->tasks, &t->link);
    return rc;
}

static void live_on_end(void *owner, struct task *t, enum sched_result result)
{
    (void)t;
    struct session *s = owner;
    if (s->more->arrival != NULL)
        live_on_arrival_end(s, result);
    else
        live_check(s, result);
    inbound_release(s);
    if (result != SCHED_CANCELLED)
        live_follow(s);
}

static const struct task_owner live_owner = {
    .on_suspend = live_on_suspend,
    .on_end = live_on_end,
};

/* The limits of a session that the script has opened. */
struct live_client {
    struct session_limits limits;
    const char *url;
};

struct log_context live_about(const struct session *s)
{
    struct log_context about = vm_about(session_owner(s), s->conn, s->is_client ? -1 : s->owner_route);
    if (s->is_client)
        about.route = LIST_ENTRY(s->limits, const struct live_client, limits)->url;
    return about;
}

/* An entry for a session; one that fails costs the connection. */
static inline enum sched_result live_run_entry(struct session *s, struct sched_entry *entry)
{
    struct log_context about = live_about(s);
    entry->about = &about;
    entry->kind = &live_owner;
    entry->owner = s;
    entry->tally = s->limits->tally;
    enum sched_result result = sched_run(session_owner(s), entry);
    live_check(s, result);
    return result;
}

static enum sched_result live_run(struct session *s, lua_CFunction body, void *arg)
{
    return live_run_entry(s, &(struct sched_entry){.body = body, .arg = arg});
}

static const struct vm_bindings *live_bindings(const struct session *s)
{
    const struct vm *vm = session_owner(s);
    return vm->bindings;
}

/* The entry goes on with the session's next message, unless newer code is to handle that. */
static bool live_next_message(void *arg)
{
    struct live_message *m = arg;
    return !live_can_follow(m->session, dispatch_current(m->session->conn->worker)) &&
           inbound_next(m->turn, &m->text, &m->data, &m->len);
}

static void live_on_message(struct session *s, bool text, const char *data, size_t len,
                            struct inbound_turn *turn)
{
    struct live_message m = {s, text, data, len, turn};
    struct sched_entry entry = {
        .push = live_bindings(s)->ws_message, .next = turn != NULL ? live_next_message : NULL, .arg = &m};
    if (live_run_entry(s, &entry) == SCHED_SUSPENDED)
        inbound_hold_for_message(s);
}

/* Before its next message a session moves to the newest code, whose route's function may want to wait first.
 */
static void live_before_message(struct session *s)
{
    live_follow(s);
}

static void live_on_control(struct session *s, bool ping, const char *data, size_t len)
{
    struct vm *vm = session_owner(s);
    struct live_control control = {s, ping, data, len};
    if (vm->bindings->ws_wants_control(vm->L, s, ping))
        live_run(s, vm->bindings->ws_control, &control);
}

static void live_on_drain(struct session *s)
{
    struct live_drain drain = {s};
    live_run(s, live_bindings(s)->ws_drain, &drain);
}

static const char *live_route_of(const struct session *s)
{
    const struct vm *vm = session_owner(s);
    return vm != NULL && !s->is_client ? router_route(vm->router, s->owner_route)->pattern : NULL;
}

/* What the session's handlers wait for is not for anyone any more. What on_close begins is the VM's: it may
 * outlive the session. */
static void live_on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    if (s->more != NULL)
        task_cancel_all(&s->more->tasks); /* may put it back to older code */
    struct vm *vm = session_owner(s);
    if (vm == NULL)
        return;
    struct live_closed close = {s, code, reason, reason_len};
    struct log_context about = live_about(s);
    topic_unsubscribe_all(s);
    if (!s->is_client)
        live_one_less(s);
    if (s->owner_ref != LUA_NOREF)
        sched_run(vm, &(struct sched_entry){.body = vm->bindings->ws_close,
                                            .arg = &close,
                                            .about = &about,
                                            .tally = s->limits->tally});
    vm->bindings->ws_forget(vm->L, s);
    if (s->is_client)
        free((void *)(uintptr_t)s->limits); /* live_connect's */
    else
        live_count(vm, -1);
    vm_release_connection(vm);
}

/* ---- moving to newer code ---- */

/* Sessions remember which generation they were refused by; four bits tell the few apart that are alive. */
static unsigned live_mark(uint64_t generation)
{
    return (unsigned)(generation % 15) + 1;
}

bool live_is_refused(const struct session *s)
{
    const struct vm *vm = dispatch_current(s->conn->worker);
    return session_owner(s) != vm && s->refused == live_mark(vm->generation) && session_is_open(s);
}

static bool live_can_follow(const struct session *s, const struct vm *to)
{
    return to != NULL && session_owner(s) != NULL && session_owner(s) != to && session_is_open(s) &&
           !s->is_client && s->refused != live_mark(to->generation) &&
           (s->more == NULL || s->more->in.suspended == 0);
}

/* The route of `to` that fits the session; -1. */
static int live_new_route(const struct session *s, const struct vm *to)
{
    struct router_match m;
    int route = dispatch_match(to->router, s->head, &m);
    return route >= 0 && router_route(to->router, (size_t)route)->method == ROUTER_WEBSOCKET ? route : -1;
}

/* Which code a session runs. */
struct live_code {
    const struct session_limits *limits;
    uint16_t route;
    int ref;
};

static struct live_code live_swap(struct session *s, struct live_code to)
{
    struct live_code from = {s->limits, s->owner_route, s->owner_ref};
    s->limits = to.limits;
    s->owner_route = to.route;
    s->owner_ref = to.ref;
    return from;
}

/* What follows from the limits being others. Timers go on as they are unless the route's have changed; pings
 * that the script has set stay. */
static void live_adopt_limits(struct session *s, const struct session_limits *before)
{
    const struct session_limits *now = s->limits;
    bool was_default = s->ping_ms == (uint32_t)(before->ping_interval * 1000 + 0.5);
    if (was_default && now->ping_interval != before->ping_interval)
        session_set_ping_interval(s, now->ping_interval);
    if (now->idle_timeout != before->idle_timeout || now->messages_per_second != before->messages_per_second)
        session_limits_changed(s);
}

/* How a session would go on if the new code failed. */
struct live_arrival_pending {
    struct live_code old;
    struct vm *from;
    uint64_t since_ms;
};

static void live_arrived(struct session *s, struct vm *from, const struct live_code *old)
{
    struct vm *to = session_owner(s);
    bool waiting = s->more != NULL && s->more->in.suspended > 0;
    from->bindings->ws_leave(from->L, old->ref, s->conn->id);
    live_count(from, -1);
    live_count(to, 1);
    s->refused = 0;
    s->conn->sips = waiting || session_sips(s);
    vm_release_connection(from);
}

static void live_go_back(struct session *s, struct live_code old)
{
    struct vm *to = session_owner(s);
    to->bindings->ws_forget(to->L, s);
    live_adopt_limits(s, live_swap(s, old).limits);
    s->refused = live_mark(to->generation) & 15;
    vm_release_connection(to);
}

/* The route's function has waited, and is over. */
static void live_on_arrival_end(struct session *s, enum sched_result result)
{
    struct live_arrival_pending p = *(struct live_arrival_pending *)s->more->arrival;
    struct worker *w = s->conn->worker;
    bool newest = session_owner(s) == dispatch_current(w);
    bool failed = result == SCHED_FAILED || result == SCHED_CUT;
    bool open = session_is_open(s);
    free(s->more->arrival);
    s->more->arrival = NULL;
    if (failed || !open) /* one that has ended meanwhile has not arrived: its on_close is the old code's */
        live_go_back(s, p.old);
    else
        live_arrived(s, p.from, &p.old);
    if (open && newest)
        dispatch_on_moved(w, s, failed ? LIVE_FAILED : LIVE_MOVED);
}

/* The route's function waits: until it is over, the old code stays ready. */
static enum live_followed live_arrive_later(struct session *s, struct vm *from, const struct live_code *old)
{
    struct live_arrival_pending *p = malloc(sizeof *p);
    if (p == NULL) { /* then it has moved, whatever comes */
        live_arrived(s, from, old);
        return LIVE_MOVED;
    }
    *p = (struct live_arrival_pending){*old, from, clock_now_ms()};
    s->more->arrival = p;
    return LIVE_ARRIVES;
}

/* Runs the route's function of the new code. The old code stays ready in case that fails. */
static enum live_followed live_try(struct session *s, struct vm *to, int route, struct live_luggage *luggage)
{
    struct vm *from = session_owner(s);
    struct live_arrival arrival = {luggage, to->routes[route].handler};
    struct log_context about = vm_about(to, s->conn, route);
    vm_hold_connection(to);
    struct live_code old =
        live_swap(s, (struct live_code){&to->routes[route].limits, (uint16_t)route, LUA_NOREF});
    live_adopt_limits(s, old.limits);
    enum sched_result result = sched_run(to, &(struct sched_entry){.body = to->bindings->ws_arrive,
                                                                   .arg = &arrival,
                                                                   .about = &about,
                                                                   .kind = &live_owner,
                                                                   .owner = s,
                                                                   .tally = s->limits->tally});
    if (result == SCHED_SUSPENDED)
        return live_arrive_later(s, from, &old);
    if (result != SCHED_OK) {
        live_go_back(s, old);
        return LIVE_FAILED;
    }
    live_arrived(s, from, &old);
    return LIVE_MOVED;
}

static enum live_followed live_move(struct session *s, struct vm *to, int route)
{
    struct vm *from = session_owner(s);
    struct live_luggage luggage = {.session = s};
    struct log_context about = live_about(s);
    struct err e;
    enum live_followed moved = LIVE_STAYS;
    if (sched_setup(from->L, from->bindings->ws_pack, &luggage, &e) < 0) {
        /* no fault of the new code's: it does not count against it */
        log_write(LOG_ERROR, &about, "cannot move to generation %llu, and will be closed: %s",
                  (unsigned long long)to->generation, e.text);
        metrics_add(from->metrics, METRIC_MIGRATION_FAILED, 1);
        s->refused = live_mark(to->generation) & 15;
    } else
        moved = live_try(s, to, route, &luggage);
    buf_fini(&luggage.state);
    buf_fini(&luggage.context);
    return moved;
}

enum live_followed live_follow(struct session *s)
{
    struct worker *w = s->conn->worker;
    struct vm *to = dispatch_current(w);
    if (!live_can_follow(s, to))
        return LIVE_STAYS;
    int route = live_new_route(s, to);
    if (route < 0) {
        session_close(s, CLOSECODE_SERVICE_RESTART, "the server's new code has no route here", 39);
        dispatch_on_moved(w, s, LIVE_HOMELESS);
        return LIVE_HOMELESS;
    }
    enum live_followed moved = live_move(s, to, route);
    if (moved == LIVE_MOVED || moved == LIVE_FAILED)
        dispatch_on_moved(w, s, moved);
    return moved;
}

/* A route's function may wait for ever, as one with a loop does: after a while it has arrived. */
void live_settle(struct session *s)
{
    struct live_arrival_pending *p = s->more != NULL ? s->more->arrival : NULL;
    if (p == NULL || !session_is_open(s) || clock_now_ms() - p->since_ms < LIVE_ARRIVAL_MS)
        return;
    s->more->arrival = NULL;
    live_arrived(s, p->from, &p->old);
    free(p);
    if (session_owner(s) == dispatch_current(s->conn->worker))
        dispatch_on_moved(s->conn->worker, s, LIVE_MOVED);
}

bool live_is_behind(const struct session *s)
{
    const struct vm *vm = dispatch_current(s->conn->worker);
    bool arriving = s->more != NULL && s->more->arrival != NULL;
    return session_is_open(s) && vm != NULL && session_owner(s) != NULL && !s->is_client &&
           (arriving || (session_owner(s) != vm && s->refused != live_mark(vm->generation)));
}

/* A session ends that the move to the newest code was waiting for. */
static void live_one_less(const struct session *s)
{
    const struct vm *vm = dispatch_current(s->conn->worker);
    if (vm != NULL && session_owner(s) != vm)
        dispatch_on_gone(s->conn->worker);
}

void live_end_waiting(struct session *s)
{
    const struct vm *vm = session_owner(s);
    if (vm == NULL || !vm->drained)
        return;
    if (s->more != NULL)
        task_cancel_all(&s->more->tasks);
    if (s->is_client)
        session_close(s, CLOSECODE_SERVICE_RESTART, "reloaded", 8);
}

/* ---- what sessions tell ---- */

const struct session_handler live_sessions = {
    .before_message = live_before_message,
    .on_message = live_on_message,
    .on_control = live_on_control,
    .on_drain = live_on_drain,
    .catch_up = delivery_catch_up,
    .route_of = live_route_of,
    .on_close = live_on_close,
};

void live_accept(struct conn *c, struct head *head, struct vm *vm, int route, const char *fields,
                 int *request)
{
    const struct vm_route *r = &vm->routes[route];
    const struct config_list *protocols = r->protocols;
    struct session_accept how = {.limits = &r->limits, .protocol = -1, .fields = fields};
    if (protocols != NULL)
        how.protocol = subprotocol_choose(head, (const char *const *)protocols->item, protocols->n);
    if (c->worker->stopping) { /* what should_upgrade has decided comes too late */
        head_unref(head);
        reply_error(c, 503, HANDSHAKE_STOPPING, NULL);
        return;
    }
    struct session *s = session_open(c, head, &how);
    if (s == NULL)
        return;
    s->owner_ref = LUA_NOREF;
    s->owner_route = (uint16_t)route;
    vm_hold_connection(vm);
    live_count(vm, 1);
    struct live_open open = {s, r->handler, request};
    live_run(s, vm->bindings->ws_open, &open);
    live_follow(s);
}

const char *live_connect(struct vm *vm, const struct connector_result *r, const struct session_limits *limits,
                         lua_CFunction body, void *arg)
{
    if (vm->drained) /* nobody would close it */
        return "reloaded";
    struct live_client *own = malloc(sizeof *own);
    if (own == NULL)
        return "out of memory";
    *own = (struct live_client){*limits, vm_keep_name(vm, r->url, "app.connect")};
    own->limits.owner = vm;
    const struct session_accept how = {.limits = &own->limits, .protocol = r->protocol};
    struct session *s = session_open_client(r->conn, head_ref(r->head), &how, &r->terms);
    if (s == NULL) {
        free(own);
        return "out of memory";
    }
    s->owner_ref = LUA_NOREF;
    vm_hold_connection(vm);
    conn_resume(r->conn, r->rest, r->rest_len);
    struct live_connected connected = {s, arg};
    enum sched_result result = live_run(s, body, &connected);
    bool ran = result == SCHED_OK || result == SCHED_SUSPENDED;
    return ran ? NULL : "the function that was to set up the WebSocket failed";
}
