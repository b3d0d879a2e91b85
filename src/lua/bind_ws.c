/* SPDX-License-Identifier: MIT
 * The `ws` object: a box around a session, which is emptied when the connection is gone. Its handlers are its
 * user values, so they go with it. The registry holds the box while the connection lives. */
#include "lua/bind_ws.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_done.h"
#include "lua/bind_message.h"
#include "lua/bind_misuse.h"
#include "lua/bind_req.h"
#include "lua/bind_topic.h"
#include "script/dispatch.h"
#include "script/live.h"
#include "ws/closecode.h"
#include "ws/session.h"
#include "ws/subprotocol.h"

#define BIND_WS_TYPE "tidewire.ws"

/* User values of the box: what most scripts use, and a table for the rest, which exists once something of it
 * is used. Its keys are integers: reading it allocates nothing, hence never raises. */
enum bind_ws_slot {
    BIND_WS_TEXT = 1,
    BIND_WS_BINARY,
    BIND_WS_CLOSE,
    BIND_WS_MORE,
    BIND_WS_SLOTS = BIND_WS_MORE
};
enum bind_ws_more { BIND_WS_PING = BIND_WS_STATE + 1, BIND_WS_PONG, BIND_WS_DRAIN };

struct bind_ws {
    union {
        struct session *session;
        uint64_t gone; /* when it is not ALIVE: its id << 16 | its close code */
    };
    uint32_t magic; /* BIND_WS_MAGIC: tells the box from other userdata, faster than a metatable */
    uint8_t life;   /* enum bind_ws_life */
    bool migrated;  /* it has come from older code */
};

#define BIND_WS_MAGIC 0x7ade5b0cu

/* Text from this length on is remembered as received: looking at less of it again costs no more than that. */
#define BIND_WS_RECEIVED_MIN 128

enum bind_ws_life {
    BIND_WS_ALIVE,
    BIND_WS_GONE, /* the connection is over */
    BIND_WS_LEFT, /* it has gone to newer code: the session is looked up anew for each call */
};

static struct bind_ws *bind_ws_check(lua_State *L)
{
    struct bind_ws *box = lua_touserdata(L, 1); /* one that is light has no length */
    if (box == NULL || lua_rawlen(L, 1) != sizeof *box || box->magic != BIND_WS_MAGIC)
        box = bind_misuse_check_self(L, BIND_WS_TYPE, "a WebSocket", "ws:send(...)"); /* raises */
    return box;
}

/* Its session; NULL when that is gone. */
static struct session *bind_ws_of(lua_State *L, const struct bind_ws *box)
{
    if (box->life == BIND_WS_ALIVE)
        return box->session;
    return box->life == BIND_WS_LEFT ? session_find(vm_of(L)->home, box->gone >> 16) : NULL;
}

static uint64_t bind_ws_id(const struct bind_ws *box)
{
    return box->life == BIND_WS_ALIVE ? box->session->conn->id : box->gone >> 16;
}

/* For what would set a handler. */
static void bind_ws_check_handlers(lua_State *L)
{
    if (bind_ws_check(L)->life == BIND_WS_LEFT)
        luaL_error(L,
                   "this connection has moved to newer code, whose own handlers it calls; on the ws of this "
                   "code, of generation %d, only sending and closing still work",
                   (int)vm_of(L)->generation);
}

struct session *bind_ws_session(lua_State *L)
{
    return bind_ws_of(L, bind_ws_check(L));
}

static int bind_ws_fail(lua_State *L, const char *why)
{
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

/* ---- handlers ---- */

static int bind_ws_set_handler(lua_State *L, int slot)
{
    bind_ws_check_handlers(L);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setiuservalue(L, 1, slot);
    return 0;
}

static int bind_ws_on_text(lua_State *L)
{
    return bind_ws_set_handler(L, BIND_WS_TEXT);
}

static int bind_ws_on_binary(lua_State *L)
{
    return bind_ws_set_handler(L, BIND_WS_BINARY);
}

static int bind_ws_set_on_close(lua_State *L)
{
    return bind_ws_set_handler(L, BIND_WS_CLOSE);
}

/* Pushes more[key] of the box at index `box`, nil when there is none; returns its type. */
static int bind_ws_get_more(lua_State *L, int box, int key)
{
    if (lua_getiuservalue(L, box, BIND_WS_MORE) != LUA_TTABLE)
        return LUA_TNIL;
    int type = lua_rawgeti(L, -1, key);
    lua_remove(L, -2);
    return type;
}

/* Stores the value at the top as more[key] of the box at index `box`, and pops it. */
static void bind_ws_set_more_of(lua_State *L, int box, int key)
{
    if (lua_getiuservalue(L, box, BIND_WS_MORE) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, box, BIND_WS_MORE);
    }
    lua_insert(L, -2);
    lua_rawseti(L, -2, key);
    lua_pop(L, 1);
}

