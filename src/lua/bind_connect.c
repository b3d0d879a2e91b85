/* SPDX-License-Identifier: MIT
 * app.connect. An attempt is a userdata on the stack of the task that waits for it: when the task is
 * cancelled, which closes what is on its stack, the attempt is too. */
#include "lua/bind_connect.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "client/connector.h"
#include "lua/bind_misuse.h"
#include "lua/bind_options.h"
#include "lua/bind_ws.h"
#include "script/live.h"
#include "script/task.h"

#define BIND_CONNECT_TYPE   "tidewire.connect"
#define BIND_CONNECT_FIELDS 100

/* Its user value is the ws. */
struct bind_connect {
    struct connector *attempt; /* while it runs */
    struct task *task;         /* that waits for it */
    struct vm *vm;
    int self, function; /* registry references */
    struct session_limits limits;
    struct config_list *protocols;
    char why[OPENING_WHY_MAX]; /* it failed; or "" */
};

/* ---- options ---- */

/* What is in the table of headers. */
struct bind_connect_fields {
    struct opening_field field[BIND_CONNECT_FIELDS];
    size_t n;
};

/* Name and value are at the top; both stay in the script's table. */
static void bind_connect_add_field(lua_State *L, struct bind_connect_fields *f)
{
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        luaL_error(
            L,
            "app.connect: headers is a table of strings by name, as in {Origin = \"https://example.com\"}");
    if (f->n == BIND_CONNECT_FIELDS)
        luaL_error(L, "app.connect: more than %d headers", BIND_CONNECT_FIELDS);
    struct opening_field *field = &f->field[f->n++];
    field->name = lua_tolstring(L, -2, &field->name_len);
    field->value = lua_tolstring(L, -1, &field->value_len);
}

static void bind_connect_set_headers(lua_State *L, struct bind_connect_fields *f)
{
    if (!lua_istable(L, -1))
        luaL_error(L, "app.connect: headers is a %s, not a table", luaL_typename(L, -1));
    lua_pushnil(L);
    for (; lua_next(L, -2) != 0; lua_pop(L, 1))
        bind_connect_add_field(L, f);
}

/* Name and value are at the top. */
static void bind_connect_set(lua_State *L, struct bind_connect *b, struct config *scratch,
                             struct bind_connect_fields *f)
{
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, "app.connect: every option has a name, as in {timeout = 5}");
    const char *name = lua_tostring(L, -2);
    if (bind_options_limit(L, scratch, name, "app.connect"))
        return;
    if (strcmp(name, "timeout") == 0)
        bind_options_set(L, scratch, config_find("connect_timeout", 15), "app.connect");
    else if (strcmp(name, "protocols") == 0 && b->protocols == NULL)
        bind_options_list(L, &b->protocols, "app.connect", name, bind_options_check_protocol);
    else if (strcmp(name, "headers") == 0)
        bind_connect_set_headers(L, f);
    else
        luaL_error(L,
                   "app.connect: unknown option %s; there are " BIND_OPTIONS_LIMITS
                   ", headers, protocols, timeout",
                   name);
}

/* ---- the attempt ---- */

static void bind_connect_unref(struct bind_connect *b)
{
    luaL_unref(b->vm->L, LUA_REGISTRYINDEX, b->function);
    luaL_unref(b->vm->L, LUA_REGISTRYINDEX, b->self);
    b->function = b->self = LUA_NOREF;
}

/* The task is over, or cancelled: nobody waits any more. */
static int bind_connect_on_close(lua_State *L)
{
    struct bind_connect *b = lua_touserdata(L, 1);
    b->task = NULL;
    if (b->attempt != NULL)
        connector_cancel(b->attempt);
    b->attempt = NULL;
    bind_connect_unref(b);
    return 0;
}

static int bind_connect_on_gc(lua_State *L)
{
    struct bind_connect *b = lua_touserdata(L, 1);
    assert(b->attempt == NULL);
    config_list_free(b->protocols);
    b->protocols = NULL;
    return 0;
}

