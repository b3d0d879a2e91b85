/* SPDX-License-Identifier: MIT
 * JSON for scripts. Jansson parses; its tree lives in memory of the VM's account and is gone when the call
 * is, however it ends. The writer goes through the Lua tables themselves: it names the place of what it
 * refuses, needs no second copy of the value, and writes 0.1 where jansson 2.14 has 0.10000000000000001. */
#include "lua/bind_json.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <lauxlib.h>

#include "base/utf8.h"
#include "script/vm.h"

/* Registry keys, by address. The first is json.null, too. */
static char bind_json_null, bind_json_array_key, bind_json_work_key;

/* ---- memory ---- */

#define BIND_JSON_FIRST     8192
#define BIND_JSON_CHUNK     16384
#define BIND_JSON_CHUNK_MAX (1 << 20)
#define BIND_JSON_SPARE     256

struct bind_json_chunk {
    struct bind_json_chunk *next;
    size_t size; /* with this header */
};

struct bind_json_key {
    const char *text;
    size_t len;
};

/* The memory of one call: what jansson allocates, the text that is written, keys to be sorted. One for each
 * VM, used by one call at a time, for JSON calls no script. To-be-closed while it is in use, so that an error
 * frees all of it at once. It comes from the VM's allocator, hence counts towards vm_memory, but the
 * collector does not know of it. */
struct bind_json_work {
    lua_Alloc alloc;
    void *user; /* for `alloc` */
    struct bind_json_chunk *chunks;
    char *at, *end;  /* what is free of the newest chunk */
    jmp_buf refused; /* where a parse ends that gets no more memory */
    json_t *root;
    char *out;
    size_t out_len, out_size;
    struct bind_json_key *keys; /* a stack */
    size_t nkeys, keys_size;
    _Alignas(8) char first[BIND_JSON_FIRST]; /* what jansson gets before there are chunks */
};

/* Whose parse jansson is busy with. */
static _Thread_local struct bind_json_work *bind_json_parsing;

static void bind_json_release(struct bind_json_work *w)
{
    for (struct bind_json_chunk *c = w->chunks, *next; c != NULL; c = next) {
        next = c->next;
        w->alloc(w->user, c, c->size, 0);
    }
    w->chunks = NULL;
    w->at = w->first;
    w->end = w->first + sizeof w->first;
    if (w->out != NULL)
        w->alloc(w->user, w->out, w->out_size, 0);
    w->out = NULL;
    w->out_len = w->out_size = 0;
    if (w->keys != NULL)
        w->alloc(w->user, w->keys, w->keys_size * sizeof *w->keys, 0);
    w->keys = NULL;
    w->nkeys = w->keys_size = 0;
}

static int bind_json_close(lua_State *L)
{
    bind_json_release(lua_touserdata(L, 1));
    return 0;
}

/* Pushes the VM's. */
static struct bind_json_work *bind_json_begin(lua_State *L)
{
    luaL_checkstack(L, LUA_MINSTACK, "json");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_json_work_key);
    lua_toclose(L, -1);
    return lua_touserdata(L, -1);
}

/* It is at `index` and goes away there. */
static void bind_json_end(lua_State *L, int index)
{
    lua_closeslot(L, index);
    lua_remove(L, index);
}

/* Raises what Lua raises when it gets no memory. */
static void bind_json_no_memory(lua_State *L, struct bind_json_work *w)
{
    bind_json_release(w);
    lua_newuserdatauv(L, vm_of(L)->memory_limit, 0); /* more than can be left */
    luaL_error(L, "not enough memory");
}

/* Grows a block to `wanted`, or more of it if that goes. */
static void *bind_json_grow(lua_State *L, struct bind_json_work *w, void *old, size_t *size, size_t unit,
                            size_t wanted)
{
    size_t doubled = *size > wanted / 2 ? *size * 2 : wanted;
    void *block = w->alloc(w->user, old, *size * unit, doubled * unit);
    if (block == NULL) {
        lua_gc(L, LUA_GCCOLLECT);
        doubled = wanted;
        block = w->alloc(w->user, old, *size * unit, doubled * unit);
    }
    if (block == NULL)
        bind_json_no_memory(L, w);
    *size = doubled;
    return block;
}

