/* SPDX-License-Identifier: MIT
 * The configuration file. */
#include "script/conffile.h"

#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "script/policy.h"
#include "script/sched.h"
#include "script/vm.h"

struct conffile {
    struct config *config;
    const char *path;
    struct snapshot *files; /* NULL: from the disk */
    struct err *error;
};

static int conffile_raise(lua_State *L, const struct conffile *f)
{
    return luaL_error(L, "%s: %s", f->path, f->error->text);
}

/* The value at the top as config_set takes it. */
static const char *conffile_text(lua_State *L)
{
    if (lua_type(L, -1) == LUA_TBOOLEAN)
        return lua_toboolean(L, -1) ? "true" : "false";
    return lua_tostring(L, -1);
}

/* ---- listeners in long form ---- */

static void conffile_check_names(lua_State *L, const struct conffile *f, const char *where,
                                 const char *const *names, const char *there_are)
{
    lua_pushnil(L);
    for (; lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (lua_isinteger(L, -2) && lua_istable(L, -1)) /* an element is looked at by itself */
            continue;
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        size_t i = 0;
        while (names[i] != NULL && strcmp(names[i], name) != 0)
            i++;
        if (names[i] == NULL)
            luaL_error(L, "%s: %s: unknown key %s; there are %s", f->path, where, luaL_tolstring(L, -2, NULL),
                       there_are);
    }
}

/* The string in field `name` of the table at the top, pushed; or nothing is pushed, and NULL. */
static const char *conffile_field(lua_State *L, const struct conffile *f, const char *where, const char *name)
{
    int type = lua_getfield(L, -1, name);
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        return NULL;
    }
    if (type != LUA_TSTRING)
        luaL_error(L, "%s: %s: %s is a %s, not a string", f->path, where, name, luaL_typename(L, -1));
    const char *text = lua_tostring(L, -1);
    if (strpbrk(text, "?&") != NULL)
        luaL_error(L, "%s: %s: %s: \"%s\" cannot have ? or & in it", f->path, where, name, text);
    return text;
}

/* Adds "&name=value", with a file's place relative to that of the configuration file, from the table at the
 * top to the text at `at`. */
static bool conffile_add_option(lua_State *L, const struct conffile *f, int at, const char *name, bool file)
{
    const char *value = conffile_field(L, f, "listen: tls", name);
    if (value == NULL)
        return false;
    const char *slash = file && value[0] != '/' ? strrchr(f->path, '/') : NULL;
    lua_pushvalue(L, at);
    lua_pushfstring(L, "&%s=", name);
    lua_pushlstring(L, f->path, slash != NULL ? (size_t)(slash - f->path) + 1 : 0);
    lua_pushvalue(L, -4);
    lua_concat(L, 4);
    lua_replace(L, at);
    lua_pop(L, 1);
    return true;
}

static void conffile_add_pair(lua_State *L, const struct conffile *f, int at)
{
    bool cert = conffile_add_option(L, f, at, "cert", true), key = conffile_add_option(L, f, at, "key", true);
    if (!cert || !key)
        luaL_error(L, "%s: listen: tls: a certificate is { cert = FILE, key = FILE }", f->path);
}

/* The table of tls is at the top. One certificate is in the table itself, several are its elements. */
static void conffile_add_tls(lua_State *L, const struct conffile *f, int at)
{
    lua_Integer n = luaL_len(L, -1);
    static const char *const pair[] = {"cert", "key", NULL};
    static const char *const names[] = {"cert", "key", "ca", "client", "min", NULL};
    conffile_check_names(L, f, "listen: tls", names, "cert, key, ca, client and min");
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_geti(L, -1, i) != LUA_TTABLE)
            luaL_error(L, "%s: listen: tls: element %I is a %s, not { cert = FILE, key = FILE }", f->path, i,
                       luaL_typename(L, -1));
        conffile_check_names(L, f, "listen: tls", pair, "cert and key");
        conffile_add_pair(L, f, at);
        lua_pop(L, 1);
    }
    if (n == 0)
        conffile_add_pair(L, f, at);
    else if (lua_getfield(L, -1, "cert") != LUA_TNIL || lua_getfield(L, -2, "key") != LUA_TNIL)
        luaL_error(
            L, "%s: listen: tls: with several certificates each is an element, { cert = FILE, key = FILE }",
            f->path);
    else
        lua_pop(L, 2);
    conffile_add_option(L, f, at, "ca", true);
    conffile_add_option(L, f, at, "client", false);
    conffile_add_option(L, f, at, "min", false);
}

/* Replaces the table at the top, { address =, proxy =, tls = }, by the text that means the same
 * (net/listenspec.h). */
