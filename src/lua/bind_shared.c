/* SPDX-License-Identifier: MIT
 * app.shared: checks arguments, copies values from and to Lua. */
#include "lua/bind_shared.h"

#include <string.h>

#include <lauxlib.h>

#include "base/value.h"
#include "bus/shared.h"
#include "lua/bind_misuse.h"
#include "lua/bind_value.h"
#include "net/worker.h"
#include "script/vm.h"

#define BIND_SHARED_HELD    "tidewire.shared_held"
#define BIND_SHARED_SECONDS 1e9
#define BIND_SHARED_LIST    1000
#define BIND_SHARED_MOST    100000000

/* What the running call has outside of Lua while it pushes, which may raise. One for each VM, upvalue 1 of
 * every function: calls do not nest, for none of them calls a script. */
struct bind_shared_held {
    const struct shared_value *value;
    struct buf keys;
};

static void bind_shared_let_go(struct bind_shared_held *h)
{
    shared_unref(h->value);
    h->value = NULL;
    buf_fini(&h->keys);
}

static int bind_shared_gc(lua_State *L)
{
    bind_shared_let_go(luaL_checkudata(L, 1, BIND_SHARED_HELD));
    return 0;
}

/* Also lets go of what a call before this one held when it raised. */
static struct bind_shared_held *bind_shared_hold(lua_State *L)
{
    struct bind_shared_held *h = lua_touserdata(L, lua_upvalueindex(1));
    bind_shared_let_go(h);
    return h;
}

/* ---- arguments ---- */

/* The dictionary; raises while the script loads. */
static struct shared *bind_shared_check(lua_State *L, const char *what)
{
    bind_misuse_check_dot(L, what);
    const struct vm *vm = vm_of(L);
    if (vm->home == NULL || vm->loading)
        luaL_error(L,
                   "%s: app.shared cannot be used while the script loads; call it in a handler, or in a "
                   "function of app.after",
                   what);
    return vm->home->layer[WORKER_SHARED];
}

static struct shared_key bind_shared_check_key(lua_State *L, const char *what)
{
    struct shared_key key;
    key.text = luaL_checklstring(L, 1, &key.len);
    if (key.len > SHARED_KEY)
        luaL_error(L, "%s: a key has up to %d bytes, this one has %I", what, SHARED_KEY,
                   (LUAI_UACINT)key.len);
    return key;
}

/* 0: none is given. */
static uint64_t bind_shared_check_ttl(lua_State *L, int index, const char *what)
{
    if (lua_isnoneornil(L, index))
        return 0;
    lua_Number seconds = luaL_checknumber(L, index);
    if (!(seconds >= 0.001 && seconds <= BIND_SHARED_SECONDS))
        luaL_error(L, "%s: ttl is a number of seconds from 0.001 to 1e9, not %f", what, seconds);
    return (uint64_t)(seconds * 1e9);
}

static struct shared_number bind_shared_check_number(lua_State *L, int index, lua_Integer otherwise)
{
    if (lua_isnoneornil(L, index))
        return (struct shared_number){.is_integer = true, .integer = otherwise};
    luaL_checktype(L, index, LUA_TNUMBER);
    if (lua_isinteger(L, index))
        return (struct shared_number){.is_integer = true, .integer = lua_tointeger(L, index)};
    return (struct shared_number){.real = lua_tonumber(L, index)};
}

/* ---- results ---- */

