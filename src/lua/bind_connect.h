/* SPDX-License-Identifier: MIT
 * app.connect: WebSockets that a script opens. */
#ifndef TIDEWIRE_LUA_BIND_CONNECT_H
#define TIDEWIRE_LUA_BIND_CONNECT_H

#include <lua.h>

void bind_connect_open(lua_State *L);

/* app.connect(url, [options,] function(ws) end): waits; the ws, or nil and why not */
int bind_connect_call(lua_State *L);

#endif
