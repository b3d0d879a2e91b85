/* SPDX-License-Identifier: MIT
 * Cookies: the pairs of a Cookie field, the values of Set-Cookie fields and what is refused there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/cookie.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* ---- reading ---- */

struct field_case {
    const char *field;
    const char *pairs; /* "name=value|" for each */
};

static const struct field_case field_cases[] = {
    {"", ""},
    {"a=1", "a=1|"},
    {"a=1; b=2; c=3", "a=1|b=2|c=3|"},
    {"a=1;b=2", "a=1|b=2|"},
    {" \ta=1 \t;\t b=2\t", "a=1|b=2|"},
    {"a = 1", "a=1|"},
    {"a= ; b=\t", "a=|b=|"},
    {"a=", "a=|"},
    {"a=;b=", "a=|b=|"},
    {"a=b=c==", "a=b=c==|"},
    {"a=1; a=2", "a=1|a=2|"},
    {"a=%20+%zz", "a=%20+%zz|"},
    {"a=b c, d", "a=b c, d|"},
    {"a=\xc3\xa9\\", "a=\xc3\xa9\\|"},
    {"__Host-a=1; a[b]=2; \"c\"=3", "__Host-a=1|a[b]=2|\"c\"=3|"},
    /* what is no pair */
    {"a", ""},
    {"a; b=2", "b=2|"},
    {"a=1; b; c=3", "a=1|c=3|"},
    {"=1; b=2", "b=2|"},
    {" =1", ""},
    {"=", ""},
    {";;a=1;;", "a=1|"},
    {" ; \t; a=1; ", "a=1|"},
    /* quotes */
    {"a=\"b\"", "a=b|"},
    {"a= \"b\" ", "a=b|"},
    {"a=\"\"", "a=|"},
    {"a=\"\"b\"\"", "a=\"b\"|"},
    {"a=\" b \"", "a= b |"},
    {"a=\"", "a=\"|"},
    {"a=\"b", "a=\"b|"},
    {"a=b\"", "a=b\"|"},
    {"a=\"b; c=d\"", "a=\"b|c=d\"|"}, /* a semicolon ends it in quotes too, as browsers have it */
    {"a=\"\\\"\"", "a=\\\"|"},
};

static void reads_pairs(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(field_cases); i++) {
        const struct field_case *c = &field_cases[i];
        size_t len = strlen(c->field), at = 0, n = 0;
        char *field = malloc(len + (len == 0)), got[128]; /* the sanitizer guards its end */
        struct cookie_pair p;
        memcpy(field, c->field, len);
        while (cookie_next(field, len, &at, &p))
            n += (size_t)snprintf(got + n, sizeof got - n, "%.*s=%.*s|", (int)p.name_len, p.name,
                                  (int)p.value_len, p.value);
        got[n] = '\0';
        if (strcmp(got, c->pairs) != 0)
            fail_msg("%s for %s", got, c->field);
        assert_false(cookie_next(field, len, &at, &p));
        free(field);
    }
}

/* ---- writing ---- */

#define SET(...)                                                                                             \
    {                                                                                                        \
        .max_age_s = -1, .expires_s = -1, __VA_ARGS__                                                        \
    }

struct set_case {
    struct cookie cookie;
    const char *text;
};

