/* SPDX-License-Identifier: MIT
 * Address ranges: what is one, which peers are in it, the words, addresses with ports. */
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

#include "net/cidr.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* A copy without a NUL behind it, so that ASan sees a look beyond the end. */
static char *exact(const char *text, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    return copy;
}

static int parse(const char *text, size_t len, struct cidr *out, struct err *e)
{
    char *copy = exact(text, len);
    int rc = cidr_parse(copy, len, out, e);
    free(copy);
    return rc;
}

static int add(struct cidr_list *l, const char *text, struct err *e)
{
    char *copy = exact(text, strlen(text));
    int rc = cidr_list_add(l, copy, strlen(text), e);
    free(copy);
    return rc;
}

/* The peer is in a block of the size of its family's struct: "unix:" and "", no family, are just a family. */
static bool has(const struct cidr_list *l, const char *address)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = 0xffff};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = 0xffff, .sin6_scope_id = 7};
    sa_family_t family = strcmp(address, "unix:") == 0 ? AF_UNIX : AF_UNSPEC;
    void *sa;
    if (inet_pton(AF_INET, address, &in.sin_addr) == 1)
        sa = exact((const char *)&in, sizeof in);
    else if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
        sa = exact((const char *)&in6, sizeof in6);
    else
        sa = exact((const char *)&family, sizeof family);
    bool result = cidr_list_has(l, sa);
    free(sa);
    return result;
}

/* ---- one range ---- */

static void takes_addresses_and_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *text, *address;
        uint8_t family, bits;
    } cases[] = {
        {"10.0.0.0/8", "10.0.0.0", AF_INET, 8},
        {"192.168.1.7", "192.168.1.7", AF_INET, 32},
        {"192.168.1.7/32", "192.168.1.7", AF_INET, 32},
        {"0.0.0.0/0", "0.0.0.0", AF_INET, 0},
        {"172.16.0.0/12", "172.16.0.0", AF_INET, 12},
        {"128.0.0.0/1", "128.0.0.0", AF_INET, 1},
        {"192.0.2.254/31", "192.0.2.254", AF_INET, 31},
        {"fd00::/8", "fd00::", AF_INET6, 8},
        {"fc00::/7", "fc00::", AF_INET6, 7},
        {"::1", "::1", AF_INET6, 128},
        {"::/0", "::", AF_INET6, 0},
        {"2001:DB8::/33", "2001:db8::", AF_INET6, 33},
        {"2001:db8::fffe/127", "2001:db8::fffe", AF_INET6, 127},
        {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
         AF_INET6, 128},
        {"::ffff:10.0.0.0/104", "10.0.0.0", AF_INET, 8},
        {"::ffff:192.0.2.1", "192.0.2.1", AF_INET, 32},
        {"::ffff:0:0/96", "0.0.0.0", AF_INET, 0},
        {"::ffff:0:0:0/80", "::ffff:0:0:0", AF_INET6, 80},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cidr c;
        struct err e = {"untouched"};
        char text[INET6_ADDRSTRLEN];
        memset(&c, 0xee, sizeof c);
        if (parse(cases[i].text, strlen(cases[i].text), &c, &e) != 0)
            fail_msg("%s: %s", cases[i].text, e.text);
        assert_string_equal(e.text, "untouched");
        assert_int_equal(c.family, cases[i].family);
        assert_int_equal(c.bits, cases[i].bits);
        assert_string_equal(inet_ntop(c.family, c.address, text, sizeof text), cases[i].address);
    }
    struct cidr c;
    assert_int_equal(parse("unix:", 5, &c, NULL), 0);
    assert_int_equal(c.family, AF_UNIX);
}

