/* SPDX-License-Identifier: MIT
 * The one door into Lua. */
#include "script/sched.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include <lauxlib.h>

#include "base/metrics.h"
#include "script/budget.h"
#include "script/vm.h"

/* vm_of reads the VM from a state's extra space; the lowest bit there tells a coroutine of the scheduler. */
#define SCHED_MARK ((uintptr_t)1)

bool sched_owns(lua_State *L)
{
    return (*(uintptr_t *)lua_getextraspace(L) & SCHED_MARK) != 0;
}

/* ---- messages ---- */

/* The text of the error object at `index`. May call its __tostring, hence may raise. Leaves values on the
 * stack. */
static const char *sched_error_text(lua_State *L, int index)
{
    if (lua_type(L, index) == LUA_TSTRING)
        return lua_tostring(L, index);
    if (!budget_is_cut(vm_of(L)->budget) && luaL_callmeta(L, index, "__tostring") &&
        lua_type(L, -1) == LUA_TSTRING)
        return lua_tostring(L, -1);
    return lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, index));
}

/* Gets a failed coroutine; returns its error with its traceback. */
static int sched_describe_body(lua_State *L)
{
    lua_State *co = lua_touserdata(L, 1);
    lua_xmove(co, L, 1);
    luaL_traceback(L, co, sched_error_text(L, 2), 0);
    return 1;
}

static int sched_message_handler(lua_State *L)
{
    luaL_traceback(L, L, sched_error_text(L, 1), 1);
    return 1;
}

/* ---- the main state ---- */

static int sched_call_main(lua_State *L, lua_CFunction body, void *arg, struct err *e)
{
    lua_pushcfunction(L, sched_message_handler);
    int handler = lua_gettop(L);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, arg);
    int status = lua_pcall(L, 1, 0, handler);
    if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        err_set(e, "%s", message != NULL ? message : "out of memory");
    }
    lua_settop(L, handler - 1);
    return status == LUA_OK ? 0 : -1;
}

int sched_setup(lua_State *L, lua_CFunction body, void *arg, struct err *e)
{
    return sched_call_main(L, body, arg, e);
}

int sched_load(struct vm *vm, lua_CFunction body, void *arg, struct err *e)
{
    budget_enter(vm->budget, vm->L);
    int rc = sched_call_main(vm->L, body, arg, e);
    budget_leave(vm->budget, vm->L);
    return rc;
}

/* ---- handlers ---- */

static int sched_new_thread_body(lua_State *L)
{
    struct sched_thread *t = lua_touserdata(L, 1);
    t->co = lua_newthread(L);
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static bool sched_thread_get(struct vm *vm, struct sched_thread *t)
{
    struct sched *s = &vm->sched;
    if (s->count > 0) {
        *t = s->spare[--s->count];
        return true;
    }
    if (sched_setup(vm->L, sched_new_thread_body, t, NULL) < 0)
        return false;
    *(uintptr_t *)lua_getextraspace(t->co) |= SCHED_MARK;
    return true;
}

static void sched_thread_put(struct vm *vm, const struct sched_thread *t)
{
    struct sched *s = &vm->sched;
    if (s->count < SCHED_POOL)
        s->spare[s->count++] = *t;
    else
        luaL_unref(vm->L, LUA_REGISTRYINDEX, t->ref);
}

/* Describes why `co` failed, within the entry, as __tostring is the script's. The text is on the main state's
 * stack. */
static const char *sched_why(struct vm *vm, lua_State *co, int status)
{
    if (status == LUA_YIELD) {
        lua_pushliteral(vm->L, "attempt to yield from outside a coroutine");
        return lua_tostring(vm->L, -1);
    }
    budget_switch(vm->budget, vm->L);
    lua_pushcfunction(vm->L, sched_describe_body);
    lua_pushlightuserdata(vm->L, co);
    bool described = lua_pcall(vm->L, 1, 1, 0) == LUA_OK;
    const char *text = lua_type(vm->L, -1) == LUA_TSTRING ? lua_tostring(vm->L, -1) : NULL;
    return text != NULL && (described || status != LUA_ERRMEM) ? text : "not enough memory (vm_memory)";
}

enum sched_result sched_run(struct vm *vm, lua_CFunction body, void *arg, const struct log_context *about)
{
    assert(!vm->sched.busy);
    struct sched_thread t;
    metrics_add(vm->metrics, METRIC_HANDLER_CALLS, 1);
    if (!sched_thread_get(vm, &t)) {
        metrics_add(vm->metrics, METRIC_HANDLER_ERRORS, 1);
        log_write(LOG_ERROR, about, "not enough memory to run a handler (vm_memory)");
        return SCHED_FAILED;
    }
    vm->sched.busy = true;
    vm->about = *about;
    int results, base = lua_gettop(vm->L);
    lua_pushcfunction(t.co, body);
    lua_pushlightuserdata(t.co, arg);
    budget_enter(vm->budget, t.co);
    int status = lua_resume(t.co, vm->L, 1, &results);
    enum sched_result result = SCHED_OK;
    if (status != LUA_OK) {
        bool cut = budget_is_cut(vm->budget);
        result = cut ? SCHED_CUT : SCHED_FAILED;
        metrics_add(vm->metrics, cut ? METRIC_HANDLER_CUT : METRIC_HANDLER_ERRORS, 1);
        log_write(LOG_ERROR, about, "%s", sched_why(vm, t.co, status));
        budget_switch(vm->budget, t.co);
        lua_resetthread(t.co); /* runs pending __close */
        lua_sethook(vm->L, NULL, 0, 0);
    }
    budget_leave(vm->budget, t.co);
    lua_settop(t.co, 0);
    lua_settop(vm->L, base);
    vm->about = (struct log_context){.worker = vm->worker};
    vm->sched.busy = false;
    sched_thread_put(vm, &t);
    return result;
}
