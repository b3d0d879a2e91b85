/* SPDX-License-Identifier: MIT
 * The standard library that scripts get: Lua's own, less what would hurt the process or block every
 * connection of a worker. Each function that is kept away raises with a sentence that says what to use
 * instead. */
#ifndef TIDEWIRE_SCRIPT_POLICY_H
#define TIDEWIRE_SCRIPT_POLICY_H

#include <lua.h>

/* Opens the libraries. `require`, `dofile` and `loadfile` read through the VM's snapshot; modules are looked
 * for in `folder` first. Call within a protected call. */
void policy_open(lua_State *L, const char *folder);

#endif