static void says_what_is_wrong_with_a_range(void **state)
{
    (void)state;
    static const struct {
        const char *text, *what, *right;
    } cases[] = {
        {"", "no address or range", "\"10.0.0.0/8\""},
        {"localhost", "no address or range", "\"loopback\""},
        {"10.0.0", "no address or range", "\"192.168.1.7\""},
        {"10/8", "no address or range", "\"10.0.0.0/8\""},
        {"010.0.0.0/8", "no address or range", "\"10.0.0.0/8\""},
        {"10.0.0.256", "no address or range", "\"192.168.1.7\""},
        {" 10.0.0.1", "no address or range", "\"192.168.1.7\""},
        {"10.0.0.1 ", "no address or range", "\"192.168.1.7\""},
        {"10.0.0.1:80", "no address or range", "\"192.168.1.7\""},
        {"[::1]", "no address or range", "\"fd00::/8\""},
        {"fe80::1%lo", "no address or range", "\"fd00::/8\""},
        {"/8", "no address or range", "\"10.0.0.0/8\""},
        {"*", "no address or range", "\"private\""},
        {"unix", "no address or range", "\"unix:\""},
        {"loopback", "in a list", "\"loopback\""},
        {"0000:0000:0000:0000:0000:0000:0000:0000:00000", "no address or range", "\"fd00::/8\""},
        {"0000:0000:0000:0000:0000:0000:0000:0000:000000", "no address or range", "\"fd00::/8\""},
        {"0000:0000:0000:0000:0000:0000:0000:0000:0000000", "no address or range", "\"fd00::/8\""},
        {"unix:/run/proxy", "no path", "\"unix:\""},
        {"unix:/8", "no path", "\"unix:\""},
        {"10.0.0.0/", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/33", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/08", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/00", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/+8", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/-1", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/8 ", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/8/8", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/255.0.0.0", "from 0 to 32", "\"10.0.0.0/8\""},
        {"10.0.0.0/4294967304", "from 0 to 32", "\"10.0.0.0/8\""},
        {"fd00::/129", "from 0 to 128", "\"fd00::/8\""},
        {"fd00::/x", "from 0 to 128", "\"fd00::/8\""},
        {"10.1.2.3/8", "beyond the first 8", "\"10.0.0.0/8\" for the range or \"10.1.2.3\""},
        {"192.168.1.7/30", "beyond the first 30", "\"192.168.1.4/30\" for the range or \"192.168.1.7\""},
        {"0.0.0.1/0", "beyond the first 0", "\"0.0.0.0/0\" for the range or \"0.0.0.1\""},
        {"192.0.2.255/31", "beyond the first 31", "\"192.0.2.254/31\""},
        {"128.0.0.0/0", "beyond the first 0", "\"0.0.0.0/0\""},
        {"fd00::1/8", "beyond the first 8", "\"fd00::/8\" for the range or \"fd00::1\""},
        {"ff00::/7", "beyond the first 7", "\"fe00::/7\""},
        {"2001:db8::1/127", "beyond the first 127", "\"2001:db8::/127\""},
        {"::ffff:10.1.0.0/104", "beyond the first 8", "\"10.0.0.0/8\" for the range or \"10.1.0.0\""},
        {"::ffff:10.0.0.0/95", "beyond the first 95", "\"::fffe:0:0/95\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {""};
        struct cidr c = {.bits = 99};
        int rc = parse(cases[i].text, strlen(cases[i].text), &c, &e);
        if (rc != -1 || strstr(e.text, cases[i].what) == NULL || strstr(e.text, cases[i].right) == NULL)
            fail_msg("\"%s\": %d \"%s\"", cases[i].text, rc, e.text);
        assert_int_equal(c.bits, 99);
    }
    struct cidr c;
    assert_int_equal(parse("10.0.0.1\0", 9, &c, NULL), -1);
    assert_int_equal(parse("10.0.0.0/8\0", 11, &c, NULL), -1);
    assert_int_equal(parse("unix:\0", 6, &c, NULL), -1);
}

/* ---- lists ---- */

static void a_range_has_the_peers_whose_first_bits_are_the_same(void **state)
{
    (void)state;
    static const struct {
        const char *range, *peer;
        bool has;
    } cases[] = {
        {"10.0.0.0/8", "10.0.0.0", true},
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "9.255.255.255", false},
        {"172.16.0.0/12", "172.31.255.255", true},
        {"172.16.0.0/12", "172.32.0.0", false},
        {"172.16.0.0/12", "172.15.255.255", false},
        {"192.0.2.254/31", "192.0.2.255", true},
        {"192.0.2.254/31", "192.0.2.253", false},
        {"192.168.1.7", "192.168.1.7", true},
        {"192.168.1.7", "192.168.1.6", false},
        {"0.0.0.0/0", "255.1.2.3", true},
        {"0.0.0.0/0", "::1", false},
        {"0.0.0.0/0", "::102:304", false},
        {"0.0.0.0/0", "unix:", false},
        {"0.0.0.0/0", "", false},
        {"fd00::/8", "fdff::1", true},
        {"fd00::/8", "fc00::1", false},
        {"fc00::/7", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true},
        {"fc00::/7", "fe00::", false},
        {"2001:db8::/33", "2001:db8:7fff::", true},
        {"2001:db8::/33", "2001:db8:8000::", false},
        {"::1", "::1", true},
        {"::1", "::", false},
        {"::1", "127.0.0.1", false},
        {"::/0", "ffff::1", true},
        {"::/0", "1.2.3.4", false},
        {"::/0", "unix:", false},
        {"::/0", "", false},
        {"a00::/8", "10.0.0.1", false},
        {"10.0.0.0/8", "a00::1", false},
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"10.0.0.0/8", "::ffff:11.1.2.3", false},
        {"10.0.0.0/8", "::10.1.2.3", false},
        {"10.0.0.0/8", "::fffe:a01:203", false},
        {"10.0.0.0/8", "100::ffff:10.1.2.3", false},
        {"::/0", "::ffff:10.1.2.3", false},
        {"::/64", "::ffff:10.1.2.3", false},
        {"::ffff:10.0.0.0/104", "10.1.2.3", true},
        {"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true},
        {"unix:", "unix:", true},
        {"unix:", "0.0.0.0", false},
        {"unix:", "::", false},
        {"unix:", "", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cidr_list l = {0};
        assert_int_equal(add(&l, cases[i].range, NULL), 0);
        assert_int_equal(l.n, 1);
        if (has(&l, cases[i].peer) != cases[i].has)
            fail_msg("\"%s\" and \"%s\"", cases[i].range, cases[i].peer);
    }
}

static void the_words_stand_for_their_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *peer;
        bool loopback, private;
    } cases[] = {
        {"127.0.0.0", true, true},
        {"127.255.255.255", true, true},
        {"126.255.255.255", false, false},
        {"128.0.0.0", false, false},
        {"::1", true, true},
        {"::ffff:127.0.0.1", true, true},
        {"::", false, false},
        {"::2", false, false},
        {"unix:", true, true},
        {"", false, false},
        {"10.0.0.0", false, true},
        {"10.255.255.255", false, true},
        {"9.255.255.255", false, false},
        {"11.0.0.0", false, false},
        {"172.16.0.0", false, true},
        {"172.31.255.255", false, true},
        {"172.15.255.255", false, false},
        {"172.32.0.0", false, false},
        {"192.168.0.0", false, true},
        {"192.168.255.255", false, true},
        {"192.167.255.255", false, false},
        {"192.169.0.0", false, false},
        {"fc00::", false, true},
        {"fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false, true},
        {"fbff:ffff::", false, false},
        {"fe00::", false, false},
        {"169.254.1.1", false, false},
        {"fe80::1", false, false},
        {"100.64.0.1", false, false},
        {"8.8.8.8", false, false},
    };
    struct cidr_list empty = {0}, loopback = {0}, private = {0};
    assert_int_equal(add(&loopback, "loopback", NULL), 0);
    assert_int_equal(add(&private, "private", NULL), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_false(has(&empty, cases[i].peer));
        if (has(&loopback, cases[i].peer) != cases[i].loopback)
            fail_msg("loopback, %s", cases[i].peer);
        if (has(&private, cases[i].peer) != cases[i].private)
            fail_msg("private, %s", cases[i].peer);
    }
    assert_int_equal(add(&loopback, "Private", NULL), -1);
    assert_int_equal(add(&loopback, "privat", NULL), -1);
    assert_int_equal(add(&loopback, "private ", NULL), -1);
}

