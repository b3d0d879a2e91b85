/* SPDX-License-Identifier: MIT
 * Encoding. It goes through the Lua tables themselves, not through a tree of jansson's: so it names the place
 * of what it refuses, needs no second copy of the value, is three times as fast, and writes 0.1 where
 * jansson 2.14 has 0.10000000000000001. */
#include "lua/bind_json_out.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_json.h"

/* ---- memory ---- */

#define OUT_TYPE  "tidewire.json_out"
#define OUT_SPARE 256

struct key {
    const char *text;
    size_t len;
};

/* What one call writes into. One for each VM, used by one call at a time, for none of it calls a script.
 * To-be-closed while it is in use, so that an error frees the memory, which is the
 * VM allocator's. */
struct out {
    lua_Alloc alloc;
    void *user; /* for `alloc` */
    char *text;
    size_t len, size;
    struct key *keys; /* to be sorted: a stack */
    size_t nkeys, keys_size;
};

static const char out_key; /* in the registry, by its address */

static void out_release(struct out *o)
{
    o->alloc(o->user, o->text, o->size, 0);
    o->alloc(o->user, o->keys, o->keys_size * sizeof *o->keys, 0);
    *o = (struct out){.alloc = o->alloc, .user = o->user};
}

static int out_close(lua_State *L)
{
    out_release(luaL_checkudata(L, 1, OUT_TYPE));
    return 0;
}

void bind_json_out_open(lua_State *L)
{
    static const luaL_Reg methods[] = {{"__close", out_close}, {"__gc", out_close}, {NULL, NULL}};
    struct out *o = lua_newuserdatauv(L, sizeof *o, 0);
    *o = (struct out){0};
    o->alloc = lua_getallocf(L, &o->user);
    luaL_newmetatable(L, OUT_TYPE);
    luaL_setfuncs(L, methods, 0);
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &out_key);
}

/* Grows a block to `wanted` elements or more: always by a good part, so that the collector is not asked
 * often. */
static void *grow(lua_State *L, struct out *o, void *old, size_t *size, size_t unit, size_t wanted)
{
    size_t grown = *size * 2 > wanted ? *size * 2 : wanted;
    void *block = o->alloc(o->user, old, *size * unit, grown * unit);
    if (block == NULL) {
        lua_gc(L, LUA_GCCOLLECT);
        grown = *size + *size / 4 > wanted ? *size + *size / 4 : wanted;
        block = o->alloc(o->user, old, *size * unit, grown * unit);
    }
    if (block == NULL)
        bind_json_no_memory(L);
    *size = grown;
    return block;
}

/* ---- refusing ---- */

#define SHOWN     16 /* so many steps of a path */
#define SHOWN_KEY 32 /* so many bytes of a key */

/* Where in the value the writer is. */
struct place {
    const struct place *up; /* what contains it; NULL for the value as a whole */
    const void *table;      /* when it is one */
    const char *key;        /* NULL: the index */
    size_t key_len;
    lua_Integer index;
};

struct writer {
    lua_State *L;
    struct out *out;
    int array_meta; /* on the stack */
    struct bind_json_out_style style;
    int depth;
};

static bool is_name(const char *key, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bool letter = (key[i] >= 'a' && key[i] <= 'z') || (key[i] >= 'A' && key[i] <= 'Z') || key[i] == '_';
        if (!letter && (i == 0 || key[i] < '0' || key[i] > '9'))
            return false;
    }
    return len > 0;
}

static void add_step(luaL_Buffer *b, const struct place *place)
{
    char number[32];
    size_t len = place->key_len;
    if (place->key == NULL) {
        snprintf(number, sizeof number, "[" LUA_INTEGER_FMT "]", (LUAI_UACINT)place->index);
        luaL_addstring(b, number);
        return;
    }
    if (len > SHOWN_KEY) /* not in the middle of a character */
        for (len = SHOWN_KEY; len > 0 && ((unsigned char)place->key[len] & 0xc0) == 0x80;)
            len--;
    bool name = is_name(place->key, place->key_len);
    luaL_addstring(b, name ? "." : "[\"");
    luaL_addlstring(b, place->key, len);
    luaL_addstring(b, len < place->key_len ? "..." : "");
    luaL_addstring(b, name ? "" : "\"]");
}

