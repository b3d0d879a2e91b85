/* SPDX-License-Identifier: MIT
 * Mistakes that everybody makes once. */
#include "lua/bind_misuse.h"

#include <stdbool.h>
#include <string.h>

#include <lauxlib.h>

#include "base/nearest.h"

#define BIND_MISUSE_FEW 6

void bind_misuse_check_dot(lua_State *L, const char *what)
{
    if (!lua_istable(L, 1) || luaL_getmetafield(L, 1, "__name") != LUA_TSTRING)
        return;
    const char *name = lua_tostring(L, -1);
    if (strcmp(name, "app") == 0 || strcmp(name, "a group") == 0 || strcmp(name, "app.shared") == 0)
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

/* Goes on to the next key of the table at `index` that is a string; like lua_next, without the value. */
static bool bind_misuse_next(lua_State *L, int index, const char **name)
{
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            continue;
        *name = lua_tostring(L, -1);
        return true;
    }
    return false;
}

/* Pushes "a, b and c", in the order of the alphabet; "" when there are too many. */
static void bind_misuse_push_list(lua_State *L, int index)
{
    const char *names[BIND_MISUSE_FEW], *name;
    int n = 0;
    lua_pushnil(L);
    while (bind_misuse_next(L, index, &name)) {
        if (n == BIND_MISUSE_FEW) {
            lua_pop(L, 1);
            lua_pushliteral(L, "");
            return;
        }
        int at = n++;
        for (; at > 0 && strcmp(names[at - 1], name) > 0; at--)
            names[at] = names[at - 1];
        names[at] = name;
    }
    lua_pushstring(L, n == 1 ? "; there is " : "; there are ");
    for (int i = 0; i < n; i++) {
        lua_pushstring(L, i == 0 ? "" : i == n - 1 ? " and " : ", ");
        lua_pushstring(L, names[i]);
        lua_concat(L, 3);
    }
}

int bind_misuse_raise_unknown(lua_State *L, const char *what, const char *kind, const char *key, int index)
{
    struct nearest meant;
    const char *name;
    nearest_init(&meant, key);
    index = lua_absindex(L, index);
    lua_pushnil(L);
    while (bind_misuse_next(L, index, &name))
        nearest_try(&meant, name);
    if (meant.name != NULL)
        return luaL_error(L, "%s has no %s '%s'; did you mean '%s'?", what, kind, key, meant.name);
    bind_misuse_push_list(L, index);
    return luaL_error(L, "%s has no %s '%s'%s", what, kind, key, lua_tostring(L, -1));
}

/* __index of a guarded table. The upvalues are `what` and `kind`. */
static int bind_misuse_unknown(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *key = luaL_tolstring(L, 2, NULL);
    return bind_misuse_raise_unknown(L, lua_tostring(L, lua_upvalueindex(1)),
                                     lua_tostring(L, lua_upvalueindex(2)), key, 1);
}

void bind_misuse_guard(lua_State *L, const char *what, const char *kind)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, what);
    lua_setfield(L, -2, "__name");
    lua_pushstring(L, what);
    lua_pushstring(L, kind);
    lua_pushcclosure(L, bind_misuse_unknown, 2);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}
