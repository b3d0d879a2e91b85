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
#include "lua/bind_json.h"

#define SHOWN     16 /* so many steps of a path */
#define SHOWN_KEY 32 /* so many bytes of a key */
#define NAMED     10 /* so many places of what is dropped */
#define AND_MORE  32 /* bytes of " and 12 more" */
#define PAIR      2  /* bytes of a pair at least */

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
    struct bind_value_dropped *dropped; /* NULL: the first fault is the end */
    unsigned named;                     /* of those, in its text */
    bool full;                          /* the text */
    int depth;
};

/* ---- refusing and dropping ---- */

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

static void add_step(lua_State *L, const struct place *place, struct bind_value_fault *fault)
{
    size_t len;
    if (lua_isinteger(L, place->key))
        add(fault, "[" LUA_INTEGER_FMT "]", (LUAI_UACINT)lua_tointeger(L, place->key));
    else if (lua_type(L, place->key) == LUA_TNUMBER)
        add(fault, "[%.14g]", (double)lua_tonumber(L, place->key));
    else if (lua_type(L, place->key) == LUA_TBOOLEAN)
        add(fault, lua_toboolean(L, place->key) ? "[true]" : "[false]");
    else if (bind_json_is_null(L, place->key))
        add(fault, "[json.null]");
    else {
        const char *key = lua_tolstring(L, place->key, &len); /* a string: nothing is converted */
        add_text_key(fault, key, len);
    }
}

/* "value.users[3]" */
static void add_path(const struct copy *c, const struct place *place, struct bind_value_fault *fault)
{
    const struct place *steps[VALUE_DEPTH + 1];
    size_t n = 0;
    for (; place->up != NULL; place = place->up)
        steps[n++] = place;
    snprintf(fault->text, sizeof fault->text, "%s", c->root);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        add_step(c->L, steps[n - 1 - i], fault);
    add(fault, n > SHOWN ? "... " : " ");
}

/* One place more. The text is full at the first that finds no room, so that a long list costs little. */
static void drop(struct copy *c, const char *text)
{
    struct bind_value_dropped *d = c->dropped;
    size_t len = strlen(d->text), room = sizeof d->text - AND_MORE - len;
    const char *comma = c->named > 0 ? ", " : "";
    c->full = strlen(comma) + strlen(text) >= room;
    if (c->full)
        return;
    snprintf(d->text + len, room, "%s%s", comma, text);
    c->full = ++c->named == NAMED;
}

/* Says where, and what is the matter with it. `advice` is only for a fault. */
static enum bind_value_result refuse(struct copy *c, const struct place *place, const char *advice,
                                     const char *format, ...)
{
    struct bind_value_fault one, *fault = c->dropped != NULL ? &one : c->fault;
    va_list args;
    if (c->dropped != NULL)
        c->dropped->count++;
    if (c->full)
        return BIND_VALUE_REFUSED;
    add_path(c, place, fault);
    size_t len = strlen(fault->text);
    va_start(args, format);
    vsnprintf(fault->text + len, sizeof fault->text - len, format, args);
    va_end(args);
    if (c->dropped != NULL)
        drop(c, one.text);
    else
        add(fault, "%s", advice);
    return BIND_VALUE_REFUSED;
}

static bool is_within_itself(const struct place *place)
{
    for (const struct place *above = place->up; above != NULL; above = above->up)
        if (above->table == place->table)
            return true;
    return false;
}

/* A table in itself, or tables nested too deep. */
static enum bind_value_result refuse_depth(struct copy *c, const struct place *deepest)
{
    const struct place *cycle = NULL; /* the outermost one */
    for (const struct place *p = deepest; p != NULL; p = p->up)
        if (is_within_itself(p))
            cycle = p;
    if (cycle != NULL)
        return refuse(c, cycle, "", "is a table that contains itself");
    return refuse(c, deepest, "", "is nested too deep; %d tables in one another are the limit", VALUE_DEPTH);
}

/* ---- copying ---- */

static enum bind_value_result copy_value(struct copy *c, int index, struct place *place);

static enum bind_value_result refuse_type(struct copy *c, int index, const struct place *place, bool key)
{
    const char *type = luaL_typename(c->L, index);
    if (key)
        return refuse(c, place, "; keys are strings, numbers and booleans", "has a %s as a key", type);
    return refuse(c, place, "; only strings, numbers, booleans, json.null and tables of these can be kept",
                  "is a %s", type);
}

/* A key or value that is no table; `place` is where the value is, or the table that has the key. */
static enum bind_value_result copy_scalar(struct copy *c, int index, const struct place *place, bool key)
{
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
        if (!bind_json_is_null(L, index))
            return refuse_type(c, index, place, key);
        rc = value_put_null(c->out);
    }
    if (rc < 0)
        return BIND_VALUE_NO_MEMORY;
    return c->out->len > c->limit ? BIND_VALUE_TOO_LARGE : BIND_VALUE_DONE;
}

/* Its key is at `key`, its value above. REFUSED leaves nothing of it when things are dropped. */
static enum bind_value_result copy_pair(struct copy *c, int key, const struct place *table)
{
    size_t before = c->out->len;
    struct place inner = {.up = table, .key = key};
    enum bind_value_result result = copy_scalar(c, key, table, true);
    if (result == BIND_VALUE_DONE)
        result = copy_value(c, key + 1, &inner);
    if (result != BIND_VALUE_REFUSED || c->dropped == NULL)
        return result;
    c->out->len = before;
    if (c->limit - before < PAIR) /* so that the limit also bounds the work */
        return BIND_VALUE_TOO_LARGE;
    c->limit -= PAIR;
    return BIND_VALUE_REFUSED;
}

