/* SPDX-License-Identifier: MIT
 * What goes on by itself: app.sleep, app.spawn, app.after, app.every. */
#ifndef TIDEWIRE_LUA_BIND_TASK_H
#define TIDEWIRE_LUA_BIND_TASK_H

#include <lua.h>

void bind_task_open(lua_State *L);

int bind_task_sleep(lua_State *L);
int bind_task_spawn(lua_State *L);
int bind_task_after(lua_State *L);
int bind_task_every(lua_State *L);

#endif
