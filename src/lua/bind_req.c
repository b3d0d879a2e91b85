/* SPDX-License-Identifier: MIT
 * The request as scripts see it: a lazy view of the head. Tables are made when asked for and kept with the
 * object. */
#include "lua/bind_req.h"

#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "http/percent.h"
#include "http/router.h"
#include "script/vm.h"

#define BIND_REQ_TYPE "tidewire.req"

struct bind_req {
    struct head *head; /* a reference */
};

static void bind_req_push_span(lua_State *L, const struct head *head, struct head_span span)
{
    lua_pushlstring(L, head_bytes(head) + span.at, span.len);
}

/* Pushes in[0 .. len) decoded; bad escapes stay as they are. */
static void bind_req_push_decoded(lua_State *L, const char *in, size_t len, bool plus_is_space)
{
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, len);
    luaL_pushresultsize(&b, percent_decode_lax(in, len, out, plus_is_space));
}

/* ---- tables ---- */

static void bind_req_push_lower(lua_State *L, const char *text, size_t len)
{
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, len);
    for (size_t i = 0; i < len; i++)
        out[i] = (char)tolower((unsigned char)text[i]);
    luaL_pushresultsize(&b, len);
}

/* __index of the headers table, whose own keys are in lower case. */
static int bind_req_header(lua_State *L)
{
    size_t len;
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *name = lua_tolstring(L, 2, &len);
    if (name == NULL)
        return 0;
    bind_req_push_lower(L, name, len);
    lua_rawget(L, 1);
    return 1;
}

static void bind_req_push_headers(lua_State *L, const struct head *head)
{
    const char *bytes = head_bytes(head);
    lua_createtable(L, 0, head->nfields);
    for (int i = 0; i < head->nfields; i++) {
        const struct head_field *f = &head->fields[i];
        bind_req_push_lower(L, bytes + f->name.at, f->name.len);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) == LUA_TNIL) {
            lua_pop(L, 1);
            bind_req_push_span(L, head, f->value);
        } else { /* repeated: joined, in order (RFC 9110, 5.3) */
            lua_pushliteral(L, ", ");
            bind_req_push_span(L, head, f->value);
            lua_concat(L, 3);
        }
        lua_rawset(L, -3);
    }
    luaL_setmetatable(L, BIND_REQ_TYPE ".headers");
}

/* A name that comes twice keeps its first value. */
static void bind_req_push_query(lua_State *L, const struct head *head)
{
    const char *query = head_bytes(head) + head->query.at;
    size_t at = 0;
    struct percent_pair pair;
    lua_newtable(L);
    while (percent_next_pair(query, head->query.len, &at, &pair)) {
        bind_req_push_decoded(L, pair.name, pair.name_len, true);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) != LUA_TNIL) {
            lua_pop(L, 2);
            continue;
        }
        lua_pop(L, 1);
        bind_req_push_decoded(L, pair.value, pair.value_len, true);
        lua_rawset(L, -3);
    }
}

void bind_req_push_params(lua_State *L, const struct head *head)
{
    struct router_match m;
    router_match(vm_of(L)->router, ROUTER_WEBSOCKET, head_bytes(head) + head->path.at, head->path.len, &m);
    lua_createtable(L, 0, m.route >= 0 ? m.ncaptures : 0);
    for (int i = 0; m.route >= 0 && i < m.ncaptures; i++) {
        bind_req_push_decoded(L, m.captures[i].value, m.captures[i].value_len, false);
        lua_setfield(L, -2, m.captures[i].name);
    }
}

void bind_req_push_remote(lua_State *L, const struct head *head)
{
    char text[INET6_ADDRSTRLEN];
    head_remote_text(head, text, sizeof text);
    lua_pushstring(L, text);
}

/* ---- the object ---- */

static void bind_req_push_method(lua_State *L, const struct head *head)
{
    bind_req_push_span(L, head, head->method_name);
}

static void bind_req_push_path(lua_State *L, const struct head *head)
{
    bind_req_push_decoded(L, head_bytes(head) + head->path.at, head->path.len, false);
}

static void bind_req_push_query_string(lua_State *L, const struct head *head)
{
    bind_req_push_span(L, head, head->query);
}

/* What should_upgrade leaves for the handlers. */
static void bind_req_push_context(lua_State *L, const struct head *head)
{
    (void)head;
    lua_newtable(L);
}

struct bind_req_field {
    const char *name;
    void (*push)(lua_State *L, const struct head *head);
    bool kept; /* a table: made once, so that changes to it stay */
};

static const struct bind_req_field bind_req_fields[] = {
    {"method", bind_req_push_method, false},
    {"path", bind_req_push_path, false},
    {"query_string", bind_req_push_query_string, false},
    {"remote_address", bind_req_push_remote, false},
    {"query", bind_req_push_query, true},
    {"headers", bind_req_push_headers, true},
    {"params", bind_req_push_params, true},
    {"context", bind_req_push_context, true},
};

static int bind_req_index(lua_State *L)
{
    const struct bind_req *req = luaL_checkudata(L, 1, BIND_REQ_TYPE);
    const char *key = luaL_checkstring(L, 2);
    for (size_t i = 0; i < sizeof bind_req_fields / sizeof bind_req_fields[0]; i++) {
        const struct bind_req_field *f = &bind_req_fields[i];
        if (strcmp(f->name, key) != 0)
            continue;
        if (!f->kept) {
            f->push(L, req->head);
            return 1;
        }
        if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setiuservalue(L, 1, 1);
        }
        if (lua_getfield(L, -1, key) == LUA_TNIL) {
            lua_pop(L, 1);
            f->push(L, req->head);
            lua_pushvalue(L, -1);
            lua_setfield(L, -3, key);
        }
        return 1;
    }
    return luaL_error(L, "req has no field '%s'", key);
}

static int bind_req_newindex(lua_State *L)
{
    return luaL_error(L, "req.%s cannot be set: a request is read-only", luaL_tolstring(L, 2, NULL));
}

static int bind_req_gc(lua_State *L)
{
    struct bind_req *req = luaL_checkudata(L, 1, BIND_REQ_TYPE);
    head_unref(req->head);
    req->head = NULL;
    return 0;
}

void bind_req_push(lua_State *L, struct head *head)
{
    struct bind_req *req = lua_newuserdatauv(L, sizeof *req, 1);
    req->head = head_ref(head);
    luaL_setmetatable(L, BIND_REQ_TYPE);
}

void bind_req_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"__index", bind_req_index}, {"__newindex", bind_req_newindex}, {"__gc", bind_req_gc}, {NULL, NULL}};
    luaL_newmetatable(L, BIND_REQ_TYPE);
    luaL_setfuncs(L, methods, 0);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    luaL_newmetatable(L, BIND_REQ_TYPE ".headers");
    lua_pushcfunction(L, bind_req_header);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}
