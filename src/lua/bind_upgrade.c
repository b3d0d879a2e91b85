/* SPDX-License-Identifier: MIT
 * A route's should_upgrade, as the innermost function of its chain. */
#include "lua/bind_upgrade.h"

#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_answer.h"

/* false [, status [, body [, headers]]]: as a handler would answer it. `what` is below the top. */
static void bind_upgrade_refuse(lua_State *L, const char *what)
{
    size_t len = 0;
    const char *body = lua_type(L, 3) == LUA_TSTRING ? lua_tolstring(L, 3, &len) : "";
    if (lua_isnil(L, 2))
        lua_pushinteger(L, 403);
    else
        lua_pushvalue(L, 2);
    int is_integer;
    lua_Integer status = lua_tointegerx(L, -1, &is_integer);
    if (lua_type(L, -1) != LUA_TNUMBER || !is_integer || status < 300 || status > 599)
        luaL_error(L, "%s: %s is not a status that refuses; use a whole number from 300 to 599", what,
                   luaL_tolstring(L, 2, NULL));
    if (!lua_isnil(L, 3) && lua_type(L, 3) != LUA_TSTRING)
        luaL_error(L, "%s: the body is a %s, not a string", what, luaL_typename(L, 3));
    if (!utf8_valid(body, len))
        luaL_error(L, "%s: the body is not UTF-8", what);
    int base = lua_gettop(L);
    lua_pushvalue(L, 3);
    lua_pushvalue(L, 4);
    bind_answer_normalise(L, base, what);
}

/* The four results are at 1 to 4. */
static int bind_upgrade_done(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    const char *what = bind_answer_place(L, lua_upvalueindex(1), "should_upgrade");
    if (lua_istable(L, 1))
        bind_answer_accept(L, 1, what);
    else if (!lua_isboolean(L, 1))
        return luaL_error(L,
                          "%s returned %s; it must return true, a table of headers, or "
                          "false [, status [, body [, headers]]]",
                          what, luaL_typename(L, 1));
    else if (lua_toboolean(L, 1))
        bind_answer_accept(L, 0, what);
    else
        bind_upgrade_refuse(L, what);
    return 1;
}

/* Upvalue 1 is should_upgrade. */
static int bind_upgrade_ask(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_callk(L, 1, 4, 0, bind_upgrade_done);
    return bind_upgrade_done(L, LUA_OK, 0);
}

static int bind_upgrade_accept(lua_State *L)
{
    bind_answer_accept(L, 0, "accept");
    return 1;
}

void bind_upgrade_push(lua_State *L, int should_upgrade)
{
    if (should_upgrade == LUA_NOREF) {
        lua_pushcfunction(L, bind_upgrade_accept);
        return;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, should_upgrade);
    lua_pushcclosure(L, bind_upgrade_ask, 1);
}
