/* SPDX-License-Identifier: MIT
 * Who the client is behind trusted proxies: the walk from the right, the grammar of both fields, forgeries.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>

#include "http/forwarded.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define NONE     "the peer"

static struct head *head_of(const char *fields)
{
    static char text[HEAD_MAX_BYTES];
    struct head *h = NULL;
    struct head_fault fault = {0};
    int len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    assert_true(len < (int)sizeof text);
    if (head_parse(text, (size_t)len, &h, &fault) != 0)
        fail_msg("%s: %s", fields, fault.reason);
    return h;
}

static struct sockaddr_storage peer_of(const char *text)
{
    struct sockaddr_storage sa = {.ss_family = AF_UNIX};
    if (!cidr_endpoint(AF_INET, text, strlen(text), NULL, 0, &sa))
        cidr_endpoint(AF_INET6, text, strlen(text), NULL, 0, &sa);
    return sa;
}

/* What forwarded_client says: address and port, or NONE. Trusted are 10.0.0.0/8, fd00::/8 and unix:. */
static const char *client(const char *peer, const char *fields)
{
    static char text[80];
    char address[INET6_ADDRSTRLEN];
    struct cidr_list trusted = {0};
    assert_int_equal(cidr_list_add(&trusted, "10.0.0.0/8", 10, NULL), 0);
    assert_int_equal(cidr_list_add(&trusted, "fd00::/8", 8, NULL), 0);
    assert_int_equal(cidr_list_add(&trusted, "unix:", 5, NULL), 0);
    struct sockaddr_storage from = peer_of(peer), out, before;
    memset(&out, 0xee, sizeof out);
    before = out;
    struct head *h = head_of(fields);
    bool found = forwarded_client(h, (struct sockaddr *)&from, &trusted, &out);
    head_unref(h);
    if (!found) {
        assert_memory_equal(&out, &before, sizeof out);
        return NONE;
    }
    const struct sockaddr_in *in = (const void *)&out;
    const struct sockaddr_in6 *in6 = (const void *)&out;
    bool six = out.ss_family == AF_INET6;
    assert_true(six || out.ss_family == AF_INET);
    inet_ntop(out.ss_family, six ? (const void *)&in6->sin6_addr : &in->sin_addr, address, sizeof address);
    snprintf(text, sizeof text, "%s %d", address, ntohs(six ? in6->sin6_port : in->sin_port));
    return text;
}

static void gives(const char *peer, const char *fields, const char *expected)
{
    const char *got = client(peer, fields);
    if (strcmp(got, expected) != 0)
        fail_msg("%s\n%s: %s instead of %s", peer, fields, got, expected);
}

/* Behind one trusted proxy. */
static void x_gives(const char *value, const char *expected)
{
    char fields[4096];
    snprintf(fields, sizeof fields, "X-Forwarded-For: %s\r\n", value);
    gives("10.0.0.1", fields, expected);
}

static void f_gives(const char *value, const char *expected)
{
    char fields[4096];
    snprintf(fields, sizeof fields, "Forwarded: %s\r\n", value);
    gives("10.0.0.1", fields, expected);
}

/* ---- the walk ---- */

