/* SPDX-License-Identifier: MIT
 * What takes the place of `coroutine.*`, `pcall` and `xpcall` in scripts: the same functions, but the time
 * budget follows the code into coroutines and message handlers, and the server's own coroutines cannot be
 * resumed by scripts. */
#ifndef TIDEWIRE_SCRIPT_CORO_H
#define TIDEWIRE_SCRIPT_CORO_H

#include <lua.h>

/* Replaces the functions in the state's libraries. Call within a protected call. */
void coro_install(lua_State *L);

#endif
