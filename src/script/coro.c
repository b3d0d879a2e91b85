/* SPDX-License-Identifier: MIT
 * The scripts' coroutine library, pcall and xpcall.
 *
 * A debug hook belongs to one Lua state. When the watchdog cuts an entry, its hook is on the state that is
 * running: a coroutine that dies of it must not leave the outer code running free, so each switch tells the
 * budget, which sets the hook there as well. A message handler of xpcall would run inside the hook, where
 * hooks are off: ours does not call the script's handler for a cut.
 *
 * A yield for task_suspend inside a script's coroutine has to pass through every resume up to the server's.
 * So resume, when its coroutine yields for that, yields as well, and its continuation resumes the coroutine
 * again. To the script such a coroutine is "normal": active, but not running. */
#include "script/coro.h"

#include <lauxlib.h>

#include "script/budget.h"
#include "script/sched.h"
#include "script/vm.h"

#define CORO_PCALL_DEPTH 10000

static lua_State *coro_check(lua_State *L, const char *what)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co != NULL, 1, "coroutine");
    if ((sched_owns(co) && co != L) || co == vm_of(L)->L)
        luaL_error(L, "cannot %s a coroutine of the server: it belongs to a handler", what);
    return co;
}

enum { CORO_FAILED = -1, CORO_SUSPENDED = -2 };

/* Resumes `co` with the `nargs` values on top of L. Returns how many results are on top of L, CORO_FAILED
 * with the error object there, or CORO_SUSPENDED: then L has to yield too. */
static int coro_transfer(lua_State *L, lua_State *co, int nargs)
{
    int nresults;
    struct vm *vm = vm_of(L);
    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return CORO_FAILED;
    }
    unsigned pin = lua_isyieldable(L) ? 0 : 1;
    vm->sched.pinned += pin;
    lua_xmove(L, co, nargs);
    budget_switch(vm->budget, co);
    int status = lua_resume(co, L, nargs, &nresults);
    budget_switch(vm->budget, L);
    vm->sched.pinned -= pin;
    if (status == LUA_YIELD && vm->sched.suspending) {
        vm_set_mark(co, VM_MARK_WAITING);
        return CORO_SUSPENDED;
    }
    if (status != LUA_OK && status != LUA_YIELD) {
        if (budget_is_cut(vm->budget))
            vm_set_mark(co, VM_MARK_CUT);
        lua_xmove(co, L, 1);
        return CORO_FAILED;
    }
    if (!lua_checkstack(L, nresults + 1)) {
        lua_pop(co, nresults);
        lua_pushliteral(L, "too many results to resume");
        return CORO_FAILED;
    }
    lua_xmove(co, L, nresults);
    return nresults;
}

/* What waited in `co` is there: on with it. */
static int coro_transfer_again(lua_State *L, lua_State *co)
{
    vm_clear_mark(co, VM_MARK_WAITING);
    return coro_transfer(L, co, 0);
}

static bool coro_refuse_waiting(lua_State *L, const lua_State *co)
{
    if (!vm_has_mark(co, VM_MARK_WAITING))
        return false;
    lua_pushliteral(L, "cannot resume a coroutine that waits (in app.sleep or promise:await)");
    return true;
}

static int coro_resume_again(lua_State *L, int status, lua_KContext context);

