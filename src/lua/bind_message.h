/* SPDX-License-Identifier: MIT
 * A message as scripts give it to what sends: text, or binary. */
#ifndef TIDEWIRE_LUA_BIND_MESSAGE_H
#define TIDEWIRE_LUA_BIND_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

struct bind_message {
    const char *data; /* anchored in the stack */
    size_t len;
    bool text;
};

/* The value at `index`: a string is text, a list of byte values binary, of which it pushes the bytes in its
 * place. Raises, beginning with `what`, for anything else. */
struct bind_message bind_message_check(lua_State *L, int index, const char *what);

/* The same with an options table, {binary = true}, or nothing behind it. */
struct bind_message bind_message_check_with_options(lua_State *L, int index, const char *what);

/* Text that is not UTF-8 cannot be sent. */
bool bind_message_is_valid(lua_State *L, const struct bind_message *m);

#endif
