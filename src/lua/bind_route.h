/* SPDX-License-Identifier: MIT
 * Routes, groups and middleware: app.get, app.websocket, app.group, app.use. */
#ifndef TIDEWIRE_LUA_BIND_ROUTE_H
#define TIDEWIRE_LUA_BIND_ROUTE_H

#include <lua.h>

/* Pushes the group that app is. */
void bind_route_open(lua_State *L);

/* Adds the functions that register for the group at `group` to the table at the top. */
void bind_route_add_functions(lua_State *L, int group);

/* vm_bindings.seal: the script has been loaded, so every route's middleware is known. */
int bind_route_seal(lua_State *L);

#endif
