/* SPDX-License-Identifier: MIT
 * The route table, rule by rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/router.h"

/* Only ASan can tell whether a lookup allocates; GCC has the function but not its header. */
#if defined(__SANITIZE_ADDRESS__)
#define COUNTS_ALLOCATIONS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTS_ALLOCATIONS
#endif
#endif

static int setup(void **state)
{
    *state = router_create();
    return *state == NULL;
}

static int teardown(void **state)
{
    router_destroy(*state);
    return 0;
}

/* Registers a pattern that must be accepted. */
static int add(struct router *r, enum router_method method, const char *pattern)
{
    struct err e = {""};
    int number = router_add(r, method, pattern, strlen(pattern), "main.lua:1", &e);
    if (number < 0)
        fail_msg("%s", e.text);
    return number;
}

/* Registers a pattern that must be refused with exactly this message. */
static void refuse_bytes(struct router *r, const char *pattern, size_t len, const char *message)
{
    struct err e = {""};
    size_t before = router_count(r);
    assert_int_equal(router_add(r, ROUTER_GET, pattern, len, "main.lua:12", &e), -1);
    assert_string_equal(e.text, message);
    assert_int_equal(router_count(r), before);
}

static void refuse(struct router *r, const char *pattern, const char *message)
{
    refuse_bytes(r, pattern, strlen(pattern), message);
}

/* Matches a copy of exactly the path's size, so that ASan sees a read beyond it. */
static int match_into(struct router *r, enum router_method method, const char *path, struct router_match *m)
{
    static char *copy;
    free(copy);
    size_t len = strlen(path);
    copy = len == 0 ? NULL : malloc(len);
    if (len > 0)
        memcpy(copy, path, len);
    memset(m, 0xa5, sizeof *m);
    int route = router_match(r, method, len == 0 ? "" : copy, len, m);
    assert_int_equal(route, m->route);
    return route;
}

static int match(struct router *r, enum router_method method, const char *path)
{
    struct router_match m;
    return match_into(r, method, path, &m);
}

static void check_capture(const struct router_match *m, size_t i, const char *name, const char *value)
{
    assert_true(i < m->ncaptures);
    assert_string_equal(m->captures[i].name, name);
    assert_int_equal(m->captures[i].value_len, strlen(value));
    assert_memory_equal(m->captures[i].value, value, strlen(value));
}

/* ---- splitting ---- */

static void slashes_make_no_difference(void **state)
{
    struct router *r = *state;
    int a = add(r, ROUTER_GET, "chat//room/");
    assert_int_equal(match(r, ROUTER_GET, "/chat/room"), a);
    assert_int_equal(match(r, ROUTER_GET, "/chat/room/"), a);
    assert_int_equal(match(r, ROUTER_GET, "//chat///room//"), a);
    assert_int_equal(match(r, ROUTER_GET, "/chat"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/chat/room/x"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/chatroom"), -1);
    assert_string_equal(router_route(r, 0)->pattern, "/chat/room");
}

static void root_fits_only_the_path_without_components(void **state)
{
    struct router *r = *state;
    assert_int_equal(match(r, ROUTER_GET, "/"), -1);
    int root = add(r, ROUTER_GET, "");
    assert_int_equal(match(r, ROUTER_GET, "/"), root);
    assert_int_equal(match(r, ROUTER_GET, "//"), root);
    assert_int_equal(match(r, ROUTER_GET, "/x"), -1);
    assert_string_equal(router_route(r, 0)->pattern, "/");
    refuse(r, "/", "main.lua:12: route / for GET is the same as /, registered at main.lua:1");
}

static void a_path_that_is_not_absolute_fits_nothing(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_OPTIONS, "/");
    add(r, ROUTER_OPTIONS, "/:x");
    assert_int_equal(match_into(r, ROUTER_OPTIONS, "*", &m), -1);
    assert_int_equal(m.allowed, 0);
    assert_int_equal(m.ncaptures, 0);
    assert_int_equal(match(r, ROUTER_OPTIONS, ""), -1);
    assert_int_equal(match(r, ROUTER_OPTIONS, "x"), -1);
}

