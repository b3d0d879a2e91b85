/* SPDX-License-Identifier: MIT
 * The global `app`: routes, and where this code runs. */
#include "lua/bind_app.h"

#include <lauxlib.h>

#include "bus/letter.h"
#include "lua/bind_connect.h"
#include "lua/bind_life.h"
#include "lua/bind_message.h"
#include "lua/bind_misuse.h"
#include "lua/bind_promise.h"
#include "lua/bind_route.h"
#include "lua/bind_shared.h"
#include "lua/bind_task.h"
#include "lua/bind_topic.h"
#include "lua/bind_ws.h"
#include "script/vm.h"

/* app.send(id, data [, {binary = true}]) */
static int bind_app_send(lua_State *L)
{
    struct worker *w = vm_serving(L, "app.send");
    lua_Integer id = luaL_checkinteger(L, 1);
    struct bind_message m = bind_message_check_with_options(L, 2, "app.send");
    if (!bind_message_is_valid(L, &m)) {
        lua_pushnil(L);
        lua_pushliteral(L, "not UTF-8");
        return 2;
    }
    return bind_ws_result(L, letter_send(w, (uint64_t)id, m.text, m.data, m.len));
}

/* app.close(id [, code [, reason]]) */
static int bind_app_close(lua_State *L)
{
    struct worker *w = vm_serving(L, "app.close");
    lua_Integer id = luaL_checkinteger(L, 1);
    const char *reason;
    size_t len;
    unsigned code = bind_ws_check_close(L, 2, "app.close", &reason, &len);
    return bind_ws_result(L, letter_close(w, (uint64_t)id, code, reason, len));
}

/* A misspelt name is an error where it is used, not a nil that fails later. */
static int bind_app_sealed(lua_State *L)
{
    return luaL_error(
        L, "app.%s cannot be set: app belongs to the server; keep your own data in a local or a global",
        luaL_tolstring(L, 2, NULL));
}

void bind_app_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"send", bind_app_send},
        {"close", bind_app_close},
        {"connect", bind_connect_call},
        {"promise", bind_promise_new},
        {"sleep", bind_task_sleep},
        {"spawn", bind_task_spawn},
        {"after", bind_task_after},
        {"every", bind_task_every},
        {"publish", bind_topic_publish_to_all},
        {"on_start", bind_life_on_start},
        {"on_stop", bind_life_on_stop},
        {"subscribers", bind_topic_subscribers},
        {NULL, NULL},
    };
    const struct vm *vm = vm_of(L);
    lua_newtable(L); /* app itself stays empty, so that every write is seen */
    lua_createtable(L, 0, 4);
    luaL_newlib(L, functions);
    bind_route_open(L);
    lua_insert(L, -2);
    bind_route_add_functions(L, lua_gettop(L) - 1);
    lua_remove(L, -2);
    bind_shared_open(L);
    lua_setfield(L, -2, "shared");
    lua_pushinteger(L, (lua_Integer)vm->worker);
    lua_setfield(L, -2, "worker");
    lua_pushinteger(L, (lua_Integer)vm->workers);
    lua_setfield(L, -2, "workers");
    lua_pushinteger(L, (lua_Integer)vm->generation);
    lua_setfield(L, -2, "generation");
    bind_misuse_guard(L, "app", "function or field");
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
