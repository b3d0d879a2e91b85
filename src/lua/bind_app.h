/* SPDX-License-Identifier: MIT
 * The global `app`. */
#ifndef TIDEWIRE_LUA_BIND_APP_H
#define TIDEWIRE_LUA_BIND_APP_H

#include <lua.h>

void bind_app_open(lua_State *L);

#endif