static void a_list_has_what_any_of_its_ranges_has(void **state)
{
    (void)state;
    struct cidr_list l = {0};
    assert_int_equal(add(&l, "192.0.2.0/24", NULL), 0);
    assert_int_equal(add(&l, "2001:db8::/32", NULL), 0);
    assert_int_equal(add(&l, "unix:", NULL), 0);
    assert_int_equal(l.n, 3);
    assert_true(has(&l, "192.0.2.9"));
    assert_true(has(&l, "2001:db8::9"));
    assert_true(has(&l, "unix:"));
    assert_false(has(&l, "192.0.3.9"));
    assert_false(has(&l, "2001:db9::9"));
}

static void a_list_keeps_nothing_twice(void **state)
{
    (void)state;
    struct cidr_list l = {0};
    assert_int_equal(add(&l, "loopback", NULL), 0);
    assert_int_equal(l.n, 3);
    assert_int_equal(add(&l, "private", NULL), 0);
    assert_int_equal(add(&l, "private", NULL), 0);
    assert_int_equal(add(&l, "loopback", NULL), 0);
    assert_int_equal(add(&l, "::ffff:10.0.0.0/104", NULL), 0);
    assert_int_equal(l.n, 7);
    assert_int_equal(add(&l, "10.0.0.0/9", NULL), 0);
    assert_int_equal(l.n, 8);
}

static void a_full_list_and_a_bad_range_change_nothing(void **state)
{
    (void)state;
    struct cidr_list l = {0};
    struct err e = {""};
    char text[32];
    for (int i = 0; i < CIDR_LIST_MAX - 2; i++) {
        snprintf(text, sizeof text, "192.0.2.%d", i);
        assert_int_equal(add(&l, text, NULL), 0);
    }
    struct cidr_list before = l;
    assert_int_equal(add(&l, "loopback", &e), -1); /* two of its three would fit */
    assert_non_null(strstr(e.text, "more than 64"));
    assert_memory_equal(&l, &before, offsetof(struct cidr_list, range) + before.n * sizeof l.range[0]);
    assert_false(has(&l, "127.0.0.1"));
    assert_int_equal(add(&l, "10.1.0.0/8", &e), -1);
    assert_int_equal(l.n, CIDR_LIST_MAX - 2);
    assert_int_equal(add(&l, "::1", NULL), 0);
    assert_int_equal(add(&l, "::2", NULL), 0);
    assert_int_equal(add(&l, "::3", NULL), -1);
    assert_int_equal(add(&l, "::2", NULL), 0);
    assert_true(has(&l, "::2"));
    assert_false(has(&l, "::3"));
}