static void bind_ws_set_more(lua_State *L, int key)
{
    bind_ws_set_more_of(L, 1, key);
}

void bind_ws_keep_request_of(lua_State *L, int index)
{
    int box = lua_gettop(L);
    if (bind_ws_get_more(L, box, BIND_WS_REQUEST) == LUA_TNIL) {
        lua_pushvalue(L, index);
        bind_ws_set_more_of(L, box, BIND_WS_REQUEST);
    }
    lua_settop(L, box - 1);
}

static int bind_ws_set_rare_handler(lua_State *L, int key)
{
    bind_ws_check_handlers(L);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    bind_ws_set_more(L, key);
    return 0;
}

static int bind_ws_on_ping(lua_State *L)
{
    return bind_ws_set_rare_handler(L, BIND_WS_PING);
}

static int bind_ws_on_pong(lua_State *L)
{
    return bind_ws_set_rare_handler(L, BIND_WS_PONG);
}

static int bind_ws_set_on_drain(lua_State *L)
{
    return bind_ws_set_rare_handler(L, BIND_WS_DRAIN);
}

/* ---- sending ---- */

static const char *bind_ws_why(enum session_sent sent)
{
    return sent == SESSION_QUEUE_FULL ? "queue full" : "closed";
}

int bind_ws_result(lua_State *L, enum session_sent sent)
{
    switch (sent) {
    case SESSION_SENT: break;
    case SESSION_NOT_OPEN:
    case SESSION_QUEUE_FULL: return bind_ws_fail(L, bind_ws_why(sent));
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int bind_ws_send_control(lua_State *L, bool ping)
{
    const struct bind_ws *box = bind_ws_check(L);
    size_t len;
    const char *payload = luaL_optlstring(L, 2, "", &len);
    if (len > 125)
        return luaL_error(L, "ws:%s: the payload has %d bytes; a control frame takes at most 125",
                          ping ? "ping" : "pong", (int)len);
    if (bind_ws_of(L, box) == NULL)
        return bind_ws_fail(L, "closed");
    return bind_ws_result(L, session_send_control(bind_ws_of(L, box), ping, payload, len));
}

/* ws:ping([payload]) */
static int bind_ws_ping(lua_State *L)
{
    return bind_ws_send_control(L, true);
}

/* ws:pong([payload]) */
static int bind_ws_pong(lua_State *L)
{
    return bind_ws_send_control(L, false);
}

/* Queues a message; the completion at index 3 hears of it, whatever becomes of it. */
static int bind_ws_send_data(lua_State *L, const struct bind_ws *box, const struct bind_message *m,
                             const char *what)
{
    struct session *s = bind_ws_of(L, box);
    struct session_done *done = bind_done_take(L, 3, what);
    if (!bind_message_is_valid(L, m)) {
        if (done != NULL)
            done->complete(done, "not UTF-8");
        return bind_ws_fail(L, "not UTF-8");
    }
    enum session_sent sent = s != NULL ? session_send(s, m->text, m->data, m->len) : SESSION_NOT_OPEN;
    if (done != NULL && sent == SESSION_SENT)
        session_when_sent(s, done);
    else if (done != NULL)
        done->complete(done, bind_ws_why(sent));
    return bind_ws_result(L, sent);
}

/* ws:send(data [, done]) */
static int bind_ws_send(lua_State *L)
{
    const struct bind_ws *box = bind_ws_check(L);
    struct bind_message m = bind_message_check(L, 2, "ws:send");
    return bind_ws_send_data(L, box, &m, "ws:send");
}

/* ws:send_binary(bytes [, done]) */
static int bind_ws_send_binary(lua_State *L)
{
    const struct bind_ws *box = bind_ws_check(L);
    struct bind_message m = {.text = false};
    m.data = luaL_checklstring(L, 2, &m.len);
    return bind_ws_send_data(L, box, &m, "ws:send_binary");
}

unsigned bind_ws_check_close(lua_State *L, int index, const char *what, const char **reason, size_t *len)
{
    lua_Integer code = luaL_optinteger(L, index, CLOSECODE_NORMAL);
    *reason = luaL_optlstring(L, index + 1, "", len);
    if (code < 0 || code > 65535 || !closecode_valid_to_send((unsigned)code))
        luaL_error(L,
                   "%s: %I is not a code that a program may send; use 1000, 1001, 1002, 1003, 1007, 1008, "
                   "1009, 1011, "
                   "1012, 1013 or one from 3000 to 4999",
                   what, code);
    if (*len > CLOSECODE_REASON_MAX)
        luaL_error(L, "%s: the reason has %d bytes; a Close frame takes at most %d", what, (int)*len,
                   CLOSECODE_REASON_MAX);
    if (!utf8_valid(*reason, *len))
        luaL_error(L, "%s: the reason is not UTF-8", what);
    return (unsigned)code;
}

/* Moves the completion, which may stand in the place of the code or the reason, to index 4. */
static void bind_ws_find_done(lua_State *L)
{
    lua_settop(L, 4);
    for (int i = 2; i <= 3; i++)
        if (lua_isfunction(L, i) || lua_isuserdata(L, i)) {
            lua_pushvalue(L, i);
            lua_replace(L, 4);
            lua_pushnil(L);
            lua_replace(L, i);
            return;
        }
}

/* ws:close([code [, reason]] [, done]) */
static int bind_ws_close(lua_State *L)
{
    const struct bind_ws *box = bind_ws_check(L);
    struct session *s = bind_ws_of(L, box);
    const char *reason;
    size_t len;
    bind_ws_find_done(L);
    unsigned code = bind_ws_check_close(L, 2, "ws:close", &reason, &len);
    struct session_done *done = bind_done_take(L, 4, "ws:close");
    bool open = s != NULL && session_is_open(s);
    if (open)
        session_close(s, code, reason, len);
    open = open && s->conn->state == CONN_OPEN; /* memory may have run out */
    if (done != NULL && open)
        session_when_sent(s, done);
    else if (done != NULL)
        done->complete(done, "closed");
    return bind_ws_result(L, open ? SESSION_SENT : SESSION_NOT_OPEN);
}

/* ---- fields ---- */

/* The request and the state are made when first asked for: most scripts never do. */
static void bind_ws_push_request(lua_State *L, const struct bind_ws *box)
{
    if (bind_ws_get_more(L, 1, BIND_WS_REQUEST) != LUA_TNIL || bind_ws_of(L, box) == NULL ||
        bind_ws_of(L, box)->is_client)
        return;
    bind_req_push(L, bind_ws_of(L, box)->head);
    lua_pushvalue(L, -1);
    bind_ws_set_more(L, BIND_WS_REQUEST);
}

static int bind_ws_refuse_state(lua_State *L)
{
    return luaL_error(L,
                      "ws.state has moved to newer code: a change by the code of generation %d would be lost",
                      (int)vm_of(L)->generation);
}

static int bind_ws_next_state(lua_State *L)
{
    lua_settop(L, 2);
    return lua_next(L, 1) ? 2 : (lua_pushnil(L), 1);
}

static int bind_ws_pairs_of_state(lua_State *L)
{
    lua_pushcfunction(L, bind_ws_next_state);
    luaL_getmetafield(L, 1, "__index");
    lua_pushnil(L);
    return 3;
}

/* Replaces the state at the top by a view of it that refuses to be changed. */
static void bind_ws_seal_state(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, bind_ws_refuse_state);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, bind_ws_pairs_of_state);
    lua_setfield(L, -2, "__pairs");
    lua_setmetatable(L, -2);
    lua_remove(L, -2);
}

