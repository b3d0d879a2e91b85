/* SPDX-License-Identifier: MIT
 * The global `app`: routes, and where this code runs. */
#include "lua/bind_app.h"

#include <lauxlib.h>

#include "script/vm.h"

/* app.websocket(path, function(ws, req) end) */
static int bind_app_websocket(lua_State *L)
{
    if (!vm_of(L)->loading)
        return luaL_error(L, "app.websocket: routes are registered while the script loads, not in a handler");
    if (lua_type(L, 1) == LUA_TUSERDATA || lua_type(L, 1) == LUA_TTABLE)
        return luaL_error(L, "app.websocket: call it with a dot: app.websocket(path, handler)");
    luaL_checktype(L, 1, LUA_TSTRING);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (lua_gettop(L) > 2)
        return luaL_error(L, "app.websocket: expected (path, handler), got %d arguments", lua_gettop(L));
    vm_add_route(L, ROUTER_WEBSOCKET, 1, 2);
    return 0;
}

/* A misspelt name is an error where it is used, not a nil that fails later. */
static int bind_app_unknown(lua_State *L)
{
    return luaL_error(L, "app has no function or field '%s'", luaL_tolstring(L, 2, NULL));
}

static int bind_app_sealed(lua_State *L)
{
    return luaL_error(
        L, "app.%s cannot be set: app belongs to the server; keep your own data in a local or a global",
        luaL_tolstring(L, 2, NULL));
}

void bind_app_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"websocket", bind_app_websocket}, {NULL, NULL}};
    const struct vm *vm = vm_of(L);
    lua_newtable(L); /* app itself stays empty, so that every write is seen */
    lua_createtable(L, 0, 4);
    luaL_newlib(L, functions);
    lua_pushinteger(L, (lua_Integer)vm->worker);
    lua_setfield(L, -2, "worker");
    lua_pushinteger(L, (lua_Integer)vm->workers);
    lua_setfield(L, -2, "workers");
    lua_pushinteger(L, (lua_Integer)vm->generation);
    lua_setfield(L, -2, "generation");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, bind_app_unknown);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, bind_app_sealed);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "app");
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_setglobal(L, "app");
}
