/* SPDX-License-Identifier: MIT
 * The request as scripts see it: a lazy view of the head. Tables are made when asked for and kept with the
 * object. */
#include "lua/bind_req.h"

#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <lauxlib.h>

#include "http/cookie.h"
#include "http/form.h"
#include "http/percent.h"
#include "http/router.h"
#include "lua/bind_json.h"
#include "lua/bind_misuse.h"
#include "lua/bind_ws.h"
#include "net/tls.h"
#include "script/dispatch.h"
#include "script/pace.h"
#include "script/vm.h"

#define BIND_REQ_TYPE "tidewire.req"

static const char bind_req_metatable; /* its address is the key of that in the registry */

struct bind_req {
    struct head *head; /* a reference */
    uint32_t magic;    /* BIND_REQ_MAGIC: tells it from other userdata, faster than a metatable's name */
    int fallback;      /* what the server says if nobody else answers; 0 when a route fits */
};

#define BIND_REQ_MAGIC 0x4ead5e90u

/* NULL when it is something else. */
static struct bind_req *bind_req_at(lua_State *L, int index)
{
    struct bind_req *req = lua_touserdata(L, index);
    return req != NULL && lua_rawlen(L, index) == sizeof *req && req->magic == BIND_REQ_MAGIC ? req : NULL;
}

static struct bind_req *bind_req_check(lua_State *L, int index)
{
    struct bind_req *req = bind_req_at(L, index);
    return req != NULL ? req : luaL_checkudata(L, index, BIND_REQ_TYPE); /* raises */
}

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
    lua_createtable(L, 0, head->query.len > 0);
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
    int route = dispatch_match(vm_of(L)->router, head, &m);
    lua_createtable(L, 0, route >= 0 ? m.ncaptures : 0);
    for (int i = 0; route >= 0 && i < m.ncaptures; i++) {
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

static void bind_req_push_body(lua_State *L, const struct head *head)
{
    (void)head;
    lua_pushliteral(L, ""); /* one that there is was put there at once */
}

static void bind_req_push_id(lua_State *L, const struct head *head)
{
    lua_pushinteger(L, (lua_Integer)head->id);
}

/* Sets t[name] = value for the table at the top, unless there is one: the first of several counts. */
static void bind_req_set_first(lua_State *L, const char *name, size_t name_len, const char *value, size_t len)
{
    lua_pushlstring(L, name, name_len);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) != LUA_TNIL) {
        lua_pop(L, 2);
        return;
    }
    lua_pop(L, 1);
    lua_pushlstring(L, value, len);
    lua_rawset(L, -3);
}

/* The pairs of all Cookie fields. */
static void bind_req_push_cookies(lua_State *L, const struct head *head)
{
    struct cookie_pair pair;
    lua_newtable(L);
    for (int i = head_find(head, "Cookie", 6, 0); i >= 0; i = head_find(head, "Cookie", 6, i + 1)) {
        struct head_span value = head->fields[i].value;
        for (size_t at = 0; cookie_next(head_bytes(head) + value.at, value.len, &at, &pair);)
            bind_req_set_first(L, pair.name, pair.name_len, pair.value, pair.value_len);
    }
}

/* User values of a request: the `ws` whose route's function got it, and what was made for it. */
enum bind_req_slot {
    BIND_REQ_NOT_KEPT,
    BIND_REQ_WS,
    BIND_REQ_QUERY,
    BIND_REQ_HEADERS,
    BIND_REQ_PARAMS,
    BIND_REQ_CONTEXT,
    BIND_REQ_COOKIES,
    BIND_REQ_BODY,
    BIND_REQ_SLOTS = BIND_REQ_BODY
};

struct bind_req_field {
    const char *name;
    void (*push)(lua_State *L, const struct head *head);
    enum bind_req_slot slot; /* where it is kept once it was made, so that changes to a table stay */
};

static void bind_req_set_text(lua_State *L, const char *name, const char *text)
{
    lua_pushstring(L, text); /* nil for NULL */
    lua_setfield(L, -2, name);
}

/* req.tls: what was agreed on; nil for a plain connection. */
static void bind_req_push_tls(lua_State *L, const struct head *head)
{
    const struct tls_facts *f = head->tls;
    if (f == NULL) {
        lua_pushnil(L);
        return;
    }
    lua_createtable(L, 0, 5);
    bind_req_set_text(L, "version", f->version);
    bind_req_set_text(L, "cipher", f->cipher);
    bind_req_set_text(L, "server_name", f->server_name);
    lua_pushboolean(L, f->resumed);
    lua_setfield(L, -2, "resumed");
    if (f->subject == NULL)
        return;
    lua_createtable(L, 0, 4);
    bind_req_set_text(L, "subject", f->subject);
    bind_req_set_text(L, "issuer", f->issuer);
    bind_req_set_text(L, "serial", f->serial);
    bind_req_set_text(L, "fingerprint", f->fingerprint);
    lua_setfield(L, -2, "client");
}

