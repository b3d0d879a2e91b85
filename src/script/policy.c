/* SPDX-License-Identifier: MIT
 * The scripts' standard library. */
#include "script/policy.h"

#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "script/coro.h"
#include "script/snapshot.h"
#include "script/vm.h"

/* ---- what is kept away ---- */

struct policy_refusal {
    const char *library, *name, *instead;
};

static const struct policy_refusal policy_refusals[] = {
    {"os", "exit", "it would end the server for everybody; to end one connection use ws:close()"},
    {"os", "setlocale", "the locale belongs to the whole process; format explicitly"},
    {"os", "execute",
     "it would stop every connection of this worker until the command ends; let another process do "
     "the work and talk to it over a socket"},
    {"io", "popen",
     "it would stop every connection of this worker until the command ends; let another process do "
     "the work and talk to it over a socket"},
    {"package", "loadlib", "C modules could take the process down; use pure Lua modules with require"},
    {"debug", "sethook", "the hook belongs to the time budget; measure with os.clock"},
    {"debug", "debug", "the server has no console; use log.debug"},
    {"debug", "getregistry", "the registry holds the server's own objects; keep yours in locals or globals"},
    {"debug", "getmetatable", "it could reach into the server's objects; use getmetatable on tables"},
    {"debug", "setmetatable", "it could break the server's objects; use setmetatable on tables"},
    {"debug", "setuservalue", "it could break the server's objects; keep your data in a table"},
    {"debug", "getuservalue", "it could reach into the server's objects; keep your data in a table"},
    {"debug", "setlocal", "it could change the locals of C functions; assign in the function itself"},
    {"debug", "setupvalue", "it could change the upvalues of C functions; assign in the function itself"},
    {"debug", "upvaluejoin", "it could change the upvalues of C functions; assign in the function itself"},
    {"debug", "setcstacklimit", "the limit belongs to the whole process"},
};

static int policy_refuse(lua_State *L)
{
    return luaL_error(L, "%s is not available in Tidewire: %s", lua_tostring(L, lua_upvalueindex(1)),
                      lua_tostring(L, lua_upvalueindex(2)));
}

static void policy_refuse_all(lua_State *L)
{
    for (size_t i = 0; i < sizeof policy_refusals / sizeof policy_refusals[0]; i++) {
        const struct policy_refusal *r = &policy_refusals[i];
        lua_getglobal(L, r->library);
        lua_pushfstring(L, "%s.%s", r->library, r->name);
        lua_pushstring(L, r->instead);
        lua_pushcclosure(L, policy_refuse, 2);
        lua_setfield(L, -2, r->name);
        lua_pop(L, 1);
    }
}

/* ---- what is changed ---- */

/* setmetatable(table, metatable) without __gc: a finaliser would run with hooks off, out of the time budget's
 * reach. */
static int policy_setmetatable(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, lua_isnil(L, 2) || lua_istable(L, 2), 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(
                L, "__gc is not available in Tidewire: finalisers could not be stopped by the time "
                   "budget; use a to-be-closed variable (local x <close>), or on_close");
    }
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

/* Lua's own load waits in the registry, by this address. */
static const char policy_load_key;

/* load(chunk [, name [, mode [, env]]]) for text only: crafted bytecode can do anything to the process. */
static int policy_load(lua_State *L)
{
    const char *mode = luaL_optstring(L, 3, "t");
    if (strchr(mode, 't') == NULL)
        return luaL_error(L, "load: binary chunks are not available in Tidewire: load the source text");
    int n = lua_gettop(L) < 3 ? 3 : lua_gettop(L);
    lua_settop(L, n);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &policy_load_key);
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    return lua_gettop(L);
}

int policy_load_text(lua_State *L, const char *data, size_t len, const char *path)
{
    if (len >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        data += 3;
        len -= 3;
    }
    if (len > 0 && data[0] == '#') { /* a line for the shell; its end stays, for the line numbers */
        const char *end = memchr(data, '\n', len);
        len = end != NULL ? len - (size_t)(end - data) : 0;
        data = end;
    }
    lua_pushfstring(L, "@%s", path);
    int status = luaL_loadbufferx(L, data, len, lua_tostring(L, -1), "t");
    lua_remove(L, -2);
    return status;
}