/* ---- captures ---- */

static void captures_point_into_the_path_and_stay_encoded(void **state)
{
    struct router *r = *state;
    struct router_match m;
    int a = add(r, ROUTER_GET, "/u/:user/*/:file/*");
    assert_int_equal(match_into(r, ROUTER_GET, "/u/j%C3%BCrgen//a%2Fb/%zz/%", &m), a);
    assert_int_equal(m.ncaptures, 4);
    check_capture(&m, 0, "user", "j%C3%BCrgen");
    check_capture(&m, 1, "*", "a%2Fb");
    check_capture(&m, 2, "file", "%zz");
    check_capture(&m, 3, "*", "%");
    const char path[] = "/u/1/2/3/4";
    assert_int_equal(router_match(r, ROUTER_GET, path, sizeof path - 1, &m), a);
    assert_ptr_equal(m.captures[3].value, path + 9);
}

static void the_rest_has_at_least_one_component(void **state)
{
    struct router *r = *state;
    struct router_match m;
    int a = add(r, ROUTER_GET, "/files/**");
    assert_int_equal(match(r, ROUTER_GET, "/files"), -1);
    assert_int_equal(match_into(r, ROUTER_GET, "/files/", &m), -1);
    assert_int_equal(m.allowed, 0);
    assert_int_equal(match_into(r, ROUTER_GET, "/files/x", &m), a);
    check_capture(&m, 0, "**", "x");
    assert_int_equal(match_into(r, ROUTER_GET, "/files//a//b.txt//", &m), a);
    assert_int_equal(m.ncaptures, 1);
    check_capture(&m, 0, "**", "a//b.txt");
}

static void the_rest_may_be_the_whole_pattern(void **state)
{
    struct router *r = *state;
    struct router_match m;
    int a = add(r, ROUTER_GET, "**");
    assert_int_equal(match(r, ROUTER_GET, "/"), -1);
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/c", &m), a);
    check_capture(&m, 0, "**", "a/b/c");
    assert_string_equal(router_route(r, 0)->pattern, "/**");
}

static void captures_follow_the_rest(void **state)
{
    struct router *r = *state;
    struct router_match m;
    int a = add(r, ROUTER_GET, "/:a/x/*/**");
    assert_int_equal(match_into(r, ROUTER_GET, "/1/x/2/3/4", &m), a);
    assert_int_equal(m.ncaptures, 3);
    check_capture(&m, 0, "a", "1");
    check_capture(&m, 1, "*", "2");
    check_capture(&m, 2, "**", "3/4");
}

static void names_belong_to_the_route(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_GET, "/chat/:room");
    add(r, ROUTER_POST, "/chat/:name");
    add(r, ROUTER_GET, "/chat/:id/log");
    assert_int_equal(match_into(r, ROUTER_GET, "/chat/1", &m), 0);
    check_capture(&m, 0, "room", "1");
    assert_int_equal(match_into(r, ROUTER_POST, "/chat/1", &m), 1);
    check_capture(&m, 0, "name", "1");
    assert_int_equal(match_into(r, ROUTER_GET, "/chat/1/log", &m), 2);
    check_capture(&m, 0, "id", "1");
}

/* ---- precedence ---- */

static void constant_before_name_before_any_before_rest(void **state)
{
    struct router *r = *state;
    int rest = add(r, ROUTER_GET, "/a/**");
    int any = add(r, ROUTER_POST, "/a/*");
    int name = add(r, ROUTER_PUT, "/a/:x");
    int constant = add(r, ROUTER_PATCH, "/a/b");
    assert_int_equal(match(r, ROUTER_GET, "/a/b"), rest);
    int any_get = add(r, ROUTER_GET, "/a/*");
    assert_int_equal(match(r, ROUTER_GET, "/a/b"), any_get);
    int name_get = add(r, ROUTER_GET, "/a/:x");
    assert_int_equal(match(r, ROUTER_GET, "/a/b"), name_get);
    int constant_get = add(r, ROUTER_GET, "/a/b");
    assert_int_equal(match(r, ROUTER_GET, "/a/b"), constant_get);
    assert_int_equal(match(r, ROUTER_GET, "/a/c"), name_get);
    assert_int_equal(match(r, ROUTER_GET, "/a/b/c"), rest);
    assert_int_equal(match(r, ROUTER_POST, "/a/b"), any);
    assert_int_equal(match(r, ROUTER_PUT, "/a/b"), name);
    assert_int_equal(match(r, ROUTER_PATCH, "/a/b"), constant);
}