static void bind_ws_push_own_state(lua_State *L)
{
    if (bind_ws_get_more(L, 1, BIND_WS_STATE) != LUA_TNIL)
        return;
    lua_newtable(L);
    lua_pushvalue(L, -1);
    bind_ws_set_more(L, BIND_WS_STATE);
}

static void bind_ws_push_state(lua_State *L, const struct bind_ws *box)
{
    bind_ws_push_own_state(L);
    if (box->life == BIND_WS_LEFT)
        bind_ws_seal_state(L);
}

static void bind_ws_push_id(lua_State *L, const struct bind_ws *box)
{
    lua_pushinteger(L, (lua_Integer)bind_ws_id(box));
}

static void bind_ws_push_is_closed(lua_State *L, const struct bind_ws *box)
{
    lua_pushboolean(L, bind_ws_of(L, box) == NULL || !session_is_open(bind_ws_of(L, box)));
}

static void bind_ws_push_close_code(lua_State *L, const struct bind_ws *box)
{
    const struct session *s = bind_ws_of(L, box);
    if (s == NULL && box->life == BIND_WS_LEFT) /* nobody has told */
        lua_pushnil(L);
    else if (s == NULL)
        lua_pushinteger(L, (lua_Integer)(box->gone & 0xffff));
    else if (s->state == SESSION_ENDED)
        lua_pushinteger(L, s->close_code);
    else
        lua_pushnil(L);
}

