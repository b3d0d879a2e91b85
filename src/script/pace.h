/* SPDX-License-Identifier: MIT
 * How often Lua's collector goes over the heap. The thread that has the VM.
 *
 * Lua waits until the heap is twice of what was alive. Where little is alive, as in most scripts, large
 * messages would have the whole heap gone over every time or two; so a small heap may gather more. A script
 * that sets the collector by itself (collectgarbage) has its way. */
#ifndef TIDEWIRE_SCRIPT_PACE_H
#define TIDEWIRE_SCRIPT_PACE_H

#include <lua.h>

struct vm;

/* Begins to watch the collector's cycles. May raise. */
void pace_open(lua_State *L);

/* After a cycle: how much may gather before the next one. Outside every entry. */
void pace_set(struct vm *vm);

#endif
