/* SPDX-License-Identifier: MIT
 * The global `json`, json.decode and json.encode for other bindings, and what these two share. */
#ifndef TIDEWIRE_LUA_BIND_JSON_H
#define TIDEWIRE_LUA_BIND_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

/* How deep arrays and objects may be nested, to be decoded or encoded. */
#define BIND_JSON_DEPTH    200
#define BIND_JSON_TOO_DEEP "more than 200 levels deep"

void bind_json_open(lua_State *L);

/* Pushes the value at `index` as JSON text. Raises for what JSON has not, as json.encode does, and when
 * memory runs out. */
void bind_json_encode(lua_State *L, int index, const char *what);

/* Pushes the value that the text stands for, or nil and a message; returns how many. The collector may run
 * while the text is in use. Raises only when memory runs out. */
int bind_json_decode(lua_State *L, const char *text, size_t len);

/* Whether the value at `index` is json.null. Never raises. */
bool bind_json_is_null(lua_State *L, int index);

/* Pushes json.null, which is the same in every VM. Never raises. */
void bind_json_push_null(lua_State *L);

/* Pushes the metatable that marks arrays. Never raises. */
void bind_json_push_array_meta(lua_State *L);

/* Raises what Lua raises when it gets no memory. */
void bind_json_no_memory(lua_State *L);

#endif
