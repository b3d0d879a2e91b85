/* SPDX-License-Identifier: MIT
 * What handlers return, as an answer. */
#include "lua/bind_answer.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include <lauxlib.h>

#include "ws/subprotocol.h"

#define BIND_ANSWER_TYPE    "tidewire.response"
#define BIND_ANSWER_ACCEPT  "tidewire.accept"
#define BIND_ANSWER_HEADERS "tidewire.response.headers"
#define BIND_ANSWER_FIELDS  16384 /* bytes of header lines */

const char *bind_answer_place(lua_State *L, int index, const char *what)
{
    lua_Debug ar;
    lua_pushvalue(L, index);
    lua_getinfo(L, ">S", &ar);
    return lua_pushfstring(L, "%s (%s:%d)", what, ar.short_src, ar.linedefined);
}

/* ---- header tables ---- */

/* Pushes the key of the table at 1 that equals the name at 2 but for case; false when there is none. */
static bool bind_answer_find_key(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        return false;
    const char *name = lua_tostring(L, 2);
    lua_pushnil(L);
    while (lua_next(L, 1) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING && strcasecmp(lua_tostring(L, -1), name) == 0)
            return true;
    }
    return false;
}

static int bind_answer_headers_index(lua_State *L)
{
    if (!bind_answer_find_key(L))
        return 0;
    lua_rawget(L, 1);
    return 1;
}

static int bind_answer_headers_newindex(lua_State *L)
{
    if (!bind_answer_find_key(L))
        lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    lua_rawset(L, 1);
    return 0;
}

/* Pushes a new headers table with what is in the one at `index`; 0 is none. */
static void bind_answer_push_headers(lua_State *L, int index, const char *what)
{
    lua_createtable(L, 0, 2);
    luaL_setmetatable(L, BIND_ANSWER_HEADERS);
    if (index == 0 || lua_isnoneornil(L, index))
        return;
    if (!lua_istable(L, index))
        luaL_error(L, "%s: the headers are a %s, not a table", what, luaL_typename(L, index));
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_settable(L, -4); /* by __newindex: names that differ in case are one */
    }
}

/* ---- response objects ---- */

/* Pushes {status, headers, body}; the body is at `body`, or 0 for none. */
static void bind_answer_push(lua_State *L, lua_Integer status, int headers, int body, const char *what)
{
    lua_createtable(L, 0, 3);
    luaL_setmetatable(L, BIND_ANSWER_TYPE);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    bind_answer_push_headers(L, headers, what);
    lua_setfield(L, -2, "headers");
    if (body != 0 && !lua_isnoneornil(L, body)) {
        lua_pushvalue(L, body);
        lua_setfield(L, -2, "body");
    }
}

