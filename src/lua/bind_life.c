/* SPDX-License-Identifier: MIT
 * app.on_start and app.on_stop. */
#include "lua/bind_life.h"

#include <lauxlib.h>

#include "lua/bind_misuse.h"
#include "script/vm.h"

#define BIND_LIFE_MAX 1000

/* Registry keys of the lists. */
static const char bind_life_starts, bind_life_stops;

static void bind_life_push_list(lua_State *L, bool stop)
{
    const void *key = stop ? &bind_life_stops : &bind_life_starts;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, key) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

static int bind_life_add(lua_State *L, bool stop, const char *what)
{
    struct vm *vm = vm_of(L);
    unsigned *count = stop ? &vm->nstop : &vm->nstart;
    bind_misuse_check_dot(L, what);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (!vm->loading)
        return luaL_error(L, "%s: call it while the script loads", what);
    if (*count == BIND_LIFE_MAX)
        return luaL_error(L, "%s: %d functions are there already", what, BIND_LIFE_MAX);
    bind_life_push_list(L, stop);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, (lua_Integer)*count + 1);
    ++*count;
    return 0;
}

int bind_life_on_start(lua_State *L)
{
    return bind_life_add(L, false, "app.on_start");
}

int bind_life_on_stop(lua_State *L)
{
    return bind_life_add(L, true, "app.on_stop");
}

int bind_life_run(lua_State *L)
{
    const struct vm_life *life = sched_take_arg(L);
    bind_life_push_list(L, life->stop);
    lua_rawgeti(L, -1, (lua_Integer)life->i);
    lua_callk(L, 0, 0, 0, sched_call_done);
    return 0;
}
