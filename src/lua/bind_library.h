/* SPDX-License-Identifier: MIT
 * The modules that come with the server (lua/tidewire/), for require "tidewire.X". */
#ifndef TIDEWIRE_LUA_BIND_LIBRARY_H
#define TIDEWIRE_LUA_BIND_LIBRARY_H

#include <stddef.h>

#include <lua.h>

/* Their texts; the last one has no name. Made from the files when building (scripts/embed). */
struct bind_library_module {
    const char *name; /* "tidewire.http" */
    const unsigned char *text;
    size_t len;
};
extern const struct bind_library_module bind_library_modules[];

void bind_library_open(lua_State *L);

#endif
