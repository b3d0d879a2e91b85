/* SPDX-License-Identifier: MIT
 * What takes the place of `coroutine.*`, `pcall` and `xpcall` in scripts: the same functions, but the time
 * budget follows the code into coroutines and message handlers, what waits in a script's coroutine suspends
 * the handler around it, and the server's own coroutines cannot be resumed by scripts. */
#ifndef TIDEWIRE_SCRIPT_CORO_H
#define TIDEWIRE_SCRIPT_CORO_H

#include <lua.h>

/* The script's coroutine in which something waits (task_suspend) that the coroutine `co`, itself suspended,
 * has resumed; NULL when it waits itself. Never raises. */
lua_State *coro_waited_for(lua_State *co);

/* Replaces the functions in the state's libraries. Call within a protected call. */
void coro_install(lua_State *L);

#endif