static void only_trusted_peers_are_believed(void **state)
{
    (void)state;
    static const char x[] = "X-Forwarded-For: 203.0.113.7\r\n", f[] = "Forwarded: for=203.0.113.7\r\n";
    static const struct {
        const char *peer;
        bool trusted;
    } cases[] = {
        {"10.0.0.1", true},         {"fd00::1", true},      {"unix:", true}, {"::ffff:10.0.0.1", true},
        {"11.0.0.1", false},        {"203.0.113.7", false}, {"::1", false},  {"127.0.0.1", false},
        {"::ffff:11.0.0.1", false}, {"::10.0.0.1", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        gives(cases[i].peer, x, cases[i].trusted ? "203.0.113.7 0" : NONE);
        gives(cases[i].peer, f, cases[i].trusted ? "203.0.113.7 0" : NONE);
    }
    gives("10.0.0.1", "", NONE);
    gives("10.0.0.1", "Via: 203.0.113.7\r\n", NONE);
    gives("10.0.0.1", "X-Forwarded-Fo: 203.0.113.7\r\nX-Forwarded-Forr: 203.0.113.7\r\n", NONE);
}

static void the_first_untrusted_from_the_right_is_the_client(void **state)
{
    (void)state;
    x_gives("203.0.113.7", "203.0.113.7 0");
    x_gives("198.51.100.1, 203.0.113.7", "203.0.113.7 0");
    x_gives("10.9.9.9, 203.0.113.7", "203.0.113.7 0");
    x_gives("203.0.113.7, 10.0.0.2", "203.0.113.7 0");
    x_gives("198.51.100.1, 203.0.113.7, 10.0.0.3, fd00::2, 10.0.0.2", "203.0.113.7 0");
    x_gives("10.9.9.9, 203.0.113.7, 10.0.0.2", "203.0.113.7 0");
    x_gives("203.0.113.7, ::ffff:10.0.0.2", "203.0.113.7 0");
    x_gives("127.0.0.1, 192.168.1.1, 10.0.0.2", "192.168.1.1 0");
    f_gives("for=198.51.100.1, for=203.0.113.7, for=10.0.0.3, for=\"[fd00::2]\", for=10.0.0.2",
            "203.0.113.7 0");
}

static void with_all_trusted_the_leftmost_is_the_client(void **state)
{
    (void)state;
    x_gives("10.0.0.2", "10.0.0.2 0");
    x_gives("10.0.0.4, 10.0.0.3, 10.0.0.2", "10.0.0.4 0");
    x_gives("::ffff:10.0.0.4, 10.0.0.2", "::ffff:10.0.0.4 0");
    f_gives("for=10.0.0.4, for=10.0.0.2", "10.0.0.4 0");
}

static void all_fields_are_one_list_in_their_order(void **state)
{
    (void)state;
    gives("10.0.0.1",
          "X-Forwarded-For: 198.51.100.1\r\nVia: x\r\nx-forwarded-for: 203.0.113.7, 10.0.0.3\r\n"
          "X-FORWARDED-FOR: 10.0.0.2\r\nAccept: *\r\n",
          "203.0.113.7 0");
    gives("10.0.0.1", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: \r\nX-Forwarded-For:,\r\n",
          "203.0.113.7 0");
    gives("10.0.0.1", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: nonsense\r\n", NONE);
    gives("10.0.0.1", "X-Forwarded-For: nonsense\r\nX-Forwarded-For: 10.0.0.2\r\n", "10.0.0.2 0");
    gives("10.0.0.1", "Forwarded: for=198.51.100.1\r\nFORWARDED: for=203.0.113.7\r\n", "203.0.113.7 0");
    gives("10.0.0.1", "Forwarded: for=203.0.113.7;x=\"\r\nForwarded: \", for=10.0.0.2\r\n", "10.0.0.2 0");
}

static void other_fields_are_passed_over(void **state)
{
    (void)state;
    char fields[4096];
    size_t len = (size_t)snprintf(fields, sizeof fields, "X-Forwarded-For: 203.0.113.7\r\n");
    for (int i = 0; i < 200; i++)
        len += (size_t)snprintf(fields + len, sizeof fields - len, "A: 1.1.1.1\r\n");
    gives("10.0.0.1", fields, "203.0.113.7 0");
}

static void nothing_left_of_a_malformed_element_is_believed(void **state)
{
    (void)state;
    static const char *const elements[] = {
        "unknown",
        "UNKNOWN",
        "_hidden",
        "-",
        "203.0.113.256",
        "203.0.113",
        "203.0.113.7 203.0.113.8",
        "203.0.113.7;",
        "\"203.0.113.7\"",
        "\"",
        "for=203.0.113.7",
        "example.com",
        "::1::",
        "fe80::1%lo",
        "203.0.113.7:",
        "203.0.113.7:65536",
        "203.0.113.7:-1",
        "203.0.113.7:80:80",
        "203.0.113.7:http",
        "203.0.113.7:_",
        "[203.0.113.7]",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[::1]80",
        "[]",
        "[",
        "]",
        "::1]",
        ":80",
        "[::1]:65536",
        "[::1]:080",
        "203.0.113.7/32",
        "0xcb.0.113.7",
        "203.0.113.007",
        "\x80",
        "[[::1]]",
        "[::1]]:80",
        "203.0.113.7\t80",
    };
    char value[256];
    for (size_t i = 0; i < COUNT(elements); i++) {
        x_gives(elements[i], NONE);
        snprintf(value, sizeof value, "198.51.100.1, %s", elements[i]);
        x_gives(value, NONE);
        snprintf(value, sizeof value, "198.51.100.1, 10.0.0.4, %s, 10.0.0.3,10.0.0.2", elements[i]);
        x_gives(value, "10.0.0.3 0");
        snprintf(value, sizeof value, "%s, 203.0.113.7", elements[i]);
        x_gives(value, "203.0.113.7 0");
    }
}

static void empty_elements_mean_nothing(void **state)
{
    (void)state;
    x_gives(",203.0.113.7", "203.0.113.7 0");
    x_gives("203.0.113.7,", "203.0.113.7 0");
    x_gives(" , ,203.0.113.7 ,\t, 10.0.0.2 ,, ", "203.0.113.7 0");
    x_gives("", NONE);
    x_gives(" , \t,", NONE);
    f_gives("for=203.0.113.7, , for=10.0.0.2,", "203.0.113.7 0");
    f_gives("for=203.0.113.7, ;, for=10.0.0.2", "10.0.0.2 0"); /* no list element of Forwarded's is empty */
}

static void at_most_64_elements_are_looked_at(void **state)
{
    (void)state;
    char value[4096] = "";
    size_t len = (size_t)snprintf(value, sizeof value, "203.0.113.7, 10.0.0.99");
    for (int i = 0; i < 62; i++)
        len += (size_t)snprintf(value + len, sizeof value - len, ", 10.0.0.%d", i);
    x_gives(value, "203.0.113.7 0");
    snprintf(value + len, sizeof value - len, ", 10.1.1.1");
    x_gives(value, "10.0.0.99 0");
    snprintf(value, sizeof value, "203.0.113.7%64s", "");
    memset(value + 11, ',', 64);
    x_gives(value, NONE);
    memset(value + 11, ' ', 1);
    x_gives(value, "203.0.113.7 0");
}

/* ---- the grammar ---- */

static void takes_addresses_with_and_without_port(void **state)
{
    (void)state;
    static const struct {
        const char *node, *client;
    } cases[] = {
        {"203.0.113.7", "203.0.113.7 0"},           {"203.0.113.7:0", "203.0.113.7 0"},
        {"203.0.113.7:65535", "203.0.113.7 65535"}, {"203.0.113.7:_p", "203.0.113.7 0"},
        {"2001:db8::1", "2001:db8::1 0"},           {"2001:DB8::1", "2001:db8::1 0"},
        {"2001:db8::1:443", "2001:db8::1:443 0"},   {"::ffff:203.0.113.7", "::ffff:203.0.113.7 0"},
        {"[2001:db8::1]", "2001:db8::1 0"},         {"[2001:db8::1]:443", "2001:db8::1 443"},
        {"[2001:db8::1]:_p.1-x_", "2001:db8::1 0"}, {"[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1 1"},
    };
    char value[256];
    for (size_t i = 0; i < COUNT(cases); i++) {
        x_gives(cases[i].node, cases[i].client);
        snprintf(value, sizeof value, "for=%s", cases[i].node);
        f_gives(value, cases[i].client);
        snprintf(value, sizeof value, "for=\"%s\"", cases[i].node);
        f_gives(value, cases[i].client);
    }
}

static void takes_elements_of_forwarded(void **state)
{
    (void)state;
    static const char *const elements[] = {
        "for=203.0.113.7",
        "FOR=203.0.113.7",
        "For=\"203.0.113.7\"",
        "for=203.0.113.7;proto=http;by=203.0.113.43",
        "proto=https;host=example.com;for=203.0.113.7",
        "host=\"a:80\";for=203.0.113.7",
        "for=203.0.113.7;x=\"a,b\"",
        "x=\"a,for=1.1.1.1,\";for=203.0.113.7",
        "x=\";for=1.1.1.1;\";for=203.0.113.7",
        "x=\"\\\", for=1.1.1.1\";for=203.0.113.7",
        "x=\"\\\\\";for=203.0.113.7;y=\"\\\\\\\",\"",
        "x=\"\";for=203.0.113.7",
        "for=203.0.113.7; proto=https",
        "proto=https \t; \tfor=203.0.113.7",
        "for=203.0.113.7;",
        ";;for=203.0.113.7; ;",
        "xfor=1.1.1.1;fo=1.1.1.1;forx=1.1.1.1;for=203.0.113.7",
    };
    char value[256];
    for (size_t i = 0; i < COUNT(elements); i++) {
        f_gives(elements[i], "203.0.113.7 0");
        snprintf(value, sizeof value, "for=198.51.100.1, %s", elements[i]);
        f_gives(value, "203.0.113.7 0");
        snprintf(value, sizeof value, "%s,for=10.0.0.2", elements[i]);
        f_gives(value, "203.0.113.7 0");
    }
}

static void refuses_elements_of_forwarded(void **state)
{
    (void)state;
    static const char *const elements[] = {
        "for=unknown",
        "for=_hidden",
        "for=\"_SEVKISEK\"",
        "for=\"unknown:80\"",
        "for=",
        "for=\"\"",
        "for",
        "203.0.113.7",
        "=203.0.113.7",
        "proto=https",
        "by=203.0.113.7",
        ";",
        "for=203.0.113.7;for=203.0.113.7",
        "for=203.0.113.7;FOR=203.0.113.8",
        "for=_hidden;for=203.0.113.7",
        "for =203.0.113.7",
        "for= 203.0.113.7",
        "for=\" 203.0.113.7\"",
        "for=203.0.113.7 proto=https",
        "proto=a b;for=203.0.113.7",
        "proto=a\tb;for=203.0.113.7",
        "a b=c;for=203.0.113.7",
        "for=203.0.113.7;proto",
        "for=203.0.113.7;proto=",
        "for=203.0.113.7;=https",
        "for=203.0.113.7;proto=a=b",
        "for=203.0.113.7=",
        "for=203.0.113.7\"\"",
        "for=203.0.113.7;x=\"",
        "for=203.0.113.7;x=\"\\\"",
        "for=203.0.113.7;x=\"a\"b",
        "for=203.0.113.7;x=a\"b\"",
        "for=\"203.0.113.7",
        "for=203.0.113.7\"",
        "for=\"203.0.113.\\7\"",
        "\"for\"=203.0.113.7",
        "for='203.0.113.7'",
        "for:203.0.113.7",
    };
    char value[256];
    for (size_t i = 0; i < COUNT(elements); i++) {
        f_gives(elements[i], NONE);
        snprintf(value, sizeof value, "for=198.51.100.1, %s", elements[i]);
        f_gives(value, NONE);
        snprintf(value, sizeof value, "for=198.51.100.1, %s, for=10.0.0.2", elements[i]);
        f_gives(value, "10.0.0.2 0");
        snprintf(value, sizeof value, "%s, for=203.0.113.7", elements[i]);
        f_gives(value, "203.0.113.7 0");
    }
}

/* ---- forgeries ---- */

static void x_forwarded_for_goes_before_forwarded(void **state)
{
    (void)state;
    gives("10.0.0.1", "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=198.51.100.1\r\n", "203.0.113.7 0");
    gives("10.0.0.1", "Forwarded: for=198.51.100.1\r\nX-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7 0");
    gives("10.0.0.1", "Forwarded: for=198.51.100.1\r\nX-Forwarded-For: 10.0.0.2\r\n", "10.0.0.2 0");
    gives("10.0.0.1", "Forwarded: for=198.51.100.1\r\nX-Forwarded-For: nonsense\r\n", NONE);
    gives("10.0.0.1", "X-Forwarded-For:\r\nForwarded: for=198.51.100.1\r\n", NONE);
}

/* The proxy has appended what it knows to what the client sent. */
static void what_a_client_puts_at_the_left_changes_nothing(void **state)
{
    (void)state;
    static const char *const forged[] = {
        "10.0.0.5",
        "for=10.0.0.5",
        "\"",
        "\\\"",
        "\\",
        "for=\"",
        "for=10.0.0.5;x=\"",
        "for=10.0.0.5;x=\"\\",
        "for=10.0.0.5;x=\"\\\"",
        "x=\";for=10.0.0.5",
        "a\"b\"c\"",
        ",,,",
        "for=10.0.0.5,\"",
        "[",
        "unknown",
        ";",
    };
    static const char *const appended[] = {
        "for=203.0.113.7",
        "for=\"203.0.113.7\"",
        "for=203.0.113.7;host=\"a,b\\\",\"",
        "x=\"\\\\\";for=203.0.113.7",
        "for=203.0.113.7, for=10.0.0.3;host=\"\\\"\", for=10.0.0.2",
    };
    char fields[512];
    for (size_t i = 0; i < COUNT(forged); i++) {
        snprintf(fields, sizeof fields, "X-Forwarded-For: %s, 203.0.113.7\r\n", forged[i]);
        gives("10.0.0.1", fields, "203.0.113.7 0");
        snprintf(fields, sizeof fields, "X-Forwarded-For: %s\r\nX-Forwarded-For: 203.0.113.7\r\n", forged[i]);
        gives("10.0.0.1", fields, "203.0.113.7 0");
        for (size_t k = 0; k < COUNT(appended); k++) {
            snprintf(fields, sizeof fields, "Forwarded: %s, %s\r\n", forged[i], appended[k]);
            gives("10.0.0.1", fields, "203.0.113.7 0");
            snprintf(fields, sizeof fields, "Forwarded: %s,%s\r\n", forged[i], appended[k]);
            gives("10.0.0.1", fields, "203.0.113.7 0");
            snprintf(fields, sizeof fields, "Forwarded: %s\r\nForwarded: %s\r\n", forged[i], appended[k]);
            gives("10.0.0.1", fields, "203.0.113.7 0");
        }
    }
}

static void a_long_quoted_text_is_taken_whole(void **state)
{
    (void)state;
    static char fields[60100];
    for (size_t n = 59998; n <= 59999; n++) {
        size_t from = (size_t)snprintf(fields, sizeof fields, "Forwarded: for=203.0.113.7;x=\"");
        memset(fields + from, '\\', n);
        memcpy(fields + from + n, "\"\r\n", 4);
        gives("10.0.0.1", fields, n % 2 == 0 ? "203.0.113.7 0" : NONE);
        memset(fields + from, ',', n);
        gives("10.0.0.1", fields, "203.0.113.7 0");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_trusted_peers_are_believed),
        cmocka_unit_test(the_first_untrusted_from_the_right_is_the_client),
        cmocka_unit_test(with_all_trusted_the_leftmost_is_the_client),
        cmocka_unit_test(all_fields_are_one_list_in_their_order),
        cmocka_unit_test(other_fields_are_passed_over),
        cmocka_unit_test(nothing_left_of_a_malformed_element_is_believed),
        cmocka_unit_test(empty_elements_mean_nothing),
        cmocka_unit_test(at_most_64_elements_are_looked_at),
        cmocka_unit_test(takes_addresses_with_and_without_port),
        cmocka_unit_test(takes_elements_of_forwarded),
        cmocka_unit_test(refuses_elements_of_forwarded),
        cmocka_unit_test(x_forwarded_for_goes_before_forwarded),
        cmocka_unit_test(what_a_client_puts_at_the_left_changes_nothing),
        cmocka_unit_test(a_long_quoted_text_is_taken_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
