/* SPDX-License-Identifier: MIT
 * Where requests and WebSocket events meet the script. */
#include "script/dispatch.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include <llhttp.h>

#include "http/http1.h"
#include "ws/closecode.h"
#include "ws/upgrade.h"

/* What a 426 must say (RFC 9110, 15.5.22; RFC 6455, 4.4). */
#define DISPATCH_UPGRADE "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"

struct dispatch {
    struct vm *current;
    _Atomic(struct vm *) pending; /* published, not yet current */
    struct mail publication;      /* in the worker's mailbox exactly while there is a pending VM */
    struct reaper *reaper;
    struct budget budget;
    _Atomic size_t inbox; /* bytes of letters on their way to this worker */
};

static struct dispatch *dispatch_of(const struct worker *w)
{
    return w->layer[WORKER_SCRIPT];
}

/* ---- VMs ---- */

static void dispatch_retire_if_unused(struct dispatch *d, struct vm *vm)
{
    if (vm != d->current && vm->sessions == 0)
        reaper_bury(d->reaper, vm);
}

static void dispatch_adopt(struct worker *w, struct vm *vm)
{
    struct dispatch *d = dispatch_of(w);
    vm->home = w;
    vm->budget = &d->budget;
    vm->metrics = w->metrics;
    d->current = vm;
}

static void dispatch_on_publication(struct mail *mail, void *receiver)
{
    (void)mail;
    struct worker *w = receiver;
    struct dispatch *d = dispatch_of(w);
    struct vm *old = d->current;
    dispatch_adopt(w, atomic_exchange(&d->pending, NULL));
    dispatch_retire_if_unused(d, old);
}

void dispatch_publish(struct worker *w, struct vm *vm)
{
    struct dispatch *d = dispatch_of(w);
    struct vm *overtaken = atomic_exchange(&d->pending, vm);
    if (overtaken != NULL) /* its mail has not been read yet and will find the newer one */
        reaper_bury(d->reaper, overtaken);
    else
        worker_post(w, &d->publication);
}

/* ---- WebSockets ---- */

static struct log_context dispatch_about(const struct session *s)
{
    const struct vm *vm = s->owner;
    return (struct log_context){
        .worker = s->conn->worker->index,
        .conn = s->conn->id,
        .route = router_route(vm->router, s->owner_route)->pattern,
    };
}

static void dispatch_check(struct session *s, enum sched_result result)
{
    if (result != SCHED_OK)
        session_fail(s, CLOSECODE_INTERNAL_ERROR, "internal error");
}

static void dispatch_on_message(struct session *s, bool text, const char *data, size_t len)
{
    struct vm *vm = s->owner;
    struct dispatch_message m = {s, text, data, len};
    struct log_context about = dispatch_about(s);
    dispatch_check(s, sched_run(vm, vm->bindings->ws_message, &m, &about));
}

static void dispatch_on_control(struct session *s, bool ping, const char *data, size_t len)
{
    struct vm *vm = s->owner;
    struct dispatch_control control = {s, ping, data, len};
    struct log_context about = dispatch_about(s);
    if (vm->bindings->ws_wants_control(vm->L, s, ping))
        dispatch_check(s, sched_run(vm, vm->bindings->ws_control, &control, &about));
}

static void dispatch_on_drain(struct session *s)
{
    struct vm *vm = s->owner;
    struct dispatch_drain drain = {s};
    struct log_context about = dispatch_about(s);
    dispatch_check(s, sched_run(vm, vm->bindings->ws_drain, &drain, &about));
}

static void dispatch_on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    struct vm *vm = s->owner;
    if (vm == NULL)
        return;
    struct dispatch_closed close = {s, code, reason, reason_len};
    struct log_context about = dispatch_about(s);
    if (s->owner_ref != LUA_NOREF)
        sched_run(vm, vm->bindings->ws_close, &close, &about);
    vm->bindings->ws_forget(vm->L, s);
    s->owner = NULL;
    vm->sessions--;
    dispatch_retire_if_unused(dispatch_of(s->conn->worker), vm);
}

static const struct session_handler dispatch_sessions = {
    .on_message = dispatch_on_message,
    .on_control = dispatch_on_control,
    .on_drain = dispatch_on_drain,
    .on_close = dispatch_on_close,
};

static void dispatch_upgrade(struct conn *c, struct head *head, struct vm *vm, int route)
{
    const char *reason;
    int status = upgrade_check(head, &reason);
    if (status != 0) {
        http1_refuse(c, &(struct response_error){
                            .status = status,
                            .detail = reason,
                            .fields = status == 426 ? DISPATCH_UPGRADE : NULL,
                            .head_only = head->method == HTTP_HEAD,
                        });
        head_unref(head);
        return;
    }
    struct session *s = session_open(c, head);
    if (s == NULL)
        return;
    s->owner = vm;
    s->owner_ref = LUA_NOREF;
    s->owner_route = (uint16_t)route;
    vm->sessions++;
    struct dispatch_open open = {s, vm->handlers[route]};
    struct log_context about = dispatch_about(s);
    dispatch_check(s, sched_run(vm, vm->bindings->ws_open, &open, &about));
}

