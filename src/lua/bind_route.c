/* SPDX-License-Identifier: MIT
 * Routes, groups and middleware. A group is a table {prefix =, parent =, its middleware ...}, which the
 * functions that belong to it have as their upvalue. A route's chain, the handler in all the middleware
 * around it, is put together when the script has been loaded: so middleware holds for the routes of its group
 * wherever it was added. */
#include "lua/bind_route.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "lua/bind_answer.h"
#include "lua/bind_misuse.h"
#include "lua/bind_options.h"
#include "lua/bind_req.h"
#include "lua/bind_upgrade.h"
#include "script/vm.h"
#include "ws/origin.h"
#include "ws/subprotocol.h"

/* Registry: by route number, from 1, {group, handler}. */
static const char bind_route_records;

#define BIND_ROUTE_ROOT "tidewire.root" /* registry: the group that app is */
#define BIND_ROUTE_OPEN "tidewire.open" /* registry: the group whose function is running */

/* Name and value are on top of the stack. */
static void bind_route_set(lua_State *L, struct vm_route *route, struct config *scratch)
{
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, "app.websocket: every option has a name, as in {max_message = 65536}");
    const char *name = lua_tostring(L, -2);
    if (bind_options_limit(L, scratch, name, "app.websocket"))
        return;
    if (strcmp(name, "origins") == 0) {
        if (bind_options_list(L, &route->origins, "app.websocket", name, origin_check_pattern)->n == 0)
            luaL_error(L, "app.websocket: origins: the list is empty; nobody could connect from a page");
    } else if (strcmp(name, "protocols") == 0)
        bind_options_list(L, &route->protocols, "app.websocket", name, bind_options_check_protocol);
    else if (strcmp(name, "should_upgrade") == 0) {
        if (!lua_isfunction(L, -1))
            luaL_error(L, "app.websocket: should_upgrade is a %s, not a function", luaL_typename(L, -1));
        lua_pushvalue(L, -1);
        route->should_upgrade = luaL_ref(L, LUA_REGISTRYINDEX);
    } else
        bind_options_raise_unknown(L, "app.websocket", name, "origins, protocols, should_upgrade");
}

/* ---- paths and groups ---- */

/* For the functions of the group that is upvalue 1. Within the function of another group they would register
 * past it: in the wrong place, without its middleware. */
static void bind_route_check_loading(lua_State *L, const char *what)
{
    if (!vm_of(L)->loading)
        luaL_error(L, "%s: routes are registered while the script loads, not in a handler", what);
    bind_misuse_check_dot(L, what);
    lua_getfield(L, LUA_REGISTRYINDEX, BIND_ROUTE_OPEN);
    if (!lua_rawequal(L, -1, lua_upvalueindex(1)))
        luaL_error(L, "%s: within app.group use the group that its function gets, as in group%s(...)", what,
                   strchr(what, '.'));
    lua_pop(L, 1);
}

/* The group whose function is running: the one at the top of the stack, which is popped. */
static void bind_route_set_open(lua_State *L)
{
    lua_setfield(L, LUA_REGISTRYINDEX, BIND_ROUTE_OPEN);
}

/* Replaces the path at index 1 by the group's prefix and it. */
static void bind_route_prefix(lua_State *L)
{
    if (strstr(luaL_checkstring(L, 1), "://") != NULL)
        luaL_error(L, "%s is an address, not a path; a path is what comes after the host",
                   lua_tostring(L, 1));
    lua_getfield(L, lua_upvalueindex(1), "prefix");
    lua_pushliteral(L, "/");
    lua_pushvalue(L, 1);
    lua_concat(L, 3);
    lua_replace(L, 1);
}

/* Registers the path at index 1 for the function at `handler`, which runs in the group's middleware. */
static struct vm_route *bind_route_add_route(lua_State *L, enum router_method method, int handler)
{
    size_t number = router_count(vm_of(L)->router);
    bind_route_prefix(L);
    struct vm_route *route = vm_add_route(L, method, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_route_records);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, handler);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (lua_Integer)number + 1);
    lua_pop(L, 1);
    return route;
}

/* The handler's place behind an optional table of options, as the last argument. */
static int bind_route_find_handler(lua_State *L, const char *what)
{
    int handler = lua_istable(L, 2) ? 3 : 2;
    luaL_checktype(L, handler, LUA_TFUNCTION);
    if (lua_gettop(L) > handler)
        luaL_error(L, "%s: expected (path, [options,] handler), got %d arguments", what, lua_gettop(L));
    return handler;
}