static bool bind_json_new_chunk(struct bind_json_work *w, size_t least)
{
    size_t size = w->chunks != NULL ? w->chunks->size * 2 : BIND_JSON_CHUNK;
    if (size > BIND_JSON_CHUNK_MAX)
        size = BIND_JSON_CHUNK_MAX;
    if (size < least + sizeof(struct bind_json_chunk))
        size = least + sizeof(struct bind_json_chunk);
    struct bind_json_chunk *c = w->alloc(w->user, NULL, 0, size);
    if (c == NULL)
        return false;
    *c = (struct bind_json_chunk){.next = w->chunks, .size = size};
    w->chunks = c;
    w->at = (char *)(c + 1);
    w->end = (char *)c + size;
    return true;
}

/* Jansson's malloc. When there is no memory the parse is left by a jump, not told: jansson goes on after a
 * failed allocation in its token buffer, and past its end. */
static void *bind_json_malloc(size_t size)
{
    struct bind_json_work *w = bind_json_parsing;
    if (w == NULL)
        return malloc(size);
    size_t rounded = (size + 7) & ~(size_t)7; /* no member of a json_t is aligned to more */
    if (rounded < size || (rounded > (size_t)(w->end - w->at) && !bind_json_new_chunk(w, rounded)))
        longjmp(w->refused, 1);
    void *block = w->at;
    w->at += rounded;
    return block;
}

static void bind_json_free(void *block)
{
    if (bind_json_parsing == NULL)
        free(block);
}

/* ---- decoding ---- */

/* Sets w->root. False when memory ran out. */
static bool bind_json_try_parse(struct bind_json_work *w, const char *text, size_t len, json_error_t *error)
{
    if (setjmp(w->refused) != 0) {
        bind_json_parsing = NULL;
        return false;
    }
    bind_json_parsing = w;
    w->root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, error);
    bind_json_parsing = NULL;
    return true;
}

static void bind_json_parse(lua_State *L, struct bind_json_work *w, const char *text, size_t len,
                            json_error_t *error)
{
    if (bind_json_try_parse(w, text, len, error))
        return;
    bind_json_release(w);
    lua_gc(L, LUA_GCCOLLECT);
    if (!bind_json_try_parse(w, text, len, error))
        bind_json_no_memory(L, w);
}

/* Pushes nil and the message for a fault at text[at], in UTF-8 up to there. Columns are characters. */
static int bind_json_fault(lua_State *L, const char *text, size_t at, const char *what)
{
    lua_Integer line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80)
            column++;
    }
    lua_pushnil(L);
    lua_pushfstring(L, "line %I, column %I: %s", (LUAI_UACINT)line, (LUAI_UACINT)column, what);
    return 2;
}

/* The same for the bracket of well-formed text that is one too many. */
static int bind_json_too_deep(lua_State *L, const char *text, size_t len)
{
    size_t at = 0;
    bool in_string = false;
    for (int depth = 0; at < len; at++) {
        char c = text[at];
        if (c == '"')
            in_string = !in_string;
        else if (in_string)
            at += c == '\\';
        else if (c == '[' || c == '{') {
            if (++depth > BIND_JSON_DEPTH)
                break;
        } else if (c == ']' || c == '}')
            depth--;
    }
    const char *what = lua_pushfstring(L, "more than %d levels deep", BIND_JSON_DEPTH);
    bind_json_fault(L, text, at, what);
    lua_remove(L, -3);
    return 2;
}

static bool bind_json_push_value(lua_State *L, json_t *value, int array_meta, int depth);

