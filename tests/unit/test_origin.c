/* SPDX-License-Identifier: MIT
 * Which web pages may open a WebSocket: patterns for the Origin field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ws/origin.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* A copy without a NUL behind it, so that ASan sees a look beyond the end. */
static char *exact(const char *text, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    return copy;
}

static int check(const char *pattern, size_t len, struct err *e)
{
    char *copy = exact(pattern, len);
    int rc = origin_check_pattern(copy, len, e);
    free(copy);
    return rc;
}

static bool matches_bytes(const char *pattern, const char *origin, size_t olen, const char *host)
{
    size_t plen = strlen(pattern), hlen = strlen(host);
    char *p = exact(pattern, plen), *o = exact(origin, olen), *h = exact(host, hlen);
    bool matches = origin_matches(p, plen, o, olen, h, hlen);
    free(p);
    free(o);
    free(h);
    return matches;
}

static bool matches(const char *pattern, const char *origin, const char *host)
{
    return matches_bytes(pattern, origin, strlen(origin), host);
}

/* ---- the check ---- */

static void takes_good_patterns(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "*",
        "same",
        "null",
        "example.com",
        "localhost",
        "my_app",
        "example.com.",
        "example.com:1",
        "example.com:65535",
        "example.com:*",
        "EXAMPLE.com",
        "xn--bcher-kva.example",
        "https://example.com",
        "http://example.com:8080",
        "https://*.example.com:*",
        "*.example.com",
        "*.localhost",
        "*.example.com:8443",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "a1+-.://x",
        "192.0.2.1",
        "http://192.0.2.255:80",
        "[::1]",
        "[2001:DB8::1]:8080",
        "https://[::ffff:192.0.2.1]:*",
        "v4.3com",
        "same.example",
        "http://null",
    };
    for (size_t i = 0; i < COUNT(patterns); i++) {
        struct err e = {"untouched"};
        if (check(patterns[i], strlen(patterns[i]), &e) != 0)
            fail_msg("%s: %s", patterns[i], e.text);
        assert_string_equal(e.text, "untouched");
    }
}

