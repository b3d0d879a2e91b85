/* SPDX-License-Identifier: MIT
 * Topics as scripts see them. */
#include "lua/bind_topic.h"

#include <lauxlib.h>

#include "bus/topic.h"
#include "lua/bind_message.h"
#include "lua/bind_misuse.h"
#include "lua/bind_ws.h"
#include "script/vm.h"

static const char *bind_topic_check(lua_State *L, int index, const char *what, size_t *len)
{
    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "%s: the topic is a %s, not a string", what, luaL_typename(L, index));
    const char *name = lua_tolstring(L, index, len);
    if (*len == 0 || *len > TOPICS_NAME_MAX)
        luaL_error(L, "%s: the topic has %I bytes; it can have 1 to %d", what, (lua_Integer)*len,
                   TOPICS_NAME_MAX);
    return name;
}

/* ws:subscribe(topic): true, or nil and why not */
int bind_topic_subscribe(lua_State *L)
{
    static const char *const why[] = {
        [TOPIC_TOO_MANY] = "too many subscriptions", [TOPIC_NO_MEMORY] = "out of memory"};
    struct session *s = bind_ws_session(L);
    size_t len;
    const char *name = bind_topic_check(L, 2, "ws:subscribe", &len);
    if (s == NULL || !session_is_open(s))
        return bind_ws_result(L, SESSION_NOT_OPEN);
    enum topic_subscribed done = topic_subscribe(s, name, len);
    if (done == TOPIC_SUBSCRIBED)
        return bind_ws_result(L, SESSION_SENT);
    lua_pushnil(L);
    lua_pushstring(L, why[done]);
    return 2;
}

/* ws:unsubscribe(topic): whether it was subscribed */
int bind_topic_unsubscribe(lua_State *L)
{
    struct session *s = bind_ws_session(L);
    size_t len;
    const char *name = bind_topic_check(L, 2, "ws:unsubscribe", &len);
    lua_pushboolean(L, s != NULL && topic_unsubscribe(s, name, len));
    return 1;
}

/* Publishes the message behind the topic at `index`. */
static int bind_topic_send(lua_State *L, struct worker *w, int index, const char *what,
                           struct session *except)
{
    size_t len;
    const char *name = bind_topic_check(L, index, what, &len);
    struct bind_message m = bind_message_check_with_options(L, index + 1, what);
    if (!bind_message_is_valid(L, &m)) {
        lua_pushnil(L);
        lua_pushliteral(L, "not UTF-8");
        return 2;
    }
    bool all = topic_publish(w, name, len, m.text, m.data, m.len, except);
    return bind_ws_result(L, all ? SESSION_SENT : SESSION_QUEUE_FULL);
}

/* ws:publish(topic, data [, opts]): true, or nil and why not */
int bind_topic_publish(lua_State *L)
{
    struct session *s = bind_ws_session(L);
    if (s == NULL || !session_is_open(s)) {
        size_t len;
        bind_topic_check(L, 2, "ws:publish", &len);
        return bind_ws_result(L, SESSION_NOT_OPEN);
    }
    return bind_topic_send(L, s->conn->worker, 2, "ws:publish", s);
}

/* app.publish(topic, data [, opts]): true, or nil and why not */
int bind_topic_publish_to_all(lua_State *L)
{
    bind_misuse_check_dot(L, "app.publish");
    return bind_topic_send(L, vm_serving(L, "app.publish"), 1, "app.publish", NULL);
}

/* app.subscribers(topic) */
int bind_topic_subscribers(lua_State *L)
{
    bind_misuse_check_dot(L, "app.subscribers");
    size_t len;
    vm_serving(L, "app.subscribers");
    const char *name = bind_topic_check(L, 1, "app.subscribers", &len);
    lua_pushinteger(L, (lua_Integer)topic_subscribers(name, len));
    return 1;
}
