/* SPDX-License-Identifier: MIT
 * The `ws` object: one WebSocket as scripts see it. */
#ifndef TIDEWIRE_LUA_BIND_WS_H
#define TIDEWIRE_LUA_BIND_WS_H

#include <stdbool.h>

#include <lua.h>

struct session;

void bind_ws_open(lua_State *L);

/* The bodies of struct vm_bindings. */
int bind_ws_on_open(lua_State *L);
int bind_ws_on_message(lua_State *L);
int bind_ws_on_control(lua_State *L);
int bind_ws_on_drain(lua_State *L);
int bind_ws_on_close(lua_State *L);
bool bind_ws_wants_control(lua_State *L, const struct session *s, bool ping);
void bind_ws_forget(lua_State *L, struct session *s);

#endif
