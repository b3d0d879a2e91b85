/* SPDX-License-Identifier: MIT
 * The request as scripts see it. */
#ifndef TIDEWIRE_LUA_BIND_REQ_H
#define TIDEWIRE_LUA_BIND_REQ_H

#include <lua.h>

#include "http/head.h"

void bind_req_open(lua_State *L);

/* Pushes a request object that shares `head`. */
void bind_req_push(lua_State *L, struct head *head);

/* Push req.remote_address and a new req.params. */
void bind_req_push_remote(lua_State *L, const struct head *head);
void bind_req_push_params(lua_State *L, const struct head *head);

#endif