static void the_leftmost_difference_decides(void **state)
{
    struct router *r = *state;
    int left = add(r, ROUTER_GET, "/a/**");
    add(r, ROUTER_GET, "/:x/b/c");
    assert_int_equal(match(r, ROUTER_GET, "/a/b/c"), left);
    int name = add(r, ROUTER_GET, "/a/:x/*");
    add(r, ROUTER_GET, "/a/*/c");
    assert_int_equal(match(r, ROUTER_GET, "/a/b/c"), name);
}

static void a_dead_end_backtracks(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_GET, "/a/b/c/d");
    add(r, ROUTER_GET, "/a/:x/c/e");
    add(r, ROUTER_GET, "/:p/*/:q/f");
    add(r, ROUTER_GET, "/**");
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/c/d", &m), 0);
    assert_int_equal(m.ncaptures, 0);
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/c/e", &m), 1);
    assert_int_equal(m.ncaptures, 1);
    check_capture(&m, 0, "x", "b");
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/c/f", &m), 2);
    assert_int_equal(m.ncaptures, 3);
    check_capture(&m, 0, "p", "a");
    check_capture(&m, 1, "*", "b");
    check_capture(&m, 2, "q", "c");
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/c/g", &m), 3);
    assert_int_equal(m.ncaptures, 1);
    check_capture(&m, 0, "**", "a/b/c/g");
}

static void less_specific_patterns_do_not_touch_the_captures(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_GET, "/x/:a");
    add(r, ROUTER_GET, "/:b/:c");
    add(r, ROUTER_GET, "/*/**");
    assert_int_equal(match_into(r, ROUTER_GET, "/x/1", &m), 0);
    assert_int_equal(m.ncaptures, 1);
    check_capture(&m, 0, "a", "1");
}

/* ---- methods ---- */

static void a_pattern_without_the_method_is_no_match(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_POST, "/a/b");
    int get = add(r, ROUTER_GET, "/a/:x");
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b", &m), get);
    check_capture(&m, 0, "x", "b");
    assert_int_equal(match_into(r, ROUTER_POST, "/a/b", &m), 0);
    assert_int_equal(m.ncaptures, 0);
    assert_int_equal(match(r, ROUTER_POST, "/a/c"), -1);
}

static void allowed_has_the_methods_of_all_that_fit(void **state)
{
    struct router *r = *state;
    struct router_match m;
    add(r, ROUTER_POST, "/a/b");
    add(r, ROUTER_GET, "/a/:x");
    add(r, ROUTER_WEBSOCKET, "/a/*");
    add(r, ROUTER_DELETE, "/**");
    add(r, ROUTER_PUT, "/a");
    add(r, ROUTER_PATCH, "/a/b/c");
    uint32_t all = 1u << ROUTER_POST | 1u << ROUTER_GET | 1u << ROUTER_WEBSOCKET | 1u << ROUTER_DELETE;
    assert_int_equal(match_into(r, ROUTER_OPTIONS, "/a/b", &m), -1);
    assert_int_equal(m.allowed, all);
    assert_int_equal(m.ncaptures, 0);
    assert_int_equal(match_into(r, ROUTER_NO_METHOD, "/a/b", &m), -1);
    assert_int_equal(m.allowed, all);
    assert_int_equal(match_into(r, ROUTER_POST, "/a/b", &m), 0);
    assert_int_equal(m.allowed, all);
    assert_int_equal(match_into(r, ROUTER_PUT, "/", &m), -1);
    assert_int_equal(m.allowed, 0);
}

