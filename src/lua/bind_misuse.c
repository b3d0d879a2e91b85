/* SPDX-License-Identifier: MIT
 * Mistakes that everybody makes once. */
#include "lua/bind_misuse.h"

#include <string.h>

#include <lauxlib.h>

void bind_misuse_check_dot(lua_State *L, const char *what)
{
    if (!lua_istable(L, 1) || luaL_getmetafield(L, 1, "__name") != LUA_TSTRING)
        return;
    const char *name = lua_tostring(L, -1);
    if (strcmp(name, "app") == 0 || strcmp(name, "a group") == 0)
        luaL_error(L, "%s: call it with a dot: %s(...)", what, what);
    lua_pop(L, 1);
}

void *bind_misuse_check_self(lua_State *L, const char *type, const char *name, const char *example)
{
    void *self = luaL_testudata(L, 1, type);
    if (self == NULL)
        luaL_error(L, "expected %s as first argument, got %s: call its methods with a colon, as in %s", name,
                   luaL_typename(L, 1), example);
    return self;
}
