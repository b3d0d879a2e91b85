/* SPDX-License-Identifier: MIT
 * The `done` of ws:send and ws:close. */
#include "lua/bind_done.h"

#include <stdlib.h>

#include <lauxlib.h>

#include "lua/bind_promise.h"
#include "script/job.h"
#include "script/sched.h"
#include "script/vm.h"

struct bind_done {
    struct session_done done;
    struct list pending; /* in vm->dones until it is complete */
    struct job job;
    int target;      /* registry reference: the function or the promise */
    const char *why; /* it failed; static text */
    struct log_context about;
};

static int bind_done_body(lua_State *L)
{
    const struct bind_done *d = sched_take_arg(L);
    bool ok = d->why == NULL;
    bool function = lua_rawgeti(L, LUA_REGISTRYINDEX, d->target) == LUA_TFUNCTION;
    if (ok)
        lua_pushboolean(L, 1);
    else if (function)
        lua_pushnil(L);
    if (!ok)
        lua_pushstring(L, d->why);
    if (function)
        lua_callk(L, ok ? 1 : 2, 0, 0, sched_call_done);
    else
        bind_promise_settle(L, 1, ok);
    return 0;
}

static void bind_done_drop(struct job *j)
{
    struct bind_done *d = LIST_ENTRY(j, struct bind_done, job);
    luaL_unref(j->vm->L, LUA_REGISTRYINDEX, d->target);
    vm_release(j->vm);
    free(d);
}

static void bind_done_run(struct job *j)
{
    struct bind_done *d = LIST_ENTRY(j, struct bind_done, job);
    sched_run(j->vm, &(struct sched_entry){.body = bind_done_body, .arg = d, .about = &d->about});
    bind_done_drop(j);
}

static void bind_done_complete(struct session_done *done, const char *why)
{
    struct bind_done *d = LIST_ENTRY(done, struct bind_done, done);
    d->why = why;
    list_remove(&d->pending);
    job_post(&d->job);
}

struct session_done *bind_done_take(lua_State *L, int index, const char *what)
{
    if (lua_isnoneornil(L, index))
        return NULL;
    if (!lua_isfunction(L, index) && !bind_promise_is(L, index))
        luaL_error(L, "%s: done is a function or a promise, not a %s", what, luaL_typename(L, index));
    lua_pushvalue(L, index);
    int target = luaL_ref(L, LUA_REGISTRYINDEX);
    struct bind_done *d = malloc(sizeof *d);
    if (d == NULL) {
        luaL_unref(L, LUA_REGISTRYINDEX, target);
        luaL_error(L, "%s: out of memory", what);
        return NULL;
    }
    struct vm *vm = vm_of(L);
    *d = (struct bind_done){.done.complete = bind_done_complete, .target = target, .about = vm->about};
    job_init(&d->job, vm, bind_done_run, bind_done_drop);
    vm_hold(vm);
    list_init(&d->done.link);
    list_append(&vm->dones, &d->pending);
    return &d->done;
}

void bind_done_give_up(struct vm *vm)
{
    while (!list_empty(&vm->dones)) {
        struct bind_done *d = LIST_ENTRY(vm->dones.next, struct bind_done, pending);
        list_remove(&d->done.link); /* the session does not tell it any more */
        bind_done_complete(&d->done, "reloaded");
    }
}
