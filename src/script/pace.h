/* SPDX-License-Identifier: MIT
 * When Lua's collector goes over the heap. The thread that has the VM.
 *
 * Lua waits until the heap is twice of what was alive. Where little is alive, as in most scripts, large
 * messages would have all of it gone over every time or two: so after each cycle a small heap gets credit.
 * And memory that objects keep outside of Lua's counts as if it were Lua's. */
#ifndef TIDEWIRE_SCRIPT_PACE_H
#define TIDEWIRE_SCRIPT_PACE_H

#include <stddef.h>

#include <lua.h>

struct vm;

/* Begins to watch the collector's cycles. May raise. */
void pace_open(lua_State *L);

/* After a cycle: the heap may gather some more than Lua would let it. Outside every entry. */
void pace_credit(struct vm *vm);

/* A new object, which is anchored, keeps `bytes` that Lua does not know of. May run the collector. */
void pace_charge(lua_State *L, size_t bytes);

#endif