static bool bind_json_push_array(lua_State *L, json_t *array, int array_meta, int depth)
{
    size_t n = json_array_size(array);
    lua_createtable(L, n < INT_MAX ? (int)n : INT_MAX, 0);
    for (size_t i = 0; i < n; i++) {
        if (!bind_json_push_value(L, json_array_get(array, i), array_meta, depth))
            return false;
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushvalue(L, array_meta);
    lua_setmetatable(L, -2);
    return true;
}

static bool bind_json_push_object(lua_State *L, json_t *object, int array_meta, int depth)
{
    size_t n = json_object_size(object);
    lua_createtable(L, 0, n < INT_MAX ? (int)n : INT_MAX);
    for (void *i = json_object_iter(object); i != NULL; i = json_object_iter_next(object, i)) {
        lua_pushlstring(L, json_object_iter_key(i), json_object_iter_key_len(i));
        if (!bind_json_push_value(L, json_object_iter_value(i), array_meta, depth))
            return false;
        lua_rawset(L, -3);
    }
    return true;
}

/* False when it is nested too deep; then it leaves values on the stack. `depth` is of what contains it. */
static bool bind_json_push_value(lua_State *L, json_t *value, int array_meta, int depth)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        if (depth == BIND_JSON_DEPTH)
            return false;
        luaL_checkstack(L, 4, "json");
        return json_is_array(value) ? bind_json_push_array(L, value, array_meta, depth + 1)
                                    : bind_json_push_object(L, value, array_meta, depth + 1);
    case JSON_STRING: lua_pushlstring(L, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(value)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(value)); break;
    case JSON_TRUE: lua_pushboolean(L, 1); break;
    case JSON_FALSE: lua_pushboolean(L, 0); break;
    case JSON_NULL: lua_pushlightuserdata(L, &bind_json_null); break;
    }
    return true;
}

/* Leaves the result on top, whatever else is below. Returns how many. */
static int bind_json_decode_with(lua_State *L, struct bind_json_work *w, const char *text, size_t len)
{
    json_error_t error;
    const char *zero = memchr(text, '\0', len);
    if (zero != NULL) /* jansson passes over one after a number */
        return bind_json_fault(L, text, (size_t)(zero - text), "zero byte");
    bind_json_parse(L, w, text, len, &error);
    if (w->root == NULL && json_error_code(&error) == json_error_stack_overflow)
        return bind_json_too_deep(L, text, len);
    if (w->root == NULL) {
        char *near = strstr(error.text, " near '");
        if (near != NULL && !utf8_valid(near, strlen(near))) /* it may end within a character */
            *near = '\0';
        lua_pushnil(L);
        lua_pushfstring(L, "line %d, column %d: %s", error.line, error.column, error.text);
        return 2;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_json_array_key);
    return bind_json_push_value(L, w->root, lua_gettop(L), 0) ? 1 : bind_json_too_deep(L, text, len);
}

int bind_json_decode(lua_State *L, const char *text, size_t len)
{
    struct bind_json_work *w = bind_json_begin(L);
    int base = lua_gettop(L);
    int n = bind_json_decode_with(L, w, text, len);
    lua_rotate(L, base + 1, n);
    lua_settop(L, base + n);
    bind_json_end(L, base);
    return n;
}

static int bind_json_decode_text(lua_State *L)
{
    size_t len;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &len);
    return bind_json_decode(L, text, len);
}

/* ---- encoding: refusing ---- */

#define BIND_JSON_SHOWN     16 /* so many steps of a path */
#define BIND_JSON_SHOWN_KEY 32 /* so many bytes of a key */

/* Where in the value the writer is. */
struct bind_json_place {
    const struct bind_json_place *up; /* what contains it; NULL for the value as a whole */
    const void *table;                /* when it is one */
    const char *key;                  /* NULL: the index */
    size_t key_len;
    lua_Integer index;
};

struct bind_json_writer {
    lua_State *L;
    struct bind_json_work *work;
    int array_meta; /* on the stack */
    bool pretty, sort;
    int depth;
};

static bool bind_json_is_name(const char *key, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bool letter = (key[i] >= 'a' && key[i] <= 'z') || (key[i] >= 'A' && key[i] <= 'Z') || key[i] == '_';
        if (!letter && (i == 0 || key[i] < '0' || key[i] > '9'))
            return false;
    }
    return len > 0;
}

static void bind_json_add_step(luaL_Buffer *b, const struct bind_json_place *place)
{
    char number[32];
    size_t len = place->key_len;
    if (place->key == NULL) {
        snprintf(number, sizeof number, "[" LUA_INTEGER_FMT "]", (LUAI_UACINT)place->index);
        luaL_addstring(b, number);
        return;
    }
    if (len > BIND_JSON_SHOWN_KEY) /* not in the middle of a character */
        for (len = BIND_JSON_SHOWN_KEY; len > 0 && ((unsigned char)place->key[len] & 0xc0) == 0x80;)
            len--;
    bool name = bind_json_is_name(place->key, place->key_len);
    luaL_addstring(b, name ? "." : "[\"");
    luaL_addlstring(b, place->key, len);
    luaL_addstring(b, len < place->key_len ? "..." : "");
    luaL_addstring(b, name ? "" : "\"]");
}

