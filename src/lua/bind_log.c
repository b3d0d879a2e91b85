/* SPDX-License-Identifier: MIT
 * The global `log`: log.debug, log.info, log.warn, log.error, each with any number of values. */
#include "lua/bind_log.h"

#include <lauxlib.h>

#include "lua/bind_misuse.h"
#include "script/vm.h"

/* Upvalue 1 is the level. */
static int bind_log_write(lua_State *L)
{
    enum log_level level = (enum log_level)lua_tointeger(L, lua_upvalueindex(1));
    if (!log_enabled(level))
        return 0;
    int n = lua_gettop(L);
    lua_getglobal(L, "log");
    if (n > 0 && lua_type(L, 1) == LUA_TTABLE && lua_rawequal(L, 1, -1))
        return luaL_error(L, "log: call it with a dot, as in log.info(...)");
    lua_pop(L, 1);
    luaL_Buffer line;
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&line, ' ');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_pushresult(&line);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    log_text(level, &vm_of(L)->about, text, len);
    return 0;
}

void bind_log_open(lua_State *L)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};
    lua_createtable(L, 0, 4);
    for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
        lua_pushinteger(L, level);
        lua_pushcclosure(L, bind_log_write, 1);
        lua_setfield(L, -2, names[level]);
    }
    bind_misuse_guard(L, "log", "function");
    lua_setglobal(L, "log");
}