/* ---- endpoints ---- */

static void endpoints_are_read_exactly(void **state)
{
    (void)state;
    static const struct {
        int family;
        const char *host, *port, *text;
        int number; /* -1: refused */
    } cases[] = {
        {AF_INET, "192.0.2.1", NULL, "192.0.2.1", 0},
        {AF_INET, "192.0.2.1", "0", "192.0.2.1", 0},
        {AF_INET, "192.0.2.1", "65535", "192.0.2.1", 65535},
        {AF_INET, "192.0.2.1", "80", "192.0.2.1", 80},
        {AF_INET6, "2001:DB8::1", "443", "2001:db8::1", 443},
        {AF_INET6, "::ffff:192.0.2.1", "1", "::ffff:192.0.2.1", 1},
        {AF_INET6, "::", NULL, "::", 0},
        {AF_INET, "192.0.2.1", "", NULL, -1},
        {AF_INET, "192.0.2.1", "65536", NULL, -1},
        {AF_INET, "192.0.2.1", "99999", NULL, -1},
        {AF_INET, "192.0.2.1", "100000", NULL, -1},
        {AF_INET, "192.0.2.1", "4294967297", NULL, -1},
        {AF_INET, "192.0.2.1", "080", NULL, -1},
        {AF_INET, "192.0.2.1", "00", NULL, -1},
        {AF_INET, "192.0.2.1", "+80", NULL, -1},
        {AF_INET, "192.0.2.1", "-1", NULL, -1},
        {AF_INET, "192.0.2.1", " 80", NULL, -1},
        {AF_INET, "192.0.2.1", "80 ", NULL, -1},
        {AF_INET, "192.0.2.1", "0x50", NULL, -1},
        {AF_INET, "192.0.2.01", "80", NULL, -1},
        {AF_INET, "192.0.2", "80", NULL, -1},
        {AF_INET, "::1", "80", NULL, -1},
        {AF_INET, "", "80", NULL, -1},
        {AF_INET6, "192.0.2.1", "80", NULL, -1},
        {AF_INET6, "[::1]", "80", NULL, -1},
        {AF_INET6, "::1::2", "80", NULL, -1},
        {AF_INET6, "::1%lo", "80", NULL, -1},
        {AF_INET6, "1:2:3:4:5:6:7:8:9", "80", NULL, -1},
        {AF_INET6, "00001::1", "80", NULL, -1},
        {AF_INET6, "", NULL, NULL, -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t host_len = strlen(cases[i].host), port_len = cases[i].port != NULL ? strlen(cases[i].port) : 0;
        char *host = exact(cases[i].host, host_len), text[INET6_ADDRSTRLEN];
        char *port = cases[i].port != NULL ? exact(cases[i].port, port_len) : NULL;
        struct sockaddr_storage sa = {.ss_family = 99};
        struct sockaddr_in *in = (struct sockaddr_in *)&sa;
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&sa;
        bool good = cidr_endpoint(cases[i].family, host, host_len, port, port_len, &sa);
        free(host);
        free(port);
        if (good != (cases[i].number >= 0))
            fail_msg("case %zu: %s", i, cases[i].host);
        assert_int_equal(sa.ss_family, good ? cases[i].family : 99);
        if (!good)
            continue;
        void *address = sa.ss_family == AF_INET ? (void *)&in->sin_addr : (void *)&in6->sin6_addr;
        assert_string_equal(inet_ntop(sa.ss_family, address, text, sizeof text), cases[i].text);
        assert_int_equal(ntohs(sa.ss_family == AF_INET ? in->sin_port : in6->sin6_port), cases[i].number);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_addresses_and_ranges),
        cmocka_unit_test(says_what_is_wrong_with_a_range),
        cmocka_unit_test(a_range_has_the_peers_whose_first_bits_are_the_same),
        cmocka_unit_test(the_words_stand_for_their_ranges),
        cmocka_unit_test(a_list_has_what_any_of_its_ranges_has),
        cmocka_unit_test(a_list_keeps_nothing_twice),
        cmocka_unit_test(a_full_list_and_a_bad_range_change_nothing),
        cmocka_unit_test(endpoints_are_read_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