/* Pushes the place's path, such as $.users[3].name. */
static void push_path(lua_State *L, const struct place *place)
{
    const struct place *steps[BIND_JSON_DEPTH + 1];
    size_t n = 0;
    luaL_Buffer b;
    for (; place->up != NULL; place = place->up)
        steps[n++] = place;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '$');
    for (size_t i = 0; i < n && i < SHOWN; i++)
        add_step(&b, steps[n - 1 - i]);
    luaL_addstring(&b, n > SHOWN ? "..." : "");
    luaL_pushresult(&b);
}

/* Raises: the path, then what is the matter with it. */
static void refuse(const struct writer *w, const struct place *place, const char *format, ...)
{
    lua_State *L = w->L;
    va_list args;
    va_start(args, format);
    luaL_where(L, 1);
    lua_pushfstring(L, "%s: ", w->style.what != NULL ? w->style.what : "json");
    push_path(L, place);
    lua_pushvfstring(L, format, args);
    va_end(args);
    lua_concat(L, 4);
    lua_error(L);
}

/* A table in itself, or tables nested too deep. */
static void refuse_depth(const struct writer *w, const struct place *deepest)
{
    const struct place *cycle = NULL; /* the outermost one */
    for (const struct place *p = deepest; p != NULL; p = p->up)
        for (const struct place *above = p->up; above != NULL; above = above->up)
            if (above->table == p->table)
                cycle = p;
    if (cycle != NULL)
        refuse(w, cycle, " is a table that contains itself");
    refuse(w, deepest, " is " BIND_JSON_TOO_DEEP);
}

/* A key that is neither a string nor an integer. */
static void refuse_key(const struct writer *w, const struct place *place, int key)
{
    if (lua_type(w->L, key) == LUA_TNUMBER)
        refuse(w, place, " has the key %f", lua_tonumber(w->L, key));
    refuse(w, place, " has a %s as a key", luaL_typename(w->L, key));
}

/* ---- writing ---- */

/* Room for `len` bytes, which the caller writes and counts. */
static char *room(const struct writer *w, size_t len)
{
    struct out *o = w->out;
    if (len > o->size - o->len)
        o->text = grow(w->L, o, o->text, &o->size, 1, o->len + len + OUT_SPARE);
    return o->text + o->len;
}

static void put(const struct writer *w, const char *text, size_t len)
{
    memcpy(room(w, len), text, len);
    w->out->len += len;
}

static void put_char(const struct writer *w, char c)
{
    *room(w, 1) = c;
    w->out->len++;
}

/* Between the brackets of a pretty value. */
static void put_line(const struct writer *w)
{
    if (!w->style.pretty)
        return;
    size_t len = 1 + 2 * (size_t)w->depth;
    char *to = room(w, len);
    memset(to, ' ', len);
    *to = '\n';
    w->out->len += len;
}

