/* SPDX-License-Identifier: MIT
 * Copies from one Lua state to another: what arrives, what is refused or left out and how that is told, and
 * that memory may run out at every step. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <lauxlib.h>
#include <lualib.h>

#include "base/value.h"
#include "lua/bind_json.h"
#include "lua/bind_value.h"

#define PLENTY (1 << 20)

/* ---- memory that runs out ---- */

static long allocations_left = -1; /* -1: no end; once it is 0 nothing grows */

static bool may_grow(void)
{
    if (allocations_left == 0)
        return false;
    if (allocations_left > 0)
        allocations_left--;
    return true;
}

static void *real_realloc(void *block, size_t size)
{
    static void *(*function)(void *, size_t);
    if (function == NULL)
        *(void **)&function = dlsym(RTLD_NEXT, "realloc");
    return function(block, size);
}

/* What struct buf calls, and everybody else. */
void *realloc(void *block, size_t size)
{
    return may_grow() ? real_realloc(block, size) : NULL;
}

/* `user` counts the bytes. Lua relies on it that shrinking works. */
static void *count_and_allocate(void *user, void *block, size_t old, size_t size)
{
    size_t *bytes = user;
    if (block == NULL)
        old = 0; /* it is then the kind of object */
    if (size > old && !may_grow())
        return NULL;
    *bytes += size - old;
    if (size == 0) {
        free(block);
        return NULL;
    }
    return real_realloc(block, size);
}

/* ---- two states ---- */

static lua_State *from, *to;
static size_t from_bytes, to_bytes;

static lua_State *open_state(size_t *bytes)
{
    lua_State *L = lua_newstate(count_and_allocate, bytes);
    assert_non_null(L);
    luaL_openlibs(L);
    bind_json_open(L);
    /* Everything that tells a value from another, in one order. */
    assert_int_equal(
        luaL_dostring(L,
                      "function show(v)\n"
                      "  if v == json.null then return 'null' end\n"
                      "  if type(v) ~= 'table' then return math.type(v) == 'float' and ('%a'):format(v) or\n"
                      "    ('%q'):format(v) end\n"
                      "  local parts = {}\n"
                      "  for k, x in pairs(v) do parts[#parts + 1] = show(k) .. '=' .. show(x) end\n"
                      "  table.sort(parts)\n"
                      "  return (getmetatable(v) == 'json.array' and 'array' or '') .. '{' ..\n"
                      "    table.concat(parts, ' ') .. '}'\n"
                      "end"),
        LUA_OK);
    return L;
}

static int set_up(void **state)
{
    (void)state;
    from_bytes = to_bytes = 0;
    from = open_state(&from_bytes);
    to = open_state(&to_bytes);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    allocations_left = -1;
    lua_close(from);
    lua_close(to);
    return from_bytes == 0 && to_bytes == 0 ? 0 : -1;
}

/* Leaves what the code returns at the top of `from`, and alone. */
static void run(const char *code)
{
    lua_settop(from, 0);
    if (luaL_loadstring(from, code) != LUA_OK || lua_pcall(from, 0, 1, 0) != LUA_OK)
        fail_msg("%s", lua_tostring(from, -1));
}

/* What show() makes of the copy in the other state; stays until the next. */
static const char *arrived(const struct buf *copy)
{
    lua_settop(to, 0);
    lua_getglobal(to, "show");
    bind_value_push(to, copy->data, copy->len);
    assert_int_equal(lua_gettop(to), 2);
    lua_call(to, 1, 1);
    return lua_tostring(to, 1);
}

/* Copies the value at the top of `from` as "state". */
static enum bind_value_result copy(struct buf *out, struct bind_value_dropped *dropped)
{
    enum bind_value_result result = bind_value_copy_what_can(from, -1, "state", PLENTY, out, dropped);
    assert_int_equal(lua_gettop(from), 1);
    return result;
}

/* ---- both modes ---- */

