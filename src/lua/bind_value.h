/* SPDX-License-Identifier: MIT
 * Lua values as flat copies (base/value.h), and back. What can be copied is nil, booleans, numbers, strings,
 * json.null, and tables of these without metatables, less the one of json.array, up to VALUE_DEPTH in one
 * another. A table that is in there twice is copied twice. Nothing here runs a script's code. */
#ifndef TIDEWIRE_LUA_BIND_VALUE_H
#define TIDEWIRE_LUA_BIND_VALUE_H

#include <lua.h>

#include "base/buf.h"

enum bind_value_result {
    BIND_VALUE_DONE,
    BIND_VALUE_REFUSED,   /* only by bind_value_copy */
    BIND_VALUE_TOO_LARGE, /* more than the limit; at most a little of that has been copied */
    BIND_VALUE_NO_MEMORY,
};

/* Why a value was refused: "value.users[3].f is a function; only ...". */
struct bind_value_fault {
    char text[1024];
};

/* Appends the flat copy of the value at `index`, up to about `limit_bytes`; `fault` is filled for REFUSED,
 * and begins with `root`, the value's name. Never raises, so that the caller need not anchor `out`. */
enum bind_value_result bind_value_copy(lua_State *L, int index, const char *root, size_t limit_bytes,
                                       struct buf *out, struct bind_value_fault *fault);

/* What was left out, in no particular order: "state.users[3].f is a function, state.db is a userdata and 12
 * more". */
struct bind_value_dropped {
    size_t count;
    char text[1024]; /* names up to 10; empty when there is none */
};

/* The same, but leaves out what the other refuses, and tells `dropped`, whatever the result is: pairs of
 * which the key or the value cannot be copied, and of a table that contains itself the pair that leads back.
 * So a list may get holes, and a value that is itself refused becomes nil. A pair left out counts as two
 * bytes, so that the limit bounds the work, too. Never raises. */
enum bind_value_result bind_value_copy_what_can(lua_State *L, int index, const char *root, size_t limit_bytes,
                                                struct buf *out, struct bind_value_dropped *dropped);

/* Pushes the value that `data` is the flat copy of. Raises when Lua's memory runs out, so `data` must belong
 * to something that Lua or somebody else frees; and when it is no value, which would be a defect. In a VM
 * without bind_json_open arrays have no mark. */
void bind_value_push(lua_State *L, const void *data, size_t len);

#endif