/* Pushes the chunk of `path`, or nil and a message. Returns how many. */
static int policy_load_file(lua_State *L, const char *path)
{
    struct snapshot_file file;
    if (snapshot_read(vm_of(L)->snapshot, path, &file) < 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "cannot read %s: %s", path, file.why);
        return 2;
    }
    if (policy_load_text(L, file.data, file.len, path) == LUA_OK)
        return 1;
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

/* loadfile(path [, mode [, env]]) */
static int policy_loadfile(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    bool has_env = !lua_isnone(L, 3);
    int n = policy_load_file(L, path);
    if (n == 1 && has_env) {
        lua_pushvalue(L, 3);
        lua_setupvalue(L, -2, 1);
    }
    return n;
}

static int policy_dofile_done(lua_State *L, int status, lua_KContext base)
{
    (void)status;
    return lua_gettop(L) - (int)base;
}

static int policy_dofile(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (policy_load_file(L, path) != 1)
        return lua_error(L);
    lua_callk(L, 0, LUA_MULTRET, 1, policy_dofile_done);
    return policy_dofile_done(L, LUA_OK, 1);
}

void policy_open_files(lua_State *L)
{
    lua_register(L, "loadfile", policy_loadfile);
    lua_register(L, "dofile", policy_dofile);
}

/* package.searchers[2]: package.path, read through the snapshot. */
static int policy_searcher(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    const char *path = luaL_checkstring(L, -1);
    const char *file_part = luaL_gsub(L, name, ".", "/");
    bool first = true;
    luaL_Buffer tried;
    luaL_buffinit(L, &tried);
    while (*path != '\0') {
        size_t n = strcspn(path, ";");
        lua_pushlstring(L, path, n);
        const char *file = luaL_gsub(L, lua_tostring(L, -1), "?", file_part);
        lua_remove(L, -2);
        struct snapshot_file got;
        if (snapshot_read(vm_of(L)->snapshot, file, &got) == 0) {
            if (policy_load_file(L, file) != 1)
                return luaL_error(L, "error loading module '%s':\n\t%s", name, lua_tostring(L, -1));
            lua_pushstring(L, file);
            return 2; /* the chunk, and the file as its argument */
        }
        lua_pushfstring(L, "%sno file '%s' (%s)", first ? "" : "\n\t", file, got.why);
        first = false;
        lua_remove(L, -2);
        luaL_addvalue(&tried);
        path += n + (path[n] == ';');
    }
    luaL_pushresult(&tried);
    return 1;
}

/* print goes to the log, which is where a server's user looks. */
static int policy_print(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_Buffer line;
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&line, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_pushresult(&line);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    log_text(LOG_INFO, &vm_of(L)->about, text, len);
    return 0;
}

/* ---- opening ---- */

static void policy_set_package(lua_State *L, const char *folder)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", folder, folder, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 1);
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "cpath");
    lua_getfield(L, -1, "searchers");
    lua_pushcfunction(L, policy_searcher);
    lua_rawseti(L, -2, 2);
    for (int i = 3; i <= 4; i++) { /* C libraries */
        lua_pushnil(L);
        lua_rawseti(L, -2, i);
    }
    lua_pop(L, 2);
}

void policy_open(lua_State *L, const char *folder)
{
    luaL_openlibs(L);
    policy_refuse_all(L);
    lua_getglobal(L, "load");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &policy_load_key);
    lua_register(L, "load", policy_load);
    lua_register(L, "setmetatable", policy_setmetatable);
    policy_open_files(L);
    lua_register(L, "print", policy_print);
    policy_set_package(L, folder);
    coro_install(L);
    luaL_getmetatable(L, LUA_FILEHANDLE); /* its __gc is Lua's own and stays that */
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