static bool bind_answer_has_type(lua_State *L, int index, const char *type)
{
    if (!lua_istable(L, index) || !lua_getmetatable(L, index))
        return false;
    luaL_getmetatable(L, type);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

static bool bind_answer_is_accept(lua_State *L, int index)
{
    return bind_answer_has_type(L, index, BIND_ANSWER_ACCEPT);
}

bool bind_answer_is_object(lua_State *L, int index)
{
    return bind_answer_has_type(L, index, BIND_ANSWER_TYPE) || bind_answer_is_accept(L, index);
}

bool bind_answer_accepts(lua_State *L, int index)
{
    if (!bind_answer_is_accept(L, index))
        return false;
    lua_getfield(L, index, "status");
    bool accepts = lua_isinteger(L, -1) && lua_tointeger(L, -1) == 101;
    lua_pop(L, 1);
    return accepts;
}

void bind_answer_accept(lua_State *L, int index, const char *what)
{
    lua_createtable(L, 0, 2);
    luaL_setmetatable(L, BIND_ANSWER_ACCEPT);
    lua_pushinteger(L, 101);
    lua_setfield(L, -2, "status");
    bind_answer_push_headers(L, index, what);
    lua_setfield(L, -2, "headers");
}

static lua_Integer bind_answer_check_status(lua_State *L, int index, const char *what)
{
    int is_integer;
    lua_Integer status = lua_tointegerx(L, index, &is_integer);
    if (lua_type(L, index) != LUA_TNUMBER || !is_integer || status < 200 || status > 599)
        luaL_error(L, "%s: %s is not a status from 200 to 599", what, luaL_tolstring(L, index, NULL));
    return status;
}

void bind_answer_normalise(lua_State *L, int index, const char *what)
{
    index = lua_absindex(L, index);
    int type = index <= lua_gettop(L) ? lua_type(L, index) : LUA_TNIL;
    luaL_checkstack(L, 8, NULL);
    if (type == LUA_TTABLE && bind_answer_is_object(L, index))
        lua_pushvalue(L, index);
    else if (type == LUA_TSTRING || type == LUA_TTABLE) {
        lua_settop(L, index);
        bind_answer_push(L, 200, 0, index, what);
    } else if (type == LUA_TNUMBER) {
        lua_Integer status = bind_answer_check_status(L, index, what);
        lua_settop(L, index + 2);
        bind_answer_push(L, status, index + 2, index + 1, what);
    } else
        luaL_error(L, "%s returned %s; return a string, a table (JSON), or status [, body [, headers]]%s",
                   what, type == LUA_TNIL ? "nothing" : lua_typename(L, type),
                   strncmp(what, "the middleware", 14) == 0 ? ". Was it meant to `return next(req)`?" : "");
}

int bind_answer_status(lua_State *L, int index, const char *what)
{
    lua_getfield(L, index, "status");
    lua_Integer status = bind_answer_check_status(L, lua_gettop(L), what);
    lua_pop(L, 1);
    return (int)status;
}

/* ---- header lines ---- */

/* What frames the answer, or belongs to the handshake. */
static bool bind_answer_owns(const char *name, bool upgrade)
{
    static const char *const own[] = {"Connection", "Content-Length",    "Date",   "Keep-Alive",
                                      "Trailer",    "Transfer-Encoding", "Upgrade"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcasecmp(name, own[i]) == 0)
            return true;
    return strncasecmp(name, "Sec-WebSocket-", 14) == 0 || (upgrade && strcasecmp(name, "Content-Type") == 0);
}

/* The value at the top as one line (RFC 9110, 5.5: no control characters but tab). */
static void bind_answer_write_line(lua_State *L, struct buf *fields, const char *name, const char *what)
{
    size_t len;
    if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
        luaL_error(L, "%s: the header %s is a %s, not a string", what, name, luaL_typename(L, -1));
    lua_pushvalue(L, -1); /* a number must not become a string in the script's own table */
    const char *value = lua_tolstring(L, -1, &len);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)value[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
            luaL_error(L, "%s: the value of header %s has a control character (byte %d)", what, name,
                       (int)byte);
    }
    if (fields->len + strlen(name) + len + 4 > BIND_ANSWER_FIELDS)
        luaL_error(L, "%s: the headers take more than %d bytes", what, BIND_ANSWER_FIELDS);
    if (buf_puts(fields, name) < 0 || buf_puts(fields, ": ") < 0 || buf_append(fields, value, len) < 0 ||
        buf_puts(fields, "\r\n") < 0)
        luaL_error(L, "%s: out of memory", what);
    lua_pop(L, 1);
}

void bind_answer_write_fields(lua_State *L, int index, struct buf *fields, bool upgrade, bool *has_type,
                              const char *what)
{
    index = lua_absindex(L, index);
    if (!lua_istable(L, index))
        luaL_error(L, "%s: the headers are a %s, not a table", what, luaL_typename(L, index));
    luaL_checkstack(L, 8, NULL);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        size_t len;
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "%s: a header's name is a string, not a %s", what, luaL_typename(L, -2));
        const char *name = lua_tolstring(L, -2, &len);
        if (!head_is_token(name, len))
            luaL_error(L, "%s: '%s' is not a name for a header", what, name);
        if (bind_answer_owns(name, upgrade))
            luaL_error(L, "%s: the header %s is the server's own%s", what, name,
                       strcasecmp(name, "Sec-WebSocket-Protocol") == 0 ? "; use the route's option protocols"
                                                                       : "");
        *has_type = *has_type || strcasecmp(name, "Content-Type") == 0;
        lua_Integer n = lua_istable(L, -1) ? luaL_len(L, -1) : 0;
        for (lua_Integer i = 1; i <= n; i++) {
            lua_geti(L, -1, i);
            bind_answer_write_line(L, fields, name, what);
            lua_pop(L, 1);
        }
        if (!lua_istable(L, -1))
            bind_answer_write_line(L, fields, name, what);
        lua_pop(L, 1);
    }
}

void bind_answer_open(lua_State *L)
{
    static const luaL_Reg headers[] = {
        {"__index", bind_answer_headers_index}, {"__newindex", bind_answer_headers_newindex}, {NULL, NULL}};
    static const char *const types[] = {BIND_ANSWER_TYPE, BIND_ANSWER_ACCEPT, BIND_ANSWER_HEADERS};
    for (size_t i = 0; i < 3; i++) {
        luaL_newmetatable(L, types[i]);
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
        lua_pop(L, 1);
    }
    luaL_getmetatable(L, BIND_ANSWER_HEADERS);
    luaL_setfuncs(L, headers, 0);
    lua_pop(L, 1);
}
