/* SPDX-License-Identifier: MIT
 * When Lua's collector goes over the heap. */
#include "script/pace.h"

#include <lauxlib.h>

#include "script/vm.h"

#define PACE_TYPE "tidewire.pace"

/* May gather in a small heap: it fits a processor's second-level cache. */
#define PACE_GARBAGE (512 * 1024)

/* What is kept outside is told in pieces of this size. */
#define PACE_PIECE (16 * 1024)

enum { KIB = 1024 };

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
    if (vm->home != NULL && !vm->closing) /* else this may be another thread than its worker's */
        metrics_add(vm->metrics, METRIC_LUA_CYCLES, 1);
    pace_wait(L); /* when memory runs out here, Lua's own pace is what remains */
    return 0;
}

void pace_open(lua_State *L)
{
    luaL_newmetatable(L, PACE_TYPE);
    lua_pushcfunction(L, pace_on_cycle);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    pace_wait(L);
}

/* LUA_GCSTEP with a number adds to the collector's debt, or takes from it, without a change of its settings:
 * those are the script's (collectgarbage). */
void pace_credit(struct vm *vm)
{
    if (vm->alive < PACE_GARBAGE)
        lua_gc(vm->L, LUA_GCSTEP, -(int)((PACE_GARBAGE - vm->alive) / KIB));
    vm->alive = 0;
}

void pace_charge(lua_State *L, size_t bytes)
{
    struct vm *vm = vm_of(L);
    vm->outside += bytes;
    if (vm->outside < PACE_PIECE)
        return;
    int debt = (int)(vm->outside / KIB);
    vm->outside = 0;
    lua_gc(L, LUA_GCSTEP, debt);
}
