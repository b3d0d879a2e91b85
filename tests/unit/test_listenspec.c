/* SPDX-License-Identifier: MIT
 * What is written for a listener: its parts, and what is said about those that are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "net/listenspec.h"

static struct listenspec s;
static struct err e;

static void assert_plain(const char *text, bool proxied, const char *address)
{
    assert_int_equal(listenspec_parse(&s, text, &e), 0);
    assert_false(s.secure);
    assert_int_equal(s.proxied, proxied);
    assert_string_equal(s.address, address);
    listenspec_fini(&s);
}

static void plain_addresses_are_left_alone(void **state)
{
    (void)state;
    assert_plain("127.0.0.1:8080", false, "127.0.0.1:8080");
    assert_plain("proxy:[::1]:1", true, "[::1]:1");
    assert_plain("proxy:unix:/a", true, "unix:/a");
    assert_plain("unix:/a?b&c", false, "unix:/a?b&c");
    assert_plain("tls", false, "tls");
    assert_plain("TLS:a:1", false, "TLS:a:1");
    assert_plain("", false, "");
}

static void tls_with_one_certificate(void **state)
{
    (void)state;
    assert_int_equal(listenspec_parse(&s, "tls:*:443?cert=/c.pem&key=k=1.pem", &e), 0);
    assert_true(s.secure);
    assert_false(s.proxied);
    assert_string_equal(s.address, "*:443");
    assert_int_equal(s.tls.npairs, 1);
    assert_string_equal(s.tls.pair[0].cert, "/c.pem");
    assert_string_equal(s.tls.pair[0].key, "k=1.pem");
    assert_null(s.tls.ca);
    assert_false(s.tls.optional || s.tls.only_13);
    listenspec_fini(&s);
}

static void everything_there_is(void **state)
{
    (void)state;
    const char *text = "proxy:tls:unix:/s?min=1.3&cert=a&key=b&client=optional&cert=c&key=d&ca=e";
    assert_int_equal(listenspec_parse(&s, text, &e), 0);
    assert_true(s.secure && s.proxied && s.tls.optional && s.tls.only_13);
    assert_string_equal(s.address, "unix:/s");
    assert_int_equal(s.tls.npairs, 2);
    assert_string_equal(s.tls.pair[1].cert, "c");
    assert_string_equal(s.tls.pair[1].key, "d");
    assert_string_equal(s.tls.ca, "e");
    listenspec_fini(&s);
    assert_int_equal(listenspec_parse(&s, "tls:a:1?cert=a&key=b&client=required&ca=e&min=1.2", &e), 0);
    assert_false(s.tls.optional || s.tls.only_13);
    listenspec_fini(&s);
}

/* `pairs` certificates. */
static int parse_many(int pairs)
{
    char text[1024] = "tls:a:1?";
    for (int i = 0; i < pairs; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%scert=c%d&key=k%d", i > 0 ? "&" : "", i,
                 i);
    return listenspec_parse(&s, text, &e);
}

static void certificates_have_a_limit(void **state)
{
    (void)state;
    assert_int_equal(parse_many(TLSCONTEXT_PAIRS), 0);
    assert_string_equal(s.tls.pair[TLSCONTEXT_PAIRS - 1].key, "k15");
    listenspec_fini(&s);
    assert_int_equal(parse_many(TLSCONTEXT_PAIRS + 1), -1);
    assert_non_null(strstr(e.text, "more than 16 certificates"));
}

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"tls:a:1", "TLS needs a certificate and its key: ?cert=FILE&key=FILE"},
        {"tls:a:1?min=1.3", "TLS needs a certificate and its key: ?cert=FILE&key=FILE"},
        {"tls:a:1?", "\"\" has no value: an option is NAME=VALUE"},
        {"tls:a:1?cert", "\"cert\" has no value: an option is NAME=VALUE"},
        {"tls:a:1?cert=", "\"cert=\" has no value: an option is NAME=VALUE"},
        {"tls:a:1?cert=a&key=b&", "\"\" has no value: an option is NAME=VALUE"},
        {"tls:a:1?cert=a", "the certificate a has no key"},
        {"tls:a:1?cert=a&key=b&cert=c", "the certificate c has no key"},
        {"tls:a:1?cert=a&cert=b", "cert and key come in pairs, the certificate first"},
        {"tls:a:1?key=a", "cert and key come in pairs, the certificate first"},
        {"tls:a:1?cert=a&key=b&key=c", "cert and key come in pairs, the certificate first"},
        {"tls:a:1?cert=a&key=b&client=optional", "ca=FILE"},
        {"tls:a:1?cert=a&key=b&client=required", "ca=FILE"}, /* or everybody would be let in */
        {"tls:a:1?cert=a&key=b&ca=c&client=no", "client is required or optional, not \"no\""},
        {"tls:a:1?cert=a&key=b&min=1.1", "min is 1.2 or 1.3, not \"1.1\""},
        {"tls:a:1?cert=a&key=b&certs=c", "unknown option \"certs\"; there are cert, key, ca, client and min"},
        {"a:1?cert=a&key=b", "certificates are for addresses that begin with tls:"},
        {"tls:proxy:a:1?cert=a&key=b", "the order is proxy:tls:ADDRESS"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char begin[256];
        assert_int_equal(listenspec_parse(&s, wrong[i][0], &e), -1);
        snprintf(begin, sizeof begin, "listen \"%s\": ", wrong[i][0]);
        assert_memory_equal(e.text, begin, strlen(begin));
        assert_non_null(strstr(e.text, wrong[i][1]));
        assert_null(s.address);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_addresses_are_left_alone),
        cmocka_unit_test(tls_with_one_certificate),
        cmocka_unit_test(everything_there_is),
        cmocka_unit_test(certificates_have_a_limit),
        cmocka_unit_test(what_is_wrong_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
