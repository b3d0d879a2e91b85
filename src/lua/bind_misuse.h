/* SPDX-License-Identifier: MIT
 * Mistakes that everybody makes once: a dot for a colon, a colon for a dot, a name with a slip in it. */
#ifndef TIDEWIRE_LUA_BIND_MISUSE_H
#define TIDEWIRE_LUA_BIND_MISUSE_H

#include <lua.h>

/* Raises when argument 1 is `app`, a part of it or a group, which a colon puts there; `what` is "app.sleep".
 */
void bind_misuse_check_dot(lua_State *L, const char *what);

/* Argument 1 as a userdata of that type; raises when it is none, as after a dot. `name` is "a WebSocket",
 * `example` is "ws:send(...)". */
void *bind_misuse_check_self(lua_State *L, const char *type, const char *name, const char *example);

/* Raises: `what` ("ws") has no `kind` ("method or field") `key`; tells which was probably meant of the names
 * in the table at `index`, or, when these are few, all of them. */
int bind_misuse_raise_unknown(lua_State *L, const char *what, const char *kind, const char *key, int index);

/* From now on the table at the top raises so when it is asked for what it does not have. */
void bind_misuse_guard(lua_State *L, const char *what, const char *kind);

#endif
