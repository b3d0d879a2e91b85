/* SPDX-License-Identifier: MIT
 * The `ws` object: one WebSocket as scripts see it. */
#ifndef TIDEWIRE_LUA_BIND_WS_H
#define TIDEWIRE_LUA_BIND_WS_H

#include <stdbool.h>

#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#include "ws/session.h"

void bind_ws_open(lua_State *L);

/* The session of the WebSocket that is argument 1, which is checked; NULL when it is gone. */
struct session *bind_ws_session(lua_State *L);

/* Pushes true, or nil and "closed" or "queue full"; returns how many values. */
int bind_ws_result(lua_State *L, enum session_sent sent);

/* The close code at `index` (default 1000) and the reason after it. Raises, beginning with `what`, for what a
 * program may not send. */
unsigned bind_ws_check_close(lua_State *L, int index, const char *what, const char **reason, size_t *len);

/* For bind_move.c. Pushes a new ws for the session, which refers to it from now on; `migrated` is what
 * ws.migrated says. */
void bind_ws_push_new(lua_State *L, struct session *s, bool migrated);
/* Pushes ws.state or ws.request of the ws at `index`, as far as it was ever asked for; nil else. */
enum bind_ws_kept { BIND_WS_REQUEST = 1, BIND_WS_STATE };
int bind_ws_push_kept(lua_State *L, int index, enum bind_ws_kept what);
/* Sets it for the ws at 1 to the value at the top, which it pops. */
void bind_ws_set_kept(lua_State *L, enum bind_ws_kept what);
/* Makes the request at `index` that of the ws at the top, which it pops, unless that has one. For bind_req.c.
 */
void bind_ws_keep_request_of(lua_State *L, int index);
/* Runs the route's function `handler` (a registry reference) for the ws at 1; the last call of a body. */
int bind_ws_call_route(lua_State *L, int handler);

/* vm_bindings.ws_message. */
int bind_ws_push_message(lua_State *L, const void *arg);

/* The bodies of struct vm_bindings. */
int bind_ws_on_open(lua_State *L);
int bind_ws_on_control(lua_State *L);
int bind_ws_on_drain(lua_State *L);
int bind_ws_on_close(lua_State *L);
bool bind_ws_wants_control(lua_State *L, const struct session *s, bool ping);
void bind_ws_forget(lua_State *L, struct session *s);
void bind_ws_leave(lua_State *L, int ref, uint64_t id);

#endif
