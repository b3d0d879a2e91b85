/* SPDX-License-Identifier: MIT
 * A message as scripts give it to what sends. */
#include "lua/bind_message.h"

#include <string.h>

#include <lauxlib.h>

#include "base/utf8.h"
#include "script/vm.h"

/* A table with names is no list of bytes: most likely JSON was meant. */
static void bind_message_check_list(lua_State *L, int index, lua_Unsigned n, const char *what)
{
    lua_Unsigned keys = 0;
    lua_pushnil(L);
    for (; lua_next(L, index) != 0; lua_pop(L, 1))
        if (++keys > n)
            luaL_error(L,
                       "%s: a table is a list of byte values, and this one has other keys; for JSON send "
                       "json.encode(table)",
                       what);
}

/* Replaces the table at `index` by the bytes whose values are in it. */
static void bind_message_pack(lua_State *L, int index, const char *what)
{
    lua_Unsigned n = lua_rawlen(L, index);
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, n);
    for (lua_Unsigned i = 0; i < n; i++) {
        int is_integer;
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        lua_Integer v = lua_tointegerx(L, -1, &is_integer);
        if (lua_type(L, -1) != LUA_TNUMBER || !is_integer || v < 0 || v > 255)
            luaL_error(L,
                       "%s: a table is a list of byte values; element %d is %s, not an integer from 0 to 255",
                       what, (int)i + 1, luaL_tolstring(L, -1, NULL));
        out[i] = (char)v;
        lua_pop(L, 1);
    }
    luaL_pushresultsize(&b, n);
    bind_message_check_list(L, index, n, what);
    lua_replace(L, index);
}

struct bind_message bind_message_check(lua_State *L, int index, const char *what)
{
    int type = lua_type(L, index);
    struct bind_message m = {.text = type != LUA_TTABLE};
    if (!m.text)
        bind_message_pack(L, index, what);
    m.data = type == LUA_TSTRING ? lua_tolstring(L, index, &m.len) : luaL_checklstring(L, index, &m.len);
    return m;
}

/* {binary = true} at `index`. */
static bool bind_message_is_binary(lua_State *L, int index, const char *what)
{
    bool binary = false;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_pushnil(L);
    for (; lua_next(L, index) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "binary") != 0) {
            lua_pushvalue(L, -2);
            luaL_error(L, "%s: unknown option %s; there is binary", what, luaL_tolstring(L, -1, NULL));
        }
        binary = lua_toboolean(L, -1);
    }
    return binary;
}

struct bind_message bind_message_check_with_options(lua_State *L, int index, const char *what)
{
    lua_settop(L, index + 1);
    struct bind_message m = bind_message_check(L, index, what);
    if (!lua_isnil(L, index + 1) && bind_message_is_binary(L, index + 1, what))
        m.text = false;
    return m;
}

bool bind_message_is_valid(lua_State *L, const struct bind_message *m)
{
    return !m->text || m->data == vm_of(L)->sched.received || utf8_valid(m->data, m->len);
}