static const struct bind_req_field bind_req_fields[] = {
    {"method", bind_req_push_method, BIND_REQ_NOT_KEPT},
    {"path", bind_req_push_path, BIND_REQ_NOT_KEPT},
    {"query_string", bind_req_push_query_string, BIND_REQ_NOT_KEPT},
    {"remote_address", bind_req_push_remote, BIND_REQ_NOT_KEPT},
    {"query", bind_req_push_query, BIND_REQ_QUERY},
    {"headers", bind_req_push_headers, BIND_REQ_HEADERS},
    {"params", bind_req_push_params, BIND_REQ_PARAMS},
    {"context", bind_req_push_context, BIND_REQ_CONTEXT},
    {"cookies", bind_req_push_cookies, BIND_REQ_COOKIES},
    {"body", bind_req_push_body, BIND_REQ_BODY},
    {"id", bind_req_push_id, BIND_REQ_NOT_KEPT},
    {"tls", bind_req_push_tls, BIND_REQ_NOT_KEPT},
};
#define BIND_REQ_FIELDS (sizeof bind_req_fields / sizeof bind_req_fields[0])

void bind_req_belongs_to(lua_State *L, int index)
{
    lua_setiuservalue(L, index, BIND_REQ_WS);
}

bool bind_req_push_kept_context(lua_State *L, int index)
{
    return lua_getiuservalue(L, index, BIND_REQ_CONTEXT) != LUA_TNIL;
}

void bind_req_set_context(lua_State *L, int index)
{
    lua_setiuservalue(L, index, BIND_REQ_CONTEXT);
}

/* The request at `index` has a context now: its `ws` keeps it. */
static void bind_req_tell_ws(lua_State *L, int index)
{
    if (lua_getiuservalue(L, index, BIND_REQ_WS) != LUA_TNIL)
        bind_ws_keep_request_of(L, index);
    else
        lua_pop(L, 1);
}

/* Upvalue 1 has the methods, and the number of each field. */
static int bind_req_index(lua_State *L)
{
    const struct bind_req *req = bind_req_check(L, 1);
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    int type = lua_rawget(L, lua_upvalueindex(1));
    if (type == LUA_TFUNCTION)
        return 1;
    lua_Unsigned field = (lua_Unsigned)lua_tointeger(L, 3);
    if (type == LUA_TNIL || field >= BIND_REQ_FIELDS) /* debug can get at the table */
        return bind_misuse_raise_unknown(L, "req", "method or field", luaL_checkstring(L, 2),
                                         lua_upvalueindex(1));
    const struct bind_req_field *f = &bind_req_fields[field];
    if (f->slot == BIND_REQ_NOT_KEPT)
        f->push(L, req->head);
    else if (lua_getiuservalue(L, 1, f->slot) == LUA_TNIL) {
        f->push(L, req->head);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, f->slot);
        if (f->slot == BIND_REQ_CONTEXT)
            bind_req_tell_ws(L, 1);
    }
    return 1;
}

static int bind_req_newindex(lua_State *L)
{
    return luaL_error(L, "req.%s cannot be set: a request is read-only", luaL_tolstring(L, 2, NULL));
}

static int bind_req_gc(lua_State *L)
{
    struct bind_req *req = bind_req_check(L, 1);
    head_unref(req->head);
    req->head = NULL;
    return 0;
}

void bind_req_push(lua_State *L, struct head *head)
{
    struct bind_req *req = lua_newuserdatauv(L, sizeof *req, BIND_REQ_SLOTS);
    *req = (struct bind_req){.head = head_ref(head), .magic = BIND_REQ_MAGIC};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_req_metatable);
    lua_setmetatable(L, -2);
    pace_charge(L, head_block_size(head));
}

void bind_req_push_exchange(lua_State *L, struct exchange *x)
{
    bind_req_push(L, x->head);
    struct bind_req *req = lua_touserdata(L, -1);
    req->fallback = x->fallback.status;
    if (x->body.len == 0)
        return;
    lua_pushlstring(L, x->body.data, x->body.len);
    lua_setiuservalue(L, -2, BIND_REQ_BODY);
    buf_fini(&x->body); /* the string is enough */
}

bool bind_req_is(lua_State *L, int index)
{
    return bind_req_at(L, index) != NULL;
}

int bind_req_fallback(lua_State *L, int index)
{
    return bind_req_check(L, index)->fallback;
}