/* Makes the ws, and calls the function that was given. */
static int bind_connect_run(lua_State *L)
{
    const struct live_connected *connected = sched_take_arg(L);
    const struct bind_connect *b = connected->arg;
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->self);
    bind_ws_push_new(L, connected->session, false);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 2, 1);
    lua_remove(L, 2);
    lua_callk(L, 1, 0, 0, sched_call_done);
    return 0;
}

static void bind_connect_on_done(void *to, const struct connector_result *r, const char *why)
{
    struct bind_connect *b = to;
    b->attempt = NULL;
    if (r == NULL)
        snprintf(b->why, sizeof b->why, "%s", why);
    else if (!live_connect(b->vm, r, &b->limits, bind_connect_run, b))
        snprintf(b->why, sizeof b->why, "the function that was to set up the WebSocket failed");
    task_wake(b->task);
}

/* The userdata is at `context`. */
static int bind_connect_over(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    const struct bind_connect *b = lua_touserdata(L, (int)context);
    if (b->why[0] == '\0') {
        lua_getiuservalue(L, (int)context, 1);
        return 1;
    }
    lua_pushnil(L);
    lua_pushstring(L, b->why);
    return 2;
}

/* Pushes an empty one. */
static struct bind_connect *bind_connect_new(lua_State *L)
{
    struct bind_connect *b = lua_newuserdatauv(L, sizeof *b, 1);
    *b = (struct bind_connect){.vm = vm_of(L), .self = LUA_NOREF, .function = LUA_NOREF};
    luaL_setmetatable(L, BIND_CONNECT_TYPE);
    return b;
}

int bind_connect_call(lua_State *L)
{
    bind_misuse_check_dot(L, "app.connect");
    struct worker *w = vm_serving(L, "app.connect");
    size_t len;
    const char *url = luaL_checklstring(L, 1, &len);
    luaL_argcheck(L, strlen(url) == len, 1, "the URL has a zero byte");
    int function = lua_istable(L, 2) ? 3 : 2;
    luaL_checktype(L, function, LUA_TFUNCTION);
    if (lua_gettop(L) > function)
        return luaL_error(L, "app.connect: expected (url, [options,] function), got %d arguments",
                          lua_gettop(L));
    struct config scratch = *vm_of(L)->config;
    struct bind_connect *b = bind_connect_new(L);
    int self = lua_gettop(L);
    lua_toclose(L, self);
    struct bind_connect_fields *fields = lua_newuserdatauv(L, sizeof *fields, 0);
    fields->n = 0;
    lua_pushnil(L);
    for (; function == 3 && lua_next(L, 2) != 0; lua_pop(L, 1))
        bind_connect_set(L, b, &scratch, fields);
    session_limits_init(&b->limits, &scratch);
    lua_pushvalue(L, function);
    b->function = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, self);
    b->self = luaL_ref(L, LUA_REGISTRYINDEX);
    const struct extensions_terms want = session_offer(w, &b->limits);
    const struct connector_options o = {
        .opening = {.url = url,
                    .fields = fields->field,
                    .nfields = fields->n,
                    .protocols = b->protocols != NULL ? (const char *const *)b->protocols->item : NULL,
                    .nprotocols = b->protocols != NULL ? b->protocols->n : 0,
                    .want = &want},
        .timeout = scratch.connect_timeout,
    };
    struct err e;
    b->attempt = connector_start(w, &o, bind_connect_on_done, b, &e);
    if (b->attempt == NULL) {
        lua_pushnil(L);
        lua_pushstring(L, e.text);
        return 2;
    }
    b->task = task_here(L, "app.connect"); /* what it raises ends the attempt */
    return task_suspend(L, self, bind_connect_over);
}

void bind_connect_open(lua_State *L)
{
    luaL_newmetatable(L, BIND_CONNECT_TYPE);
    lua_pushcfunction(L, bind_connect_on_close);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, bind_connect_on_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
