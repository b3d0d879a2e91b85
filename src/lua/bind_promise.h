/* SPDX-License-Identifier: MIT
 * The promise: app.promise(). */
#ifndef TIDEWIRE_LUA_BIND_PROMISE_H
#define TIDEWIRE_LUA_BIND_PROMISE_H

#include <stdbool.h>

#include <lua.h>

void bind_promise_open(lua_State *L);

/* app.promise() */
int bind_promise_new(lua_State *L);

bool bind_promise_is(lua_State *L, int index);

/* Resolves, or rejects, the promise at `index` with the value at the top, which it pops. False when that had
 * been done before. */
bool bind_promise_settle(lua_State *L, int index, bool resolved);

/* vm_bindings.give_up_promises */
int bind_promise_give_up(lua_State *L);

#endif