static void put_escape(const struct writer *w, unsigned char c)
{
    static const char letters[] = {
        ['"'] = '"', ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char *to = room(w, 7);
    if (letters[c] != '\0') {
        *to++ = '\\';
        *to = letters[c];
        w->out->len += 2;
    } else
        w->out->len += (size_t)snprintf(to, 7, "\\u%04x", c);
}

static void put_string(const struct writer *w, const char *text, size_t len)
{
    size_t from = 0;
    put_char(w, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        put(w, text + from, i - from);
        put_escape(w, c);
        from = i + 1;
    }
    put(w, text + from, len - from);
    put_char(w, '"');
}

/* Puts at least `least` digits. */
static void put_digits(const struct writer *w, uint64_t value, int least)
{
    char text[24];
    char *at = text + sizeof text;
    for (; value > 0 || least > 0; value /= 10, least--)
        *--at = (char)('0' + value % 10);
    put(w, at, (size_t)(text + sizeof text - at));
}

static void put_integer(const struct writer *w, lua_Integer value)
{
    uint64_t size = (uint64_t)value;
    if (value < 0) {
        put_char(w, '-');
        size = 0 - size;
    }
    put_digits(w, size, 1);
}

/* For those that a few decimals and 15 digits say, as most do: a sixth of the time of printf. */
static bool put_short_real(const struct writer *w, double value)
{
    uint64_t scale = 1;
    double size = fabs(value);
    for (int decimals = 0; decimals <= 6; decimals++, scale *= 10) {
        double scaled = rint(size * (double)scale);
        if (scaled >= 1e15)
            return false;
        if (scaled / (double)scale != size)
            continue;
        if (signbit(value))
            put_char(w, '-');
        put_digits(w, (uint64_t)scaled / scale, 1);
        put_char(w, '.');
        put_digits(w, (uint64_t)scaled % scale, decimals > 0 ? decimals : 1);
        return true;
    }
    return false;
}

/* With the fewest digits that give the same number again, and such that it stays a float. */
static void put_real(const struct writer *w, double value)
{
    char text[40];
    int len = 0;
    if (put_short_real(w, value))
        return;
    for (int digits = 15; digits <= 17; digits++) {
        len = snprintf(text, sizeof text - 2, "%.*g", digits, value);
        if (digits == 17 || strtod(text, NULL) == value)
            break;
    }
    if (strpbrk(text, ".e") == NULL) {
        text[len++] = '.';
        text[len++] = '0';
    }
    put(w, text, (size_t)len);
}

static void put_value(struct writer *w, struct place *place);

/* Checks that the table at the top is a list, and how long it is. */
static lua_Integer list_length(const struct writer *w, const struct place *place)
{
    lua_State *L = w->L;
    lua_Integer n = 0, last = 0;
    for (lua_pushnil(L); lua_next(L, -2) != 0; n++) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            refuse(w, place, " has both names and indices as keys");
        if (!lua_isinteger(L, -1))
            refuse_key(w, place, -1);
        lua_Integer index = lua_tointeger(L, -1);
        if (index < 1)
            refuse(w, place, " has the index %I, and a list begins at 1", (LUAI_UACINT)index);
        if (index > last)
            last = index;
    }
    if (last != n)
        refuse(w, place, " is a list with holes: its last index is %I, its elements are %I",
               (LUAI_UACINT)last, (LUAI_UACINT)n);
    return n;
}

static void put_list(struct writer *w, const struct place *place)
{
    lua_Integer n = list_length(w, place);
    struct place element = {.up = place};
    put_char(w, '[');
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1)
            put_char(w, ',');
        put_line(w);
        element.index = i;
        lua_rawgeti(w->L, -1, i);
        put_value(w, &element);
        lua_pop(w->L, 1);
    }
    w->depth--;
    put_line(w);
    put_char(w, ']');
}

/* The object's key at an index of the stack. */
static struct key check_key(const struct writer *w, const struct place *place, int index)
{
    struct key key;
    if (lua_isinteger(w->L, index))
        refuse(w, place, " has both names and indices as keys");
    if (lua_type(w->L, index) != LUA_TSTRING)
        refuse_key(w, place, index);
    key.text = lua_tolstring(w->L, index, &key.len);
    if (!utf8_valid(key.text, key.len))
        refuse(w, place, " has a key that is not UTF-8");
    return key;
}

/* The value at the top, under its key. */
static void put_member(struct writer *w, const struct place *object, struct key key)
{
    struct place member = {.up = object, .key = key.text, .key_len = key.len};
    put_line(w);
    put_string(w, key.text, key.len);
    put(w, ": ", w->style.pretty ? 2 : 1);
    put_value(w, &member);
}

static int compare_keys(const void *a, const void *b)
{
    const struct key *k = a, *l = b;
    int order = memcmp(k->text, l->text, k->len < l->len ? k->len : l->len);
    return order != 0 ? order : k->len < l->len ? -1 : 1;
}

/* The members in order: the keys go on a stack above those of the objects around. */
static void put_sorted(struct writer *w, const struct place *place)
{
    lua_State *L = w->L;
    struct out *o = w->out;
    size_t base = o->nkeys;
    for (lua_pushnil(L); lua_next(L, -2) != 0; o->nkeys++) {
        lua_pop(L, 1);
        if (o->nkeys == o->keys_size)
            o->keys = grow(L, o, o->keys, &o->keys_size, sizeof *o->keys, o->keys_size + 16);
        o->keys[o->nkeys] = check_key(w, place, -1);
    }
    size_t end = o->nkeys;
    qsort(o->keys + base, end - base, sizeof *o->keys, compare_keys);
    for (size_t i = base; i < end; i++) {
        struct key key = o->keys[i];
        if (i > base)
            put_char(w, ',');
        lua_pushlstring(L, key.text, key.len);
        lua_rawget(L, -2);
        put_member(w, place, key);
        lua_pop(L, 1);
    }
    o->nkeys = base;
}

