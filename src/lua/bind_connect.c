/* SPDX-License-Identifier: MIT
 * app.connect. An attempt is a userdata; the task that waits for it has it on its stack, and gives it up when
 * it is cancelled. */
#include "lua/bind_connect.h"

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
    struct extensions_terms offered;
    struct config_list *protocols;
    char why[OPENING_WHY_MAX]; /* it failed; or "" */
};

/* ---- options ---- */

/* What is in the tables of headers and of tls; the texts stay in the script's tables. */
struct bind_connect_fields {
    struct opening_field field[BIND_CONNECT_FIELDS];
    size_t n;
    bool has_tls;
    struct tlscontext_options tls;
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
static void bind_connect_set_tls_option(lua_State *L, struct tlscontext_options *o)
{
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    bool verify = strcmp(name, "verify") == 0;
    const char **file = strcmp(name, "ca") == 0     ? &o->ca
                        : strcmp(name, "cert") == 0 ? &o->pair[0].cert
                        : strcmp(name, "key") == 0  ? &o->pair[0].key
                                                    : NULL;
    if (!verify && file == NULL)
        luaL_error(L, "app.connect: tls: unknown option %s; there are ca, cert, key and verify",
                   luaL_tolstring(L, -2, NULL));
    if (lua_type(L, -1) != (verify ? LUA_TBOOLEAN : LUA_TSTRING))
        luaL_error(L, "app.connect: tls: %s is a %s, not %s", name, luaL_typename(L, -1),
                   verify ? "true or false" : "the path of a file");
    if (verify)
        o->no_verify = !lua_toboolean(L, -1);
    else
        *file = lua_tostring(L, -1);
}

static void bind_connect_set_tls(lua_State *L, struct bind_connect_fields *f)
{
    struct tlscontext_options *o = &f->tls;
    if (!lua_istable(L, -1))
        luaL_error(L, "app.connect: tls is a %s, not a table, as in {ca = \"ca.pem\"}", luaL_typename(L, -1));
    f->has_tls = true;
    lua_pushnil(L);
    for (; lua_next(L, -2) != 0; lua_pop(L, 1))
        bind_connect_set_tls_option(L, o);
    if ((o->pair[0].cert == NULL) != (o->pair[0].key == NULL))
        luaL_error(L, "app.connect: tls: cert and key come together");
    o->npairs = o->pair[0].cert != NULL;
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
        bind_options_set(L, scratch, config_find("connect_timeout", 15), name, "app.connect");
    else if (strcmp(name, "protocols") == 0 && b->protocols == NULL)
        bind_options_list(L, &b->protocols, "app.connect", name, bind_options_check_protocol);
    else if (strcmp(name, "headers") == 0)
        bind_connect_set_headers(L, f);
    else if (strcmp(name, "tls") == 0)
        bind_connect_set_tls(L, f);
    else
        bind_options_raise_unknown(L, "app.connect", name, "headers, protocols, timeout, tls");
}

/* ---- the attempt ---- */

/* It keeps its VM, and is kept by its VM, until it is over. */
static void bind_connect_hold(lua_State *L, struct bind_connect *b, int self, int function)
{
    lua_pushvalue(L, function);
    b->function = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, self);
    b->self = luaL_ref(L, LUA_REGISTRYINDEX);
    vm_hold(b->vm);
}

/* The userdata may be collected once it is not on the stack of its task either. */
static void bind_connect_release(struct bind_connect *b)
{
    struct vm *vm = b->vm;
    int self = b->self;
    session_offer_over(vm->home, &b->offered);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, b->function);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, self);
    vm_release(vm);
}

/* The task that waits for it is cancelled. */
static void bind_connect_give_up(void *waits_for)
{
    struct bind_connect *b = waits_for;
    connector_cancel(b->attempt);
    bind_connect_release(b);
}

static int bind_connect_on_gc(lua_State *L)
{
    struct bind_connect *b = lua_touserdata(L, 1);
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
    struct task *task = b->task;
    if (r != NULL && task != NULL) {
        session_offer_over(b->vm->home, &b->offered);
        b->offered.deflate = false; /* from here on it is the session's */
        why = live_connect(b->vm, r, &b->limits, bind_connect_run, b);
    }
    snprintf(b->why, sizeof b->why, "%s", why != NULL ? why : "");
    bind_connect_release(b);
    if (task != NULL) /* else it could not wait after all */
        task_wake(task);
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
    *b = (struct bind_connect){.vm = vm_of(L)};
    luaL_setmetatable(L, BIND_CONNECT_TYPE);
    return b;
}

/* Begins, with the options at 2, if there are any. False with the reason in `e`. */
static bool bind_connect_start(lua_State *L, struct bind_connect *b, int self, int function, struct err *e)
{
    struct config scratch = *b->vm->config;
    struct bind_connect_fields *fields = lua_newuserdatauv(L, sizeof *fields, 0);
    memset(fields, 0, sizeof *fields);
    lua_pushnil(L);
    for (; function == 3 && lua_next(L, 2) != 0; lua_pop(L, 1))
        bind_connect_set(L, b, &scratch, fields);
    session_limits_init(&b->limits, &scratch);
    bind_connect_hold(L, b, self, function);
    b->offered = session_offer(b->vm->home, &b->limits);
    const struct connector_options o = {
        .opening = {.url = lua_tostring(L, 1),
                    .fields = fields->field,
                    .nfields = fields->n,
                    .protocols = b->protocols != NULL ? (const char *const *)b->protocols->item : NULL,
                    .nprotocols = b->protocols != NULL ? b->protocols->n : 0,
                    .want = &b->offered},
        .timeout = scratch.connect_timeout,
        .tls = fields->has_tls ? &fields->tls : NULL,
    };
    b->attempt = connector_start(b->vm->home, &o, bind_connect_on_done, b, e);
    if (b->attempt == NULL)
        bind_connect_release(b);
    return b->attempt != NULL;
}

int bind_connect_call(lua_State *L)
{
    bind_misuse_check_dot(L, "app.connect");
    vm_serving(L, "app.connect");
    size_t len;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *url = lua_tolstring(L, 1, &len);
    luaL_argcheck(L, strlen(url) == len, 1, "the URL has a zero byte");
    int function = lua_istable(L, 2) ? 3 : 2;
    luaL_checktype(L, function, LUA_TFUNCTION);
    if (lua_gettop(L) > function)
        return luaL_error(L, "app.connect: expected (url, [options,] function), got %d arguments",
                          lua_gettop(L));
    task_check(L, "app.connect");
    struct bind_connect *b = bind_connect_new(L);
    int self = lua_gettop(L);
    struct err e;
    if (b->vm->drained)
        err_set(&e, "reloaded");
    else if (bind_connect_start(L, b, self, function, &e)) {
        struct task *task = task_here(L, "app.connect"); /* when it raises nobody waits for the attempt */
        task->give_up = bind_connect_give_up;
        task->waits_for = b;
        b->task = task;
        return task_suspend(L, self, bind_connect_over);
    }
    lua_pushnil(L);
    lua_pushstring(L, e.text);
    return 2;
}

void bind_connect_open(lua_State *L)
{
    luaL_newmetatable(L, BIND_CONNECT_TYPE);
    lua_pushcfunction(L, bind_connect_on_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
