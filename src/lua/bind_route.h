/* SPDX-License-Identifier: MIT
 * app.websocket: registers a route with its options. */
#ifndef TIDEWIRE_LUA_BIND_ROUTE_H
#define TIDEWIRE_LUA_BIND_ROUTE_H

#include <lua.h>

int bind_route_websocket(lua_State *L);

#endif
