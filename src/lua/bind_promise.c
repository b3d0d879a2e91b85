/* SPDX-License-Identifier: MIT
 * The promise: a value that comes later. Tasks that await it are in its list of waiters; a waiting task keeps
 * the promise alive, since it is on its stack. Functions given to when_complete are kept in its second user
 * value, each with what it is about under its negative number; a job runs them, as entries of their own. */
#include "lua/bind_promise.h"

#include <string.h>

#include <lauxlib.h>

#include "base/list.h"
#include "lua/bind_misuse.h"
#include "script/job.h"
#include "script/task.h"
#include "script/vm.h"

#define BIND_PROMISE_TYPE "tidewire.promise"

enum bind_promise_slot { BIND_PROMISE_VALUE = 1, BIND_PROMISE_FUNCTIONS, BIND_PROMISE_SLOTS = 2 };
enum bind_promise_state { BIND_PROMISE_PENDING, BIND_PROMISE_RESOLVED, BIND_PROMISE_REJECTED };

struct bind_promise {
    struct list waiters;
    struct job job; /* calls the functions */
    int self;       /* anchors it while the job is posted */
    lua_Integer functions, called;
    enum bind_promise_state state;
};

static struct bind_promise *bind_promise_check(lua_State *L)
{
    return bind_misuse_check_self(L, BIND_PROMISE_TYPE, "a promise", "promise:await()");
}

bool bind_promise_is(lua_State *L, int index)
{
    return luaL_testudata(L, index, BIND_PROMISE_TYPE) != NULL;
}

/* Pushes what those who wait get: the value, or nil and the error. Returns how many values. */
static int bind_promise_push_outcome(lua_State *L, int index, const struct bind_promise *p)
{
    bool rejected = p->state == BIND_PROMISE_REJECTED;
    index = lua_absindex(L, index);
    if (rejected)
        lua_pushnil(L);
    lua_getiuservalue(L, index, BIND_PROMISE_VALUE);
    return rejected ? 2 : 1;
}

/* ---- functions that wait ---- */

static int bind_promise_call_body(lua_State *L)
{
    struct bind_promise *p = sched_take_arg(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->self);
    lua_getiuservalue(L, 1, BIND_PROMISE_FUNCTIONS);
    lua_rawgeti(L, 2, p->called);
    for (lua_Integer i = -p->called; i <= p->called; i += 2 * p->called) {
        lua_pushnil(L);
        lua_rawseti(L, 2, i);
    }
    lua_callk(L, bind_promise_push_outcome(L, 1, p), 0, 0, sched_call_done);
    return 0;
}

static void bind_promise_release(struct bind_promise *p)
{
    int self = p->self; /* `p` may be collected as soon as it is let go */
    struct vm *vm = p->job.vm;
    p->self = LUA_NOREF;
    luaL_unref(vm->L, LUA_REGISTRYINDEX, self);
}

static void bind_promise_drop(struct job *j)
{
    bind_promise_release(LIST_ENTRY(j, struct bind_promise, job));
}

/* What the next function is about: what the code was that gave it. Never raises. */
static struct log_context bind_promise_about(const struct bind_promise *p)
{
    lua_State *L = p->job.vm->L;
    struct log_context about = {.worker = p->job.vm->worker};
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->self);
    lua_getiuservalue(L, -1, BIND_PROMISE_FUNCTIONS);
    if (lua_rawgeti(L, -1, -p->called) == LUA_TSTRING)
        memcpy(&about, lua_tostring(L, -1), sizeof about);
    lua_pop(L, 3);
    return about;
}

static void bind_promise_run(struct job *j)
{
    struct bind_promise *p = LIST_ENTRY(j, struct bind_promise, job);
    for (lua_Integer last = p->functions; p->called < last;) {
        p->called++;
        const struct log_context about = bind_promise_about(p);
        sched_run(j->vm, &(struct sched_entry){.body = bind_promise_call_body, .arg = p, .about = &about});
    }
    if (p->called < p->functions) /* those have come meanwhile */
        job_post(j);
    else
        bind_promise_release(p);
}

/* There are functions to call, and something to tell them. */
static void bind_promise_post(lua_State *L, int index, struct bind_promise *p)
{
    if (p->self != LUA_NOREF)
        return;
    lua_pushvalue(L, index);
    p->self = luaL_ref(L, LUA_REGISTRYINDEX);
    job_post(&p->job);
}