static void says_what_is_wrong_with_a_pattern(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *what, *right;
    } cases[] = {
        {"", "empty", "\"same\""},
        {"https://example.com/", "slash at the end", "end: \"https://example.com\""},
        {"example.com:80/", "slash at the end", "end: \"example.com:80\""},
        {"https://example.com//", "no path", "\"https://example.com:8443\""},
        {"https://example.com/chat", "no path", "\"https://example.com:8443\""},
        {"https://example.com:80/chat", "no path", "\"https://example.com:8443\""},
        {"/", "no path", "\"https://example.com:8443\""},
        {"*/", "no path", "\"https://example.com:8443\""},
        {"//example.com", "no path", "\"https://example.com:8443\""},
        {"example.com?a", "no query", "\"https://example.com:8443\""},
        {"example.com#a", "no path", "\"https://example.com:8443\""},
        {"https://user@example.com", "no user name", "\"https://example.com\""},
        {"https://user:pass@example.com", "no user name", "\"https://example.com\""},
        {"https://a.example https://b.example", "no blanks", "\"https://example.com\""},
        {" example.com", "no blanks", "\"https://example.com\""},
        {"example.com\t", "no blanks", "\"https://example.com\""},
        {"example.com\r\n", "byte 12 is a control character", "\"https://example.com\""},
        {"exam\x7fple.com", "byte 5 is a control character", "\"https://example.com\""},
        {"b\xc3\xbc"
         "cher.example",
         "byte 2 is not ASCII", "\"xn--bcher-kva.example\""},
        {"://example.com", "begins with a letter", "\"https://example.com\""},
        {"1http://example.com", "begins with a letter", "\"https://example.com\""},
        {"*://example.com", "a scheme has only", "\"example.com\""},
        {"ht_tp://example.com", "a scheme has only", "\"https://example.com\""},
        {"https:example.com", "a port is", "\"example.com:8080\""},
        {"example.com:", "a port is", "\"example.com:*\""},
        {"example.com:0", "a port is", "\"example.com:8080\""},
        {"example.com:080", "a port is", "\"example.com:8080\""},
        {"example.com:65536", "a port is", "65535"},
        {"example.com:99999", "a port is", "65535"},
        {"example.com:100000", "a port is", "65535"},
        {"example.com:4294967376", "a port is", "65535"},
        {"example.com:+80", "a port is", "\"example.com:8080\""},
        {"example.com:80:80", "a port is", "\"example.com:8080\""},
        {"example.com:**", "a port is", "\"example.com:*\""},
        {"::1", "brackets", "\"[::1]:8080\""},
        {"https://", "host is missing", "\"https://example.com\""},
        {":80", "host is missing", "\"https://example.com\""},
        {".", "host is missing", "\"https://example.com\""},
        {"*.", "host is missing", "\"https://example.com\""},
        {"*.:80", "host is missing", "\"https://example.com\""},
        {".example.com", "no empty parts", "\"www.example.com\""},
        {"www..example.com", "no empty parts", "\"www.example.com\""},
        {"example.com..", "no empty parts", "\"www.example.com\""},
        {"*..example.com", "no empty parts", "\"www.example.com\""},
        {"exa$mple.com", "only letters", "\"www.example.com\""},
        {"example,com", "only letters", "\"www.example.com\""},
        {"https://*", "a '*' stands", "\"*.example.com\""},
        {"*:8080", "a '*' stands", "\"example.com:*\""},
        {"**", "a '*' stands", "\"*.example.com\""},
        {"*example.com", "a '*' stands", "\"*.example.com\""},
        {"www.*.com", "a '*' stands", "\"*.example.com\""},
        {"*.*.com", "a '*' stands", "\"*.example.com\""},
        {"[::1", "between brackets", "\"[::1]\""},
        {"[::1]80", "between brackets", "\"[::1]:8080\""},
        {"[", "between brackets", "\"[::1]\""},
        {"*.[", "between brackets", "\"[::1]\""},
        {"[]", "no IPv6 address", "\"[2001:db8::1]\""},
        {"[example.com]", "no IPv6 address", "\"[2001:db8::1]\""},
        {"[192.0.2.1]", "no IPv6 address", "\"[2001:db8::1]\""},
        {"[fe80::1%eth0]", "no IPv6 address", "\"[2001:db8::1]\""},
        {"[0001:0001:0001:0001:0001:0001:255.255.255.2555]", "no IPv6 address", "\"[2001:db8::1]\""},
        {"192.0.2", "an IPv4 address", "\"192.0.2.1\""},
        {"192.0.2.256", "an IPv4 address", "\"192.0.2.1\""},
        {"1.192.0.2.1", "an IPv4 address", "\"192.0.2.1\""},
        {"www.80", "an IPv4 address", "\"192.0.2.1\""},
        {"8080", "an IPv4 address", "\"192.0.2.1\""},
        {"*.192.0.2.1", "no sub-domains", "\"192.0.2.1\""},
        {"*.[::1]:80", "no sub-domains", "\"[2001:db8::1]\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {""};
        int rc = check(cases[i].pattern, strlen(cases[i].pattern), &e);
        if (rc != -1 || strstr(e.text, cases[i].what) == NULL || strstr(e.text, cases[i].right) == NULL)
            fail_msg("\"%s\": %d \"%s\"", cases[i].pattern, rc, e.text);
    }
    struct err e = {""};
    assert_int_equal(check("example\0.com", 12, &e), -1);
    assert_non_null(strstr(e.text, "byte 8 is a control character"));
    assert_int_equal(check("[::1\0]", 6, &e), -1);
    assert_int_equal(origin_check_pattern("", 0, NULL), -1);
}

static void patterns_have_at_most_255_bytes(void **state)
{
    (void)state;
    char pattern[257];
    struct err e = {""};
    memset(pattern, 'a', sizeof pattern);
    assert_int_equal(check(pattern, 255, &e), 0);
    assert_int_equal(check(pattern, 256, &e), -1);
    assert_non_null(strstr(e.text, "longer than 255 bytes"));
    assert_non_null(strstr(e.text, "\"https://example.com\""));
}

/* ---- matching ---- */

struct match_case {
    const char *pattern, *origin;
    bool fits;
};

