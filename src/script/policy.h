/* SPDX-License-Identifier: MIT
 * The standard library that scripts get: Lua's own, less what would hurt the process or block every
 * connection of a worker. Each function that is kept away raises with a sentence that says what to use
 * instead. */
#ifndef TIDEWIRE_SCRIPT_POLICY_H
#define TIDEWIRE_SCRIPT_POLICY_H

#include <stddef.h>

#include <lua.h>

/* Opens the libraries. `require`, `dofile` and `loadfile` read through the VM's snapshot; modules are looked
 * for in `folder` first. Call within a protected call. */
void policy_open(lua_State *L, const char *folder);

/* Only those three without `require`, beside Lua's own library. Likewise. */
void policy_open_files(lua_State *L);

/* Pushes the chunk of a script's text, or the message of a syntax error; returns Lua's status. A byte order
 * mark and a first line that begins with '#' are passed over, as luaL_loadfile does. */
int policy_load_text(lua_State *L, const char *data, size_t len, const char *path);

#endif