/* Those that are pending and have functions: keys of a weak table in the registry. */
static const char bind_promise_pending;

static void bind_promise_note(lua_State *L, int index)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_promise_pending) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "k");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_promise_pending);
    }
    lua_pushvalue(L, index);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

int bind_promise_give_up(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_promise_pending) != LUA_TTABLE)
        return 0;
    int pending = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, pending) != 0) {
        lua_pop(L, 1);
        lua_pushliteral(L, "reloaded");
        bind_promise_settle(L, lua_gettop(L) - 1, false);
    }
    return 0;
}

/* promise:when_complete(function(value, error) end) */
static int bind_promise_when_complete(lua_State *L)
{
    struct bind_promise *p = bind_promise_check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    if (lua_getiuservalue(L, 1, BIND_PROMISE_FUNCTIONS) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, BIND_PROMISE_FUNCTIONS);
    }
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, p->functions + 1);
    lua_pushlstring(L, (const char *)&vm_of(L)->about, sizeof(struct log_context));
    lua_rawseti(L, -2, -(p->functions + 1));
    if (p->state == BIND_PROMISE_PENDING)
        bind_promise_note(L, 1);
    p->functions++;
    if (p->state != BIND_PROMISE_PENDING)
        bind_promise_post(L, 1, p);
    lua_settop(L, 1);
    return 1;
}

/* ---- the outcome ---- */

bool bind_promise_settle(lua_State *L, int index, bool resolved)
{
    struct bind_promise *p = lua_touserdata(L, index);
    index = lua_absindex(L, index);
    if (p->state != BIND_PROMISE_PENDING) {
        lua_pop(L, 1);
        return false;
    }
    lua_setiuservalue(L, index, BIND_PROMISE_VALUE);
    p->state = resolved ? BIND_PROMISE_RESOLVED : BIND_PROMISE_REJECTED;
    while (!list_empty(&p->waiters))
        task_wake(LIST_ENTRY(p->waiters.next, struct task, wait));
    if (p->functions > 0)
        bind_promise_post(L, index, p); /* may raise: last */
    return true;
}

/* promise:resolve([value]) */
static int bind_promise_resolve(lua_State *L)
{
    bind_promise_check(L);
    lua_settop(L, 2);
    lua_pushboolean(L, bind_promise_settle(L, 1, true));
    return 1;
}

/* promise:reject([error]) */
static int bind_promise_reject(lua_State *L)
{
    bind_promise_check(L);
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) { /* nil, nil would look like success */
        lua_pushliteral(L, "rejected");
        lua_replace(L, 2);
    }
    lua_pushboolean(L, bind_promise_settle(L, 1, false));
    return 1;
}

static int bind_promise_awaited(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return bind_promise_push_outcome(L, 1, lua_touserdata(L, 1));
}

/* promise:await() */
static int bind_promise_await(lua_State *L)
{
    struct bind_promise *p = bind_promise_check(L);
    lua_settop(L, 1);
    if (p->state != BIND_PROMISE_PENDING)
        return bind_promise_push_outcome(L, 1, p);
    struct task *t = task_here(L, "promise:await");
    list_append(&p->waiters, &t->wait);
    return task_suspend(L, 0, bind_promise_awaited);
}

static int bind_promise_tostring(lua_State *L)
{
    static const char *const names[] = {"pending", "resolved", "rejected"};
    lua_pushfstring(L, "promise (%s)", names[bind_promise_check(L)->state]);
    return 1;
}

int bind_promise_new(lua_State *L)
{
    bind_misuse_check_dot(L, "app.promise");
    struct bind_promise *p = lua_newuserdatauv(L, sizeof *p, BIND_PROMISE_SLOTS);
    *p = (struct bind_promise){.self = LUA_NOREF};
    list_init(&p->waiters);
    job_init(&p->job, vm_of(L), bind_promise_run, bind_promise_drop);
    luaL_setmetatable(L, BIND_PROMISE_TYPE);
    return 1;
}

void bind_promise_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"resolve", bind_promise_resolve},
        {"reject", bind_promise_reject},
        {"await", bind_promise_await},
        {"when_complete", bind_promise_when_complete},
        {NULL, NULL},
    };
    luaL_newmetatable(L, BIND_PROMISE_TYPE);
    luaL_newlib(L, methods);
    bind_misuse_guard(L, "a promise", "method");
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, bind_promise_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
