/* SPDX-License-Identifier: MIT
 * The global `log`. */
#ifndef TIDEWIRE_LUA_BIND_LOG_H
#define TIDEWIRE_LUA_BIND_LOG_H

#include <lua.h>

void bind_log_open(lua_State *L);

#endif