static void method_names(void **state)
{
    (void)state;
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(router_method_from_name(names[i], strlen(names[i])), i);
        assert_string_equal(router_method_name((enum router_method)i), names[i]);
    }
    assert_string_equal(router_method_name(ROUTER_WEBSOCKET), "WEBSOCKET");
    assert_int_equal(router_method_from_name("WEBSOCKET", 9), ROUTER_NO_METHOD);
    assert_int_equal(router_method_from_name("get", 3), ROUTER_NO_METHOD);
    assert_int_equal(router_method_from_name("GE", 2), ROUTER_NO_METHOD);
    assert_int_equal(router_method_from_name("GETS", 4), ROUTER_NO_METHOD);
    assert_int_equal(router_method_from_name("", 0), ROUTER_NO_METHOD);
}

/* ---- constants ---- */

static void constants_equal_the_decoded_component(void **state)
{
    struct router *r = *state;
    int a = add(r, ROUTER_GET, "/caf\xc3\xa9 au lait");
    assert_int_equal(match(r, ROUTER_GET, "/caf%C3%A9%20au%20lait"), a);
    assert_int_equal(match(r, ROUTER_GET, "/%63af%c3%a9%20au%20lai%74"), a);
    assert_int_equal(match(r, ROUTER_GET, "/caf%C3%A9+au+lait"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/caf%C3%A9%20au%20lai"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/Caf%C3%A9%20au%20lait"), -1);
    int percent = add(r, ROUTER_GET, "/a%41");
    assert_int_equal(match(r, ROUTER_GET, "/aA"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%41"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%2541"), percent);
}

static void an_encoded_slash_does_not_split(void **state)
{
    struct router *r = *state;
    add(r, ROUTER_GET, "/a/b");
    int one = add(r, ROUTER_GET, "/:x");
    assert_int_equal(match(r, ROUTER_GET, "/a%2Fb"), one);
}

