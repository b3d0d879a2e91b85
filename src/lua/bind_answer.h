/* SPDX-License-Identifier: MIT
 * What handlers return, as an answer: a string, a table, `status, body, headers`, or a response object. */
#ifndef TIDEWIRE_LUA_BIND_ANSWER_H
#define TIDEWIRE_LUA_BIND_ANSWER_H

#include <stdbool.h>

#include <lua.h>

#include "base/buf.h"

void bind_answer_open(lua_State *L);

/* What the values at `index` and after it (those that are there) say: pushes one response object, a table
 * {status =, headers =, body =}. One that is a response object already stays what it is. Raises when they say
 * nothing; `what` begins the message. */
void bind_answer_normalise(lua_State *L, int index, const char *what);

/* Pushes the response object that accepts a handshake, with the headers in the table at `index`; 0 is none.
 */
void bind_answer_accept(lua_State *L, int index, const char *what);
/* Whether the table at `index` is a response object, or that of an accepted handshake. */
bool bind_answer_is_object(lua_State *L, int index);

/* Whether it is one still: another status makes it an answer that refuses. */
bool bind_answer_accepts(lua_State *L, int index);

/* The status of the response object at `index`; raises when it is none. */
int bind_answer_status(lua_State *L, int index, const char *what);

/* Pushes "what (main.lua:12)": who is to blame for an answer, by the place of the function at `index`. */
const char *bind_answer_place(lua_State *L, int index, const char *what);

/* Writes the headers in the table at `index` (names, with a string, a number or a list of those each) as
 * lines. Raises for what is no header, and for those that are the server's own. Sets *has_type when
 * Content-Type is among them. */
void bind_answer_write_fields(lua_State *L, int index, struct buf *fields, bool upgrade, bool *has_type,
                              const char *what);

#endif