/* ---- bodies ---- */

/* Pushes req.body of the request at 1. */
static const char *bind_req_body(lua_State *L, size_t *len)
{
    bind_misuse_check_self(L, BIND_REQ_TYPE, "a request", "req:json()");
    lua_settop(L, 1);
    if (lua_getiuservalue(L, 1, BIND_REQ_BODY) != LUA_TSTRING) {
        lua_pop(L, 1);
        lua_pushliteral(L, "");
    }
    return lua_tolstring(L, -1, len);
}

/* req:json(): the value, or nil and a message */
static int bind_req_json(lua_State *L)
{
    size_t len;
    const char *body = bind_req_body(L, &len);
    return bind_json_decode(L, body, len);
}

static void bind_req_set_optional(lua_State *L, const char *name, const char *value, size_t len)
{
    if (value == NULL)
        return;
    lua_pushlstring(L, value, len);
    lua_setfield(L, -2, name);
}

/* Adds a field to the form at `fields`, by name, and to the list at `parts`. */
static void bind_req_add_part(lua_State *L, int fields, int parts, lua_Integer n,
                              const struct form_part *part)
{
    lua_createtable(L, 0, 4);
    bind_req_set_optional(L, "name", part->name, part->name_len);
    bind_req_set_optional(L, "filename", part->filename, part->filename_len);
    bind_req_set_optional(L, "type", part->type, part->type_len);
    bind_req_set_optional(L, "value", part->data, part->data_len);
    lua_rawseti(L, parts, n);
    lua_pushvalue(L, fields);
    bind_req_set_first(L, part->name, part->name_len, part->data, part->data_len);
    lua_pop(L, 1);
}

/* A struct buf that goes with the garbage: what uses it may raise. */
static int bind_req_text_gc(lua_State *L)
{
    buf_fini(lua_touserdata(L, 1));
    return 0;
}

static struct buf *bind_req_new_text(lua_State *L)
{
    struct buf *text = lua_newuserdatauv(L, sizeof *text, 0);
    *text = (struct buf)BUF_INIT;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, bind_req_text_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return text;
}

static bool bind_req_is_urlencoded(const char *type, size_t len)
{
    static const char urlencoded[] = "application/x-www-form-urlencoded";
    size_t n = sizeof urlencoded - 1;
    return len >= n && strncasecmp(type, urlencoded, n) == 0 &&
           (len == n || type[n] == ';' || type[n] == ' ');
}

/* req:form(): {name = value}, and the list of all fields; or nil and a message */
static int bind_req_form(lua_State *L)
{
    const struct bind_req *req = bind_misuse_check_self(L, BIND_REQ_TYPE, "a request", "req:form()");
    size_t len, type_len = 0;
    const char *body = bind_req_body(L, &len), *type = "";
    char boundary[FORM_MAX_BOUNDARY + 1];
    struct form form;
    struct form_part part;
    bool typed = head_single(req->head, "Content-Type", &type, &type_len);
    bool multipart = typed && form_boundary(type, type_len, boundary) == 0;
    if (!multipart && !(typed && bind_req_is_urlencoded(type, type_len))) {
        lua_pushnil(L);
        lua_pushliteral(L, "the request's Content-Type is not that of a form");
        return 2;
    }
    struct buf *text = bind_req_new_text(L);
    form_init(&form, body, len, multipart ? boundary : NULL);
    lua_newtable(L);
    lua_newtable(L);
    int fields = lua_gettop(L) - 1, got;
    lua_Integer n = 0;
    while ((got = form_next(&form, text, &part)) == 1)
        bind_req_add_part(L, fields, fields + 1, ++n, &part);
    if (got == 0)
        return 2;
    lua_pushnil(L);
    lua_pushstring(L, form.reason);
    return 2;
}

void bind_req_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"__newindex", bind_req_newindex}, {"__gc", bind_req_gc}, {NULL, NULL}};
    luaL_newmetatable(L, BIND_REQ_TYPE);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_req_metatable);
    luaL_setfuncs(L, methods, 0);
    lua_createtable(L, 0, 2 + BIND_REQ_FIELDS);
    lua_pushcfunction(L, bind_req_json);
    lua_setfield(L, -2, "json");
    lua_pushcfunction(L, bind_req_form);
    lua_setfield(L, -2, "form");
    for (size_t i = 0; i < BIND_REQ_FIELDS; i++) {
        lua_pushinteger(L, (lua_Integer)i);
        lua_setfield(L, -2, bind_req_fields[i].name);
    }
    lua_pushcclosure(L, bind_req_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    luaL_newmetatable(L, BIND_REQ_TYPE ".headers");
    lua_pushcfunction(L, bind_req_header);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}