static const struct match_case match_cases[] = {
    /* scheme */
    {"a.example", "http://a.example", true},
    {"a.example", "https://a.example", true},
    {"a.example", "ws://a.example", true},
    {"a.example", "ftp://a.example", false},
    {"a.example", "wss://a.example", true},
    {"a.example", "ftp://a.example", false},
    {"a.example", "chrome-extension://a.example", false},
    {"a.example:*", "ftp://a.example", false},
    {"https://a.example", "https://a.example", true},
    {"https://a.example", "http://a.example", false},
    {"http://a.example", "https://a.example", false},
    {"http://a.example:443", "https://a.example", false},
    {"ftp://a.example", "ftp://a.example", true},
    {"HTTPS://A.EXAMPLE", "https://a.example", true},
    {"https://a.example", "HTTPS://A.Example", true},
    /* port */
    {"a.example", "http://a.example:80", true},
    {"a.example", "https://a.example:443", true},
    {"a.example", "http://a.example:443", false},
    {"a.example", "https://a.example:80", false},
    {"a.example", "http://a.example:8080", false},
    {"a.example:80", "http://a.example", true},
    {"a.example:80", "https://a.example", false},
    {"a.example:8080", "http://a.example:8080", true},
    {"a.example:8080", "https://a.example:8080", true},
    {"a.example:8080", "http://a.example", false},
    {"a.example:8080", "http://a.example:8081", false},
    {"a.example:*", "http://a.example", true},
    {"a.example:*", "https://a.example:1", true},
    {"http://a.example:80", "http://a.example", true},
    {"https://a.example", "https://a.example:443", true},
    {"wss://a.example", "wss://a.example:443", true},
    {"ws://a.example", "ws://a.example:80", true},
    {"ws://a.example", "ws://a.example:443", false},
    {"app://a.example", "app://a.example:80", false},
    {"app://a.example:80", "app://a.example", false},
    {"app://a.example:80", "app://a.example:80", true},
    {"app://a.example:*", "app://a.example", true},
    {"app://a.example:*", "app://a.example:9", true},
    /* host */
    {"a.example", "http://b.example", false},
    {"a.example", "http://aa.example", false},
    {"a.example", "http://www.a.example", false},
    {"a.example", "http://a.example.evil.example", false},
    {"a.example", "http://a.exampl", false},
    {"a.example", "http://aXexample", false},
    {"a.example", "http://a.example.", false},
    {"a.example.", "http://a.example", false},
    {"a.example.", "http://a.example.", true},
    {"192.0.2.1", "http://192.0.2.1", true},
    {"192.0.2.1", "http://192.0.2.11", false},
    {"[::1]", "http://[::1]", true},
    {"[::1]:8080", "http://[::1]:8080", true},
    {"[0:0::0001]", "http://[::1]", true},
    {"[2001:DB8::A]", "https://[2001:db8::a]", true},
    {"[::1]", "http://[::2]", false},
    {"[::ffff:192.0.2.1]", "http://[::ffff:c000:201]", true},
    {"[::ffff:192.0.2.1]", "http://192.0.2.1", false},
    /* sub-domains */
    {"*.a.example", "http://b.a.example", true},
    {"*.a.example", "https://c.b.a.example", true},
    {"*.A.example", "https://c.b.a.EXAMPLE", true},
    {"*.a.example", "http://a.example", false},
    {"*.a.example", "http://ba.example", false},
    {"*.a.example", "http://.a.example", false},
    {"*.a.example", "http://b.a.example.", false},
    {"*.a.example", "http://b.a.example.evil.example", false},
    {"*.a.example", "http://b.a.example:8080", false},
    {"*.a.example:8080", "http://b.a.example:8080", true},
    {"*.a.example:*", "http://b.a.example:8080", true},
    {"https://*.a.example", "http://b.a.example", false},
    {"*.localhost", "http://app.localhost", true},
    /* words */
    {"null", "null", true},
    {"Null", "NULL", true},
    {"null", "", false},
    {"null", "nul", false},
    {"null", "null ", false},
    {"null", "null null", false},
    {"null", "http://null", false},
    {"null", "http://a.example", false},
    {"same", "null", false},
    {"a.example", "null", false},
    {"http://null", "null", false},
    {"http://null", "http://null", true},
};

static void matches_scheme_host_and_port(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(match_cases); i++) {
        const struct match_case *c = &match_cases[i];
        struct err e = {""};
        if (check(c->pattern, strlen(c->pattern), &e) != 0)
            fail_msg("%s: %s", c->pattern, e.text);
        if (matches(c->pattern, c->origin, "host.example") != c->fits)
            fail_msg("pattern \"%s\", origin \"%s\"", c->pattern, c->origin);
    }
}