static void a_broken_escape_equals_no_constant(void **state)
{
    struct router *r = *state;
    add(r, ROUTER_GET, "/a%");
    add(r, ROUTER_GET, "/a%4");
    add(r, ROUTER_GET, "/a%zz");
    add(r, ROUTER_GET, "/a");
    add(r, ROUTER_GET, "/aO"); /* 0x50 - 1: a digit that is none, taken for -1 */
    assert_int_equal(match(r, ROUTER_GET, "/a%5g"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%4"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%zz"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%4g"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/%61%"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/%61"), 3);
}

/* These two have the same FNV-1a hash. */
static void constants_of_one_hash_are_told_apart(void **state)
{
    struct router *r = *state;
    int a = add(r, ROUTER_GET, "/ahikxw");
    assert_int_equal(match(r, ROUTER_GET, "/arjtra"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/arjtr%61"), -1);
    int b = add(r, ROUTER_GET, "/arjtra");
    assert_int_equal(match(r, ROUTER_GET, "/ahikxw"), a);
    assert_int_equal(match(r, ROUTER_GET, "/%61hikxw"), a);
    assert_int_equal(match(r, ROUTER_GET, "/arjtra"), b);
    assert_int_equal(match(r, ROUTER_GET, "/arjtr%61"), b);
}

static void colons_and_stars_inside_are_constants(void **state)
{
    struct router *r = *state;
    struct router_match m;
    static const char *const patterns[] = {"/a:b", "/a*b", "/a*", "/a**", "/a:"};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        int number = add(r, ROUTER_GET, patterns[i]);
        assert_int_equal(match_into(r, ROUTER_GET, patterns[i], &m), number);
        assert_int_equal(m.ncaptures, 0);
    }
    assert_int_equal(match(r, ROUTER_GET, "/axb"), -1);
    assert_int_equal(match(r, ROUTER_GET, "/a%3Ab"), 0);
}

/* ---- refusals ---- */

static void the_same_pattern_twice_is_refused(void **state)
{
    struct router *r = *state;
    struct err e = {""};
    assert_int_equal(router_add(r, ROUTER_GET, "chat/:name", 10, "main.lua:3", &e), 0);
    assert_int_equal(router_add(r, ROUTER_GET, "/chat/:room", 11, "main.lua:9", &e), -1);
    assert_string_equal(e.text, "main.lua:9: route /chat/:room for GET is the same as /chat/:name, "
                                "registered at main.lua:3");
    add(r, ROUTER_WEBSOCKET, "/chat/:room");
    add(r, ROUTER_GET, "/chat/*");
    add(r, ROUTER_GET, "/chat/**");
    add(r, ROUTER_GET, "/chat/name");
    refuse(r, "/chat/*/",
           "main.lua:12: route /chat/* for GET is the same as /chat/*, registered at main.lua:1");
    refuse(r, "/chat/**",
           "main.lua:12: route /chat/** for GET is the same as /chat/**, registered at main.lua:1");
    refuse(r, "chat/name",
           "main.lua:12: route /chat/name for GET is the same as /chat/name, registered at main.lua:1");
    assert_int_equal(match(r, ROUTER_GET, "/chat/1"), 0);
}

static void misshapen_captures_are_refused(void **state)
{
    struct router *r = *state;
    refuse(r, "/a/:", "main.lua:12: route \"/a/:\": a ':' needs a name after it");
    refuse(r, ":/a", "main.lua:12: route \":/a\": a ':' needs a name after it");
    refuse(r, "/:a:b",
           "main.lua:12: route \"/:a:b\": a name has only letters, digits, '_' and '-', and 'a:b' is none");
    refuse(r, "/:*",
           "main.lua:12: route \"/:*\": a name has only letters, digits, '_' and '-', and '*' is none");
    refuse(
        r, "/:id(x)",
        "main.lua:12: route \"/:id(x)\": a name has only letters, digits, '_' and '-', and 'id(x)' is none");
    refuse(r, "/*x", "main.lua:12: route \"/*x\": '*' and '**' stand alone between slashes, unlike '*x'");
    refuse(r, "/**x", "main.lua:12: route \"/**x\": '*' and '**' stand alone between slashes, unlike '**x'");
    refuse(r, "/***", "main.lua:12: route \"/***\": '*' and '**' stand alone between slashes, unlike '***'");
    refuse(r, "/*x*", "main.lua:12: route \"/*x*\": '*' and '**' stand alone between slashes, unlike '*x*'");
    refuse(r, "/**/a", "main.lua:12: route \"/**/a\": '**' takes the rest of the path, so it must come last");
    refuse(r, "/:a/x/:a", "main.lua:12: route \"/:a/x/:a\": the name ':a' is there twice");
    add(r, ROUTER_GET, "/:a/:A/:a-1/:a_/:\xc3\xa9");
    add(r, ROUTER_GET, "/a/:b/b/**/");
}

static void bytes_that_no_path_has_are_refused(void **state)
{
    struct router *r = *state;
    refuse_bytes(
        r, "/a\0b", 4,
        "main.lua:12: route \"/a\\x00b\": byte 3 is the control character 0x00, which no path can have");
    refuse(r, "a\n",
           "main.lua:12: route \"a\\x0a\": byte 2 is the control character 0x0a, which no path can have");
    refuse(r, "\x7f",
           "main.lua:12: route \"\\x7f\": byte 1 is the control character 0x7f, which no path can have");
    refuse(r, "\x1f",
           "main.lua:12: route \"\\x1f\": byte 1 is the control character 0x1f, which no path can have");
    refuse(r, "/a?b=c", "main.lua:12: route \"/a?b=c\": '?' cannot be part of a path");
    refuse(r, "/:a#", "main.lua:12: route \"/:a#\": '#' cannot be part of a path");
    add(r, ROUTER_GET, "/\x80\xff !~");
}

static void long_patterns_are_refused(void **state)
{
    struct router *r = *state;
    struct router_match m;
    char pattern[ROUTER_MAX_PATTERN + 1];
    memset(pattern, 'x', sizeof pattern);
    pattern[0] = '/';
    assert_int_equal(router_add(r, ROUTER_GET, pattern, ROUTER_MAX_PATTERN, "main.lua:1", NULL), 0);
    assert_int_equal(router_match(r, ROUTER_GET, pattern, ROUTER_MAX_PATTERN, &m), 0);
    assert_int_equal(router_match(r, ROUTER_GET, pattern, sizeof pattern, &m), -1);
    struct err e = {""};
    assert_int_equal(router_add(r, ROUTER_GET, pattern, sizeof pattern, "main.lua:12", &e), -1);
    assert_memory_equal(e.text, "main.lua:12: route \"/xxx", 24);
    assert_non_null(strstr(e.text, "x...\": it is longer than 1024 bytes"));
    /* Without a leading slash the whole length can be one component. */
    pattern[0] = 'y';
    assert_int_equal(router_add(r, ROUTER_GET, pattern, ROUTER_MAX_PATTERN, "main.lua:1", NULL), 1);
    assert_int_equal(strlen(router_route(r, 1)->pattern), ROUTER_MAX_PATTERN + 1);
    assert_int_equal(match(r, ROUTER_GET, router_route(r, 1)->pattern), 1);
}

/* Replaces the last `drop` bytes of `text` by `tail`. */
static void append(char *text, size_t size, size_t drop, const char *tail)
{
    size_t at = strlen(text) - drop;
    snprintf(text + at, size - at, "%s", tail);
}

static void too_many_components_are_refused(void **state)
{
    struct router *r = *state;
    struct router_match m;
    char pattern[2 * (ROUTER_MAX_COMPONENTS + 1) + 1] = "";
    for (int i = 0; i < ROUTER_MAX_COMPONENTS; i++)
        append(pattern, sizeof pattern, 0, "/a");
    int a = add(r, ROUTER_GET, pattern);
    assert_int_equal(match(r, ROUTER_GET, pattern), a);
    append(pattern, sizeof pattern, 2, "/**");
    add(r, ROUTER_PUT, pattern);
    append(pattern, sizeof pattern, 3, "/a/a");
    assert_int_equal(match(r, ROUTER_GET, pattern), -1);
    assert_int_equal(match_into(r, ROUTER_PUT, pattern, &m), 1);
    check_capture(&m, 0, "**", "a/a");
    struct err e = {""};
    assert_int_equal(router_add(r, ROUTER_GET, pattern, strlen(pattern), "main.lua:12", &e), -1);
    assert_non_null(strstr(e.text, "\": it has more than 64 components"));
}

static void too_many_captures_are_refused(void **state)
{
    struct router *r = *state;
    struct router_match m;
    char pattern[2 * ROUTER_MAX_CAPTURES + 4] = "";
    for (int i = 0; i < ROUTER_MAX_CAPTURES; i++)
        append(pattern, sizeof pattern, 0, "/*");
    add(r, ROUTER_GET, pattern);
    assert_int_equal(match_into(r, ROUTER_GET, pattern, &m), 0);
    assert_int_equal(m.ncaptures, ROUTER_MAX_CAPTURES);
    append(pattern, sizeof pattern, 0, "/a");
    add(r, ROUTER_GET, pattern);
    append(pattern, sizeof pattern, 1, "*");
    refuse(r, pattern,
           "main.lua:12: route \"/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*\": it has more than 16 captures");
}

static void a_refused_pattern_leaves_nothing_behind(void **state)
{
    struct router *r = *state;
    struct router_match m;
    refuse(r, "/a/b/**/c",
           "main.lua:12: route \"/a/b/**/c\": '**' takes the rest of the path, so it must come last");
    assert_int_equal(match_into(r, ROUTER_GET, "/a/b/x", &m), -1);
    assert_int_equal(m.allowed, 0);
    assert_int_equal(router_add(r, ROUTER_NO_METHOD, "/", 1, "main.lua:12", NULL), -1);
    assert_null(router_route(r, 0));
}

/* ---- the table ---- */

static void routes_are_listed_as_registered(void **state)
{
    struct router *r = *state;
    char where[] = "main.lua:7";
    char pattern[] = "a//:b/";
    assert_int_equal(router_add(r, ROUTER_WEBSOCKET, pattern, sizeof pattern - 1, where, NULL), 0);
    const struct router_route *route = router_route(r, 0);
    memset(where, 'x', sizeof where - 1);
    memset(pattern, 'x', sizeof pattern - 1);
    for (int i = 0; i < 100; i++) {
        char more[16];
        snprintf(more, sizeof more, "/%d", i);
        assert_int_equal(add(r, ROUTER_GET, more), i + 1);
    }
    assert_int_equal(router_count(r), 101);
    assert_ptr_equal(router_route(r, 0), route);
    assert_int_equal(route->method, ROUTER_WEBSOCKET);
    assert_string_equal(route->pattern, "/a/:b");
    assert_string_equal(route->where, "main.lua:7");
    assert_string_equal(router_route(r, 100)->pattern, "/99");
    assert_null(router_route(r, 101));
}

static void equal_tables(void **state)
{
    struct router *a = *state;
    struct router *b = router_create();
    struct err e = {"untouched"};
    assert_true(router_equal(a, b, &e));
    add(a, ROUTER_GET, "/a/:x");
    assert_int_equal(router_add(b, ROUTER_GET, "a/:x", 4, "b.lua:2", NULL), 0);
    assert_true(router_equal(a, b, &e));
    assert_string_equal(e.text, "untouched");
    add(a, ROUTER_POST, "/b");
    assert_false(router_equal(a, b, &e));
    assert_string_equal(e.text, "main.lua:1: route /b for POST is in one table only");
    assert_false(router_equal(b, a, &e));
    assert_string_equal(e.text, "main.lua:1: route /b for POST is in one table only");
    assert_int_equal(router_add(b, ROUTER_PUT, "/b", 2, "b.lua:3", NULL), 1);
    assert_false(router_equal(a, b, &e));
    assert_string_equal(e.text,
                        "main.lua:1: route /b for POST is in one table where the other has /b for PUT, "
                        "registered at b.lua:3");
    router_destroy(b);
    b = router_create();
    add(b, ROUTER_GET, "/a/:y");
    add(b, ROUTER_POST, "/b");
    assert_false(router_equal(a, b, NULL));
    router_destroy(b);
    router_destroy(NULL);
}

static void ten_thousand_routes(void **state)
{
    struct router *r = *state;
    struct router_match m;
    char text[64];
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "/route%d", i);
        assert_int_equal(add(r, ROUTER_GET, text), 2 * i);
        snprintf(text, sizeof text, "/api/%d/:id/part%d", i % 70, i);
        assert_int_equal(add(r, ROUTER_GET, text), 2 * i + 1);
    }
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "/route%d", i);
        assert_int_equal(match_into(r, ROUTER_GET, text, &m), 2 * i);
        assert_int_equal(m.ncaptures, 0);
        snprintf(text, sizeof text, "/api/%d/n%d/part%d", i % 70, i, i);
        assert_int_equal(match_into(r, ROUTER_GET, text, &m), 2 * i + 1);
        snprintf(text, sizeof text, "n%d", i);
        check_capture(&m, 0, "id", text);
        snprintf(text, sizeof text, "/api/%d/n%d/part%d", (i + 1) % 70, i, i);
        assert_int_equal(match(r, ROUTER_GET, text), -1);
    }
    assert_int_equal(match(r, ROUTER_GET, "/route5000"), -1);
}

