/* SPDX-License-Identifier: MIT
 * app.on_start and app.on_stop: functions that run once for each worker and generation. */
#ifndef TIDEWIRE_LUA_BIND_LIFE_H
#define TIDEWIRE_LUA_BIND_LIFE_H

#include <lua.h>

int bind_life_on_start(lua_State *L); /* app.on_start(f) */
int bind_life_on_stop(lua_State *L);  /* app.on_stop(f) */

/* vm_bindings.life */
int bind_life_run(lua_State *L);

#endif