static enum bind_value_result copy_pairs(struct copy *c, int index, const struct place *place,
                                         uint64_t *pairs)
{
    lua_State *L = c->L;
    enum bind_value_result result = BIND_VALUE_DONE;
    lua_pushnil(L);
    while (result == BIND_VALUE_DONE && lua_next(L, index) != 0) {
        int key = lua_gettop(L) - 1;
        result = copy_pair(c, key, place);
        if (result == BIND_VALUE_DONE)
            ++*pairs;
        else if (result == BIND_VALUE_REFUSED && c->dropped != NULL)
            result = BIND_VALUE_DONE;
        lua_settop(L, key);
    }
    return result;
}

/* Whether the table has a metatable; `*array`: the one of json.array. */
static bool has_metatable(lua_State *L, int index, bool *array)
{
    *array = false;
    if (!lua_getmetatable(L, index))
        return false;
    bind_json_push_array_meta(L);
    *array = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return true;
}

static enum bind_value_result copy_table(struct copy *c, int index, struct place *place)
{
    lua_State *L = c->L;
    uint64_t pairs = 0;
    size_t at;
    bool array;
    place->table = lua_topointer(L, index);
    if (!lua_checkstack(L, 4))
        return BIND_VALUE_NO_MEMORY;
    if (has_metatable(L, index, &array) && !array)
        return refuse(c, place, ", which would be lost; copy what is in it to another table",
                      "has a metatable");
    if (c->depth == VALUE_DEPTH || (c->dropped != NULL && is_within_itself(place)))
        return refuse_depth(c, place);
    if ((array ? value_begin_array(c->out, &at) : value_begin_table(c->out, &at)) < 0)
        return BIND_VALUE_NO_MEMORY;
    if (c->out->len > c->limit)
        return BIND_VALUE_TOO_LARGE;
    c->depth++;
    enum bind_value_result result = copy_pairs(c, index, place, &pairs);
    c->depth--;
    if (result != BIND_VALUE_DONE)
        return result;
    if (pairs > UINT32_MAX)
        return BIND_VALUE_TOO_LARGE;
    value_end_table(c->out, at, (uint32_t)pairs);
    return BIND_VALUE_DONE;
}

static enum bind_value_result copy_value(struct copy *c, int index, struct place *place)
{
    if (lua_type(c->L, index) == LUA_TTABLE)
        return copy_table(c, index, place);
    return copy_scalar(c, index, place, false);
}

static enum bind_value_result copy_whole(struct copy *c, int index, size_t limit_bytes)
{
    struct place whole = {.up = NULL};
    int top = lua_gettop(c->L);
    c->limit = limit_bytes < SIZE_MAX - c->out->len ? c->out->len + limit_bytes : SIZE_MAX;
    if (!lua_checkstack(c->L, 4))
        return BIND_VALUE_NO_MEMORY;
    enum bind_value_result result = copy_value(c, lua_absindex(c->L, index), &whole);
    lua_settop(c->L, top);
    return result;
}

enum bind_value_result bind_value_copy(lua_State *L, int index, const char *root, size_t limit_bytes,
                                       struct buf *out, struct bind_value_fault *fault)
{
    struct copy c = {.L = L, .out = out, .root = root, .fault = fault};
    return copy_whole(&c, index, limit_bytes);
}

enum bind_value_result bind_value_copy_what_can(lua_State *L, int index, const char *root, size_t limit_bytes,
                                                struct buf *out, struct bind_value_dropped *dropped)
{
    struct copy c = {.L = L, .out = out, .root = root, .dropped = dropped};
    dropped->count = 0;
    dropped->text[0] = '\0';
    enum bind_value_result result = copy_whole(&c, index, limit_bytes);
    if (result == BIND_VALUE_REFUSED)
        result = value_put_nil(out) < 0 ? BIND_VALUE_NO_MEMORY : BIND_VALUE_DONE;
    if (dropped->count > c.named) {
        size_t len = strlen(dropped->text);
        snprintf(dropped->text + len, sizeof dropped->text - len, " and %zu more", dropped->count - c.named);
    }
    return result;
}

/* ---- back ---- */

/* Room for the pairs: in the list's part when the first key is 1, which is where a list begins. */
static void push_table(lua_State *L, const struct value_reader *r, const struct value_item *table)
{
    struct value_reader ahead = *r;
    struct value_item first;
    int n = table->as.pairs < INT32_MAX ? (int)table->as.pairs : INT32_MAX;
    bool list = value_next(&ahead, &first) == 1 && first.kind == VALUE_INTEGER && first.as.integer == 1;
    luaL_checkstack(L, 4, "a flat copy");
    lua_createtable(L, list ? n : 0, list ? 0 : n);
    if (table->kind == VALUE_ARRAY) {
        bind_json_push_array_meta(L);
        lua_setmetatable(L, -2);
    }
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
        case VALUE_NULL: bind_json_push_null(L); break;
        case VALUE_BOOLEAN: lua_pushboolean(L, item.as.boolean); break;
        case VALUE_INTEGER: lua_pushinteger(L, item.as.integer); break;
        case VALUE_REAL: lua_pushnumber(L, item.as.real); break;
        case VALUE_STRING: lua_pushlstring(L, item.as.string.text, item.as.string.len); break;
        case VALUE_TABLE:
        case VALUE_ARRAY: push_table(L, &r, &item); continue;
        case VALUE_END: break;
        }
        if (!item.is_key && r.depth > 0)
            lua_rawset(L, -3);
    }
    if (rc < 0 || lua_gettop(L) != top + 1)
        luaL_error(L, "defect: not a flat copy");
}
