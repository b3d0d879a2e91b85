/* SPDX-License-Identifier: MIT
 * app.sleep, app.spawn, app.after and app.every. */
#include "lua/bind_task.h"

#include <stdlib.h>

#include <lauxlib.h>

#include "lua/bind_misuse.h"
#include "script/job.h"
#include "script/task.h"
#include "script/timer.h"
#include "script/vm.h"

#define BIND_TASK_TIMER     "tidewire.timer"
#define BIND_TASK_SECONDS   1e9
#define BIND_TASK_ARGUMENTS 200

static lua_Number bind_task_seconds(lua_State *L, const char *what, lua_Number least)
{
    bind_misuse_check_dot(L, what);
    lua_Number seconds = luaL_checknumber(L, 1);
    if (!(seconds >= least && seconds <= BIND_TASK_SECONDS))
        luaL_error(L, "%s: %f is not a number of seconds from %f to 1e9", what, seconds, least);
    return seconds;
}

static void bind_task_check_limit(lua_State *L, const char *what)
{
    const struct vm *vm = vm_of(L);
    if (vm->drained && vm->connections == 0)
        luaL_error(L, "%s: this code has been replaced by a reload, and its time (reload_drain) is over",
                   what);
    if (vm->ntasks >= (uint64_t)vm->config->max_tasks)
        luaL_error(L, "%s: %d tasks and timers are there already (max_tasks)", what, (int)vm->ntasks);
}

/* ---- sleep ---- */

/* app.sleep(seconds) */
int bind_task_sleep(lua_State *L)
{
    lua_Number seconds = bind_task_seconds(L, "app.sleep", 0);
    struct task *t = task_here(L, "app.sleep");
    task_wake_after(t, seconds);
    return task_suspend(L, 0, sched_call_done);
}

/* ---- spawn ---- */

struct bind_spawn {
    struct job job;
    int call; /* registry reference: a closure over the function and its arguments */
    struct log_context about;
};

/* Upvalue 1 is how many follow: the function and its arguments. */
static int bind_spawn_call(lua_State *L)
{
    int n = (int)lua_tointeger(L, lua_upvalueindex(1));
    luaL_checkstack(L, n, NULL);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, lua_upvalueindex(2 + i));
    lua_callk(L, n - 1, 0, 0, sched_call_done);
    return 0;
}

static int bind_spawn_body(lua_State *L)
{
    const struct bind_spawn *s = sched_take_arg(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->call);
    lua_callk(L, 0, 0, 0, sched_call_done);
    return 0;
}

static void bind_spawn_free(struct bind_spawn *s)
{
    luaL_unref(s->job.vm->L, LUA_REGISTRYINDEX, s->call);
    free(s);
}

static void bind_spawn_drop(struct job *j)
{
    vm_release_task(j->vm, METRIC_TASKS);
    bind_spawn_free(LIST_ENTRY(j, struct bind_spawn, job));
}

static void bind_spawn_run(struct job *j)
{
    struct bind_spawn *s = LIST_ENTRY(j, struct bind_spawn, job);
    vm_release_task(j->vm, METRIC_TASKS); /* if it waits it is a task by itself */
    sched_run(j->vm, &(struct sched_entry){.body = bind_spawn_body, .arg = s, .about = &s->about});
    bind_spawn_free(s);
}

/* app.spawn(f, ...) */
int bind_task_spawn(lua_State *L)
{
    struct vm *vm = vm_of(L);
    int n = lua_gettop(L);
    bind_misuse_check_dot(L, "app.spawn");
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (n > BIND_TASK_ARGUMENTS)
        return luaL_error(L, "app.spawn: more than %d arguments", BIND_TASK_ARGUMENTS);
    bind_task_check_limit(L, "app.spawn");
    lua_pushinteger(L, n);
    lua_insert(L, 1);
    lua_pushcclosure(L, bind_spawn_call, n + 1);
    int call = luaL_ref(L, LUA_REGISTRYINDEX);
    struct bind_spawn *s = malloc(sizeof *s);
    if (s == NULL) {
        luaL_unref(L, LUA_REGISTRYINDEX, call);
        return luaL_error(L, "app.spawn: out of memory");
    }
    *s = (struct bind_spawn){.call = call, .about = vm->about};
    job_init(&s->job, vm, bind_spawn_run, bind_spawn_drop);
    vm_hold_task(vm, METRIC_TASKS);
    job_post(&s->job);
    return 0;
}

