/* SPDX-License-Identifier: MIT
 * The global `json`, and decoding: jansson parses. Its tree lives in memory of the VM's account, and is gone
 * when the call is, however that ends. */
#include "lua/bind_json.h"

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_json_out.h"
#include "lua/bind_misuse.h"
#include "script/vm.h"

/* Registry keys, by address. The first is json.null, too. */
static char null_value, array_meta_key, work_key;

/* ---- memory ---- */

#define WORK_TYPE  "tidewire.json"
#define WORK_FIRST 8192
#define CHUNK      16384
#define CHUNK_MAX  (1 << 20)

struct chunk {
    struct chunk *next;
    size_t size; /* with this header */
};

/* What jansson allocates in one call. One for each VM, used by one call at a time, for none of it calls a
 * script. To-be-closed while it is in use, so that an error frees all of it at once. It comes from the VM's
 * allocator, hence counts towards vm_memory, but the collector does not know of it. */
struct work {
    lua_Alloc alloc;
    void *user; /* for `alloc` */
    struct chunk *chunks;
    char *at, *end;  /* what is free of the newest chunk */
    jmp_buf refused; /* where a parse ends that gets no more memory */
    json_t *root;
    _Alignas(8) char first[WORK_FIRST]; /* before there are chunks */
};

/* Whose parse jansson is busy with. */
static _Thread_local struct work *parsing;

static void work_release(struct work *w)
{
    for (struct chunk *c = w->chunks, *next; c != NULL; c = next) {
        next = c->next;
        w->alloc(w->user, c, c->size, 0);
    }
    w->chunks = NULL;
    w->at = w->first;
    w->end = w->first + sizeof w->first;
}

static int work_close(lua_State *L)
{
    work_release(luaL_checkudata(L, 1, WORK_TYPE));
    return 0;
}

static void work_open(lua_State *L)
{
    static const luaL_Reg methods[] = {{"__close", work_close}, {"__gc", work_close}, {NULL, NULL}};
    struct work *w = lua_newuserdatauv(L, sizeof *w, 0);
    memset(w, 0, sizeof *w);
    w->alloc = lua_getallocf(L, &w->user);
    work_release(w);
    luaL_newmetatable(L, WORK_TYPE);
    luaL_setfuncs(L, methods, 0);
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &work_key);
}

void bind_json_no_memory(lua_State *L)
{
    lua_newuserdatauv(L, vm_of(L)->memory_limit, 0); /* more than can be left */
    luaL_error(L, "not enough memory");
}

static bool new_chunk(struct work *w, size_t least)
{
    size_t size = w->chunks != NULL ? w->chunks->size * 2 : CHUNK;
    if (size > CHUNK_MAX)
        size = CHUNK_MAX;
    if (size < least + sizeof(struct chunk))
        size = least + sizeof(struct chunk);
    struct chunk *c = w->alloc(w->user, NULL, 0, size);
    if (c == NULL)
        return false;
    *c = (struct chunk){.next = w->chunks, .size = size};
    w->chunks = c;
    w->at = (char *)(c + 1);
    w->end = (char *)c + size;
    return true;
}

/* Jansson's malloc. When there is no memory the parse is left by a jump, not told: jansson goes on after a
 * failed allocation in its token buffer, and past its end. */
static void *work_malloc(size_t size)
{
    struct work *w = parsing;
    if (w == NULL)
        return malloc(size);
    size_t rounded = (size + 7) & ~(size_t)7; /* no member of a json_t is aligned to more */
    if (rounded < size || (rounded > (size_t)(w->end - w->at) && !new_chunk(w, rounded)))
        longjmp(w->refused, 1);
    void *block = w->at;
    w->at += rounded;
    return block;
}

static void work_free(void *block)
{
    if (parsing == NULL)
        free(block);
}

/* ---- decoding ---- */

/* Sets w->root. False when memory ran out. */
static bool try_parse(struct work *w, const char *text, size_t len, json_error_t *error)
{
    if (setjmp(w->refused) != 0) {
        parsing = NULL;
        return false;
    }
    parsing = w;
    w->root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, error);
    parsing = NULL;
    return true;
}

static void parse(lua_State *L, struct work *w, const char *text, size_t len, json_error_t *error)
{
    if (try_parse(w, text, len, error))
        return;
    work_release(w);
    lua_gc(L, LUA_GCCOLLECT);
    if (!try_parse(w, text, len, error))
        bind_json_no_memory(L);
}

/* Pushes nil and a message. Columns are characters. */
static int push_fault(lua_State *L, int line, int column, const char *what)
{
    lua_pushnil(L);
    lua_pushfstring(L, "line %d, column %d: %s", line, column, what);
    return 2;
}

/* For a fault at text[at], which is UTF-8 up to there. */
static int push_fault_at(lua_State *L, const char *text, size_t at, const char *what)
{
    int line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80)
            column++;
    }
    return push_fault(L, line, column, what);
}

/* For well-formed text with a bracket too many. */
static int push_too_deep(lua_State *L, const char *text, size_t len)
{
    size_t at = 0;
    bool in_string = false;
    for (int depth = 0; at < len; at++) {
        char c = text[at];
        if (c == '"')
            in_string = !in_string;
        else if (in_string)
            at += c == '\\';
        else if (c == ']' || c == '}')
            depth--;
        else if ((c == '[' || c == '{') && ++depth > BIND_JSON_DEPTH)
            break;
    }
    return push_fault_at(L, text, at, BIND_JSON_TOO_DEEP);
}

static bool push_value(lua_State *L, json_t *value, int array_meta, int depth);