static void what_can_be_copied_arrives_in_either_mode(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"nil", "nil"},
        {"true", "true"},
        {"1", "1"},
        {"1.5", "0x1.8p+0"},
        {"'text'", "\"text\""},
        {"{}", "{}"},
        {"{a = {1, 2, {b = false}}, [2.5] = 'x', [true] = 0}",
         "{\"a\"={1=1 2=2 3={\"b\"=false}} 0x1.4p+1=\"x\" true=0}"},
        {"json.null", "null"},
        {"{json.null, a = json.null, [json.null] = 1}", "{\"a\"=null 1=null null=1}"},
        {"json.array()", "array{}"},
        {"json.array({1, {}, json.array({json.array()})})", "array{1=1 2={} 3=array{1=array{}}}"},
        {"json.array({x = 1})", "array{\"x\"=1}"},
        {"json.decode('{\"a\": [], \"b\": {}, \"c\": [null, [1.0, 1]], \"d\": null}')",
         "{\"a\"=array{} \"b\"={} \"c\"=array{1=null 2=array{1=0x1p+0 2=1}} \"d\"=null}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf strict = BUF_INIT, loose = BUF_INIT;
        struct bind_value_fault fault;
        struct bind_value_dropped dropped;
        char code[200];
        snprintf(code, sizeof code, "return %s", cases[i][0]);
        run(code);
        assert_int_equal(bind_value_copy(from, 1, "state", PLENTY, &strict, &fault), BIND_VALUE_DONE);
        assert_string_equal(arrived(&strict), cases[i][1]);
        assert_int_equal(copy(&loose, &dropped), BIND_VALUE_DONE);
        assert_int_equal(loose.len, strict.len);
        assert_memory_equal(loose.data, strict.data, strict.len);
        assert_int_equal(dropped.count, 0);
        assert_string_equal(dropped.text, "");
        buf_fini(&strict);
        buf_fini(&loose);
    }
}

static void copies_of_null_and_arrays_are_those_of_the_other_state(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("return {list = json.array(), null = json.null}");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    bind_value_push(to, out.data, out.len);
    lua_setglobal(to, "copy");
    assert_int_equal(
        luaL_dostring(to, "assert(json.encode(copy, {sort = true}) == '{\"list\":[],\"null\":null}')\n"
                          "assert(json.array(copy.list) == copy.list and copy.null == json.null)"),
        LUA_OK);
    buf_fini(&out);
}

static void the_limit_holds_in_either_mode(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "return {}",
        "return json.array()",
        "return {{{}}}",
        "return {('x'):rep(100), {a = 1, b = json.null}}",
        "local t = {} for i = 1, 9 do t = {t, t} end return t",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = BUF_INIT;
        struct bind_value_fault fault;
        struct bind_value_dropped dropped;
        run(cases[i]);
        assert_int_equal(bind_value_copy(from, 1, "state", SIZE_MAX, &out, &fault), BIND_VALUE_DONE);
        size_t len = out.len;
        /* Behind what is there already. */
        assert_int_equal(bind_value_copy(from, 1, "state", len, &out, &fault), BIND_VALUE_DONE);
        assert_int_equal(bind_value_copy_what_can(from, 1, "state", len, &out, &dropped), BIND_VALUE_DONE);
        assert_int_equal(out.len, 3 * len);
        for (size_t limit = 0; limit < len; limit += 1 + len / 200) {
            out.len = 7;
            assert_int_equal(bind_value_copy(from, 1, "state", limit, &out, &fault), BIND_VALUE_TOO_LARGE);
            assert_in_range(out.len, 7, 7 + limit + 110);
            out.len = 7;
            assert_int_equal(bind_value_copy_what_can(from, 1, "state", limit, &out, &dropped),
                             BIND_VALUE_TOO_LARGE);
            assert_in_range(out.len, 7, 7 + limit + 110);
        }
        buf_fini(&out);
    }
}

static void a_copy_that_refuses_says_where_and_what_helps(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_fault fault;
    run("return {users = {1, 2, {f = print}}}");
    assert_int_equal(bind_value_copy(from, 1, "value", PLENTY, &out, &fault), BIND_VALUE_REFUSED);
    assert_string_equal(fault.text,
                        "value.users[3].f is a function; only strings, numbers, booleans, json.null and "
                        "tables of these can be kept");
    assert_int_equal(lua_gettop(from), 1);
    buf_fini(&out);
}