static const struct set_case set_cases[] = {
    {SET(.name = "a", .value = "b"), "a=b"},
    {SET(.name = "a", .value = ""), "a="},
    {SET(.name = "!#$%&'*+-.^_`|~09azAZ", .value = "!#$%&'()*+-./09:<=>?@AZ[]^_`az{|}~"),
     "!#$%&'*+-.^_`|~09azAZ=!#$%&'()*+-./09:<=>?@AZ[]^_`az{|}~"},
    {SET(.name = "a", .value = "b", .path = "/"), "a=b; Path=/"},
    {SET(.name = "a", .value = "b", .path = "/x y,\"=\\"), "a=b; Path=/x y,\"=\\"},
    {SET(.name = "a", .value = "b", .domain = "example.org"), "a=b; Domain=example.org"},
    {SET(.name = "a", .value = "b", .secure = true), "a=b; Secure"},
    {SET(.name = "a", .value = "b", .http_only = true), "a=b; HttpOnly"},
    {SET(.name = "a", .value = "b", .same_site = COOKIE_SAME_SITE_LAX), "a=b; SameSite=Lax"},
    {SET(.name = "a", .value = "b", .same_site = COOKIE_SAME_SITE_STRICT), "a=b; SameSite=Strict"},
    {SET(.name = "a", .value = "b", .secure = true, .same_site = COOKIE_SAME_SITE_NONE),
     "a=b; Secure; SameSite=None"},
    {{.name = "a", .value = "b", .max_age_s = 0, .expires_s = -1}, "a=b; Max-Age=0"},
    {{.name = "a", .value = "b", .max_age_s = 31536000, .expires_s = -1}, "a=b; Max-Age=31536000"},
    {{.name = "a", .value = "b", .max_age_s = INT64_MAX, .expires_s = -1},
     "a=b; Max-Age=9223372036854775807"},
    {{.name = "a", .value = "b", .max_age_s = -1, .expires_s = 0},
     "a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT"},
    {{.name = "a", .value = "b", .max_age_s = -1, .expires_s = 784111777},
     "a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT"},
    {{.name = "a", .value = "b", .max_age_s = -1, .expires_s = 253402300799},
     "a=b; Expires=Fri, 31 Dec 9999 23:59:59 GMT"},
    {{.name = "a",
      .value = "b",
      .path = "/p",
      .domain = "d.e",
      .max_age_s = 1,
      .expires_s = 1,
      .secure = true,
      .http_only = true,
      .same_site = COOKIE_SAME_SITE_LAX},
     "a=b; Path=/p; Domain=d.e; Max-Age=1; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Secure; HttpOnly; "
     "SameSite=Lax"},
    {SET(.name = "__Secure-a", .value = "b", .secure = true, .domain = "d.e"),
     "__Secure-a=b; Domain=d.e; Secure"},
    {SET(.name = "__Host-a", .value = "b", .secure = true, .path = "/"), "__Host-a=b; Path=/; Secure"},
    {SET(.name = "__Host", .value = "b"), "__Host=b"},
    {SET(.name = "a__Secure-", .value = "b"), "a__Secure-=b"},
};

static void writes_what_it_is_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(set_cases); i++) {
        struct buf out = BUF_INIT;
        struct err e = {""};
        buf_puts(&out, "Set-Cookie: ");
        if (cookie_write(&out, &set_cases[i].cookie, &e) < 0)
            fail_msg("%s for %s", e.text, set_cases[i].text);
        assert_int_equal(out.len, 12 + strlen(set_cases[i].text));
        assert_memory_equal(out.data + 12, set_cases[i].text, out.len - 12);
        buf_fini(&out);
    }
}

static void the_initial_cookie_has_no_attributes(void **state)
{
    (void)state;
    struct cookie c = COOKIE_INIT;
    struct buf out = BUF_INIT;
    c.name = "a";
    c.value = "b";
    assert_int_equal(cookie_write(&out, &c, NULL), 0);
    assert_int_equal(out.len, 3);
    buf_fini(&out);
}

struct refused_case {
    struct cookie cookie;
    const char *reason; /* a part of it */
};