/* app.websocket(path, [options,] function(ws, req) end) */
static int bind_route_websocket(lua_State *L)
{
    bind_route_check_loading(L, "app.websocket");
    luaL_checktype(L, 1, LUA_TSTRING);
    int handler = bind_route_find_handler(L, "app.websocket");
    struct vm_route *route = bind_route_add_route(L, ROUTER_WEBSOCKET, handler);
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
    route->limits.owner = vm_of(L);
    return 0;
}

/* The options of an HTTP route, at index 2. */
static void bind_route_set_http(lua_State *L, struct config *scratch, const char *what)
{
    lua_pushnil(L);
    while (lua_next(L, 2) != 0) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (strcmp(name, "max_body") != 0 && strcmp(name, "request_timeout") != 0)
            luaL_error(L, "%s: unknown option %s; there are max_body, request_timeout", what,
                       luaL_tolstring(L, -2, NULL));
        bind_options_set(L, scratch, config_find(name, strlen(name)), name, what);
        lua_pop(L, 1);
    }
}

static int bind_route_http(lua_State *L, enum router_method method, const char *what)
{
    bind_route_check_loading(L, what);
    luaL_checktype(L, 1, LUA_TSTRING);
    int handler = bind_route_find_handler(L, what);
    struct vm_route *route = bind_route_add_route(L, method, handler);
    struct config scratch = *vm_of(L)->config;
    if (handler == 3)
        bind_route_set_http(L, &scratch, what);
    route->max_body = (uint64_t)scratch.max_body;
    route->request_timeout = scratch.request_timeout;
    return 0;
}

/* app.get(path, [options,] function(req) end) and the like. Upvalue 2 is the method. */
static int bind_route_method(lua_State *L)
{
    static const char *const names[] = {
        [ROUTER_GET] = "app.get",        [ROUTER_HEAD] = "app.head",   [ROUTER_POST] = "app.post",
        [ROUTER_PUT] = "app.put",        [ROUTER_PATCH] = "app.patch", [ROUTER_DELETE] = "app.delete",
        [ROUTER_OPTIONS] = "app.options"};
    enum router_method method = (enum router_method)lua_tointeger(L, lua_upvalueindex(2));
    return bind_route_http(L, method, names[method]);
}

/* app.route(method, path, [options,] function(req) end) */
static int bind_route_route(lua_State *L)
{
    size_t len;
    bind_route_check_loading(L, "app.route");
    const char *name = luaL_checklstring(L, 1, &len);
    enum router_method method = router_method_from_name(name, len);
    if (method == ROUTER_NO_METHOD || method == ROUTER_WEBSOCKET)
        return luaL_error(L, "app.route: \"%s\" is none of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                          name);
    lua_remove(L, 1);
    return bind_route_http(L, method, "app.route");
}

/* app.use(middleware, ...) */
static int bind_route_use(lua_State *L)
{
    bind_route_check_loading(L, "app.use");
    int n = lua_gettop(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    for (int i = 1; i <= n; i++) {
        luaL_checktype(L, i, LUA_TFUNCTION);
        lua_pushvalue(L, i);
        lua_rawseti(L, lua_upvalueindex(1), (lua_Integer)lua_rawlen(L, lua_upvalueindex(1)) + 1);
    }
    return 0;
}

/* app.group(path, [middleware, ...,] function(group) end) */
static int bind_route_group(lua_State *L)
{
    bind_route_check_loading(L, "app.group");
    int n = lua_gettop(L);
    luaL_checktype(L, 1, LUA_TSTRING);
    for (int i = 2; i <= (n < 2 ? 2 : n); i++)
        luaL_checktype(L, i, LUA_TFUNCTION);
    bind_route_prefix(L);
    lua_createtable(L, n - 2, 2);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "prefix");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_setfield(L, -2, "parent");
    for (int i = 2; i < n; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i - 1);
    }
    lua_pushvalue(L, n);
    lua_newtable(L);
    bind_route_add_functions(L, n + 1);
    bind_misuse_guard(L, "a group", "function");
    lua_pushvalue(L, n + 1);
    bind_route_set_open(L);
    lua_call(L, 1, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    bind_route_set_open(L);
    return 0;
}

void bind_route_add_functions(lua_State *L, int group)
{
    static const luaL_Reg functions[] = {
        {"websocket", bind_route_websocket},
        {"route", bind_route_route},
        {"use", bind_route_use},
        {"group", bind_route_group},
        {NULL, NULL},
    };
    static const char *const methods[] = {
        [ROUTER_GET] = "get",        [ROUTER_HEAD] = "head",   [ROUTER_POST] = "post",
        [ROUTER_PUT] = "put",        [ROUTER_PATCH] = "patch", [ROUTER_DELETE] = "delete",
        [ROUTER_OPTIONS] = "options"};
    luaL_checkstack(L, 4, NULL);
    lua_pushvalue(L, group);
    lua_insert(L, -2);
    lua_pushvalue(L, -2);
    luaL_setfuncs(L, functions, 1);
    for (int i = 0; i < (int)(sizeof methods / sizeof methods[0]); i++) {
        lua_pushvalue(L, -2);
        lua_pushinteger(L, i);
        lua_pushcclosure(L, bind_route_method, 2);
        lua_setfield(L, -2, methods[i]);
    }
    lua_remove(L, -2);
}

void bind_route_open(lua_State *L)
{
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_route_records);
    lua_createtable(L, 0, 1); /* the group that app is */
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "prefix");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, BIND_ROUTE_ROOT);
    lua_pushvalue(L, -1);
    bind_route_set_open(L);
}