static void same_compares_with_the_host_field(void **state)
{
    (void)state;
    static const struct {
        const char *origin, *host;
        bool fits;
    } cases[] = {
        {"https://a.example", "a.example", true},
        {"https://a.example", "a.example:443", true},
        {"https://a.example:443", "a.example", true},
        {"http://a.example", "a.example:80", true},
        {"http://a.example", "a.example", true},
        {"HTTP://A.example", "a.EXAMPLE", true},
        {"http://a:8080", "a:8080", true},
        {"http://[::1]:8080", "[::1]:8080", true},
        {"http://[::1]", "[::1]", true},
        {"http://192.0.2.1:81", "192.0.2.1:81", true},
        {"http://a:8080", "a", false},
        {"http://a", "a:8080", false},
        {"http://a:8080", "a:8081", false},
        {"https://a.example", "a.example:80", false},
        {"http://a.example", "a.example:443", false},
        {"https://a.example", "b.example", false},
        {"https://a.example", "www.a.example", false},
        {"https://www.a.example", "a.example", false},
        {"https://a.example", "a.example.", false},
        {"https://a.example", "a.example:", false},
        {"https://a.example", "", false},
        {"https://a.example", "https://a.example", false},
        {"https://a.example", "*.example", false},
        {"https://a.example", "*", false},
        {"https://a.example", "a.example:*", false},
        {"https://a.example:1", "a.example:*", false},
        {"https://a.example", "a.example,a.example", false},
        {"https://a.example", "a.example/", false},
        {"https://a.example", "x@a.example", false},
        {"ftp://a.example", "a.example", false},
        {"app://a.example", "a.example", false},
        {"null", "null", false},
        {"a.example", "a.example", false},
        {"", "", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (matches("same", cases[i].origin, cases[i].host) != cases[i].fits ||
            matches("SAME", cases[i].origin, cases[i].host) != cases[i].fits)
            fail_msg("origin \"%s\", host \"%s\"", cases[i].origin, cases[i].host);
    assert_false(origin_matches("same", 4, "https://a.example", 17, NULL, 0));
}

/* Each is sound but for one thing, so that a parser too lax for it would let it pass. */
static void malformed_origins_fit_only_the_star(void **state)
{
    (void)state;
    static const char *const origins[] = {
        "",
        "a.example",
        "//a.example",
        "://a.example",
        "http:a.example",
        "http:/a.example",
        "1http://a.example",
        "ht tp://a.example",
        "http://a.example/",
        "http://a.example/path",
        "http://a.example?",
        "http://a.example#",
        "http://@a.example",
        "http://user@a.example",
        "http://evil.example\\a.example",
        "http://evil.example\\.a.example",
        "http://evil.example/.a.example",
        "http://evil.example?.a.example",
        "http://evil.example#.a.example",
        "http://evil.example:80.a.example",
        "http://evil.example%2f.a.example",
        "http://b..a.example",
        "http://a.example:",
        "http://a.example:0",
        "http://a.example:080",
        "http://a.example:65616",
        "http://a.example:4294967376",
        "http://a.example:8o",
        "http://a.example:*",
        "http://*.a.example",
        "http://a.example http://a.example",
        "http://a.example, http://a.example",
        " http://a.example",
        "http://a.example ",
        "http://a.example\t",
        "http://a.example\r\n",
        "http://\xc3\xa4.a.example",
        "http://\xff.a.example",
        "http://a.example\xc2\xa0",
        "*",
        "same",
        "null, null",
    };
    static const char *const patterns[] = {
        "same", "null", "a.example", "a.example:*", "*.a.example:*", "http://a.example", "http://*.a.example",
    };
    for (size_t i = 0; i < COUNT(origins); i++) {
        assert_true(matches("*", origins[i], "a.example"));
        for (size_t k = 0; k < COUNT(patterns); k++)
            if (matches(patterns[k], origins[i], "a.example"))
                fail_msg("pattern \"%s\", origin \"%s\"", patterns[k], origins[i]);
    }
    assert_true(origin_matches("*", 1, NULL, 0, NULL, 0));
    assert_false(origin_matches("a.example", 9, NULL, 0, NULL, 0));
}

static void a_nul_ends_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *origin;
        size_t len;
    } cases[] = {
        {"a.example", "http://a.example\0", 17},
        {"a.example", "http://a.example\0.evil.example", 30},
        {"*.a.example", "http://b\0c.a.example", 20},
        {"a.example:8080", "http://a.example:8080\0", 22},
        {"[::1]", "http://[::1\0]", 13},
        {"192.0.2.1", "http://192.0.2.1\0", 17},
        {"null", "null\0", 5},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (matches_bytes(cases[i].pattern, cases[i].origin, cases[i].len, ""))
            fail_msg("pattern \"%s\", origin with a NUL", cases[i].pattern);
        assert_true(matches_bytes("*", cases[i].origin, cases[i].len, ""));
    }
}

static void long_origins_are_read_to_their_end(void **state)
{
    (void)state;
    static char origin[60000];
    memset(origin, 'a', sizeof origin);
    memcpy(origin, "http://", 7);
    memcpy(origin + sizeof origin - 8, ".example", 8);
    assert_true(matches_bytes("*.example", origin, sizeof origin, ""));
    assert_false(matches_bytes("*.example", origin, sizeof origin - 1, ""));
    assert_false(matches_bytes("a.example", origin, sizeof origin, ""));
    memset(origin + 7, '1', sizeof origin - 7);
    assert_false(matches_bytes("1.1.1.1", origin, sizeof origin, ""));
    origin[7] = '[';
    origin[sizeof origin - 1] = ']';
    assert_false(matches_bytes("[::1]", origin, sizeof origin, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_good_patterns),
        cmocka_unit_test(says_what_is_wrong_with_a_pattern),
        cmocka_unit_test(patterns_have_at_most_255_bytes),
        cmocka_unit_test(matches_scheme_host_and_port),
        cmocka_unit_test(same_compares_with_the_host_field),
        cmocka_unit_test(malformed_origins_fit_only_the_star),
        cmocka_unit_test(a_nul_ends_nothing),
        cmocka_unit_test(long_origins_are_read_to_their_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
