/* SPDX-License-Identifier: MIT
 * One Lua state: memory limit, libraries, the script's load, its routes. */
#include "script/vm.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "base/clock.h"
#include "net/worker.h"
#include "script/pace.h"
#include "script/policy.h"
#include "script/task.h"
#include "script/timer.h"

/* A thread's extra space holds its VM's address (new threads inherit it from the main one) and its marks in
 * the lowest bits. */
#define VM_MARKS ((uintptr_t)(VM_MARK_SCHED | VM_MARK_CUT | VM_MARK_WAITING))

struct vm *vm_of(lua_State *L)
{
    return (struct vm *)(*(uintptr_t *)lua_getextraspace(L) & ~VM_MARKS);
}

struct worker *vm_serving(lua_State *L, const char *what)
{
    const struct vm *vm = vm_of(L);
    if (vm->home == NULL || vm->loading)
        luaL_error(L, "%s cannot be called while the script loads; call it in a handler", what);
    return vm->home;
}

void vm_set_mark(lua_State *L, enum vm_mark mark)
{
    *(uintptr_t *)lua_getextraspace(L) |= mark;
}

void vm_clear_mark(lua_State *L, enum vm_mark mark)
{
    *(uintptr_t *)lua_getextraspace(L) &= ~(uintptr_t)mark;
}

bool vm_has_mark(const lua_State *L, enum vm_mark mark)
{
    return (*(const uintptr_t *)lua_getextraspace(L) & mark) != 0;
}

/* ---- memory ---- */

static void *vm_alloc(void *user, void *block, size_t old, size_t new)
{
    struct vm *vm = user;
    if (block == NULL)
        old = 0; /* `old` is then the kind of object */
    if (new == 0) {
        vm->memory -= old;
        free(block);
        return NULL;
    }
    if (new > old &&new - old > vm->memory_limit - vm->memory)
        return NULL;
    void *moved = realloc(block, new);
    if (moved == NULL && new > old)
        return NULL;
    vm->memory += new - old;
    return moved != NULL ? moved : block; /* Lua relies on it that shrinking works */
}

/* An error outside every protected call is a defect of the bindings; Lua aborts the process after this. */
static int vm_on_panic(lua_State *L)
{
    const char *message = lua_tostring(L, -1);
    log_error("defect: unprotected error in Lua: %s", message != NULL ? message : "?");
    log_leave();
    return 0;
}

/* ---- routes ---- */

static struct vm_route *vm_reserve_route(lua_State *L, struct vm *vm, size_t number)
{
    if (number % 64 == 0) {
        struct vm_route *grown = realloc(vm->routes, (number + 64) * sizeof *grown);
        if (grown == NULL)
            luaL_error(L, "out of memory");
        vm->routes = grown;
    }
    vm->routes[number] =
        (struct vm_route){.handler = LUA_NOREF, .should_upgrade = LUA_NOREF, .chain = LUA_NOREF};
    return &vm->routes[number];
}

struct vm_route *vm_add_route(lua_State *L, enum router_method method, int pattern_index)
{
    struct vm *vm = vm_of(L);
    size_t len;
    const char *pattern = luaL_checklstring(L, pattern_index, &len);
    lua_Debug ar;
    char where[256] = "?";
    if (lua_getstack(L, 1, &ar) && lua_getinfo(L, "Sl", &ar))
        snprintf(where, sizeof where, "%s:%d", ar.short_src, ar.currentline);
    struct err e;
    if (router_count(vm->router) == VM_ROUTES)
        luaL_error(L, "more than %d routes", VM_ROUTES);
    struct vm_route *route = vm_reserve_route(L, vm, router_count(vm->router));
    int number = router_add(vm->router, method, pattern, len, where, &e);
    if (number < 0) {
        lua_pushstring(L, e.text);
        lua_error(L);
    }
    if (asprintf(&route->what, "%s %s (%s)", router_method_name(method),
                 router_route(vm->router, (size_t)number)->pattern, where) < 0) {
        route->what = NULL;
        luaL_error(L, "out of memory");
    }
    return route;
}

static void vm_free_routes(struct vm *vm)
{
    for (size_t i = 0; vm->router != NULL && i < router_count(vm->router); i++) {
        free(vm->routes[i].what);
        config_list_free(vm->routes[i].protocols);
        config_list_free(vm->routes[i].origins);
    }
    free(vm->routes);
}

struct vm_name {
    struct vm_name *next;
    char text[];
};

const char *vm_keep_name(struct vm *vm, const char *name, const char *otherwise)
{
    size_t n = 0, len = strlen(name) + 1;
    for (struct vm_name *k = vm->names; k != NULL; k = k->next, n++)
        if (strcmp(k->text, name) == 0)
            return k->text;
    struct vm_name *k = n < VM_NAMES ? malloc(sizeof *k + len) : NULL;
    if (k == NULL)
        return otherwise;
    memcpy(k->text, name, len);
    k->next = vm->names;
    vm->names = k;
    return k->text;
}

static void vm_free_names(struct vm *vm)
{
    for (struct vm_name *k = vm->names, *next; k != NULL; k = next) {
        next = k->next;
        free(k);
    }
}

struct log_context vm_about(const struct vm *vm, const struct conn *c, int route)
{
    return (struct log_context){
        .worker = c->worker->index,
        .conn = c->id,
        .route = route >= 0 ? router_route(vm->router, (size_t)route)->pattern : NULL,
    };
}

/* ---- what needs it ---- */

void vm_release(struct vm *vm)
{
    if (--vm->holds == 0 && vm->home != NULL)
        vm->home->due = true; /* it may be done with */
}

void vm_release_connection(struct vm *vm)
{
    if (--vm->connections == 0)
        vm->home->due = true; /* what it has left behind may be over */
    vm_release(vm);
}