static void bind_ws_push_buffered(lua_State *L, const struct bind_ws *box)
{
    lua_pushinteger(L, bind_ws_of(L, box) != NULL ? (lua_Integer)session_buffered(bind_ws_of(L, box)) : 0);
}

static void bind_ws_push_params(lua_State *L, const struct bind_ws *box)
{
    const struct session *s = bind_ws_of(L, box);
    s != NULL && !s->is_client ? bind_req_push_params(L, s->head) : lua_pushnil(L);
}

static void bind_ws_push_remote_address(lua_State *L, const struct bind_ws *box)
{
    bind_ws_of(L, box) != NULL ? bind_req_push_remote(L, bind_ws_of(L, box)->head) : lua_pushnil(L);
}

static void bind_ws_push_ping_interval(lua_State *L, const struct bind_ws *box)
{
    const struct session *s = bind_ws_of(L, box);
    s != NULL && s->ping_ms > 0 ? lua_pushnumber(L, s->ping_ms / 1000.0) : lua_pushnil(L);
}

static void bind_ws_push_protocol(lua_State *L, const struct bind_ws *box)
{
    const struct session *s = bind_ws_of(L, box);
    size_t len;
    const char *name =
        s != NULL && s->protocol > 0 ? subprotocol_offer(s->head, s->protocol - 1u, &len) : NULL;
    name != NULL ? (void)lua_pushlstring(L, name, len) : lua_pushnil(L);
}

static void bind_ws_push_generation(lua_State *L, const struct bind_ws *box)
{
    (void)box;
    lua_pushinteger(L, (lua_Integer)vm_of(L)->generation);
}

static void bind_ws_push_migrated(lua_State *L, const struct bind_ws *box)
{
    lua_pushboolean(L, box->migrated);
}

static const struct bind_ws_field {
    const char *name;
    void (*push)(lua_State *L, const struct bind_ws *box); /* the box is at 1 */
} bind_ws_fields[] = {
    {"state", bind_ws_push_state},
    {"id", bind_ws_push_id},
    {"request", bind_ws_push_request},
    {"params", bind_ws_push_params},
    {"protocol", bind_ws_push_protocol},
    {"buffered", bind_ws_push_buffered},
    {"is_closed", bind_ws_push_is_closed},
    {"close_code", bind_ws_push_close_code},
    {"remote_address", bind_ws_push_remote_address},
    {"ping_interval", bind_ws_push_ping_interval},
    {"generation", bind_ws_push_generation},
    {"migrated", bind_ws_push_migrated},
};
#define BIND_WS_FIELDS (sizeof bind_ws_fields / sizeof bind_ws_fields[0])

/* Upvalue 1 has the methods, and the number of each field. */
static int bind_ws_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    int type = lua_rawget(L, lua_upvalueindex(1));
    if (type == LUA_TFUNCTION)
        return 1;
    const struct bind_ws *box = bind_ws_check(L);
    lua_Unsigned field = (lua_Unsigned)lua_tointeger(L, -1);
    if (type == LUA_TNIL || field >= BIND_WS_FIELDS) /* debug can get at the table */
        return bind_misuse_raise_unknown(L, "ws", "method or field", luaL_checkstring(L, 2),
                                         lua_upvalueindex(1));
    bind_ws_fields[field].push(L, box);
    return 1;
}