/* ---- leaving out ---- */

static void what_cannot_be_copied_is_left_out_and_named(void **state)
{
    (void)state;
    static const struct {
        const char *code, *copy, *text;
    } cases[] = {
        {"{a = 1, f = print}", "{\"a\"=1}", "state.f is a function"},
        {"{users = {1, 2, {f = print, n = 'x'}}}", "{\"users\"={1=1 2=2 3={\"n\"=\"x\"}}}",
         "state.users[3].f is a function"},
        {"{1, print, 3}", "{1=1 3=3}", "state[2] is a function"},
        {"json.array({print})", "array{}", "state[1] is a function"},
        {"{['a b'] = {[true] = {[1.5] = coroutine.create(print)}}}", "{\"a b\"={true={}}}",
         "state[\"a b\"][true][1.5] is a thread"},
        {"{[json.null] = {io.stdout}}", "{null={}}", "state[json.null][1] is a userdata"},
        {"{a = {[print] = 1, b = 2}}", "{\"a\"={\"b\"=2}}", "state.a has a function as a key"},
        {"{[{}] = 1, [1] = 1}", "{1=1}", "state has a table as a key"},
        {"{[print] = print}", "{}", "state has a function as a key"},
        {"{a = setmetatable({1}, {}), b = 1}", "{\"b\"=1}", "state.a has a metatable"},
        {"(function() local t = {1} t.t = t return t end)()", "{1=1}",
         "state.t is a table that contains itself"},
        {"(function() local t = {a = {}} t.a.b = {c = t.a, d = 1} return t end)()",
         "{\"a\"={\"b\"={\"d\"=1}}}", "state.a.b.c is a table that contains itself"},
        {"(function() local t = {f = print} return {t, t} end)()", "{1={} 2={}}",
         "state[1].f is a function, state[2].f is a function"},
        {"print", "nil", "state is a function"},
        {"io.stdout", "nil", "state is a userdata"},
        {"setmetatable({1}, {})", "nil", "state has a metatable"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = BUF_INIT;
        struct bind_value_dropped dropped;
        char code[200];
        snprintf(code, sizeof code, "return %s", cases[i].code);
        run(code);
        assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
        assert_string_equal(dropped.text, cases[i].text);
        assert_int_equal(dropped.count, strchr(cases[i].text, ',') != NULL ? 2 : 1);
        assert_string_equal(arrived(&out), cases[i].copy);
        buf_fini(&out);
    }
}

static void other_light_userdata_is_left_out(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    lua_settop(from, 0);
    lua_newtable(from);
    lua_pushlightuserdata(from, &out);
    lua_setfield(from, 1, "p");
    lua_pushboolean(from, 1);
    lua_rawsetp(from, 1, &out);
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    assert_int_equal(dropped.count, 2);
    assert_non_null(strstr(dropped.text, "state.p is a userdata"));
    assert_non_null(strstr(dropped.text, "state has a userdata as a key"));
    assert_string_equal(arrived(&out), "{}");
    buf_fini(&out);
}

static void what_is_nested_too_deep_is_left_out(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("local t = {'deepest'} for i = 1, 63 do t = {t} end return t");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    assert_int_equal(dropped.count, 0);
    assert_non_null(strstr(arrived(&out), "deepest"));
    out.len = 0;
    run("local t = {'deepest'} for i = 1, 63 do t = {t} end return {t, 'kept'}");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    assert_int_equal(dropped.count, 1);
    assert_non_null(
        strstr(dropped.text, "[1][1][1]... is nested too deep; 64 tables in one another are the limit"));
    assert_null(strstr(arrived(&out), "deepest"));
    assert_non_null(strstr(arrived(&out), "kept"));
    buf_fini(&out);
}

static size_t occurrences(const char *text, const char *part)
{
    size_t n = 0;
    for (; (text = strstr(text, part)) != NULL; text += strlen(part))
        n++;
    return n;
}

static void many_are_counted_and_the_first_ten_named(void **state)
{
    (void)state;
    static const struct {
        unsigned count;
        const char *more;
    } cases[] = {{9, NULL}, {10, NULL}, {11, " and 1 more"}, {5000, " and 4990 more"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = BUF_INIT;
        struct bind_value_dropped dropped;
        char code[100];
        snprintf(code, sizeof code, "local t = {'kept'} for i = 2, %u do t[i] = print end return t",
                 cases[i].count + 1);
        run(code);
        assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
        assert_int_equal(dropped.count, cases[i].count);
        assert_int_equal(occurrences(dropped.text, " is a function"),
                         cases[i].count < 10 ? cases[i].count : 10);
        if (cases[i].more == NULL)
            assert_null(strstr(dropped.text, "more"));
        else
            assert_string_equal(dropped.text + strlen(dropped.text) - strlen(cases[i].more), cases[i].more);
        assert_string_equal(arrived(&out), "{1=\"kept\"}");
        buf_fini(&out);
    }
}

/* Ten of these do not fit: only whole ones are named, and the rest is counted. */
static void long_paths_are_named_as_far_as_they_fit(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("local t = {} for i = 1, 10 do t[i] = print end\n"
        "for i = 1, 20 do t = {[('\"'):rep(40)] = t} end return t");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    assert_int_equal(dropped.count, 10);
    assert_int_equal(occurrences(dropped.text, "... is a function"), 1);
    const char *end = strstr(dropped.text, " is a function");
    assert_string_equal(end, " is a function and 9 more");
    buf_fini(&out);
}

/* A table of functions that is there a thousand times would otherwise be gone through each time, at the price
 * of an empty one. */
static void the_limit_bounds_what_is_left_out(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("local f, t = {}, {} for i = 1, 1000 do f[i] = print t[i] = f end return t");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_TOO_LARGE);
    assert_in_range(dropped.count, PLENTY / 4, PLENTY / 2);
    out.len = 0;
    run("return {print, print}"); /* 5 bytes, and 2 for each */
    assert_int_equal(bind_value_copy_what_can(from, 1, "state", 8, &out, &dropped), BIND_VALUE_TOO_LARGE);
    out.len = 0;
    assert_int_equal(bind_value_copy_what_can(from, 1, "state", 9, &out, &dropped), BIND_VALUE_DONE);
    assert_string_equal(arrived(&out), "{}");
    buf_fini(&out);
}

/* All tables of a clique lead to all others, in more ways than could be gone. */
static void a_clique_of_tables_ends_at_the_limit(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("local all = {} for i = 1, 50 do all[i] = {} end\n"
        "for _, a in ipairs(all) do for i, b in ipairs(all) do a[i] = b end end return all");
    assert_int_equal(bind_value_copy_what_can(from, 1, "state", 50000, &out, &dropped), BIND_VALUE_TOO_LARGE);
    assert_true(dropped.count > 0);
    buf_fini(&out);
}

static void no_code_of_the_script_runs(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("local function ran() error('a metamethod ran') end\n"
        "local meta = {__index = ran, __newindex = ran, __pairs = ran, __len = ran, __tostring = ran, __eq = "
        "ran,\n"
        "  __name = setmetatable({}, {__tostring = ran}), __gc = ran, __call = ran, __close = ran}\n"
        "meta.__metatable = meta\n"
        "debug.setmetatable(0, meta) debug.setmetatable('', meta) debug.setmetatable(true, meta)\n"
        "debug.setmetatable(print, meta)\n"
        "return {1, 2.5, 'x', true, print, {[1.5] = {print}}, setmetatable({}, meta)}");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    assert_int_equal(dropped.count, 3);
    assert_string_equal(arrived(&out), "{1=1 2=0x1.4p+1 3=\"x\" 4=true 6={0x1.8p+0={}}}");
    buf_fini(&out);
}

/* ---- memory ---- */

#define MUCH                                                                                                 \
    "local t = {'a', json.null, json.array(), f = print}\n"                                                  \
    "for i = 1, 60 do t = {t, json.array({i, 'text' .. i, print}), name = ('x'):rep(i), [print] = i} end\n"  \
    "return t"

/* How many allocations it takes to copy much, with room for `reserved` bytes. With fewer it fails, each time.
 */
static long allocations_of_a_copy(size_t reserved)
{
    enum bind_value_result result = BIND_VALUE_NO_MEMORY;
    for (long steps = 0;; steps++) {
        struct buf out = BUF_INIT;
        struct bind_value_dropped dropped;
        assert_int_equal(buf_reserve(&out, reserved), 0);
        run(MUCH);
        lua_State *thread = lua_newthread(from); /* whose stack is to grow */
        lua_pushvalue(from, 1);
        lua_xmove(from, thread, 1);
        allocations_left = steps;
        result = bind_value_copy_what_can(thread, 1, "state", PLENTY, &out, &dropped);
        allocations_left = -1;
        assert_int_equal(lua_gettop(thread), 1);
        if (result == BIND_VALUE_DONE) {
            assert_int_equal(dropped.count, 121);
            assert_non_null(strstr(arrived(&out), "\"text60\""));
        }
        buf_fini(&out);
        if (result == BIND_VALUE_DONE)
            return steps;
        assert_int_equal(result, BIND_VALUE_NO_MEMORY);
    }
}

static void copying_without_memory_ends_at_every_step(void **state)
{
    (void)state;
    long stack = allocations_of_a_copy(PLENTY);
    assert_in_range(stack, 1, 10);
    assert_in_range(allocations_of_a_copy(0), stack + 5, stack + 20);
}

static void what_becomes_nil_needs_memory_too(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("return print");
    allocations_left = 0;
    enum bind_value_result result = copy(&out, &dropped);
    allocations_left = -1;
    assert_int_equal(result, BIND_VALUE_NO_MEMORY);
    assert_string_equal(dropped.text, "state is a function");
    buf_fini(&out);
}

static int call_push(lua_State *L)
{
    const struct buf *copied = lua_touserdata(L, 1);
    bind_value_push(L, copied->data, copied->len);
    return 1;
}

static void pushing_without_memory_raises_at_every_step(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    int status = LUA_ERRMEM;
    long steps = 0;
    run(MUCH);
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    for (; status != LUA_OK; steps++) {
        lua_settop(to, 0);
        lua_gc(to, LUA_GCCOLLECT);
        lua_pushcfunction(to, call_push);
        lua_pushlightuserdata(to, &out);
        allocations_left = steps;
        status = lua_pcall(to, 1, 1, 0);
        allocations_left = -1;
        if (status != LUA_OK)
            assert_int_equal(status, LUA_ERRMEM);
    }
    assert_in_range(steps, 300, 5000);
    assert_int_equal(lua_type(to, 1), LUA_TTABLE);
    assert_non_null(strstr(arrived(&out), "\"text60\""));
    buf_fini(&out);
}

static void pushing_what_is_no_value_raises(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    struct bind_value_dropped dropped;
    run("return {a = json.array({json.null, 'x'})}");
    assert_int_equal(copy(&out, &dropped), BIND_VALUE_DONE);
    while (out.len > 0) {
        out.len--;
        lua_settop(to, 0);
        lua_pushcfunction(to, call_push);
        lua_pushlightuserdata(to, &out);
        assert_int_equal(lua_pcall(to, 1, 1, 0), LUA_ERRRUN);
        assert_string_equal(lua_tostring(to, -1), "defect: not a flat copy");
    }
    buf_fini(&out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_can_be_copied_arrives_in_either_mode),
        TEST(copies_of_null_and_arrays_are_those_of_the_other_state),
        TEST(the_limit_holds_in_either_mode),
        TEST(a_copy_that_refuses_says_where_and_what_helps),
        TEST(what_cannot_be_copied_is_left_out_and_named),
        TEST(other_light_userdata_is_left_out),
        TEST(what_is_nested_too_deep_is_left_out),
        TEST(many_are_counted_and_the_first_ten_named),
        TEST(long_paths_are_named_as_far_as_they_fit),
        TEST(the_limit_bounds_what_is_left_out),
        TEST(a_clique_of_tables_ends_at_the_limit),
        TEST(no_code_of_the_script_runs),
        TEST(copying_without_memory_ends_at_every_step),
        TEST(what_becomes_nil_needs_memory_too),
        TEST(pushing_without_memory_raises_at_every_step),
        TEST(pushing_what_is_no_value_raises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