/* Every combination of constant and name, 4,096 patterns: all of them fit, the leftmost constants win. */
static void a_full_tree_of_alternatives(void **state)
{
    struct router *r = *state;
    struct router_match m;
    for (int set = 0; set < 4096; set++) {
        char pattern[64] = "";
        for (int bit = 11; bit >= 0; bit--)
            snprintf(pattern + strlen(pattern), 8, set & 1 << bit ? "/:n%d" : "/a", bit);
        assert_int_equal(add(r, set % 2 ? ROUTER_GET : ROUTER_POST, pattern), set);
    }
    assert_int_equal(match_into(r, ROUTER_GET, "/a/a/a/a/a/a/a/a/a/a/a/a", &m), 1);
    check_capture(&m, 0, "n0", "a");
    assert_int_equal(m.allowed, 1u << ROUTER_GET | 1u << ROUTER_POST);
    assert_int_equal(match_into(r, ROUTER_POST, "/a/a/a/a/a/b/a/a/a/a/c/a", &m), 1 << 6 | 1 << 1);
    assert_int_equal(m.ncaptures, 2);
    check_capture(&m, 0, "n6", "b");
    check_capture(&m, 1, "n1", "c");
}

static void a_path_of_many_components(void **state)
{
    struct router *r = *state;
    struct router_match m;
    static char path[16384];
    for (size_t i = 0; i < sizeof path; i++)
        path[i] = i % 2 == 0 ? '/' : 'a';
    add(r, ROUTER_GET, "/a/:x/a");
    assert_int_equal(router_match(r, ROUTER_GET, path, sizeof path, &m), -1);
    assert_int_equal(m.allowed, 0);
    int rest = add(r, ROUTER_GET, "/a/:x/**");
    assert_int_equal(router_match(r, ROUTER_GET, path, sizeof path, &m), rest);
    assert_ptr_equal(m.captures[1].value, path + 5);
    assert_int_equal(m.captures[1].value_len, sizeof path - 5);
    memset(path, '/', sizeof path);
    assert_int_equal(router_match(r, ROUTER_GET, path, sizeof path, &m), -1);
    path[sizeof path - 1] = 'x';
    int last = add(r, ROUTER_GET, "x");
    assert_int_equal(router_match(r, ROUTER_GET, path, sizeof path, &m), last);
}

