/* SPDX-License-Identifier: MIT
 * Lua values as flat copies. */
#include "lua/bind_value.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "base/value.h"

#define SHOWN     16 /* so many steps of a path */
#define SHOWN_KEY 32 /* so many bytes of a key */

/* Where in the value the copy is. */
struct place {
    const struct place *up; /* what contains it; NULL for the value as a whole */
    const void *table;      /* when it is one */
    int key;                /* on the stack */
};

struct copy {
    lua_State *L;
    struct buf *out;
    size_t limit;
    const char *root;
    struct bind_value_fault *fault;
    int depth;
};

/* ---- refusing ---- */

static void add(struct bind_value_fault *fault, const char *format, ...)
{
    size_t len = strlen(fault->text);
    va_list args;
    va_start(args, format);
    vsnprintf(fault->text + len, sizeof fault->text - len, format, args);
    va_end(args);
}

static bool is_name(const char *key, size_t len)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    return len > 0 && memchr(letters, key[0], sizeof letters - 1) != NULL &&
           strspn(key, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") == len;
}

static void add_text_key(struct bind_value_fault *fault, const char *key, size_t len)
{
    size_t shown = len;
    if (len > SHOWN_KEY) /* not in the middle of a character */
        for (shown = SHOWN_KEY; shown > 0 && ((unsigned char)key[shown] & 0xc0) == 0x80;)
            shown--;
    const char *dots = shown < len ? "..." : "";
    if (is_name(key, len))
        add(fault, ".%.*s%s", (int)shown, key, dots);
    else
        add(fault, "[\"%.*s%s\"]", (int)shown, key, dots);
}

static void add_step(const struct copy *c, const struct place *place)
{
    lua_State *L = c->L;
    size_t len;
    if (lua_isinteger(L, place->key))
        add(c->fault, "[" LUA_INTEGER_FMT "]", (LUAI_UACINT)lua_tointeger(L, place->key));
    else if (lua_type(L, place->key) == LUA_TNUMBER)
        add(c->fault, "[%.14g]", (double)lua_tonumber(L, place->key));
    else if (lua_type(L, place->key) == LUA_TBOOLEAN)
        add(c->fault, lua_toboolean(L, place->key) ? "[true]" : "[false]");
    else {
        const char *key = lua_tolstring(L, place->key, &len); /* a string: nothing is converted */
        add_text_key(c->fault, key, len);
    }
}

/* Says where; what is the matter with it is the caller's to add. */
static enum bind_value_result refuse(const struct copy *c, const struct place *place, const char *format, ...)
{
    const struct place *steps[VALUE_DEPTH + 1];
    size_t n = 0;
    va_list args;
    for (; place->up != NULL; place = place->up)
        steps[n++] = place;
    snprintf(c->fault->text, sizeof c->fault->text, "%s", c->root);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        add_step(c, steps[n - 1 - i]);
    add(c->fault, n > SHOWN ? "... " : " ");
    size_t len = strlen(c->fault->text);
    va_start(args, format);
    vsnprintf(c->fault->text + len, sizeof c->fault->text - len, format, args);
    va_end(args);
    return BIND_VALUE_REFUSED;
}

/* A table in itself, or tables nested too deep. */
static enum bind_value_result refuse_depth(const struct copy *c, const struct place *deepest)
{
    const struct place *cycle = NULL; /* the outermost one */
    for (const struct place *p = deepest; p != NULL; p = p->up)
        for (const struct place *above = p->up; above != NULL; above = above->up)
            if (above->table == p->table)
                cycle = p;
    if (cycle != NULL)
        return refuse(c, cycle, "is a table that contains itself");
    return refuse(c, deepest, "is nested too deep; %d tables in one another are the limit", VALUE_DEPTH);
}

/* ---- copying ---- */

static enum bind_value_result copy_value(struct copy *c, int index, struct place *place);

/* A key or value that is no table; `place` is where the value is, or the table that has the key. */
static enum bind_value_result copy_scalar(struct copy *c, int index, const struct place *place, bool key)
{
    static const char only[] = "only strings, numbers, booleans and tables of these can be kept";
    lua_State *L = c->L;
    int rc;
    size_t len;
    switch (lua_type(L, index)) {
    case LUA_TNIL: rc = value_put_nil(c->out); break;
    case LUA_TBOOLEAN: rc = value_put_boolean(c->out, lua_toboolean(L, index)); break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            rc = value_put_integer(c->out, lua_tointeger(L, index));
        else
            rc = value_put_real(c->out, lua_tonumber(L, index));
        break;
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, index, &len);
        if (len > c->limit)
            return BIND_VALUE_TOO_LARGE;
        rc = value_put_string(c->out, text, len);
        break;
    }
    default:
        if (key)
            return refuse(c, place, "has a %s as a key; keys are strings, numbers and booleans",
                          luaL_typename(L, index));
        return refuse(c, place, "is a %s; %s", luaL_typename(L, index), only);
    }
    if (rc < 0)
        return BIND_VALUE_NO_MEMORY;
    return c->out->len > c->limit ? BIND_VALUE_TOO_LARGE : BIND_VALUE_DONE;
}