/* ---- chains ---- */

static int bind_route_called(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return lua_gettop(L);
}

/* A middleware with what it is around. Upvalues: the middleware, `next`. */
static int bind_route_around(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_callk(L, 2, LUA_MULTRET, 0, bind_route_called);
    return bind_route_called(L, LUA_OK, 0);
}

/* Upvalue 2 is the function whose values these are. */
static int bind_route_next_done(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    const char *what = bind_answer_place(L, lua_upvalueindex(2), lua_tostring(L, lua_upvalueindex(3)));
    lua_insert(L, 1); /* the text stays while it is needed */
    bind_answer_normalise(L, 2, what);
    return 1;
}

/* next(req): the response object of what comes after. Upvalue 1 is that, 2 the script's function in it, 3
 * what that is. */
static int bind_route_next(lua_State *L)
{
    if (!bind_req_is(L, 1))
        return luaL_error(L, "next(req): give it the request, not a %s", luaL_typename(L, 1));
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_callk(L, 1, LUA_MULTRET, 0, bind_route_next_done);
    return bind_route_next_done(L, LUA_OK, 0);
}

/* Replaces the function at `function` by a `next` around it. What it returns is the doing of the script's
 * function at `blame`. */
static void bind_route_make_next(lua_State *L, int function, int blame, const char *label)
{
    lua_pushvalue(L, function);
    lua_pushvalue(L, blame);
    lua_pushstring(L, label);
    lua_pushcclosure(L, bind_route_next, 3);
    lua_replace(L, function);
}

/* Wraps the function at the top in the middleware of the group below it, and of those around that; pops the
 * group. True when there was any. */
static bool bind_route_wrap(lua_State *L)
{
    const char *label = "the handler";
    int function = lua_gettop(L), group = function - 1, blame = function + 1;
    bool any = false;
    lua_pushvalue(L, function);
    while (lua_istable(L, group)) {
        for (lua_Integer i = (lua_Integer)lua_rawlen(L, group); i > 0; i--) {
            bind_route_make_next(L, function, blame, label);
            lua_rawgeti(L, group, i);
            lua_copy(L, -1, blame);
            lua_pushvalue(L, function);
            lua_pushcclosure(L, bind_route_around, 2);
            lua_replace(L, function);
            label = "the middleware";
            any = true;
        }
        lua_getfield(L, group, "parent");
        lua_replace(L, group);
    }
    if (any)
        bind_route_make_next(L, function, blame, label);
    lua_settop(L, function);
    lua_remove(L, group);
    return any;
}

/* What stands at the end when no route fits: the server's answer. */
static int bind_route_fallback(lua_State *L)
{
    lua_pushinteger(L, bind_req_fallback(L, 1));
    return 1;
}

static void bind_route_seal_one(lua_State *L, struct vm_route *route, enum router_method method)
{
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    if (method == ROUTER_WEBSOCKET) {
        lua_pop(L, 1);
        bind_upgrade_push(L, route->should_upgrade);
    }
    bool any = bind_route_wrap(L);
    if (method == ROUTER_WEBSOCKET && !any && route->should_upgrade == LUA_NOREF)
        lua_pop(L, 1); /* nothing to ask */
    else
        route->chain = luaL_ref(L, LUA_REGISTRYINDEX);
}

int bind_route_seal(lua_State *L)
{
    struct vm *vm = vm_of(L);
    lua_settop(L, 0);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_route_records);
    for (size_t i = 0; i < router_count(vm->router); i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        bind_route_seal_one(L, &vm->routes[i], router_route(vm->router, i)->method);
        lua_settop(L, 1);
    }
    lua_getfield(L, LUA_REGISTRYINDEX, BIND_ROUTE_ROOT);
    lua_pushcfunction(L, bind_route_fallback);
    if (bind_route_wrap(L))
        vm->fallback = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, 0);
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_route_records);
    return 0;
}
