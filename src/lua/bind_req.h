/* SPDX-License-Identifier: MIT
 * The request as scripts see it. */
#ifndef TIDEWIRE_LUA_BIND_REQ_H
#define TIDEWIRE_LUA_BIND_REQ_H

#include <lua.h>

#include "http/head.h"
#include "script/exchange.h"

void bind_req_open(lua_State *L);

/* Pushes a request object that shares `head`. */
void bind_req_push(lua_State *L, struct head *head);

/* The same with the body, which it takes out of the exchange. */
void bind_req_push_exchange(lua_State *L, struct exchange *x);

bool bind_req_is(lua_State *L, int index);
/* The status with which the server answers the request at `index` if nobody else does; 0 when a route fits.
 */
int bind_req_fallback(lua_State *L, int index);

/* Push req.remote_address and a new req.params. */
void bind_req_push_remote(lua_State *L, const struct head *head);
void bind_req_push_params(lua_State *L, const struct head *head);

/* The request at `index` was given to the function of the `ws` at the top, which it pops: that keeps it once
 * it has a context. */
void bind_req_belongs_to(lua_State *L, int index);

/* Pushes req.context of the request at `index`, when it was ever asked for; false when not, with anything
 * pushed. */
bool bind_req_push_kept_context(lua_State *L, int index);
/* Sets it to the value at the top, which it pops. */
void bind_req_set_context(lua_State *L, int index);

#endif
