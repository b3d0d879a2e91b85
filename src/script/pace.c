/* SPDX-License-Identifier: MIT
 * How often Lua's collector goes over the heap. */
#include "script/pace.h"

#include <lauxlib.h>

#include "script/vm.h"

#define PACE_TYPE "tidewire.pace"

/* May gather in a small heap: it fits a processor's second-level cache. */
#define PACE_GARBAGE (512 * 1024)

/* The heap's size at which a cycle begins, in percent of what was alive; Lua keeps multiples of 4 up to 1020.
 */
enum { PACE_USUAL = 200, PACE_MOST = 1000, PACE_STEP = 4 };

/* A userdata that nobody has, so that each cycle of the collector tells us. */
static void pace_wait(lua_State *L)
{
    lua_newuserdatauv(L, 0, 0);
    luaL_setmetatable(L, PACE_TYPE);
    lua_pop(L, 1);
}

/* At the end of a cycle. The collector cannot be told anything from in here. */
static int pace_on_cycle(lua_State *L)
{
    struct vm *vm = vm_of(L);
    vm->alive = vm->memory;
    pace_wait(L);
    return 0;
}

void pace_open(lua_State *L)
{
    vm_of(L)->pause = PACE_USUAL;
    luaL_newmetatable(L, PACE_TYPE);
    lua_pushcfunction(L, pace_on_cycle);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    pace_wait(L);
}

void pace_set(struct vm *vm)
{
    size_t pause = 100 + (size_t)100 * PACE_GARBAGE / vm->alive;
    pause = pause < PACE_USUAL ? PACE_USUAL : pause > PACE_MOST ? PACE_MOST : pause;
    int next = (int)(pause - pause % PACE_STEP), now = lua_gc(vm->L, LUA_GCSETPAUSE, next);
    if (now == vm->pause)
        vm->pause = next;
    else /* the script has set it */
        lua_gc(vm->L, LUA_GCSETPAUSE, now);
    vm->alive = 0;
}
