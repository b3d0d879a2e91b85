/* SPDX-License-Identifier: MIT
 * The global `json`: json.decode, json.encode, json.array and json.null; and the first two for other
 * bindings. */
#ifndef TIDEWIRE_LUA_BIND_JSON_H
#define TIDEWIRE_LUA_BIND_JSON_H

#include <stddef.h>

#include <lua.h>

/* So deep arrays and objects may be nested, decoded or encoded. */
#define BIND_JSON_DEPTH 200

void bind_json_open(lua_State *L);

/* Pushes the value at `index` as JSON text. Raises for what JSON has not, as json.encode does. */
void bind_json_encode(lua_State *L, int index);

/* Pushes the value that the text stands for, or nil and a message; returns how many. The text has to stay
 * while Lua collects garbage. Raises when memory runs out. */
int bind_json_decode(lua_State *L, const char *text, size_t len);

#endif
