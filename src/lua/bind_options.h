/* SPDX-License-Identifier: MIT
 * Options that scripts give in a table, {max_message = 65536, protocols = {"chat"}}: those that are named and
 * checked like keys of the configuration, and lists. All raise, beginning with `what` ("app.websocket"). */
#ifndef TIDEWIRE_LUA_BIND_OPTIONS_H
#define TIDEWIRE_LUA_BIND_OPTIONS_H

#include <stdbool.h>

#include <lua.h>

#include "base/config.h"

/* Sets the key to the value at the top, in a copy of the configuration, which may share its strings. `name`
 * is what the script calls it. */
void bind_options_set(lua_State *L, struct config *scratch, const struct config_key *key, const char *name,
                      const char *what);

/* The same for what a single WebSocket may have otherwise than the configuration says; false when `name` is
 * no such thing. */
bool bind_options_limit(lua_State *L, struct config *scratch, const char *name, const char *what);

/* Raises: there is no such option; `others` ("protocols") are there besides those of bind_options_limit. */
int bind_options_raise_unknown(lua_State *L, const char *what, const char *name, const char *others);

/* Whether one element of a list will do; else -1 with `e`. */
typedef int bind_options_check(const char *item, size_t len, struct err *e);
bind_options_check bind_options_check_protocol;

/* Makes *list, which is the caller's also when it raises, of the value at the top: a string, or a list of
 * them. Returns it. */
struct config_list *bind_options_list(lua_State *L, struct config_list **list, const char *what,
                                      const char *name, bind_options_check *check);

#endif