/* Pushes the place's path, such as $.users[3].name. */
static void bind_json_push_path(lua_State *L, const struct bind_json_place *place)
{
    const struct bind_json_place *steps[BIND_JSON_DEPTH + 1];
    size_t n = 0;
    luaL_Buffer b;
    for (; place->up != NULL; place = place->up)
        steps[n++] = place;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '$');
    for (size_t i = 0; i < n && i < BIND_JSON_SHOWN; i++)
        bind_json_add_step(&b, steps[n - 1 - i]);
    luaL_addstring(&b, n > BIND_JSON_SHOWN ? "..." : "");
    luaL_pushresult(&b);
}

/* Raises: the path, then what is the matter with it. */
static void bind_json_refuse(const struct bind_json_writer *w, const struct bind_json_place *place,
                             const char *format, ...)
{
    lua_State *L = w->L;
    va_list args;
    va_start(args, format);
    luaL_where(L, 1);
    lua_pushliteral(L, "json: ");
    bind_json_push_path(L, place);
    lua_pushvfstring(L, format, args);
    va_end(args);
    lua_concat(L, 4);
    lua_error(L);
}

/* A table in itself, or tables nested too deep. */
static void bind_json_refuse_depth(const struct bind_json_writer *w, const struct bind_json_place *deepest)
{
    const struct bind_json_place *cycle = NULL; /* the outermost one */
    for (const struct bind_json_place *p = deepest; p != NULL; p = p->up)
        for (const struct bind_json_place *above = p->up; above != NULL; above = above->up)
            if (above->table == p->table)
                cycle = p;
    if (cycle != NULL)
        bind_json_refuse(w, cycle, " is a table that contains itself");
    bind_json_refuse(w, deepest, " is more than %d levels deep", BIND_JSON_DEPTH);
}

/* The key at the top is neither a string nor an integer. */
static void bind_json_refuse_key(const struct bind_json_writer *w, const struct bind_json_place *place)
{
    if (lua_type(w->L, -1) == LUA_TNUMBER)
        bind_json_refuse(w, place, " has the key %f", lua_tonumber(w->L, -1));
    bind_json_refuse(w, place, " has a %s as a key", luaL_typename(w->L, -1));
}

/* ---- encoding: writing ---- */

/* Room for `len` bytes, which the caller writes and counts. */
static char *bind_json_room(const struct bind_json_writer *w, size_t len)
{
    struct bind_json_work *work = w->work;
    if (len > work->out_size - work->out_len)
        work->out =
            bind_json_grow(w->L, work, work->out, &work->out_size, 1, work->out_len + len + BIND_JSON_SPARE);
    return work->out + work->out_len;
}

static void bind_json_put(const struct bind_json_writer *w, const char *text, size_t len)
{
    memcpy(bind_json_room(w, len), text, len);
    w->work->out_len += len;
}

static void bind_json_put_char(const struct bind_json_writer *w, char c)
{
    *bind_json_room(w, 1) = c;
    w->work->out_len++;
}

/* Between the brackets of a pretty value. */
static void bind_json_put_line(const struct bind_json_writer *w)
{
    if (!w->pretty)
        return;
    size_t len = 1 + 2 * (size_t)w->depth;
    char *to = bind_json_room(w, len);
    memset(to, ' ', len);
    *to = '\n';
    w->work->out_len += len;
}