void vm_hold_task(struct vm *vm, enum metric gauge)
{
    vm->ntasks++;
    vm_hold(vm);
    if (vm->metrics != NULL)
        metrics_add(vm->metrics, gauge, 1);
}

void vm_release_task(struct vm *vm, enum metric gauge)
{
    vm->ntasks--;
    vm_release(vm);
    if (vm->metrics != NULL)
        metrics_sub(vm->metrics, gauge, 1);
}

/* ---- loading ---- */

struct vm_start {
    struct vm *vm;
    const char *path;
    struct snapshot_file file;
};

/* The folder of `path`, without the slash; "." when it has none. */
static void vm_push_folder(lua_State *L, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        lua_pushliteral(L, ".");
    else
        lua_pushlstring(L, path, slash > path ? (size_t)(slash - path) : 1);
}

static int vm_open_body(lua_State *L)
{
    const struct vm_start *start = sched_take_arg(L);
    vm_push_folder(L, start->path);
    policy_open(L, lua_tostring(L, -1));
    start->vm->bindings->open(L);
    pace_open(L);
    return 0;
}

static int vm_run_body(lua_State *L)
{
    const struct vm_start *start = sched_take_arg(L);
    if (policy_load_text(L, start->file.data, start->file.len, start->path) != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 0);
    start->vm->bindings->seal(L);
    return 0;
}

static int vm_run_script(struct vm *vm, const char *path, struct err *e)
{
    struct vm_start start = {.vm = vm, .path = path};
    if (snapshot_read(vm->snapshot, path, &start.file) < 0)
        return err_set(e, "cannot read %s: %s", path, start.file.why);
    if (sched_setup(vm->L, vm_open_body, &start, e) < 0)
        return -1;
    vm->loading = true;
    int rc = sched_load(vm, vm_run_body, &start, e);
    vm->loading = false;
    return rc;
}

struct vm *vm_load(const struct vm_options *o, const char *path, struct err *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (vm == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    vm->config = o->config;
    vm->fallback = LUA_NOREF;
    vm->memory_limit = (size_t)o->config->vm_memory;
    list_init(&vm->jobs);
    list_init(&vm->timers);
    list_init(&vm->tasks);
    list_init(&vm->exchanges);
    list_init(&vm->dones);
    list_init(&vm->link);
    vm->bindings = o->bindings;
    vm->budget = o->budget;
    vm->worker = o->worker;
    vm->workers = o->workers;
    vm->generation = o->generation;
    vm->about.worker = o->worker;
    vm->snapshot = snapshot_ref(o->snapshot);
    vm->router = router_create();
    vm->L = lua_newstate(vm_alloc, vm);
    if (vm->router == NULL || vm->L == NULL)
        err_set(e, "out of memory");
    else {
        *(struct vm **)lua_getextraspace(vm->L) = vm;
        lua_atpanic(vm->L, vm_on_panic);
        if (vm_run_script(vm, path, e) == 0)
            return vm;
    }
    vm_destroy(vm);
    return NULL;
}

void vm_start(struct vm *vm, struct worker *home, struct budget *budget)
{
    vm->home = home;
    vm->budget = budget;
    vm->metrics = home->metrics;
    uint64_t timers = 0; /* not counted while there were no metrics */
    for (struct list *l = vm->timers.next; l != &vm->timers; l = l->next)
        timers++;
    metrics_add(vm->metrics, METRIC_TIMERS, timers);
    metrics_add(vm->metrics, METRIC_TASKS, vm->ntasks - timers);
    timer_start_all(vm);
    if (!list_empty(&vm->jobs))
        home->due = true;
}

bool vm_give_up(struct vm *vm)
{
    struct err e;
    if (vm->gave_up)
        return false;
    vm->gave_up = true;
    vm->bindings->give_up_dones(vm);
    if (sched_setup(vm->L, vm->bindings->give_up_promises, NULL, &e) < 0)
        log_error("generation %llu: %s", (unsigned long long)vm->generation, e.text);
    return true;
}

static void vm_tell(struct vm *vm, bool stop)
{
    struct log_context about = {.worker = vm->worker};
    for (unsigned i = 1; i <= (stop ? vm->nstop : vm->nstart); i++) {
        struct vm_life life = {stop, i};
        sched_run(vm, &(struct sched_entry){.body = vm->bindings->life, .arg = &life, .about = &about});
    }
}

void vm_tell_start(struct vm *vm)
{
    vm->started = true;
    vm_tell(vm, false);
}

void vm_tell_stop(struct vm *vm)
{
    if (vm->started)
        vm_tell(vm, true);
    vm->started = false;
}

bool vm_cancel_some(struct vm *vm, uint64_t until_ms)
{
    timer_stop_all(vm, false);
    while (!list_empty(&vm->tasks)) {
        task_cancel(LIST_ENTRY(vm->tasks.next, struct task, link));
        if (clock_now_ms() >= until_ms)
            return !list_empty(&vm->tasks);
    }
    return false;
}

void vm_cancel(struct vm *vm)
{
    task_cancel_all(&vm->tasks);
    timer_stop_all(vm, false);
}

void vm_stop(struct vm *vm)
{
    vm_cancel(vm);
    vm->bindings->give_up_dones(vm); /* what on_stop and to-be-closed variables have sent yet */
    job_drop_all(vm);
}

void vm_destroy(struct vm *vm)
{
    if (vm->L != NULL && vm->home == NULL) /* it has never served, so nobody has stopped it */
        vm_stop(vm);
    if (vm->L != NULL)
        lua_close(vm->L);
    vm_free_routes(vm);
    vm_free_names(vm);
    if (vm->router != NULL)
        router_destroy(vm->router);
    snapshot_unref(vm->snapshot);
    free(vm);
}
