/* SPDX-License-Identifier: MIT
 * Asks a route's chain (the handler in its middleware) for the answer to a request. */
#ifndef TIDEWIRE_LUA_BIND_REQUEST_H
#define TIDEWIRE_LUA_BIND_REQUEST_H

#include <lua.h>

void bind_request_open(lua_State *L);

/* vm_bindings.request and stream_forget. */
int bind_request_run(lua_State *L);
void bind_request_stream_forget(lua_State *L, int ref);

#endif
