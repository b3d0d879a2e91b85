/* SPDX-License-Identifier: MIT
 * JSON text from Lua values: what json.encode writes. */
#ifndef TIDEWIRE_LUA_BIND_JSON_OUT_H
#define TIDEWIRE_LUA_BIND_JSON_OUT_H

#include <stdbool.h>

#include <lua.h>

struct bind_json_out_style {
    bool pretty;      /* a line for each member and element */
    bool sort;        /* the keys of objects, by their bytes */
    const char *what; /* begins messages; NULL is "json" */
};

void bind_json_out_open(lua_State *L);

/* Pushes the value at `index` as text. Raises for what JSON has not, and when memory runs out. */
void bind_json_out_push(lua_State *L, int index, const struct bind_json_out_style *style);

#endif
