/* SPDX-License-Identifier: MIT
 * app.websocket and the options of a route. Those that limit something have the configuration's names, bounds
 * and ways of writing, and begin as its values. */
#include "lua/bind_route.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "script/vm.h"
#include "ws/origin.h"
#include "ws/subprotocol.h"

#define BIND_ROUTE_KNOWN                                                                                     \
    "close_timeout, idle_timeout, max_frame, max_message, messages_per_second, on_slow, origins, "           \
    "ping_interval, protocols, read_ahead, send_limit, should_upgrade"

static const char *const bind_route_limits[] = {
    "close_timeout", "idle_timeout",  "max_frame",  "max_message", "messages_per_second",
    "on_slow",       "ping_interval", "read_ahead", "send_limit",
};

static const struct config_key *bind_route_limit(const char *name)
{
    for (size_t i = 0; i < sizeof bind_route_limits / sizeof bind_route_limits[0]; i++)
        if (strcmp(name, bind_route_limits[i]) == 0)
            return config_find(name, strlen(name));
    return NULL;
}

/* The value is at the top; `scratch` is a copy of the configuration that shares its strings. */
static void bind_route_set_limit(lua_State *L, struct config *scratch, const struct config_key *key)
{
    struct err e;
    if (!lua_isstring(L, -1) && !(lua_isboolean(L, -1) && !lua_toboolean(L, -1)))
        luaL_error(L, "app.websocket: %s cannot be a %s", key->name, luaL_typename(L, -1));
    const char *text = lua_isboolean(L, -1) ? "0" : lua_tostring(L, -1); /* false is off */
    if (config_set(scratch, key, key->name, text, false, &e) < 0)
        luaL_error(L, "app.websocket: %s", e.text);
}

/* Whether one element of a list will do; else -1 with `e`. */
typedef int bind_route_check(const char *item, size_t len, struct err *e);

static int bind_route_check_protocol(const char *item, size_t len, struct err *e)
{
    return subprotocol_is_token(item, len) ? 0 : err_set(e, "not a name that a protocol can have");
}

static void bind_route_add(lua_State *L, struct config_list *list, const char *name, bind_route_check *check)
{
    size_t len;
    struct err e;
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "app.websocket: %s: an element is a %s, not a string", name, luaL_typename(L, -1));
    const char *item = lua_tolstring(L, -1, &len);
    if (strlen(item) != len)
        luaL_error(L, "app.websocket: %s: an element has a zero byte", name);
    if (check(item, len, &e) < 0 || config_list_add(list, item, len, &e) < 0)
        luaL_error(L, "app.websocket: %s: \"%s\": %s", name, item, e.text);
}

/* The value at the top: a string, or a list of them. */
static struct config_list *bind_route_set_list(lua_State *L, struct config_list **list, const char *name,
                                               bind_route_check *check)
{
    *list = calloc(1, sizeof **list);
    if (*list == NULL)
        luaL_error(L, "app.websocket: out of memory");
    if (!lua_istable(L, -1)) {
        bind_route_add(L, *list, name, check);
        return *list;
    }
    lua_Integer n = luaL_len(L, -1);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, -1, i);
        bind_route_add(L, *list, name, check);
        lua_pop(L, 1);
    }
    return *list;
}

/* Name and value are on top of the stack. */
static void bind_route_set(lua_State *L, struct vm_route *route, struct config *scratch)
{
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, "app.websocket: every option has a name, as in {max_message = 65536}");
    const char *name = lua_tostring(L, -2);
    const struct config_key *key = bind_route_limit(name);
    if (key != NULL)
        bind_route_set_limit(L, scratch, key);
    else if (strcmp(name, "origins") == 0) {
        if (bind_route_set_list(L, &route->origins, name, origin_check_pattern)->n == 0)
            luaL_error(L, "app.websocket: origins: the list is empty; nobody could connect from a page");
    } else if (strcmp(name, "protocols") == 0)
        bind_route_set_list(L, &route->protocols, name, bind_route_check_protocol);
    else if (strcmp(name, "should_upgrade") == 0) {
        if (!lua_isfunction(L, -1))
            luaL_error(L, "app.websocket: should_upgrade is a %s, not a function", luaL_typename(L, -1));
        lua_pushvalue(L, -1);
        route->should_upgrade = luaL_ref(L, LUA_REGISTRYINDEX);
    } else
        luaL_error(L, "app.websocket: unknown option %s; there are " BIND_ROUTE_KNOWN, name);
}

/* app.websocket(path, [options,] function(ws, req) end) */
int bind_route_websocket(lua_State *L)
{
    if (!vm_of(L)->loading)
        return luaL_error(L, "app.websocket: routes are registered while the script loads, not in a handler");
    if (lua_type(L, 1) == LUA_TUSERDATA || lua_type(L, 1) == LUA_TTABLE)
        return luaL_error(L, "app.websocket: call it with a dot: app.websocket(path, handler)");
    luaL_checktype(L, 1, LUA_TSTRING);
    int handler = lua_istable(L, 2) ? 3 : 2;
    luaL_checktype(L, handler, LUA_TFUNCTION);
    if (lua_gettop(L) > handler)
        return luaL_error(L, "app.websocket: expected (path, [options,] handler), got %d arguments",
                          lua_gettop(L));
    struct vm_route *route = vm_add_route(L, ROUTER_WEBSOCKET, 1);
    struct config scratch = *vm_of(L)->config;
    lua_pushvalue(L, handler);
    route->handler = luaL_ref(L, LUA_REGISTRYINDEX);
    if (handler == 3) {
        lua_pushnil(L);
        while (lua_next(L, 2) != 0) {
            bind_route_set(L, route, &scratch);
            lua_pop(L, 1);
        }
    }
    session_limits_init(&route->limits, &scratch);
    return 0;
}
