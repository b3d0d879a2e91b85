/* SPDX-License-Identifier: MIT
 * Lua values as flat copies (base/value.h), and back. What can be copied is nil, booleans, numbers, strings,
 * and tables of these without metatables. A table that is in there twice is copied twice. */
#ifndef TIDEWIRE_LUA_BIND_VALUE_H
#define TIDEWIRE_LUA_BIND_VALUE_H

#include <lua.h>

#include "base/buf.h"

enum bind_value_result {
    BIND_VALUE_DONE,
    BIND_VALUE_REFUSED,
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

/* Pushes the value that `data` is the flat copy of. Raises when Lua's memory runs out, so `data` must belong
 * to something that Lua or somebody else frees; and when it is no value, which would be a defect. */
void bind_value_push(lua_State *L, const void *data, size_t len);

#endif
