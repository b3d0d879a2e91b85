/* SPDX-License-Identifier: MIT
 * A route's should_upgrade: asks it, and reads its verdict. */
#ifndef TIDEWIRE_LUA_BIND_UPGRADE_H
#define TIDEWIRE_LUA_BIND_UPGRADE_H

#include <lua.h>

/* The body of vm_bindings.ws_upgrade. */
int bind_upgrade_on_upgrade(lua_State *L);

#endif