static void bind_json_put_escape(const struct bind_json_writer *w, unsigned char c)
{
    static const char letters[] = {
        ['"'] = '"', ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char *to = bind_json_room(w, 7);
    if (letters[c] != '\0') {
        *to++ = '\\';
        *to = letters[c];
        w->work->out_len += 2;
    } else
        w->work->out_len += (size_t)snprintf(to, 7, "\\u%04x", c);
}

static void bind_json_put_string(const struct bind_json_writer *w, const char *text, size_t len)
{
    size_t from = 0;
    bind_json_put_char(w, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        bind_json_put(w, text + from, i - from);
        bind_json_put_escape(w, c);
        from = i + 1;
    }
    bind_json_put(w, text + from, len - from);
    bind_json_put_char(w, '"');
}

/* Puts at least `least` digits. */
static void bind_json_put_digits(const struct bind_json_writer *w, uint64_t value, int least)
{
    char text[24];
    char *at = text + sizeof text;
    for (; value > 0 || least > 0; value /= 10, least--)
        *--at = (char)('0' + value % 10);
    bind_json_put(w, at, (size_t)(text + sizeof text - at));
}

static void bind_json_put_integer(const struct bind_json_writer *w, lua_Integer value)
{
    uint64_t size = (uint64_t)value;
    if (value < 0) {
        bind_json_put_char(w, '-');
        size = 0 - size;
    }
    bind_json_put_digits(w, size, 1);
}

/* For those that a few decimals and 15 digits say, as most do: a sixth of the time of printf. */
static bool bind_json_put_short_real(const struct bind_json_writer *w, double value)
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
            bind_json_put_char(w, '-');
        bind_json_put_digits(w, (uint64_t)scaled / scale, 1);
        bind_json_put_char(w, '.');
        bind_json_put_digits(w, (uint64_t)scaled % scale, decimals > 0 ? decimals : 1);
        return true;
    }
    return false;
}

/* With the fewest digits that give the same number again, and such that it stays a float. */
static void bind_json_put_real(const struct bind_json_writer *w, double value)
{
    char text[40];
    int len = 0;
    if (bind_json_put_short_real(w, value))
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
    bind_json_put(w, text, (size_t)len);
}

static void bind_json_write(struct bind_json_writer *w, struct bind_json_place *place);

/* Checks that the table at the top is a list, and how long it is. */
static lua_Integer bind_json_list_length(const struct bind_json_writer *w,
                                         const struct bind_json_place *place)
{
    lua_State *L = w->L;
    lua_Integer n = 0, last = 0;
    for (lua_pushnil(L); lua_next(L, -2) != 0; n++) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            bind_json_refuse(w, place, " has both names and indices as keys");
        if (!lua_isinteger(L, -1))
            bind_json_refuse_key(w, place);
        lua_Integer index = lua_tointeger(L, -1);
        if (index < 1)
            bind_json_refuse(w, place, " has the index %I, and a list begins at 1", (LUAI_UACINT)index);
        if (index > last)
            last = index;
    }
    if (last != n)
        bind_json_refuse(w, place, " is a list with holes: its last index is %I, its elements are %I",
                         (LUAI_UACINT)last, (LUAI_UACINT)n);
    return n;
}

static void bind_json_write_list(struct bind_json_writer *w, const struct bind_json_place *place)
{
    lua_Integer n = bind_json_list_length(w, place);
    struct bind_json_place element = {.up = place};
    bind_json_put_char(w, '[');
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1)
            bind_json_put_char(w, ',');
        bind_json_put_line(w);
        element.index = i;
        lua_rawgeti(w->L, -1, i);
        bind_json_write(w, &element);
        lua_pop(w->L, 1);
    }
    w->depth--;
    bind_json_put_line(w);
    bind_json_put_char(w, ']');
}

/* The key at the top. */
static struct bind_json_key bind_json_check_key(const struct bind_json_writer *w,
                                                const struct bind_json_place *place)
{
    struct bind_json_key key;
    if (lua_isinteger(w->L, -1))
        bind_json_refuse(w, place, " has both names and indices as keys");
    if (lua_type(w->L, -1) != LUA_TSTRING)
        bind_json_refuse_key(w, place);
    key.text = lua_tolstring(w->L, -1, &key.len);
    if (!utf8_valid(key.text, key.len))
        bind_json_refuse(w, place, " has a key that is not UTF-8");
    return key;
}

/* The value at the top, under its key. */
static void bind_json_write_member(struct bind_json_writer *w, const struct bind_json_place *object,
                                   struct bind_json_key key)
{
    struct bind_json_place member = {.up = object, .key = key.text, .key_len = key.len};
    bind_json_put_line(w);
    bind_json_put_string(w, key.text, key.len);
    bind_json_put(w, ": ", w->pretty ? 2 : 1);
    bind_json_write(w, &member);
}

static int bind_json_compare_keys(const void *a, const void *b)
{
    const struct bind_json_key *k = a, *l = b;
    int order = memcmp(k->text, l->text, k->len < l->len ? k->len : l->len);
    return order != 0 ? order : k->len < l->len ? -1 : 1;
}