static int bind_ws_newindex(lua_State *L)
{
    const struct bind_ws *box = bind_ws_check(L);
    const char *key = luaL_checkstring(L, 2);
    if (strncmp(key, "on_", 3) == 0)
        return luaL_error(L, "ws.%s cannot be set: call it, as in ws:%s(function(ws, ...) end)", key, key);
    if (strcmp(key, "state") == 0)
        return luaL_error(L, "ws.state cannot be replaced: set fields of it, as in ws.state.name = value");
    if (strcmp(key, "ping_interval") != 0)
        return luaL_error(L, "ws.%s cannot be set: keep your own data in ws.state", key);
    lua_Number seconds = lua_tonumber(L, 3);
    if (!lua_isnil(L, 3) && !(lua_type(L, 3) == LUA_TNUMBER && seconds >= 0.1 && seconds <= 1e6))
        return luaL_error(L,
                          "ws.ping_interval: %s is not a number of seconds from 0.1 to 1e6, nor nil for off",
                          luaL_tolstring(L, 3, NULL));
    if (bind_ws_of(L, box) != NULL)
        session_set_ping_interval(bind_ws_of(L, box), seconds);
    return 0;
}

static int bind_ws_tostring(lua_State *L)
{
    const struct bind_ws *box = bind_ws_check(L);
    lua_pushfstring(L, "ws %I%s", (lua_Integer)bind_ws_id(box),
                    bind_ws_of(L, box) == NULL ? " (closed)" : "");
    return 1;
}

void bind_ws_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"on_text", bind_ws_on_text},
        {"on_binary", bind_ws_on_binary},
        {"on_close", bind_ws_set_on_close},
        {"on_ping", bind_ws_on_ping},
        {"on_pong", bind_ws_on_pong},
        {"on_drain", bind_ws_set_on_drain},
        {"ping", bind_ws_ping},
        {"pong", bind_ws_pong},
        {"send", bind_ws_send},
        {"send_binary", bind_ws_send_binary},
        {"close", bind_ws_close},
        {"subscribe", bind_topic_subscribe},
        {"unsubscribe", bind_topic_unsubscribe},
        {"publish", bind_topic_publish},
        {NULL, NULL},
    };
    luaL_newmetatable(L, BIND_WS_TYPE);
    luaL_newlib(L, methods);
    for (size_t i = 0; i < BIND_WS_FIELDS; i++) {
        lua_pushinteger(L, (lua_Integer)i);
        lua_setfield(L, -2, bind_ws_fields[i].name);
    }
    lua_pushcclosure(L, bind_ws_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, bind_ws_newindex);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, bind_ws_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

/* ---- entries ---- */

/* Whether the function at the top takes a second parameter. */
static bool bind_ws_wants_request(lua_State *L)
{
    lua_Debug ar;
    lua_pushvalue(L, -1);
    lua_getinfo(L, ">u", &ar);
    return ar.nparams >= 2 || ar.isvararg;
}

/* The request that should_upgrade had, with its context, is the one that the handlers see. */
static void bind_ws_keep_request(lua_State *L, int *request)
{
    if (*request == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, *request);
    bind_ws_set_more(L, BIND_WS_REQUEST);
    luaL_unref(L, LUA_REGISTRYINDEX, *request);
    *request = LUA_NOREF;
}

