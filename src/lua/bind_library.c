/* SPDX-License-Identifier: MIT
 * The modules that come with the server, and what of them is written in C: a table that each module gets as
 * its second argument. */
#include "lua/bind_library.h"

#include <string.h>

#include <lauxlib.h>

#include "http/cookie.h"

/* ---- cookies ---- */

/* The text in the field of the table at 3; NULL when there is none. A zero byte would hide what follows it.
 */
static const char *bind_library_text(lua_State *L, const char *name)
{
    size_t len;
    if (lua_getfield(L, 3, name) == LUA_TNIL)
        return NULL;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    if (text == NULL || strlen(text) != len)
        luaL_error(L, "http.cookie: %s is not a text without zero bytes", name);
    return text; /* stays on the stack */
}

static int64_t bind_library_seconds(lua_State *L, const char *name)
{
    int is_integer;
    if (lua_getfield(L, 3, name) == LUA_TNIL)
        return -1;
    lua_Integer seconds = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || seconds < 0)
        luaL_error(L, "http.cookie: %s is not a whole number of seconds", name);
    return seconds;
}

static bool bind_library_flag(lua_State *L, const char *name)
{
    lua_getfield(L, 3, name);
    return lua_toboolean(L, -1);
}

static enum cookie_same_site bind_library_same_site(lua_State *L)
{
    const char *value = bind_library_text(L, "same_site");
    if (value == NULL)
        return COOKIE_SAME_SITE_UNSET;
    if (strcmp(value, "lax") == 0)
        return COOKIE_SAME_SITE_LAX;
    if (strcmp(value, "strict") == 0)
        return COOKIE_SAME_SITE_STRICT;
    if (strcmp(value, "none") != 0)
        luaL_error(L, "http.cookie: same_site is \"%s\", not \"lax\", \"strict\" or \"none\"", value);
    return COOKIE_SAME_SITE_NONE;
}

static void bind_library_check_options(lua_State *L)
{
    static const char *const known[] = {"path",   "domain",    "max_age",   "expires",
                                        "secure", "http_only", "same_site", NULL};
    lua_pushnil(L);
    while (lua_next(L, 3) != 0) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        int i = 0;
        while (known[i] != NULL && strcmp(known[i], name) != 0)
            i++;
        if (known[i] == NULL)
            luaL_error(L,
                       "http.cookie: unknown option %s; there are domain, expires, http_only, max_age, path, "
                       "same_site, secure",
                       name);
        lua_pop(L, 1);
    }
}

/* http.cookie(name, value [, options]) */
static int bind_library_cookie(lua_State *L)
{
    struct cookie cookie = COOKIE_INIT;
    size_t name_len, value_len;
    struct buf out = BUF_INIT;
    struct err e;
    cookie.name = luaL_checklstring(L, 1, &name_len);
    cookie.value = luaL_checklstring(L, 2, &value_len);
    if (strlen(cookie.name) != name_len || strlen(cookie.value) != value_len)
        return luaL_error(L, "http.cookie: name or value has a zero byte");
    lua_settop(L, 3);
    if (!lua_isnil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        luaL_checkstack(L, 12, NULL);
        bind_library_check_options(L);
        cookie.path = bind_library_text(L, "path");
        cookie.domain = bind_library_text(L, "domain");
        cookie.max_age_s = bind_library_seconds(L, "max_age");
        cookie.expires_s = bind_library_seconds(L, "expires");
        cookie.secure = bind_library_flag(L, "secure");
        cookie.http_only = bind_library_flag(L, "http_only");
        cookie.same_site = bind_library_same_site(L);
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b); /* room first: nothing may raise while `out` is held */
    char *room = luaL_prepbuffsize(&b, 16384);
    int rc = cookie_write(&out, &cookie, &e);
    if (rc == 0 && out.len > 16384)
        rc = err_set(&e, "it is longer than 16384 bytes");
    if (rc < 0) {
        buf_fini(&out);
        return luaL_error(L, "http.cookie: %s", e.text);
    }
    memcpy(room, out.data, out.len);
    luaL_addsize(&b, out.len);
    buf_fini(&out);
    luaL_pushresult(&b);
    return 1;
}

/* ---- modules ---- */

/* Upvalue 1 is the module's number. */
static int bind_library_load(lua_State *L)
{
    static const luaL_Reg core[] = {{"cookie", bind_library_cookie}, {NULL, NULL}};
    const struct bind_library_module *m = &bind_library_modules[lua_tointeger(L, lua_upvalueindex(1))];
    lua_pushfstring(L, "=%s", m->name);
    if (luaL_loadbufferx(L, (const char *)m->text, m->len, lua_tostring(L, -1), "t") != LUA_OK)
        return lua_error(L);
    lua_pushstring(L, m->name);
    luaL_newlib(L, core);
    lua_call(L, 2, 1);
    return 1;
}

void bind_library_open(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    for (int i = 0; bind_library_modules[i].name != NULL; i++) {
        lua_pushinteger(L, i);
        lua_pushcclosure(L, bind_library_load, 1);
        lua_setfield(L, -2, bind_library_modules[i].name);
    }
    lua_pop(L, 2);
}
