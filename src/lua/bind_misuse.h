/* SPDX-License-Identifier: MIT
 * Mistakes that everybody makes once: a dot for a colon, a colon for a dot. */
#ifndef TIDEWIRE_LUA_BIND_MISUSE_H
#define TIDEWIRE_LUA_BIND_MISUSE_H

#include <lua.h>

/* Raises when argument 1 is `app` or a group, which a colon puts there; `what` is "app.sleep". */
void bind_misuse_check_dot(lua_State *L, const char *what);

/* Argument 1 as a userdata of that type; raises when it is none, as after a dot. `name` is "a WebSocket",
 * `example` is "ws:send(...)". */
void *bind_misuse_check_self(lua_State *L, const char *type, const char *name, const char *example);

#endif