static const struct refused_case refused_cases[] = {
    {SET(.name = "", .value = "b"), "name consists"},
    {SET(.name = "a b", .value = "b"), "name consists"},
    {SET(.name = "a=", .value = "b"), "name consists"},
    {SET(.name = "a;", .value = "b"), "name consists"},
    {SET(.name = "a\r\n", .value = "b"), "name consists"},
    {SET(.name = "\xc3\xa9", .value = "b"), "name consists"},
    {SET(.name = "a", .value = "b c"), "value of the cookie \"a\""},
    {SET(.name = "a", .value = "b\r\nSet-Cookie: c=d"), "encode it first"},
    {SET(.name = "a", .value = "\"b\""), "encode it first"},
    {SET(.name = "a", .value = "b", .path = ""), "does not begin with '/'"},
    {SET(.name = "a", .value = "b", .path = "x"), "does not begin with '/'"},
    {SET(.name = "a", .value = "b", .path = "/;Domain=x"), "path of the cookie \"a\""},
    {SET(.name = "a", .value = "b", .path = "/\n"), "path of the cookie \"a\""},
    {SET(.name = "a", .value = "b", .domain = ""), "domain of the cookie \"a\" is empty"},
    {SET(.name = "a", .value = "b", .domain = "x; Secure"), "domain of the cookie \"a\""},
    {SET(.name = "a", .value = "b", .domain = "x\x7f"), "domain of the cookie \"a\""},
    {SET(.name = "a", .value = "b", .domain = "\xc3\xa9.org"), "domain of the cookie \"a\""},
    {{.name = "a", .value = "b", .max_age_s = -2, .expires_s = -1}, "out of range"},
    {{.name = "a", .value = "b", .max_age_s = -1, .expires_s = -2}, "out of range"},
    {{.name = "a", .value = "b", .max_age_s = -1, .expires_s = 253402300800}, "out of range"},
    {SET(.name = "a", .value = "b", .same_site = COOKIE_SAME_SITE_NONE), "needs Secure"},
    {SET(.name = "__Secure-a", .value = "b"), "needs Secure"},
    {SET(.name = "__secure-a", .value = "b"), "needs Secure"},
    {SET(.name = "__Host-a", .value = "b"), "needs Secure and the path"},
    {SET(.name = "__Host-a", .value = "b", .secure = true), "needs Secure and the path"},
    {SET(.name = "__Host-a", .value = "b", .path = "/"), "needs Secure and the path"},
    {SET(.name = "__Host-a", .value = "b", .secure = true, .path = "/x"), "needs Secure and the path"},
    {SET(.name = "__Host-a", .value = "b", .secure = true, .path = "/", .domain = "d"),
     "may not have a domain"},
    {SET(.name = "__hOST-", .value = "b", .secure = true), "needs Secure and the path"},
};

static void refuses_and_says_why(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(refused_cases); i++) {
        struct buf out = BUF_INIT;
        struct err e = {""};
        buf_puts(&out, "kept");
        if (cookie_write(&out, &refused_cases[i].cookie, &e) == 0)
            fail_msg("accepted: %.*s", (int)out.len, out.data);
        if (strstr(e.text, refused_cases[i].reason) == NULL)
            fail_msg("%s instead of %s", e.text, refused_cases[i].reason);
        assert_int_equal(out.len, 4);
        buf_fini(&out);
    }
}

static bool is_written(const char *name, const char *value, const char *path, const char *domain)
{
    struct cookie c = SET(.name = name, .value = value, .path = path, .domain = domain);
    struct buf out = BUF_INIT;
    int rc = cookie_write(&out, &c, NULL);
    buf_fini(&out);
    return rc == 0;
}

static void takes_only_the_characters_of_each_part(void **state)
{
    (void)state;
    for (int byte = 1; byte < 256; byte++) {
        char text[] = {(char)byte, 'x', (char)byte, '\0'}, path[] = {'/', (char)byte, '\0'};
        bool alnum =
            (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
        bool octet = byte == 0x21 || (byte >= 0x23 && byte <= 0x2b) || (byte >= 0x2d && byte <= 0x3a) ||
                     (byte >= 0x3c && byte <= 0x5b) || (byte >= 0x5d && byte <= 0x7e);
        assert_int_equal(is_written(text, "", NULL, NULL), alnum || strchr("!#$%&'*+-.^_`|~", byte) != NULL);
        assert_int_equal(is_written("a", text, NULL, NULL), octet);
        assert_int_equal(is_written("a", "", path, NULL), byte >= ' ' && byte < 0x7f && byte != ';');
        assert_int_equal(is_written("a", "", NULL, text), byte >= ' ' && byte < 0x7f && byte != ';');
    }
}

static void what_browsers_would_drop_for_its_length_is_refused(void **state)
{
    (void)state;
    char text[4098];
    memset(text, '/', sizeof text);
    text[4096] = '\0';
    assert_false(is_written("a", text, NULL, NULL));
    text[4095] = '\0';
    assert_true(is_written("a", text, NULL, NULL));
    text[1025] = '\0';
    assert_false(is_written("a", "", text, NULL));
    assert_false(is_written("a", "", NULL, text));
    text[1024] = '\0';
    assert_true(is_written("a", "", text, text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_pairs),
        cmocka_unit_test(writes_what_it_is_told),
        cmocka_unit_test(the_initial_cookie_has_no_attributes),
        cmocka_unit_test(refuses_and_says_why),
        cmocka_unit_test(takes_only_the_characters_of_each_part),
        cmocka_unit_test(what_browsers_would_drop_for_its_length_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