/* The members in order: the keys go on a stack above those of the objects around. */
static void bind_json_write_sorted(struct bind_json_writer *w, const struct bind_json_place *place)
{
    lua_State *L = w->L;
    struct bind_json_work *work = w->work;
    size_t base = work->nkeys;
    for (lua_pushnil(L); lua_next(L, -2) != 0; work->nkeys++) {
        lua_pop(L, 1);
        if (work->nkeys == work->keys_size)
            work->keys = bind_json_grow(L, work, work->keys, &work->keys_size, sizeof *work->keys,
                                        work->keys_size + 16);
        work->keys[work->nkeys] = bind_json_check_key(w, place);
    }
    size_t end = work->nkeys;
    qsort(work->keys + base, end - base, sizeof *work->keys, bind_json_compare_keys);
    for (size_t i = base; i < end; i++) {
        struct bind_json_key key = work->keys[i];
        if (i > base)
            bind_json_put_char(w, ',');
        lua_pushlstring(L, key.text, key.len);
        lua_rawget(L, -2);
        bind_json_write_member(w, place, key);
        lua_pop(L, 1);
    }
    work->nkeys = base;
}

static void bind_json_write_unsorted(struct bind_json_writer *w, const struct bind_json_place *place)
{
    lua_State *L = w->L;
    bool first = true;
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (!first)
            bind_json_put_char(w, ',');
        first = false;
        lua_pushvalue(L, -2);
        struct bind_json_key key = bind_json_check_key(w, place);
        lua_pop(L, 1);
        bind_json_write_member(w, place, key);
    }
}

static void bind_json_write_object(struct bind_json_writer *w, const struct bind_json_place *place)
{
    bind_json_put_char(w, '{');
    if (w->sort)
        bind_json_write_sorted(w, place);
    else
        bind_json_write_unsorted(w, place);
    w->depth--;
    bind_json_put_line(w);
    bind_json_put_char(w, '}');
}

static bool bind_json_is_marked(const struct bind_json_writer *w)
{
    bool marked = false;
    if (lua_getmetatable(w->L, -1)) {
        marked = lua_rawequal(w->L, -1, w->array_meta);
        lua_pop(w->L, 1);
    }
    return marked;
}

/* The table at the top: as a list, if it is marked as one or one of its keys says so. */
static void bind_json_write_table(struct bind_json_writer *w, struct bind_json_place *place)
{
    lua_State *L = w->L;
    place->table = lua_topointer(L, -1);
    if (w->depth == BIND_JSON_DEPTH)
        bind_json_refuse_depth(w, place);
    luaL_checkstack(L, 10, "json");
    bool list = bind_json_is_marked(w);
    lua_pushnil(L);
    if (lua_next(L, -2) == 0) {
        bind_json_put(w, list ? "[]" : "{}", 2);
        return;
    }
    list = list || lua_type(L, -2) != LUA_TSTRING;
    lua_pop(L, 2);
    w->depth++;
    if (list)
        bind_json_write_list(w, place);
    else
        bind_json_write_object(w, place);
}

static void bind_json_write_number(const struct bind_json_writer *w, const struct bind_json_place *place)
{
    if (lua_isinteger(w->L, -1)) {
        bind_json_put_integer(w, lua_tointeger(w->L, -1));
        return;
    }
    double value = lua_tonumber(w->L, -1);
    if (isnan(value))
        bind_json_refuse(w, place, " is not a number (nan)");
    if (isinf(value))
        bind_json_refuse(w, place, " is infinite");
    bind_json_put_real(w, value);
}

static void bind_json_write_string(const struct bind_json_writer *w, const struct bind_json_place *place)
{
    size_t len;
    const char *text = lua_tolstring(w->L, -1, &len);
    if (!utf8_valid(text, len))
        bind_json_refuse(w, place, " is a string that is not UTF-8");
    bind_json_put_string(w, text, len);
}

