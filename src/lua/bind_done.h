/* SPDX-License-Identifier: MIT
 * The `done` of ws:send and ws:close: a function or a promise that hears what became of the bytes. */
#ifndef TIDEWIRE_LUA_BIND_DONE_H
#define TIDEWIRE_LUA_BIND_DONE_H

#include <lua.h>

#include "ws/session.h"

/* Takes the argument at `index`; NULL when there is none. Raises, beginning with `what`, when it is neither a
 * function nor a promise. The result is to be given to session_when_sent, or completed. Call it last before
 * that, since it would be lost when something raises. */
struct session_done *bind_done_take(lua_State *L, int index, const char *what);

struct vm;

/* The VM's time is over: all that are pending complete with "reloaded". */
void bind_done_give_up(struct vm *vm);

#endif
