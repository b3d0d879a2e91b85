/* SPDX-License-Identifier: MIT
 * What json.decode makes of a text, json.encode writes down again: jansson has to find the same value in it,
 * and json.decode one that is written the same. With little memory either fails, and leaves nothing behind.
 *
 * The input: a byte that says how much memory there is, then the text. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <lauxlib.h>

#include "base/utf8.h"
#include "lua/bind_json.h"
#include "script/vm.h"

#include "check.h"

enum { PLENTY = 64 << 20 };

/* As much of a VM as the bindings look at. */
static struct vm vm;

static const char *text;
static size_t text_len;

static void *allocate(void *user, void *block, size_t old, size_t new)
{
    (void)user;
    old = block != NULL ? old : 0;
    if (new > old &&new - old > vm.memory_limit - vm.memory)
        return NULL;
    void *moved = NULL;
    if (new > 0) {
        moved = realloc(block, new);
        CHECK(moved != NULL);
    } else
        free(block);
    vm.memory += new - old;
    return moved;
}

/* The same value as far as JSON can tell. */
static void check_same(const char *a, size_t a_len, const char *b, size_t b_len)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *x = json_loadb(a, a_len, flags, NULL), *y = json_loadb(b, b_len, flags, NULL);
    CHECK(x != NULL && y != NULL && json_equal(x, y));
    json_decref(x);
    json_decref(y);
}

/* Pushes what json.encode(value, {pretty = ..., sort = true}) gives for the value at `index`. */
static const char *encode_sorted(lua_State *L, int index, bool pretty, size_t *len)
{
    index = lua_absindex(L, index);
    lua_getglobal(L, "json");
    lua_getfield(L, -1, "encode");
    lua_pushvalue(L, index);
    lua_createtable(L, 0, 2);
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "sort");
    lua_pushboolean(L, pretty);
    lua_setfield(L, -2, "pretty");
    lua_call(L, 2, 1);
    return lua_tolstring(L, -1, len);
}

/* May raise for lack of memory. */
static int go_round(lua_State *L)
{
    int n = bind_json_decode(L, text, text_len);
    CHECK(lua_gettop(L) == n);
    if (n == 2) {
        size_t len;
        CHECK(lua_isnil(L, 1) && lua_type(L, 2) == LUA_TSTRING);
        const char *message = lua_tolstring(L, 2, &len);
        CHECK(strncmp(message, "line ", 5) == 0 && utf8_valid(message, len));
        return 0;
    }
    CHECK(n == 1 && !lua_isnil(L, 1));

    size_t len, sorted_len, again_len;
    bind_json_encode(L, 1, NULL);
    CHECK(lua_gettop(L) == 2);
    const char *written = lua_tolstring(L, 2, &len);
    CHECK(utf8_valid(written, len));
    check_same(text, text_len, written, len);

    const char *sorted = encode_sorted(L, 1, false, &sorted_len);
    CHECK(sorted_len == len);
    CHECK(bind_json_decode(L, written, len) == 1);
    const char *again = encode_sorted(L, -1, false, &again_len);
    CHECK(again_len == sorted_len && memcmp(again, sorted, sorted_len) == 0);

    const char *pretty = encode_sorted(L, 1, true, &again_len);
    CHECK(bind_json_decode(L, pretty, again_len) == 1);
    again = encode_sorted(L, -1, false, &again_len);
    CHECK(again_len == sorted_len && memcmp(again, sorted, sorted_len) == 0);
    return 0;
}

static int open_json(lua_State *L)
{
    bind_json_open(L);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    text = (const char *)data + 1;
    text_len = size - 1;
    vm = (struct vm){.memory_limit = PLENTY};
    lua_State *L = lua_newstate(allocate, NULL);
    CHECK(L != NULL);
    *(struct vm **)lua_getextraspace(L) = &vm;
    lua_pushcfunction(L, open_json);
    CHECK(lua_pcall(L, 0, 0, 0) == LUA_OK);

    if (data[0] > 0)
        vm.memory_limit = vm.memory + 64u * data[0] * data[0];
    lua_pushcfunction(L, go_round);
    int status = lua_pcall(L, 0, 0, 0);
    CHECK(status == LUA_OK || (status == LUA_ERRMEM && data[0] > 0));

    /* Whatever it was, the next call has its memory. */
    vm.memory_limit = PLENTY;
    text = "[1]";
    text_len = 3;
    lua_pushcfunction(L, go_round);
    CHECK(lua_pcall(L, 0, 0, 0) == LUA_OK);
    lua_close(L);
    CHECK(vm.memory == 0);
    return 0;
}