static void conffile_write_listener(lua_State *L, const struct conffile *f)
{
    static const char *const names[] = {"address", "proxy", "tls", NULL};
    conffile_check_names(L, f, "listen", names, "address, proxy and tls");
    if (lua_getfield(L, -1, "proxy") != LUA_TNIL && !lua_isboolean(L, -1))
        luaL_error(L, "%s: listen: proxy is a %s, not true or false", f->path, luaL_typename(L, -1));
    bool proxied = lua_toboolean(L, -1);
    bool secure = lua_getfield(L, -2, "tls") != LUA_TNIL;
    if (secure && !lua_istable(L, -1))
        luaL_error(L, "%s: listen: tls is a %s, not { cert = FILE, key = FILE }", f->path,
                   luaL_typename(L, -1));
    lua_pushvalue(L, -3);
    const char *address = conffile_field(L, f, "listen", "address");
    if (address == NULL)
        luaL_error(L, "%s: listen: a table needs an address, as in { address = \"0.0.0.0:8443\" }", f->path);
    lua_pushfstring(L, "%s%s%s", proxied ? "proxy:" : "", secure ? "tls:" : "", address);
    if (secure) {
        int at = lua_gettop(L);
        lua_pushvalue(L, at - 3);
        lua_pushliteral(L, "");
        lua_insert(L, -2);
        conffile_add_tls(L, f, at + 1);
        lua_pop(L, 1);
        lua_pushfstring(L, "%s?%s", lua_tostring(L, at), lua_tostring(L, at + 1) + 1);
        lua_replace(L, at);
        lua_settop(L, at);
    }
    lua_replace(L, -6);
    lua_pop(L, 4);
}

static void conffile_set_list(lua_State *L, const struct conffile *f, const struct config_key *key)
{
    lua_Integer n = luaL_len(L, -1);
    if (n == 0)
        luaL_error(L, "%s: %s: the list is empty", f->path, key->name);
    for (lua_Integer i = 1; i <= n; i++) {
        bool table = lua_geti(L, -1, i) == LUA_TTABLE && key == config_find("listen", strlen("listen"));
        if (table)
            conffile_write_listener(L, f);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: %s: element %I is a %s, not a string", f->path, key->name, i,
                       luaL_typename(L, -1));
        if (config_set(f->config, key, key->name, lua_tostring(L, -1), i > 1, f->error) < 0)
            conffile_raise(L, f);
        lua_pop(L, 1);
    }
}

/* Key and value are on top of the stack. */
static void conffile_set(lua_State *L, const struct conffile *f)
{
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, "%s: every key of the table is a name, not a %s", f->path, luaL_typename(L, -2));
    const char *name = lua_tostring(L, -2);
    const struct config_key *key = config_find(name, strlen(name));
    if (key == NULL) {
        const char *near = config_nearest(name);
        luaL_error(L, "%s: unknown key %s%s%s%s", f->path, name, near != NULL ? "; did you mean " : "",
                   near != NULL ? near : "", near != NULL ? "?" : "");
    }
    const char *text = conffile_text(L);
    if (lua_type(L, -1) == LUA_TTABLE && key->type == CONFIG_LIST)
        conffile_set_list(L, f, key);
    else if (text == NULL)
        luaL_error(L, "%s: %s cannot be a %s", f->path, name, luaL_typename(L, -1));
    else if (config_set(f->config, key, name, text, false, f->error) < 0)
        conffile_raise(L, f);
}

static void conffile_on_steps(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, conffile_on_steps, LUA_MASKCOUNT, 1); /* no pcall holds on to it */
    luaL_error(L, "the configuration file runs for too long");
}

static int conffile_load_chunk(lua_State *L, const struct conffile *f)
{
    struct snapshot_file file;
    if (f->files == NULL)
        return luaL_loadfilex(L, f->path, "t");
    policy_open_files(L);
    if (snapshot_read(f->files, f->path, &file) < 0)
        return luaL_error(L, "cannot read %s: %s", f->path, file.why);
    return policy_load_text(L, file.data, file.len, f->path);
}

static int conffile_body(lua_State *L)
{
    const struct conffile *f = sched_take_arg(L);
    static const luaL_Reg libraries[] = {{LUA_GNAME, luaopen_base},        {LUA_TABLIBNAME, luaopen_table},
                                         {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math},
                                         {LUA_OSLIBNAME, luaopen_os},      {NULL, NULL}};
    for (const luaL_Reg *lib = libraries; lib->func != NULL; lib++) {
        luaL_requiref(L, lib->name, lib->func, 1);
        lua_pop(L, 1);
    }
    static const char *const refused[] = {"exit",    "execute",   "remove", "rename",
                                          "tmpname", "setlocale", NULL};
    lua_getglobal(L, LUA_OSLIBNAME);
    for (const char *const *name = refused; *name != NULL; name++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *name);
    }
    if (conffile_load_chunk(L, f) != LUA_OK)
        return lua_error(L);
    lua_sethook(L, conffile_on_steps, LUA_MASKCOUNT, CONFFILE_STEPS);
    lua_call(L, 0, 1);
    lua_sethook(L, NULL, 0, 0);
    if (!lua_istable(L, -1))
        return luaL_error(L, "%s: must return a table, as in return { workers = 2 }, not a %s", f->path,
                          luaL_typename(L, -1));
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
        conffile_set(L, f);
        lua_pop(L, 1);
    }
    return 0;
}

int conffile_load_from(struct config *c, const char *path, struct snapshot *files, struct err *e)
{
    struct budget budget;
    struct err detail;
    struct conffile f = {.config = c, .path = path, .files = files, .error = &detail};
    budget_init(&budget, "load_budget", c->load_budget);
    struct vm vm = {.budget = &budget,
                    .snapshot = files}; /* the door wants to know whose error it describes */
    vm.L = luaL_newstate();
    if (vm.L == NULL)
        return err_set(e, "out of memory");
    *(struct vm **)lua_getextraspace(vm.L) = &vm;
    int rc = sched_setup(vm.L, conffile_body, &f, e);
    lua_close(vm.L);
    return rc;
}

int conffile_load(struct config *c, const char *path, struct err *e)
{
    return conffile_load_from(c, path, NULL, e);
}
