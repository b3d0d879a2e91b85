/* SPDX-License-Identifier: MIT
 * Asks a route's chain for the answer to a request: one entry, from the request object to the last byte of a
 * streamed body. The exchange is alive as long as the entry is. */
#include "lua/bind_request.h"

#include <string.h>

#include <lauxlib.h>

#include "http/response.h"
#include "lua/bind_answer.h"
#include "lua/bind_json.h"
#include "lua/bind_req.h"
#include "script/exchange.h"
#include "script/task.h"

static struct exchange *bind_request_exchange(lua_KContext context)
{
    return (struct exchange *)context;
}

static void bind_request_append(lua_State *L, struct buf *to, const char *data, size_t len)
{
    if (buf_append(to, data, len) < 0)
        luaL_error(L, "out of memory");
}

/* ---- streamed bodies ---- */

/* What `write` holds: the script may keep that longer than the exchange lives. */
struct bind_stream {
    struct exchange *x; /* NULL when it is over */
};

static int bind_request_closed(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "closed");
    return 2;
}

static int bind_request_written(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    const struct bind_stream *s = lua_touserdata(L, lua_upvalueindex(1));
    if (s->x == NULL || s->x->conn->state != CONN_OPEN)
        return bind_request_closed(L);
    lua_pushboolean(L, 1);
    return 1;
}

/* write(piece): true, or nil and "closed". Waits while the peer has much to take. Upvalue 1 is the stream. */
static int bind_request_write(lua_State *L)
{
    const struct bind_stream *s = lua_touserdata(L, lua_upvalueindex(1));
    size_t len;
    const char *piece = luaL_checklstring(L, 1, &len);
    if (s->x == NULL || !exchange_stream_piece(s->x, piece, len))
        return bind_request_closed(L);
    if (!exchange_stream_is_full(s->x))
        return bind_request_written(L, LUA_OK, 0);
    exchange_stream_wait(s->x, task_here(L, "write"));
    return task_suspend(L, 0, bind_request_written);
}

void bind_request_stream_forget(lua_State *L, int ref)
{
    if (ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    struct bind_stream *s = lua_touserdata(L, -1);
    s->x = NULL;
    lua_pop(L, 1);
}

/* body(write), for the function at the top. */
static int bind_request_stream_by_writer(lua_State *L, struct exchange *x)
{
    struct bind_stream *s = lua_newuserdatauv(L, sizeof *s, 0);
    s->x = NULL;
    lua_pushvalue(L, -1);
    x->stream = luaL_ref(L, LUA_REGISTRYINDEX);
    s->x = x;
    lua_pushcclosure(L, bind_request_write, 1);
    lua_callk(L, 1, 0, (lua_KContext)x, sched_call_done);
    return 0;
}

static int bind_request_next_piece(lua_State *L, int status, lua_KContext context);

/* After the queue has emptied. */
static int bind_request_go_on(lua_State *L, int status, lua_KContext context)
{
    lua_pushvalue(L, 1);
    (void)status;
    lua_callk(L, 0, 1, context, bind_request_next_piece);
    return bind_request_next_piece(L, LUA_OK, context);
}

/* A piece is at the top, the iterator at 1. */
static int bind_request_next_piece(lua_State *L, int status, lua_KContext context)
{
    struct exchange *x = bind_request_exchange(context);
    (void)status;
    for (;;) {
        size_t len;
        if (lua_isnil(L, -1))
            return 0;
        if (!lua_isstring(L, -1))
            return luaL_error(L, "the iterator of a streamed body returned a %s, not a string or nil",
                              luaL_typename(L, -1));
        const char *piece = lua_tolstring(L, -1, &len);
        if (!exchange_stream_piece(x, piece, len))
            return 0;
        lua_settop(L, 1);
        if (exchange_stream_is_full(x)) {
            exchange_stream_wait(x, task_here(L, "streaming"));
            return task_suspend(L, context, bind_request_go_on);
        }
        lua_pushvalue(L, 1);
        lua_callk(L, 0, 1, context, bind_request_next_piece);
    }
}

static bool bind_request_takes_writer(lua_State *L)
{
    lua_Debug ar;
    lua_pushvalue(L, -1);
    bool is_lua = !lua_iscfunction(L, -1);
    lua_getinfo(L, ">u", &ar);
    return is_lua && (ar.nparams >= 1 || ar.isvararg);
}

/* The function at the top makes the body. */
static int bind_request_stream(lua_State *L, struct exchange *x)
{
    lua_replace(L, 1);
    lua_settop(L, 1);
    if (!exchange_stream_begin(x))
        return 0;
    if (bind_request_takes_writer(L))
        return bind_request_stream_by_writer(L, x);
    return bind_request_go_on(L, LUA_OK, (lua_KContext)x);
}

/* ---- the answer ---- */

/* The body at the top. */
static int bind_request_set_body(lua_State *L, struct exchange *x, bool has_type)
{
    size_t len;
    int type = lua_type(L, -1);
    if (type == LUA_TFUNCTION) {
        x->type = has_type ? NULL : RESPONSE_TEXT;
        return bind_request_stream(L, x);
    }
    x->type = has_type ? NULL : type == LUA_TTABLE ? RESPONSE_JSON : RESPONSE_TEXT;
    if (type == LUA_TTABLE)
        bind_json_encode(L, lua_gettop(L), exchange_what(x));
    else if (type != LUA_TSTRING && type != LUA_TNUMBER)
        return luaL_error(
            L, "%s: the body is a %s; it can be a string, a table (JSON) or a function that streams",
            exchange_what(x), luaL_typename(L, -1));
    const char *body = lua_tolstring(L, -1, &len);
    bind_request_append(L, &x->reply, body, len);
    return 0;
}

/* The response object at the top. */
static int bind_request_answer(lua_State *L, struct exchange *x, const char *what)
{
    bool has_type = false;
    int response = lua_gettop(L);
    x->accepted = x->upgrade && bind_answer_accepts(L, response); /* middleware may have changed its mind */
    x->status = x->accepted ? 101 : bind_answer_status(L, response, what);
    lua_getfield(L, response, "headers");
    bind_answer_write_fields(L, -1, &x->fields, x->accepted, &has_type, what);
    x->typed = has_type;
    lua_getfield(L, response, "body");
    return x->accepted || lua_isnil(L, -1) ? 0 : bind_request_set_body(L, x, has_type);
}

static int bind_request_done(lua_State *L, int status, lua_KContext context)
{
    struct exchange *x = bind_request_exchange(context);
    (void)status;
    /* A string, or a table that is JSON, alone needs no response object. */
    if (lua_gettop(L) == 1 &&
        (lua_type(L, 1) == LUA_TSTRING || (lua_istable(L, 1) && !bind_answer_is_object(L, 1)))) {
        x->status = 200;
        return bind_request_set_body(L, x, false);
    }
    const char *what = exchange_what(x);
    bind_answer_normalise(L, 1, what);
    return bind_request_answer(L, x, what);
}

int bind_request_run(lua_State *L)
{
    struct exchange *x = sched_take_arg(L);
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, x->chain);
    bind_req_push_exchange(L, x);
    lua_pushvalue(L, -1);
    x->request = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_callk(L, 1, LUA_MULTRET, (lua_KContext)x, bind_request_done);
    return bind_request_done(L, LUA_OK, (lua_KContext)x);
}

void bind_request_open(lua_State *L)
{
    bind_answer_open(L);
}