static bool push_array(lua_State *L, json_t *array, int array_meta, int depth)
{
    size_t n = json_array_size(array);
    lua_createtable(L, n < INT_MAX ? (int)n : INT_MAX, 0);
    for (size_t i = 0; i < n; i++) {
        if (!push_value(L, json_array_get(array, i), array_meta, depth))
            return false;
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushvalue(L, array_meta);
    lua_setmetatable(L, -2);
    return true;
}

static bool push_object(lua_State *L, json_t *object, int array_meta, int depth)
{
    size_t n = json_object_size(object);
    lua_createtable(L, 0, n < INT_MAX ? (int)n : INT_MAX);
    for (void *i = json_object_iter(object); i != NULL; i = json_object_iter_next(object, i)) {
        lua_pushlstring(L, json_object_iter_key(i), json_object_iter_key_len(i));
        if (!push_value(L, json_object_iter_value(i), array_meta, depth))
            return false;
        lua_rawset(L, -3);
    }
    return true;
}

/* False when it is nested too deep; then it leaves values on the stack. `depth` is of what contains it. */
static bool push_value(lua_State *L, json_t *value, int array_meta, int depth)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        if (depth == BIND_JSON_DEPTH)
            return false;
        luaL_checkstack(L, 4, "json");
        return json_is_array(value) ? push_array(L, value, array_meta, depth + 1)
                                    : push_object(L, value, array_meta, depth + 1);
    case JSON_STRING: lua_pushlstring(L, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(value)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(value)); break;
    case JSON_TRUE: lua_pushboolean(L, 1); break;
    case JSON_FALSE: lua_pushboolean(L, 0); break;
    case JSON_NULL: bind_json_push_null(L); break;
    }
    return true;
}

/* Leaves the result on top, whatever else is below. Returns how many. */
static int decode_with(lua_State *L, struct work *w, const char *text, size_t len)
{
    json_error_t error;
    const char *zero = memchr(text, '\0', len);
    if (zero != NULL) /* jansson passes over one after a number */
        return push_fault_at(L, text, (size_t)(zero - text), "zero byte");
    parse(L, w, text, len, &error);
    if (w->root == NULL && json_error_code(&error) == json_error_stack_overflow)
        return push_too_deep(L, text, len);
    if (w->root == NULL) {
        char *near = strstr(error.text, " near '");
        if (near != NULL && !utf8_valid(near, strlen(near))) /* it may end within a character */
            *near = '\0';
        return push_fault(L, error.line, error.column, error.text);
    }
    bind_json_push_array_meta(L);
    return push_value(L, w->root, lua_gettop(L), 0) ? 1 : push_too_deep(L, text, len);
}

int bind_json_decode(lua_State *L, const char *text, size_t len)
{
    luaL_checkstack(L, LUA_MINSTACK, "json");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &work_key);
    int base = lua_gettop(L);
    struct work *w = lua_touserdata(L, base);
    work_release(w); /* when memory is out, Lua may be unable to call __close */
    lua_toclose(L, base);
    int n = decode_with(L, w, text, len);
    lua_rotate(L, base + 1, n);
    lua_settop(L, base + n);
    lua_closeslot(L, base);
    lua_remove(L, base);
    return n;
}

/* json.decode(text) */
static int call_decode(lua_State *L)
{
    size_t len;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &len);
    return bind_json_decode(L, text, len);
}

/* ---- the global ---- */

bool bind_json_is_null(lua_State *L, int index)
{
    return lua_islightuserdata(L, index) && lua_touserdata(L, index) == &null_value;
}

void bind_json_push_null(lua_State *L)
{
    lua_pushlightuserdata(L, &null_value);
}

void bind_json_push_array_meta(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &array_meta_key);
}

void bind_json_encode(lua_State *L, int index, const char *what)
{
    bind_json_out_push(L, index, &(struct bind_json_out_style){.what = what});
}

/* json.encode(value [, {pretty = boolean, sort = boolean}]) */
static int call_encode(lua_State *L)
{
    struct bind_json_out_style style = {0};
    luaL_checkany(L, 1);
    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
            const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
            bool *option = strcmp(name, "pretty") == 0 ? &style.pretty
                           : strcmp(name, "sort") == 0 ? &style.sort
                                                       : NULL;
            if (option == NULL)
                luaL_error(L, "json.encode: no option '%s'; there are pretty and sort", name);
            if (!lua_isboolean(L, -1))
                luaL_error(L, "json.encode: %s is a boolean, not a %s", name, luaL_typename(L, -1));
            *option = lua_toboolean(L, -1);
        }
    }
    bind_json_out_push(L, 1, &style);
    return 1;
}

/* json.array([table]): marks it, so that it is an array even when it is empty. */
static int call_array(lua_State *L)
{
    if (lua_isnone(L, 1))
        lua_newtable(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    bind_json_push_array_meta(L);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, -1, 2))
        return luaL_error(L, "json.array: the table has a metatable already");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

/* tostring of any light userdata: their metatable is one. */
static int light_tostring(lua_State *L)
{
    if (bind_json_is_null(L, 1))
        lua_pushliteral(L, "null");
    else
        lua_pushfstring(L, "userdata: %p", lua_topointer(L, 1));
    return 1;
}

static void use_allocator(void)
{
    json_set_alloc_funcs(work_malloc, work_free);
}

void bind_json_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"array", call_array}, {"decode", call_decode}, {"encode", call_encode}, {NULL, NULL}};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_allocator);
    work_open(L);
    bind_json_out_open(L);

    lua_createtable(L, 0, 1); /* of arrays; __gc must not get into it */
    lua_pushliteral(L, "json.array");
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_meta_key);

    luaL_newlib(L, functions);
    bind_json_push_null(L);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, light_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "null");
    bind_misuse_guard(L, "json", "field");
    lua_setglobal(L, "json");
}