static int bind_shared_fail(lua_State *L, const char *why)
{
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

static int bind_shared_result(lua_State *L, enum shared_result result)
{
    switch (result) {
    case SHARED_OK: lua_pushboolean(L, 1); return 1;
    case SHARED_THERE: lua_pushboolean(L, 0); return 1;
    case SHARED_NO_NUMBER: return bind_shared_fail(L, "not a number");
    case SHARED_TOO_LARGE: return bind_shared_fail(L, "too large");
    case SHARED_NO_MEMORY: break;
    }
    return bind_shared_fail(L, "out of memory");
}

/* ---- functions ---- */

/* app.shared.get(key) */
static int bind_shared_get(lua_State *L)
{
    struct shared *s = bind_shared_check(L, "app.shared.get");
    struct shared_key key = bind_shared_check_key(L, "app.shared.get");
    struct bind_shared_held *h = bind_shared_hold(L);
    h->value = shared_get(s, vm_of(L)->metrics, key);
    if (h->value == NULL) {
        lua_pushnil(L);
        return 1;
    }
    size_t len;
    const void *bytes = shared_bytes(h->value, &len);
    bind_value_push(L, bytes, len);
    bind_shared_let_go(h);
    return 1;
}

/* Nothing raises while there is a copy that Lua does not know of. */
static int bind_shared_store(lua_State *L, const char *what, bool only_new)
{
    struct shared *s = bind_shared_check(L, what);
    struct shared_key key = bind_shared_check_key(L, what);
    uint64_t ttl_ns = bind_shared_check_ttl(L, 3, what);
    const struct vm *vm = vm_of(L);
    struct buf copy = BUF_INIT;
    struct bind_value_fault fault;
    enum shared_result result = SHARED_NO_MEMORY;
    enum bind_value_result copied =
        bind_value_copy(L, 2, "value", (size_t)vm->config->shared_size, &copy, &fault);
    if (copied == BIND_VALUE_DONE)
        result = shared_set(s, vm->metrics, key, copy.data, copy.len, ttl_ns, only_new);
    else if (copied == BIND_VALUE_TOO_LARGE)
        result = SHARED_TOO_LARGE;
    buf_fini(&copy);
    if (copied == BIND_VALUE_REFUSED)
        return luaL_error(L, "%s: %s", what, fault.text);
    return bind_shared_result(L, result);
}

/* app.shared.set(key, value [, ttl]) */
static int bind_shared_set(lua_State *L)
{
    bind_misuse_check_dot(L, "app.shared.set");
    luaL_checkany(L, 2);
    if (!lua_isnil(L, 2))
        return bind_shared_store(L, "app.shared.set", false);
    struct shared *s = bind_shared_check(L, "app.shared.set");
    struct shared_key key = bind_shared_check_key(L, "app.shared.set");
    shared_delete(s, vm_of(L)->metrics, key);
    return bind_shared_result(L, SHARED_OK);
}

/* app.shared.add(key, value [, ttl]) */
static int bind_shared_add(lua_State *L)
{
    if (lua_isnoneornil(L, 2)) {
        bind_misuse_check_dot(L, "app.shared.add");
        luaL_error(L, "app.shared.add: a value is needed, and nil is none");
    }
    return bind_shared_store(L, "app.shared.add", true);
}

/* app.shared.incr(key [, delta [, initial [, ttl]]]) */
static int bind_shared_incr(lua_State *L)
{
    struct shared *s = bind_shared_check(L, "app.shared.incr");
    struct shared_key key = bind_shared_check_key(L, "app.shared.incr");
    struct shared_number number = bind_shared_check_number(L, 2, 1);
    struct shared_number initial = bind_shared_check_number(L, 3, 0);
    uint64_t ttl_ns = bind_shared_check_ttl(L, 4, "app.shared.incr");
    enum shared_result result = shared_incr(s, vm_of(L)->metrics, key, &number, &initial, ttl_ns);
    if (result != SHARED_OK)
        return bind_shared_result(L, result);
    if (number.is_integer)
        lua_pushinteger(L, number.integer);
    else
        lua_pushnumber(L, number.real);
    return 1;
}

/* app.shared.delete(key) */
static int bind_shared_delete(lua_State *L)
{
    struct shared *s = bind_shared_check(L, "app.shared.delete");
    struct shared_key key = bind_shared_check_key(L, "app.shared.delete");
    lua_pushboolean(L, shared_delete(s, vm_of(L)->metrics, key));
    return 1;
}

/* app.shared.keys([prefix [, limit]]) */
static int bind_shared_keys(lua_State *L)
{
    struct shared *s = bind_shared_check(L, "app.shared.keys");
    struct shared_key prefix;
    prefix.text = luaL_optlstring(L, 1, "", &prefix.len);
    lua_Integer limit = luaL_optinteger(L, 2, BIND_SHARED_LIST);
    if (limit < 1 || limit > BIND_SHARED_MOST)
        luaL_error(L, "app.shared.keys: limit is from 1 to %d, not %I", BIND_SHARED_MOST, (LUAI_UACINT)limit);
    struct bind_shared_held *h = bind_shared_hold(L);
    bool more;
    int64_t n = shared_keys(s, prefix, (uint64_t)limit, &h->keys, &more);
    if (n < 0)
        return bind_shared_result(L, SHARED_NO_MEMORY);
    lua_createtable(L, (int)n, 0);
    const char *at = h->keys.data;
    for (int64_t i = 1; i <= n; i++) {
        size_t len = (unsigned char)*at++;
        lua_pushlstring(L, at, len);
        lua_rawseti(L, -2, i);
        at += len;
    }
    bind_shared_let_go(h);
    lua_pushboolean(L, more);
    return 2;
}

/* ---- the table ---- */

static int bind_shared_sealed(lua_State *L)
{
    const char *key = luaL_tolstring(L, 2, NULL);
    return luaL_error(L, "app.shared.%s cannot be set so: call app.shared.set(\"%s\", value)", key, key);
}

static void bind_shared_push_held(lua_State *L)
{
    struct bind_shared_held *h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = (struct bind_shared_held){.keys = BUF_INIT};
    luaL_newmetatable(L, BIND_SHARED_HELD);
    lua_pushcfunction(L, bind_shared_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
}

void bind_shared_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"get", bind_shared_get},
        {"set", bind_shared_set},
        {"add", bind_shared_add},
        {"incr", bind_shared_incr},
        {"delete", bind_shared_delete},
        {"keys", bind_shared_keys},
        {NULL, NULL},
    };
    lua_newtable(L); /* itself stays empty, as app does */
    lua_createtable(L, 0, 4);
    luaL_newlibtable(L, functions);
    bind_shared_push_held(L);
    luaL_setfuncs(L, functions, 1);
    bind_misuse_guard(L, "app.shared", "function");
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, bind_shared_sealed);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "app.shared");
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}
