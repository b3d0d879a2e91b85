/* SPDX-License-Identifier: MIT
 * Topics as scripts see them: methods of `ws`, functions of `app`. */
#ifndef TIDEWIRE_LUA_BIND_TOPIC_H
#define TIDEWIRE_LUA_BIND_TOPIC_H

#include <lua.h>

int bind_topic_subscribe(lua_State *L);   /* ws:subscribe(topic) */
int bind_topic_unsubscribe(lua_State *L); /* ws:unsubscribe(topic) */
int bind_topic_publish(lua_State *L);     /* ws:publish(topic, data [, opts]) */

int bind_topic_publish_to_all(lua_State *L); /* app.publish(topic, data [, opts]) */
int bind_topic_subscribers(lua_State *L);    /* app.subscribers(topic) */

#endif
