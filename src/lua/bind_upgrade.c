/* SPDX-License-Identifier: MIT
 * A route's should_upgrade, as the innermost function of its chain. */
#include "lua/bind_upgrade.h"

#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_answer.h"

static int bind_upgrade_misused(lua_State *L)
{
    lua_Debug ar;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_getinfo(L, ">S", &ar);
    return luaL_error(L,
                      "should_upgrade (%s:%d) returned %s; it must return true, a table of headers, or "
                      "false [, status [, body [, headers]]]",
                      ar.short_src, ar.linedefined, luaL_typename(L, 1));
}

/* false [, status [, body [, headers]]] */
static int bind_upgrade_refuse(lua_State *L)
{
    lua_Integer status = luaL_optinteger(L, 2, 403);
    size_t len;
    const char *body = luaL_optlstring(L, 3, "", &len);
    if (status < 300 || status > 599)
        luaL_error(L, "should_upgrade: %I is not a status that refuses; use one from 300 to 599", status);
    if (!utf8_valid(body, len))
        luaL_error(L, "should_upgrade: the body is not UTF-8");
    lua_pushinteger(L, status);
    lua_replace(L, 1);
    lua_pushvalue(L, 3);
    lua_replace(L, 2);
    lua_pushvalue(L, 4);
    lua_replace(L, 3);
    lua_settop(L, 3);
    bind_answer_normalise(L, 1, "should_upgrade");
    return 1;
}

static int bind_upgrade_done(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    if (!lua_istable(L, 1) && !lua_isboolean(L, 1))
        return bind_upgrade_misused(L);
    if (lua_isboolean(L, 1) && !lua_toboolean(L, 1))
        return bind_upgrade_refuse(L);
    bind_answer_accept(L, lua_istable(L, 1) ? 1 : 5);
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
    lua_settop(L, 0);
    bind_answer_accept(L, 1);
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