static void put_unsorted(struct writer *w, const struct place *place)
{
    lua_State *L = w->L;
    bool first = true;
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (!first)
            put_char(w, ',');
        first = false;
        put_member(w, place, check_key(w, place, -2));
    }
}

static void put_object(struct writer *w, const struct place *place)
{
    put_char(w, '{');
    if (w->style.sort)
        put_sorted(w, place);
    else
        put_unsorted(w, place);
    w->depth--;
    put_line(w);
    put_char(w, '}');
}

static bool is_marked(const struct writer *w)
{
    bool marked = false;
    if (lua_getmetatable(w->L, -1)) {
        marked = lua_rawequal(w->L, -1, w->array_meta);
        lua_pop(w->L, 1);
    }
    return marked;
}

/* The table at the top: as a list, if it is marked as one or one of its keys says so. */
static void put_table(struct writer *w, struct place *place)
{
    lua_State *L = w->L;
    place->table = lua_topointer(L, -1);
    if (w->depth == BIND_JSON_DEPTH)
        refuse_depth(w, place);
    luaL_checkstack(L, 10, "json");
    bool list = is_marked(w);
    lua_pushnil(L);
    if (lua_next(L, -2) == 0) {
        put(w, list ? "[]" : "{}", 2);
        return;
    }
    list = list || lua_type(L, -2) != LUA_TSTRING;
    lua_pop(L, 2);
    w->depth++;
    if (list)
        put_list(w, place);
    else
        put_object(w, place);
}

static void put_number(const struct writer *w, const struct place *place)
{
    if (lua_isinteger(w->L, -1)) {
        put_integer(w, lua_tointeger(w->L, -1));
        return;
    }
    double value = lua_tonumber(w->L, -1);
    if (isnan(value))
        refuse(w, place, " is not a number (nan)");
    if (isinf(value))
        refuse(w, place, " is infinite");
    put_real(w, value);
}

static void put_text(const struct writer *w, const struct place *place)
{
    size_t len;
    const char *text = lua_tolstring(w->L, -1, &len);
    if (!utf8_valid(text, len))
        refuse(w, place, " is a string that is not UTF-8");
    put_string(w, text, len);
}

/* The value at the top, which stays there. */
static void put_value(struct writer *w, struct place *place)
{
    lua_State *L = w->L;
    switch (lua_type(L, -1)) {
    case LUA_TNIL: put(w, "null", 4); return;
    case LUA_TBOOLEAN: put(w, lua_toboolean(L, -1) ? "true" : "false", lua_toboolean(L, -1) ? 4 : 5); return;
    case LUA_TNUMBER: put_number(w, place); return;
    case LUA_TSTRING: put_text(w, place); return;
    case LUA_TTABLE: put_table(w, place); return;
    }
    if (bind_json_is_null(L, -1)) {
        put(w, "null", 4);
        return;
    }
    bool named = luaL_getmetafield(L, -1, "__name") == LUA_TSTRING; /* as in tidewire.ws */
    refuse(w, place, " is a %s", named ? lua_tostring(L, -1) : luaL_typename(L, -1));
}

void bind_json_out_push(lua_State *L, int index, const struct bind_json_out_style *style)
{
    int value = lua_absindex(L, index);
    struct writer w = {.L = L, .style = *style};
    struct place whole = {0};
    luaL_checkstack(L, LUA_MINSTACK, "json");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &out_key);
    int base = lua_gettop(L);
    w.out = lua_touserdata(L, base);
    out_release(w.out); /* when memory is out, Lua may be unable to call __close */
    lua_toclose(L, base);
    bind_json_push_array_meta(L);
    w.array_meta = lua_gettop(L);
    lua_pushvalue(L, value);
    put_value(&w, &whole);
    lua_settop(L, base);
    lua_pushlstring(L, w.out->text, w.out->len);
    lua_closeslot(L, base);
    lua_remove(L, base);
}
