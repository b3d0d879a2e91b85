/* SPDX-License-Identifier: MIT
 * Options that scripts give in a table. */
#include "lua/bind_options.h"

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "http/head.h"

static const char *const bind_options_limits[] = {
    "close_timeout", "compression",   "compression_min", "compression_takeover",
    "idle_timeout",  "max_frame",     "max_message",     "messages_per_second",
    "on_slow",       "ping_interval", "read_ahead",      "send_limit",
};

void bind_options_set(lua_State *L, struct config *scratch, const struct config_key *key, const char *name,
                      const char *what)
{
    struct err e;
    const char *text = lua_isstring(L, -1) ? lua_tostring(L, -1) : NULL;
    if (lua_isboolean(L, -1) && key->type == CONFIG_BOOL)
        text = lua_toboolean(L, -1) ? "true" : "false";
    else if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) /* false is off */
        text = "0";
    if (text == NULL)
        luaL_error(L, "%s: %s cannot be a %s", what, name, luaL_typename(L, -1));
    if (config_set(scratch, key, name, text, false, &e) < 0)
        luaL_error(L, "%s: %s", what, e.text);
}

bool bind_options_limit(lua_State *L, struct config *scratch, const char *name, const char *what)
{
    for (size_t i = 0; i < sizeof bind_options_limits / sizeof bind_options_limits[0]; i++)
        if (strcmp(name, bind_options_limits[i]) == 0) {
            bind_options_set(L, scratch, config_find(name, strlen(name)), name, what);
            return true;
        }
    return false;
}

int bind_options_raise_unknown(lua_State *L, const char *what, const char *name, const char *others)
{
    luaL_Buffer b;
    if (config_find(name, strlen(name)) != NULL)
        return luaL_error(L, "%s: %s cannot be set here; it is an option of the configuration", what, name);
    luaL_buffinit(L, &b);
    for (size_t i = 0; i < sizeof bind_options_limits / sizeof bind_options_limits[0]; i++) {
        luaL_addstring(&b, bind_options_limits[i]);
        luaL_addstring(&b, ", ");
    }
    luaL_addstring(&b, others);
    luaL_pushresult(&b);
    return luaL_error(L, "%s: unknown option %s; there are %s", what, name, lua_tostring(L, -1));
}

int bind_options_check_protocol(const char *item, size_t len, struct err *e)
{
    return head_is_token(item, len) ? 0 : err_set(e, "not a name that a protocol can have");
}

static void bind_options_add(lua_State *L, struct config_list *list, const char *what, const char *name,
                             bind_options_check *check)
{
    size_t len;
    struct err e;
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "%s: %s: an element is a %s, not a string", what, name, luaL_typename(L, -1));
    const char *item = lua_tolstring(L, -1, &len);
    if (strlen(item) != len)
        luaL_error(L, "%s: %s: an element has a zero byte", what, name);
    if (check(item, len, &e) < 0 || config_list_add(list, item, len, &e) < 0)
        luaL_error(L, "%s: %s: \"%s\": %s", what, name, item, e.text);
}

struct config_list *bind_options_list(lua_State *L, struct config_list **list, const char *what,
                                      const char *name, bind_options_check *check)
{
    *list = calloc(1, sizeof **list);
    if (*list == NULL)
        luaL_error(L, "%s: out of memory", what);
    if (!lua_istable(L, -1)) {
        bind_options_add(L, *list, what, name, check);
        return *list;
    }
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1); /* the script's metamethods could do anything meanwhile */
    lua_pushnil(L);
    if (n > 0)
        lua_pop(L, 1);
    else if (lua_next(L, -2) != 0)
        luaL_error(L, "%s: %s is a list, as in {\"one\", \"two\"}", what, name);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        bind_options_add(L, *list, what, name, check);
        lua_pop(L, 1);
    }
    return *list;
}