static enum bind_value_result copy_table(struct copy *c, int index, struct place *place)
{
    lua_State *L = c->L;
    enum bind_value_result result = BIND_VALUE_DONE;
    uint64_t pairs = 0;
    size_t at;
    place->table = lua_topointer(L, index);
    if (lua_getmetatable(L, index)) {
        lua_pop(L, 1);
        return refuse(c, place, "has a metatable, which would be lost; copy what is in it to another table");
    }
    if (c->depth == VALUE_DEPTH)
        return refuse_depth(c, place);
    if (!lua_checkstack(L, 4) || value_begin_table(c->out, &at) < 0)
        return BIND_VALUE_NO_MEMORY;
    c->depth++;
    lua_pushnil(L);
    while (result == BIND_VALUE_DONE && lua_next(L, index) != 0) {
        int key = lua_gettop(L) - 1;
        struct place inner = {.up = place, .key = key};
        result = copy_scalar(c, key, place, true);
        if (result == BIND_VALUE_DONE)
            result = copy_value(c, key + 1, &inner);
        pairs++;
        lua_settop(L, key);
    }
    if (result == BIND_VALUE_DONE)
        value_end_table(c->out, at, (uint32_t)pairs);
    c->depth--;
    return result == BIND_VALUE_DONE && pairs > UINT32_MAX ? BIND_VALUE_TOO_LARGE : result;
}

static enum bind_value_result copy_value(struct copy *c, int index, struct place *place)
{
    if (lua_type(c->L, index) == LUA_TTABLE)
        return copy_table(c, index, place);
    return copy_scalar(c, index, place, false);
}

enum bind_value_result bind_value_copy(lua_State *L, int index, const char *root, size_t limit_bytes,
                                       struct buf *out, struct bind_value_fault *fault)
{
    struct copy c = {.L = L, .out = out, .root = root, .fault = fault};
    struct place whole = {.up = NULL};
    int top = lua_gettop(L);
    c.limit = limit_bytes < SIZE_MAX - out->len ? out->len + limit_bytes : SIZE_MAX;
    if (!lua_checkstack(L, 4))
        return BIND_VALUE_NO_MEMORY;
    enum bind_value_result result = copy_value(&c, lua_absindex(L, index), &whole);
    lua_settop(L, top);
    return result;
}

/* ---- back ---- */

/* Room for the pairs: in the list's part when the first key is 1, which is where a list begins. */
static void push_table(lua_State *L, const struct value_reader *r, uint32_t pairs)
{
    struct value_reader ahead = *r;
    struct value_item first;
    int n = pairs < INT32_MAX ? (int)pairs : INT32_MAX;
    bool list = value_next(&ahead, &first) == 1 && first.kind == VALUE_INTEGER && first.as.integer == 1;
    luaL_checkstack(L, 4, "a flat copy");
    lua_createtable(L, list ? n : 0, list ? 0 : n);
}

void bind_value_push(lua_State *L, const void *data, size_t len)
{
    struct value_reader r;
    struct value_item item;
    int rc, top = lua_gettop(L);
    luaL_checkstack(L, 4, "a flat copy");
    value_reader_init(&r, data, len);
    while ((rc = value_next(&r, &item)) > 0) {
        switch (item.kind) {
        case VALUE_NIL: lua_pushnil(L); break;
        case VALUE_BOOLEAN: lua_pushboolean(L, item.as.boolean); break;
        case VALUE_INTEGER: lua_pushinteger(L, item.as.integer); break;
        case VALUE_REAL: lua_pushnumber(L, item.as.real); break;
        case VALUE_STRING: lua_pushlstring(L, item.as.string.text, item.as.string.len); break;
        case VALUE_TABLE: push_table(L, &r, item.as.pairs); continue;
        case VALUE_END: break;
        }
        if (!item.is_key && r.depth > 0)
            lua_rawset(L, -3);
    }
    if (rc < 0 || lua_gettop(L) != top + 1)
        luaL_error(L, "defect: not a flat copy");
}