/* ---- after, every ---- */

/* A userdata; its user value is the function. Anchored while it is set or its function is running. */
struct bind_timer {
    struct timer timer;
    int self;     /* registry reference */
    bool running; /* its function is suspended: one that repeats leaves a turn out */
    struct log_context about;
};

static struct bind_timer *bind_timer_of(struct timer *t)
{
    return LIST_ENTRY(t, struct bind_timer, timer);
}

static void bind_timer_release(struct bind_timer *b)
{
    if (timer_is_set(&b->timer) || b->running || b->self == LUA_NOREF)
        return;
    int self = b->self; /* `b` may be collected as soon as it is let go */
    b->self = LUA_NOREF;
    luaL_unref(b->timer.vm->L, LUA_REGISTRYINDEX, self);
}

static int bind_timer_body(lua_State *L)
{
    const struct bind_timer *b = sched_take_arg(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->self);
    lua_getiuservalue(L, 1, 1);
    lua_callk(L, 0, 0, 0, sched_call_done);
    return 0;
}

static int bind_timer_on_suspend(void *owner, struct task *t)
{
    (void)owner;
    list_append(&t->job.vm->tasks, &t->link);
    return 0;
}

static void bind_timer_on_end(void *owner, struct task *t, enum sched_result result)
{
    (void)t;
    (void)result;
    struct bind_timer *b = owner;
    b->running = false;
    bind_timer_release(b);
}

static const struct task_owner bind_timer_owner = {
    .on_suspend = bind_timer_on_suspend,
    .on_end = bind_timer_on_end,
};

static void bind_timer_on_fire(struct timer *t)
{
    struct bind_timer *b = bind_timer_of(t);
    if (b->running)
        return;
    b->running = true;
    enum sched_result result = sched_run(t->vm, &(struct sched_entry){
                                                    .body = bind_timer_body,
                                                    .arg = b,
                                                    .about = &b->about,
                                                    .kind = &bind_timer_owner,
                                                    .owner = b,
                                                });
    if (result != SCHED_SUSPENDED && b->running) {
        b->running = false;
        bind_timer_release(b);
    }
}

static void bind_timer_on_stop(struct timer *t)
{
    bind_timer_release(bind_timer_of(t));
}

static int bind_timer_new(lua_State *L, const char *what, lua_Number least, bool repeats)
{
    lua_Number seconds = bind_task_seconds(L, what, least);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    bind_task_check_limit(L, what);
    struct bind_timer *b = lua_newuserdatauv(L, sizeof *b, 1);
    *b = (struct bind_timer){.self = LUA_NOREF, .about = vm_of(L)->about};
    list_init(&b->timer.link);
    luaL_setmetatable(L, BIND_TASK_TIMER);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, -1);
    b->self = luaL_ref(L, LUA_REGISTRYINDEX);
    b->timer.seconds = seconds;
    b->timer.repeats = repeats;
    b->timer.on_fire = bind_timer_on_fire;
    b->timer.on_stop = bind_timer_on_stop;
    timer_set(&b->timer, vm_of(L));
    return 1;
}

/* app.after(seconds, f) */
int bind_task_after(lua_State *L)
{
    return bind_timer_new(L, "app.after", 0, false);
}

/* app.every(seconds, f) */
int bind_task_every(lua_State *L)
{
    return bind_timer_new(L, "app.every", 0.001, true);
}

/* timer:cancel() */
static int bind_timer_cancel(lua_State *L)
{
    struct bind_timer *b = bind_misuse_check_self(L, BIND_TASK_TIMER, "a timer", "timer:cancel()");
    lua_pushboolean(L, timer_is_set(&b->timer));
    timer_stop(&b->timer);
    return 1;
}

void bind_task_open(lua_State *L)
{
    luaL_newmetatable(L, BIND_TASK_TIMER);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, bind_timer_cancel);
    lua_setfield(L, -2, "cancel");
    bind_misuse_guard(L, "a timer", "method");
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
