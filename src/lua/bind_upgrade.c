/* SPDX-License-Identifier: MIT
 * A route's should_upgrade. */
#include "lua/bind_upgrade.h"

#include <string.h>
#include <strings.h>

#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_req.h"
#include "script/handshake.h"
#include "ws/subprotocol.h"

#define BIND_UPGRADE_FIELDS 16384 /* bytes of header lines */

/* ---- header lines ---- */

/* What the handshake itself says, and what frames the answer. */
static bool bind_upgrade_owns(const char *name)
{
    static const char *const own[] = {"Upgrade",      "Connection",        "Date",   "Content-Length",
                                      "Content-Type", "Transfer-Encoding", "Trailer"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcasecmp(name, own[i]) == 0)
            return true;
    return strncasecmp(name, "Sec-WebSocket-", 14) == 0;
}

/* The value at the top as one header line (RFC 9110, 5.5: no control characters but tab). */
static void bind_upgrade_add_line(lua_State *L, struct buf *fields, const char *name)
{
    size_t len;
    if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
        luaL_error(L, "should_upgrade: the header %s is a %s, not a string", name, luaL_typename(L, -1));
    const char *value = lua_tolstring(L, -1, &len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            luaL_error(L, "should_upgrade: the value of header %s has a control character (byte %d)", name,
                       (int)c);
    }
    if (fields->len + strlen(name) + len + 4 > BIND_UPGRADE_FIELDS)
        luaL_error(L, "should_upgrade: the headers take more than %d bytes", BIND_UPGRADE_FIELDS);
    if (buf_puts(fields, name) < 0 || buf_puts(fields, ": ") < 0 || buf_append(fields, value, len) < 0 ||
        buf_append(fields, "\r\n", 3) < 0) /* the NUL ends it as a string ... */
        luaL_error(L, "should_upgrade: out of memory");
    fields->len--; /* ... but is not part of it */
}

/* Names of headers, with a string or a list of strings each. */
static void bind_upgrade_read_fields(lua_State *L, int index, struct buf *fields)
{
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        size_t len;
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "should_upgrade: a header's name is a string, not a %s", luaL_typename(L, -2));
        const char *name = lua_tolstring(L, -2, &len);
        if (!subprotocol_is_token(name, len))
            luaL_error(L, "should_upgrade: '%s' is not a name for a header", name);
        if (bind_upgrade_owns(name))
            luaL_error(L, "should_upgrade: the header %s is the server's own%s", name,
                       strcasecmp(name, "Sec-WebSocket-Protocol") == 0 ? "; use the route's option protocols"
                                                                       : "");
        lua_Integer n = lua_istable(L, -1) ? luaL_len(L, -1) : 0;
        for (lua_Integer i = 1; i <= n; i++) {
            lua_geti(L, -1, i);
            bind_upgrade_add_line(L, fields, name);
            lua_pop(L, 1);
        }
        if (!lua_istable(L, -1))
            bind_upgrade_add_line(L, fields, name);
        lua_pop(L, 1);
    }
}

/* ---- the verdict ---- */

static int bind_upgrade_misused(lua_State *L, const struct handshake *h)
{
    lua_Debug ar;
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->vm->routes[h->route].should_upgrade);
    lua_getinfo(L, ">S", &ar);
    return luaL_error(L,
                      "should_upgrade (%s:%d) returned %s; it must return true, a table of headers, or "
                      "false [, status [, body [, headers]]]",
                      ar.short_src, ar.linedefined, luaL_typename(L, 1));
}

static void bind_upgrade_refuse(lua_State *L, struct handshake *h)
{
    size_t len;
    lua_Integer status = luaL_optinteger(L, 2, 403);
    const char *body = luaL_optlstring(L, 3, "", &len);
    if (status < 300 || status > 599)
        luaL_error(L, "should_upgrade: %I is not a status that refuses; use one from 300 to 599", status);
    if (!utf8_valid(body, len))
        luaL_error(L, "should_upgrade: the body is not UTF-8");
    if (lua_istable(L, 4))
        bind_upgrade_read_fields(L, 4, &h->fields);
    else if (!lua_isnil(L, 4))
        luaL_error(L, "should_upgrade: the headers are a %s, not a table", luaL_typename(L, 4));
    if (buf_append(&h->body, body, len) < 0)
        luaL_error(L, "should_upgrade: out of memory");
    h->status = (int)status;
}

static int bind_upgrade_done(lua_State *L, int call_status, lua_KContext context)
{
    (void)call_status;
    struct handshake *h = (struct handshake *)context;
    if (lua_istable(L, 1))
        bind_upgrade_read_fields(L, 1, &h->fields);
    else if (!lua_isboolean(L, 1))
        return bind_upgrade_misused(L, h);
    else if (!lua_toboolean(L, 1))
        bind_upgrade_refuse(L, h);
    return 0;
}

int bind_upgrade_on_upgrade(lua_State *L)
{
    struct handshake *h = sched_take_arg(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->vm->routes[h->route].should_upgrade);
    bind_req_push(L, h->head);
    lua_pushvalue(L, -1);
    h->request = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_callk(L, 1, 4, (lua_KContext)h, bind_upgrade_done);
    return bind_upgrade_done(L, LUA_OK, (lua_KContext)h);
}
