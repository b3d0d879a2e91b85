/* SPDX-License-Identifier: MIT
 * What a `ws` takes along to newer code: ws.state and req.context, by value. The bodies of struct
 * vm_bindings. */
#ifndef TIDEWIRE_LUA_BIND_MOVE_H
#define TIDEWIRE_LUA_BIND_MOVE_H

#include <lua.h>

int bind_move_pack(lua_State *L);
int bind_move_arrive(lua_State *L);

#endif