/* ---- by connection id ---- */

/* What one worker asks another to do with a WebSocket. */
struct dispatch_letter {
    struct mail mail;
    uint64_t id;
    unsigned close_code; /* 0: a message */
    bool text;
    size_t len;
    char data[];
};

static enum session_sent dispatch_act(struct worker *w, const struct dispatch_letter *l, const char *data)
{
    struct session *s = session_find(w, l->id);
    if (s == NULL || !session_is_open(s))
        return SESSION_NOT_OPEN;
    if (l->close_code == 0)
        return session_send(s, l->text, data, l->len);
    session_close(s, l->close_code, data, l->len);
    return SESSION_SENT;
}

static void dispatch_on_letter(struct mail *mail, void *receiver)
{
    struct dispatch_letter *l = (struct dispatch_letter *)mail;
    struct worker *w = receiver;
    struct dispatch *d = dispatch_of(w);
    if (d != NULL) { /* NULL: it has come after the end */
        atomic_fetch_sub(&d->inbox, sizeof *l + l->len);
        dispatch_act(w, l, l->data);
    }
    free(l);
}

static enum session_sent dispatch_letter_send(struct worker *w, const struct dispatch_letter *l,
                                              const char *data)
{
    struct worker *to = w->count > 1 ? w->peers[l->id % w->count] : w;
    if (to == w)
        return dispatch_act(w, l, data);
    struct dispatch *d = dispatch_of(to);
    size_t size = sizeof *l + l->len;
    if (size > DISPATCH_INBOX_BYTES)
        return SESSION_QUEUE_FULL;
    bool fits = atomic_fetch_add(&d->inbox, size) <= DISPATCH_INBOX_BYTES - size;
    struct dispatch_letter *copy = fits ? malloc(size) : NULL;
    if (copy == NULL) {
        atomic_fetch_sub(&d->inbox, size);
        return SESSION_QUEUE_FULL;
    }
    *copy = *l;
    memcpy(copy->data, data, l->len);
    copy->mail.deliver = dispatch_on_letter;
    worker_post(to, &copy->mail);
    return SESSION_SENT;
}

enum session_sent dispatch_send(struct worker *w, uint64_t id, bool text, const char *data, size_t len)
{
    return dispatch_letter_send(w, &(struct dispatch_letter){.id = id, .text = text, .len = len}, data);
}

enum session_sent dispatch_close(struct worker *w, uint64_t id, unsigned code, const char *reason, size_t len)
{
    return dispatch_letter_send(w, &(struct dispatch_letter){.id = id, .close_code = code, .len = len},
                                reason);
}

/* ---- requests ---- */

static void dispatch_on_request(struct conn *c, struct head *head)
{
    struct vm *vm = dispatch_of(c->worker)->current;
    struct router_match m;
    const char *path = head_bytes(head) + head->path.at;
    int route = router_match(vm->router, ROUTER_WEBSOCKET, path, head->path.len, &m);
    if (route >= 0 && upgrade_wanted(head)) {
        dispatch_upgrade(c, head, vm, route);
        return;
    }
    struct response_error refusal = {.head_only = head->method == HTTP_HEAD};
    if (route < 0) {
        refusal.status = 404;
        refusal.detail = "No route of this server fits this path.";
    } else if (head->method == HTTP_GET || head->method == HTTP_HEAD) {
        refusal.status = 426;
        refusal.detail = "This address is a WebSocket: connect with a WebSocket client (ws://).";
        refusal.fields = DISPATCH_UPGRADE;
    } else {
        refusal.status = 405;
        refusal.detail = "This address is a WebSocket: the handshake is a GET request.";
        refusal.fields = "Allow: GET\r\n";
    }
    head_unref(head);
    http1_refuse(c, &refusal);
}

static const struct http1_handler dispatch_requests = {.on_request = dispatch_on_request};

/* ---- the worker ---- */

static void dispatch_on_start(struct worker *w)
{
    budget_adopt(&dispatch_of(w)->budget);
}

static void dispatch_on_exit(struct worker *w)
{
    struct dispatch *d = dispatch_of(w);
    reaper_bury(d->reaper, d->current);
    d->current = NULL;
}

const struct worker_hooks dispatch_worker_hooks = {
    .on_start = dispatch_on_start,
    .on_accept = http1_on_accept,
    .on_exit = dispatch_on_exit,
};

struct budget *dispatch_budget(struct worker *w)
{
    return &dispatch_of(w)->budget;
}

int dispatch_worker_init(struct worker *w, struct vm *vm, struct reaper *reaper)
{
    struct dispatch *d = calloc(1, sizeof *d);
    if (d == NULL || session_worker_init(w, &dispatch_sessions) < 0) {
        free(d);
        return -1;
    }
    d->reaper = reaper;
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
    if (d->current != NULL)
        reaper_bury(d->reaper, d->current);
    session_worker_fini(w);
    free(d);
    w->layer[WORKER_SCRIPT] = NULL;
}