void bind_ws_push_new(lua_State *L, struct session *s, bool migrated)
{
    struct bind_ws *box = lua_newuserdatauv(L, sizeof *box, BIND_WS_SLOTS);
    *box = (struct bind_ws){.session = s, .migrated = migrated, .magic = BIND_WS_MAGIC};
    luaL_setmetatable(L, BIND_WS_TYPE);
    lua_pushvalue(L, -1);
    s->owner_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

int bind_ws_call_route(lua_State *L, int handler)
{
    const struct session *s = bind_ws_of(L, bind_ws_check(L));
    lua_settop(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, handler);
    bool wants_request = bind_ws_wants_request(L);
    lua_pushvalue(L, 1);
    if (wants_request && bind_ws_get_more(L, 1, BIND_WS_REQUEST) == LUA_TNIL) {
        lua_pop(L, 1);
        bind_req_push(L, s->head);
        lua_pushvalue(L, 1);
        bind_req_belongs_to(L, -2);
    }
    lua_callk(L, wants_request ? 2 : 1, 0, 0, sched_call_done);
    return 0;
}

int bind_ws_on_open(lua_State *L)
{
    const struct live_open *open = sched_take_arg(L);
    lua_settop(L, 0);
    bind_ws_push_new(L, open->session, false);
    bind_ws_keep_request(L, open->request);
    return bind_ws_call_route(L, open->handler);
}

int bind_ws_push_kept(lua_State *L, int index, enum bind_ws_kept what)
{
    return bind_ws_get_more(L, index, (int)what);
}

void bind_ws_set_kept(lua_State *L, enum bind_ws_kept what)
{
    bind_ws_set_more(L, (int)what);
}

/* Pushes the ws, the handler in `slot`, and the ws for it; false when there is no handler. */
static bool bind_ws_push_handler(lua_State *L, const struct session *s, int slot)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->owner_ref);
    if (lua_getiuservalue(L, -1, slot) == LUA_TNIL)
        return false;
    lua_pushvalue(L, -2);
    return true;
}

int bind_ws_push_message(lua_State *L, const void *arg)
{
    const struct live_message *m = arg;
    if (!bind_ws_push_handler(L, m->session, m->text ? BIND_WS_TEXT : BIND_WS_BINARY))
        return -1;
    const char *data = lua_pushlstring(L, m->data, m->len);
    if (m->text && m->len >= BIND_WS_RECEIVED_MIN) {
        vm_of(L)->sched.received = data;
        lua_pushvalue(L, -1);
        lua_replace(L, -5); /* anchored in place of the ws, which the registry has */
    }
    return 2;
}

/* Pushes the rare handler `key` and the ws; false when there is no handler. */
static bool bind_ws_push_rare_handler(lua_State *L, const struct session *s, int key)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->owner_ref);
    if (bind_ws_get_more(L, lua_gettop(L), key) == LUA_TNIL)
        return false;
    lua_insert(L, -2);
    return true;
}

bool bind_ws_wants_control(lua_State *L, const struct session *s, bool ping)
{
    int top = lua_gettop(L);
    bool wants = bind_ws_push_rare_handler(L, s, ping ? BIND_WS_PING : BIND_WS_PONG);
    lua_settop(L, top);
    return wants;
}

int bind_ws_on_control(lua_State *L)
{
    const struct live_control *c = sched_take_arg(L);
    if (!bind_ws_push_rare_handler(L, c->session, c->ping ? BIND_WS_PING : BIND_WS_PONG))
        return 0;
    lua_pushlstring(L, c->data, c->len);
    lua_callk(L, 2, 0, 0, sched_call_done);
    return 0;
}

int bind_ws_on_drain(lua_State *L)
{
    const struct live_drain *d = sched_take_arg(L);
    if (bind_ws_push_rare_handler(L, d->session, BIND_WS_DRAIN))
        lua_callk(L, 1, 0, 0, sched_call_done);
    return 0;
}

int bind_ws_on_close(lua_State *L)
{
    const struct live_closed *c = sched_take_arg(L);
    if (!bind_ws_push_handler(L, c->session, BIND_WS_CLOSE))
        return 0;
    lua_pushinteger(L, c->code);
    lua_pushlstring(L, c->reason, c->reason_len);
    lua_callk(L, 3, 0, 0, sched_call_done);
    return 0;
}

void bind_ws_forget(lua_State *L, struct session *s)
{
    if (s->owner_ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->owner_ref);
    struct bind_ws *box = lua_touserdata(L, -1);
    box->gone = s->conn->id << 16 | s->close_code;
    box->life = BIND_WS_GONE;
    lua_pop(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, s->owner_ref);
    s->owner_ref = LUA_NOREF;
}

void bind_ws_leave(lua_State *L, int ref, uint64_t id)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    struct bind_ws *box = lua_touserdata(L, -1);
    box->gone = id << 16;
    box->life = BIND_WS_LEFT;
    lua_pop(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
}