/* The value at the top, which stays there. */
static void bind_json_write(struct bind_json_writer *w, struct bind_json_place *place)
{
    lua_State *L = w->L;
    switch (lua_type(L, -1)) {
    case LUA_TNIL: bind_json_put(w, "null", 4); return;
    case LUA_TBOOLEAN:
        bind_json_put(w, lua_toboolean(L, -1) ? "true" : "false", lua_toboolean(L, -1) ? 4 : 5);
        return;
    case LUA_TNUMBER: bind_json_write_number(w, place); return;
    case LUA_TSTRING: bind_json_write_string(w, place); return;
    case LUA_TTABLE: bind_json_write_table(w, place); return;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1) == &bind_json_null) {
            bind_json_put(w, "null", 4);
            return;
        }
        break;
    }
    bool named = luaL_getmetafield(L, -1, "__name") == LUA_TSTRING; /* as in tidewire.ws */
    bind_json_refuse(w, place, " is a %s", named ? lua_tostring(L, -1) : luaL_typename(L, -1));
}

static void bind_json_encode_with(lua_State *L, int index, bool pretty, bool sort)
{
    struct bind_json_place whole = {0};
    int value = lua_absindex(L, index);
    struct bind_json_writer w = {.L = L, .pretty = pretty, .sort = sort};
    w.work = bind_json_begin(L);
    int base = lua_gettop(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_json_array_key);
    w.array_meta = lua_gettop(L);
    lua_pushvalue(L, value);
    bind_json_write(&w, &whole);
    lua_settop(L, base);
    lua_pushlstring(L, w.work->out, w.work->out_len);
    bind_json_end(L, base);
}

void bind_json_encode(lua_State *L, int index)
{
    bind_json_encode_with(L, index, false, false);
}

static bool bind_json_option(lua_State *L, const char *name)
{
    int type = lua_getfield(L, 2, name);
    if (type != LUA_TNIL && type != LUA_TBOOLEAN)
        luaL_error(L, "json.encode: %s is a boolean, not a %s", name, luaL_typename(L, -1));
    bool set = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return set;
}

static int bind_json_encode_value(lua_State *L)
{
    luaL_checkany(L, 1);
    bool pretty = false, sort = false;
    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
            lua_pushvalue(L, -2);
            const char *name = lua_tostring(L, -1);
            if (name == NULL || (strcmp(name, "pretty") != 0 && strcmp(name, "sort") != 0))
                luaL_error(L, "json.encode: no option '%s'; there are pretty and sort",
                           luaL_tolstring(L, -1, NULL));
            lua_pop(L, 1);
        }
        pretty = bind_json_option(L, "pretty");
        sort = bind_json_option(L, "sort");
    }
    bind_json_encode_with(L, 1, pretty, sort);
    return 1;
}

/* ---- the global ---- */

/* json.array([table]): marks it, so that it is an array even when it is empty. */
static int bind_json_array(lua_State *L)
{
    if (lua_isnone(L, 1))
        lua_newtable(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_json_array_key);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, -1, 2))
        return luaL_error(L, "json.array: the table has a metatable already");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static int bind_json_unknown(lua_State *L)
{
    return luaL_error(L, "json has no field '%s'; there are array, decode, encode and null",
                      luaL_tolstring(L, 2, NULL));
}

/* tostring of any light userdata: their metatable is one. */
static int bind_json_light_name(lua_State *L)
{
    if (lua_touserdata(L, 1) == &bind_json_null)
        lua_pushliteral(L, "null");
    else
        lua_pushfstring(L, "userdata: %p", lua_topointer(L, 1));
    return 1;
}

static void bind_json_use_allocator(void)
{
    json_set_alloc_funcs(bind_json_malloc, bind_json_free);
}

static void bind_json_open_work(lua_State *L)
{
    struct bind_json_work *w = lua_newuserdatauv(L, sizeof *w, 0);
    memset(w, 0, sizeof *w);
    w->alloc = lua_getallocf(L, &w->user);
    bind_json_release(w);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, bind_json_close);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, bind_json_close);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_json_work_key);
}

void bind_json_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"array", bind_json_array},
                                         {"decode", bind_json_decode_text},
                                         {"encode", bind_json_encode_value},
                                         {NULL, NULL}};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, bind_json_use_allocator);
    bind_json_open_work(L);

    lua_createtable(L, 0, 1); /* of arrays; __gc must not get into it */
    lua_pushliteral(L, "json.array");
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_json_array_key);

    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, &bind_json_null);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, bind_json_light_name);
    lua_setfield(L, -2, "__tostring");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "null");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, bind_json_unknown);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setglobal(L, "json");
}
