/* SPDX-License-Identifier: MIT
 * A route's should_upgrade: asks it, and reads its verdict. */
#ifndef TIDEWIRE_LUA_BIND_UPGRADE_H
#define TIDEWIRE_LUA_BIND_UPGRADE_H

#include <lua.h>

/* Pushes function(req), which returns a response object: what the function with that registry reference
 * decides; with LUA_NOREF, that the handshake is accepted. */
void bind_upgrade_push(lua_State *L, int should_upgrade);

#endif