#ifdef COUNTS_ALLOCATIONS
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static size_t allocations;

static void count_malloc(const volatile void *p, size_t size)
{
    (void)p;
    (void)size;
    allocations++;
}

static void ignore_free(const volatile void *p)
{
    (void)p;
}

static void lookups_allocate_nothing(void **state)
{
    struct router *r = *state;
    struct router_match m;
    const char *path = "/a/%62/c/d%20e";
    add(r, ROUTER_GET, "/a/:x/c/d f");
    add(r, ROUTER_GET, "/a/b/c/**");
    assert_true(__sanitizer_install_malloc_and_free_hooks(count_malloc, ignore_free) > 0);
    void *probe = malloc(1);
    assert_non_null(probe);
    size_t before = allocations;
    assert_true(before > 0);
    int route = router_match(r, ROUTER_GET, path, strlen(path), &m);
    size_t after = allocations;
    free(probe);
    assert_int_equal(route, 1);
    assert_int_equal(after, before);
}
#endif

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(slashes_make_no_difference),
        TEST(root_fits_only_the_path_without_components),
        TEST(a_path_that_is_not_absolute_fits_nothing),
        TEST(captures_point_into_the_path_and_stay_encoded),
        TEST(the_rest_has_at_least_one_component),
        TEST(the_rest_may_be_the_whole_pattern),
        TEST(captures_follow_the_rest),
        TEST(names_belong_to_the_route),
        TEST(constant_before_name_before_any_before_rest),
        TEST(the_leftmost_difference_decides),
        TEST(a_dead_end_backtracks),
        TEST(less_specific_patterns_do_not_touch_the_captures),
        TEST(a_pattern_without_the_method_is_no_match),
        TEST(allowed_has_the_methods_of_all_that_fit),
        TEST(method_names),
        TEST(constants_equal_the_decoded_component),
        TEST(an_encoded_slash_does_not_split),
        TEST(a_broken_escape_equals_no_constant),
        TEST(constants_of_one_hash_are_told_apart),
        TEST(colons_and_stars_inside_are_constants),
        TEST(the_same_pattern_twice_is_refused),
        TEST(misshapen_captures_are_refused),
        TEST(bytes_that_no_path_has_are_refused),
        TEST(long_patterns_are_refused),
        TEST(too_many_components_are_refused),
        TEST(too_many_captures_are_refused),
        TEST(a_refused_pattern_leaves_nothing_behind),
        TEST(routes_are_listed_as_registered),
        TEST(equal_tables),
        TEST(ten_thousand_routes),
        TEST(a_full_tree_of_alternatives),
        TEST(a_path_of_many_components),
#ifdef COUNTS_ALLOCATIONS
        TEST(lookups_allocate_nothing),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