static int coro_resume_result(lua_State *L, int n)
{
    if (n == CORO_SUSPENDED)
        return lua_yieldk(L, 0, 0, coro_resume_again);
    lua_pushboolean(L, n >= 0);
    n = n < 0 ? 1 : n;
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int coro_resume_again(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return coro_resume_result(L, coro_transfer_again(L, lua_tothread(L, 1)));
}

static int coro_resume(lua_State *L)
{
    lua_State *co = coro_check(L, "resume");
    return coro_resume_result(L, coro_refuse_waiting(L, co) ? CORO_FAILED
                                                            : coro_transfer(L, co, lua_gettop(L) - 1));
}

/* Ends a coroutine: its pending to-be-closed variables run, on its own stack. Returns a status; on an error
 * (the one it died of, or a later one) its object is on top of L. */
static int coro_shut(lua_State *L, lua_State *co)
{
    if (vm_has_mark(co, VM_MARK_CUT)) {
        lua_pushliteral(L, "the coroutine was cut by the time budget");
        return LUA_ERRRUN;
    }
    struct vm *vm = vm_of(L);
    vm->sched.pinned++; /* a closing method cannot wait here */
    budget_switch(vm->budget, co);
    int status = lua_resetthread(co);
    budget_switch(vm->budget, L);
    vm->sched.pinned--;
    if (status != LUA_OK)
        lua_xmove(co, L, 1);
    return status;
}

static int coro_wrap_again(lua_State *L, int status, lua_KContext context);

static int coro_wrap_result(lua_State *L, lua_State *co, int n)
{
    if (n == CORO_SUSPENDED)
        return lua_yieldk(L, 0, 0, coro_wrap_again);
    if (n >= 0)
        return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD && !vm_has_mark(co, VM_MARK_CUT))
        coro_shut(L, co);                 /* the error of a closing method takes over */
    if (lua_type(L, -1) == LUA_TSTRING) { /* say where the wrapped function was called */
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int coro_wrap_again(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    return coro_wrap_result(L, co, coro_transfer_again(L, co));
}

static int coro_wrap_call(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    return coro_wrap_result(L, co,
                            coro_refuse_waiting(L, co) ? CORO_FAILED : coro_transfer(L, co, lua_gettop(L)));
}

lua_State *coro_waited_for(lua_State *co)
{
    lua_Debug ar;
    lua_State *inner = NULL;
    if (lua_status(co) != LUA_YIELD || !lua_checkstack(co, 2) || !lua_getstack(co, 0, &ar) ||
        !lua_getinfo(co, "f", &ar))
        return NULL;
    int top = lua_gettop(co); /* the function that yielded */
    lua_CFunction f = lua_tocfunction(co, top);
    if (f == coro_wrap_call && lua_getupvalue(co, top, 1) != NULL)
        inner = lua_tothread(co, -1);
    else if (f == coro_resume && lua_getlocal(co, &ar, 1) != NULL)
        inner = lua_tothread(co, -1);
    lua_settop(co, top - 1);
    return inner;
}

static int coro_create(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return 1;
}

static int coro_wrap(lua_State *L)
{
    coro_create(L);
    lua_pushcclosure(L, coro_wrap_call, 1);
    return 1;
}

static int coro_close(lua_State *L)
{
    lua_State *co = coro_check(L, "close");
    int status = lua_status(co);
    lua_Debug ar;
    bool running = co == L || (status == LUA_OK && lua_getstack(co, 0, &ar));
    if (running || vm_has_mark(co, VM_MARK_WAITING))
        return luaL_error(L, "cannot close a %s coroutine", co == L ? "running" : "normal");
    if (coro_shut(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/* Upvalue 1 is Lua's own. */
static int coro_status(lua_State *L)
{
    const lua_State *co = lua_tothread(L, 1);
    if (co != NULL && vm_has_mark(co, VM_MARK_WAITING)) {
        lua_pushliteral(L, "normal");
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int coro_yield(lua_State *L)
{
    if (sched_owns(L))
        return luaL_error(L, "attempt to yield from outside a coroutine");
    return lua_yield(L, lua_gettop(L));
}

static int coro_isyieldable(lua_State *L)
{
    lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
    lua_pushboolean(L, !sched_owns(co) && lua_isyieldable(co));
    return 1;
}

/* ---- pcall and xpcall ---- */

/* Upvalue 1 is the script's message handler. */
static int coro_message_handler(lua_State *L)
{
    if (budget_is_cut(vm_of(L)->budget))
        return 1; /* the error as it is */
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int coro_xpcall_done(lua_State *L, int status, lua_KContext extra)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)extra;
}

/* Lua unwinds nested pcalls in quadratic time: a script that is cut in the depth of a hundred thousand would
 * block its worker for half a minute. */
static void coro_check_depth(lua_State *L)
{
    lua_Debug ar;
    if (lua_getstack(L, CORO_PCALL_DEPTH, &ar))
        luaL_error(L, "stack overflow (pcall in a recursion over %d levels deep)", CORO_PCALL_DEPTH);
}

static int coro_pcall_done(lua_State *L, int status, lua_KContext context)
{
    (void)context;
    bool fine = status == LUA_OK || status == LUA_YIELD;
    if (!fine) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    return lua_gettop(L);
}

static int coro_pcall(lua_State *L)
{
    luaL_checkany(L, 1);
    coro_check_depth(L);
    lua_pushboolean(L, 1); /* the first result */
    lua_insert(L, 1);
    return coro_pcall_done(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, coro_pcall_done), 0);
}

static int coro_xpcall(lua_State *L)
{
    int n = lua_gettop(L);
    coro_check_depth(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, coro_message_handler, 1);
    lua_replace(L, 2);
    lua_pushboolean(L, 1); /* the first result */
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);
    int status = lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, coro_xpcall_done);
    return coro_xpcall_done(L, status, 2);
}

void coro_install(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"create", coro_create},
        {"resume", coro_resume},
        {"wrap", coro_wrap},
        {"close", coro_close},
        {"yield", coro_yield},
        {"isyieldable", coro_isyieldable},
        {NULL, NULL},
    };
    lua_getglobal(L, "coroutine");
    luaL_setfuncs(L, functions, 0);
    lua_getfield(L, -1, "status");
    lua_pushcclosure(L, coro_status, 1);
    lua_setfield(L, -2, "status");
    lua_pop(L, 1);
    lua_register(L, "pcall", coro_pcall);
    lua_register(L, "xpcall", coro_xpcall);
}
