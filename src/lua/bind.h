/* SPDX-License-Identifier: MIT
 * The Lua API as a whole: what vm_load installs and dispatch.c calls. */
#ifndef TIDEWIRE_LUA_BIND_H
#define TIDEWIRE_LUA_BIND_H

#include "script/vm.h"

extern const struct vm_bindings bind_all;

#endif
