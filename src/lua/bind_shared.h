/* SPDX-License-Identifier: MIT
 * app.shared: one dictionary for all workers. */
#ifndef TIDEWIRE_LUA_BIND_SHARED_H
#define TIDEWIRE_LUA_BIND_SHARED_H

#include <lua.h>

/* Pushes app.shared. */
void bind_shared_open(lua_State *L);

#endif
