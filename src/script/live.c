/* SPDX-License-Identifier: MIT
 * Live WebSockets and the script. */
#include "script/live.h"

#include <lauxlib.h>

#include "bus/delivery.h"
#include "bus/topic.h"
#include "script/dispatch.h"
#include "script/task.h"
#include "ws/closecode.h"
#include "ws/subprotocol.h"

static void live_check(struct session *s, enum sched_result result)
{
    if (result == SCHED_FAILED || result == SCHED_CUT)
        session_fail(s, CLOSECODE_INTERNAL_ERROR, "internal error");
}

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
    live_check(s, result);
    inbound_release(s);
}

static const struct task_owner live_owner = {
    .on_suspend = live_on_suspend,
    .on_end = live_on_end,
};

/* An entry for a session; one that fails costs the connection. */
static void live_run(struct session *s, lua_CFunction body, void *arg)
{
    struct log_context about = vm_about(session_owner(s), s->conn, s->owner_route);
    live_check(s, sched_run(session_owner(s), &(struct sched_entry){
                                                  .body = body,
                                                  .arg = arg,
                                                  .about = &about,
                                                  .kind = &live_owner,
                                                  .owner = s,
                                              }));
}

static const struct vm_bindings *live_bindings(const struct session *s)
{
    const struct vm *vm = session_owner(s);
    return vm->bindings;
}

static void live_on_message(struct session *s, bool text, const char *data, size_t len)
{
    struct live_message m = {s, text, data, len};
    live_run(s, live_bindings(s)->ws_message, &m);
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

/* What the session's handlers wait for is not for anyone any more. What on_close begins is the VM's: it may
 * outlive the session. */
static void live_on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    struct vm *vm = session_owner(s);
    if (vm == NULL)
        return;
    struct live_closed close = {s, code, reason, reason_len};
    struct log_context about = vm_about(session_owner(s), s->conn, s->owner_route);
    topic_unsubscribe_all(s);
    if (s->more != NULL)
        task_cancel_all(&s->more->tasks);
    if (s->owner_ref != LUA_NOREF)
        sched_run(vm, &(struct sched_entry){.body = vm->bindings->ws_close, .arg = &close, .about = &about});
    vm->bindings->ws_forget(vm->L, s);
    vm_release_connection(vm);
}

const struct session_handler live_sessions = {
    .on_message = live_on_message,
    .on_control = live_on_control,
    .on_drain = live_on_drain,
    .catch_up = delivery_catch_up,
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
    struct session *s = session_open(c, head, &how);
    if (s == NULL)
        return;
    s->owner_ref = LUA_NOREF;
    s->owner_route = (uint16_t)route;
    vm_hold_connection(vm);
    struct live_open open = {s, r->handler, request};
    live_run(s, vm->bindings->ws_open, &open);
    if (c->worker->stopping)
        session_close(s, CLOSECODE_GOING_AWAY, "server is stopping", 18);
}
