/* SPDX-License-Identifier: MIT
 * The PROXY protocol: headers of both versions, whole, cut and malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>

#include "net/proxyline.h"

#define COUNT(a)  (sizeof(a) / sizeof(a)[0])
#define UNTOUCHED 99
#define V6_LONG   "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

/* A copy of exactly that many bytes, so that ASan sees a look beyond the end. */
static int parse(const void *data, size_t len, struct proxyline *out)
{
    uint8_t *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy + 1, data, len);
    int rc = proxyline_parse(copy + 1, len, out);
    free(copy);
    return rc;
}

static const char *show(const struct proxyline *line)
{
    static char text[80];
    char address[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const void *)&line->source;
    const struct sockaddr_in6 *in6 = (const void *)&line->source;
    switch (line->source.ss_family) {
    case AF_UNSPEC: return "own";
    case AF_UNIX: return "unix:";
    case AF_INET:
        snprintf(text, sizeof text, "%s %d", inet_ntop(AF_INET, &in->sin_addr, address, sizeof address),
                 ntohs(in->sin_port));
        return text;
    case AF_INET6:
        snprintf(text, sizeof text, "%s %d", inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof address),
                 ntohs(in6->sin6_port));
        return text;
    default: return "?";
    }
}

/* Takes exactly these bytes, at once and with others behind; each shorter piece is not enough. */
static void takes(const void *data, size_t len, const char *source)
{
    char longer[PROXYLINE_MAX_BYTES + 8];
    struct proxyline line = {.source.ss_family = UNTOUCHED};
    for (size_t n = 0; n < len; n++) {
        int rc = parse(data, n, &line);
        if (rc != 0)
            fail_msg("%s: %d after %zu of %zu bytes", source, rc, n, len);
        assert_int_equal(line.source.ss_family, UNTOUCHED);
    }
    int rc = parse(data, len, &line);
    if (rc != (int)len || strcmp(show(&line), source) != 0)
        fail_msg("%s: %d of %zu bytes, %s", source, rc, len, show(&line));
    memset(&line, 0xee, sizeof line);
    memcpy(longer, data, len);
    memcpy(longer + len, "\r\nPROXY\n", 8);
    assert_int_equal(parse(longer, len + 8, &line), len);
    assert_string_equal(show(&line), source);
}

/* Malformed from the byte on whose number is `at`, counted from 0, and whatever follows. */
static void refuses(const void *data, size_t len, size_t at, const char *name)
{
    struct proxyline line = {.source.ss_family = UNTOUCHED};
    for (size_t n = 0; n <= len; n++) {
        int rc = parse(data, n, &line);
        if (rc != (n > at ? -1 : 0))
            fail_msg("%s: %d after %zu bytes", name, rc, n);
    }
    assert_int_equal(line.source.ss_family, UNTOUCHED);
}

/* ---- version 1 ---- */

static void version_1_gives_the_source(void **state)
{
    (void)state;
    static const struct {
        const char *line, *source;
    } cases[] = {
        {"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "192.0.2.1 56324"},
        {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255 65535"},
        {"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0 0"},
        {"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "2001:db8::1 1"},
        {"PROXY TCP6 2001:DB8:0:0::1 ::1 1 2\r\n", "2001:db8::1 1"},
        {"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "::ffff:192.0.2.1 1"},
        {"PROXY TCP6 " V6_LONG " " V6_LONG " 65535 65535\r\n", V6_LONG " 65535"},
        {"PROXY UNKNOWN\r\n", "own"},
        {"PROXY UNKNOWN \r\n", "own"},
        {"PROXY UNKNOWN " V6_LONG " " V6_LONG " 65535 65535\r\n", "own"},
        {"PROXY UNKNOWN 192.0.2.1\t\x01\xff  a b c d e f g\r\n", "own"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        takes(cases[i].line, strlen(cases[i].line), cases[i].source);
}

static void version_1_is_exactly_as_specified(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7  1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1  2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.07 1 2\r\n",
        "PROXY TCP4 192.0.2.1 example.com 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 02\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 -2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n",
        "PROXY TCP6 ::1 192.0.2.1 1 2\r\n",
        "PROXY TCP6 [::1] [::1] 1 2\r\n",
        "PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        "PROXY TCP5 ::1 ::1 1 2\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY unknown\r\n",
        "PROXY UNKNOW\r\n",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        refuses(lines[i], strlen(lines[i]), strlen(lines[i]) - 1, lines[i]);
    refuses("PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n", 40, 39, "NUL");
}

static void version_1_ends_with_cr_lf_only(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        size_t at;
    } cases[] = {
        {"PROXY UNKNOWN\n", 13},
        {"PROXY UNKNOWN\n\r\n", 13},
        {"PROXY UNKNOWN a\nb\r\n", 15},
        {"PROXY UNKNOWN\rx", 14},
        {"PROXY UNKNOWN\r\r\n", 14},
        {"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\nGET", 37},
        {"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\rGET", 38},
        {"PROXY \nTCP4", 6},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        refuses(cases[i].line, strlen(cases[i].line), cases[i].at, cases[i].line);
}

static void version_1_has_at_most_107_bytes(void **state)
{
    (void)state;
    char line[120];
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    memcpy(line + 105, "\r\n", 2);
    takes(line, 107, "own");
    line[105] = 'x';
    memcpy(line + 106, "\r\n", 2);
    refuses(line, 108, 105, "108 bytes");
    memset(line + 106, 'x', sizeof line - 106);
    refuses(line, sizeof line, 105, "no end");
}

/* ---- version 2 ---- */

#define MARK    "\r\n\r\n\0\r\nQUIT\n"
#define INET    "\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb" /* 192.0.2.1 56324, 198.51.100.7 443 */
#define TEXT(s) (s), sizeof(s) - 1

static size_t put(uint8_t *out, uint8_t command, uint8_t family, size_t announced, const void *body,
                  size_t len)
{
    memcpy(out, MARK, 12);
    out[12] = command;
    out[13] = family;
    out[14] = (uint8_t)(announced >> 8);
    out[15] = (uint8_t)announced;
    memcpy(out + 16, body, len);
    return 16 + len;
}

static void takes_v2(uint8_t command, uint8_t family, const void *body, size_t len, const char *source)
{
    uint8_t header[PROXYLINE_MAX_BYTES];
    takes(header, put(header, command, family, len, body, len), source);
}

/* Malformed at the byte of that number. */
static void refuses_v2(uint8_t command, uint8_t family, const void *body, size_t len, size_t at,
                       const char *name)
{
    uint8_t header[PROXYLINE_MAX_BYTES];
    refuses(header, put(header, command, family, len, body, len), at, name);
}

static void version_2_gives_the_source(void **state)
{
    (void)state;
    static const uint8_t inet6[36] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1, [31] = 1, 0x12, 0x34, 0, 80};
    static const uint8_t mapped[36] = {[10] = 0xff, 0xff, 192, 0, 2, 1, [31] = 1, 0, 1, 0, 80};
    static const char path[216] = "/run/client.sock";
    takes_v2(0x21, 0x11, TEXT(INET), "192.0.2.1 56324");
    takes_v2(0x21, 0x21, inet6, sizeof inet6, "2001:db8::1 4660");
    takes_v2(0x21, 0x21, mapped, sizeof mapped, "::ffff:192.0.2.1 1");
    takes_v2(0x21, 0x31, path, sizeof path, "unix:");
}

static void other_transports_and_the_proxy_itself_keep_the_own_address(void **state)
{
    (void)state;
    static const char long_body[536] = "";
    takes_v2(0x20, 0x00, "", 0, "own");
    takes_v2(0x20, 0x11, TEXT(INET), "own");
    takes_v2(0x20, 0x11, "ab", 2, "own");
    takes_v2(0x20, 0xff, "ab", 2, "own");
    takes_v2(0x21, 0x00, "", 0, "own");
    takes_v2(0x21, 0x00, TEXT(INET), "own");
    takes_v2(0x21, 0x00, "\x03\xff", 2, "own");
    takes_v2(0x21, 0x01, "", 0, "own");
    takes_v2(0x21, 0x10, TEXT(INET), "own");
    takes_v2(0x21, 0x12, TEXT(INET), "own");
    takes_v2(0x21, 0x22, long_body, 36, "own");
    takes_v2(0x21, 0x32, long_body, 216, "own");
    takes_v2(0x20, 0x00, long_body, sizeof long_body, "own");
}

static void version_2_refuses_what_nobody_may_send(void **state)
{
    (void)state;
    static const char body[216] = "";
    refuses_v2(0x11, 0x11, TEXT(INET), 12, "version 1");
    refuses_v2(0x31, 0x11, TEXT(INET), 12, "version 3");
    refuses_v2(0x01, 0x11, TEXT(INET), 12, "version 0");
    refuses_v2(0x22, 0x11, TEXT(INET), 12, "command 2");
    refuses_v2(0x2f, 0x11, TEXT(INET), 12, "command 15");
    refuses_v2(0x21, 0x41, body, 216, 15, "family 4");
    refuses_v2(0x21, 0xf1, body, 216, 15, "family 15");
    refuses_v2(0x21, 0x13, TEXT(INET), 15, "transport 3");
    refuses_v2(0x21, 0x0f, TEXT(INET), 15, "transport 15");
    refuses_v2(0x21, 0x11, INET, 11, 15, "IPv4, 11 bytes");
    refuses_v2(0x21, 0x11, INET, 0, 15, "IPv4, no bytes");
    refuses_v2(0x21, 0x12, INET, 11, 15, "UDP, 11 bytes");
    refuses_v2(0x21, 0x21, body, 35, 15, "IPv6, 35 bytes");
    refuses_v2(0x21, 0x31, body, 215, 15, "unix, 215 bytes");
}

static void tlvs_are_skipped_and_fill_the_header(void **state)
{
    (void)state;
    static const char body[216 + 4] = "";
    takes_v2(0x21, 0x11, TEXT(INET "\x04\x00\x00"), "192.0.2.1 56324");
    takes_v2(0x21, 0x11, TEXT(INET "\x02\x00\x01x\xea\x00\x02xy"), "192.0.2.1 56324");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04"), 28, "type only");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04\x00"), 29, "half a length");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04\x00\x01"), 30, "no value");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04\x00\x02x"), 31, "half a value");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04\x01\x01x"), 31, "a long value");
    refuses_v2(0x21, 0x11, TEXT(INET "\x04\x00\x01x\x04"), 32, "one and a half");
    refuses_v2(0x21, 0x12, TEXT(INET "\x04"), 28, "behind a datagram's address");
    refuses_v2(0x21, 0x31, body, 217, 232, "behind a path");
}

static void version_2_has_at_most_4096_bytes(void **state)
{
    (void)state;
    static uint8_t body[PROXYLINE_MAX_BYTES - 16 + 1];
    memcpy(body, INET "\xea\x0f\xe1", 15); /* 4080 - 12 - 3 = 0xfe1 */
    takes_v2(0x21, 0x11, body, sizeof body - 1, "192.0.2.1 56324");
    uint8_t header[64];
    size_t len = put(header, 0x21, 0x11, 4081, INET, 12);
    refuses(header, len, 15, "4097 bytes");
    len = put(header, 0x20, 0x00, 4081, INET, 12);
    refuses(header, len, 15, "4097 bytes, local");
    len = put(header, 0x20, 0x00, 65535, INET, 12);
    refuses(header, len, 15, "65551 bytes");
}

/* The sums were made by another program, one that gives e3069283 for "123456789". */
static void a_checksum_must_be_right(void **state)
{
    (void)state;
    static const char body[] = INET "\x04\x00\x01\xaa\x03\x00\x04\x27\xdb\xda\xf7";
    uint8_t header[64];
    size_t len = put(header, 0x21, 0x11, sizeof body - 1, body, sizeof body - 1);
    takes(header, len, "192.0.2.1 56324");
    for (size_t at = 16; at < len; at++) {
        if (at == 29 || at == 30 || at == 32 || at == 33 || at == 34)
            continue; /* with another type or length it is not a checksum any more */
        for (int bit = 0; bit < 8; bit++) {
            header[at] ^= (uint8_t)(1 << bit);
            refuses(header, len, len - 1, "a wrong bit");
            header[at] ^= (uint8_t)(1 << bit);
        }
    }
    takes_v2(0x21, 0x11, TEXT(INET "\x03\x00\x04\x7f\xd7\x9c\x32\x04\x00\x02\xaa\xbb"), "192.0.2.1 56324");
    header[12] = 0x20; /* of the proxy's own connection nothing matters */
    takes(header, len, "own");
    refuses_v2(0x21, 0x11, TEXT(INET "\x03\x00\x03\x27\xdb\xda"), 33, "three bytes");
    refuses_v2(0x21, 0x11, TEXT(INET "\x03\x00\x05\x27\xdb\xda\xf7\x00"), 35, "five bytes");
    refuses_v2(0x21, 0x11, TEXT(INET "\x03\x00\x00"), 30, "no bytes");
}

static void a_mark_is_refused_at_its_first_wrong_byte(void **state)
{
    (void)state;
    static const char mark[] = MARK;
    char wrong[13];
    for (size_t i = 0; i < 12; i++) {
        memcpy(wrong, MARK "\x21", 13);
        wrong[i] = (char)(mark[i] ^ 0x20);
        refuses(wrong, 13, i, "version 2");
        if (i >= 6)
            continue;
        memcpy(wrong, "PROXY UNKNOWN", 13);
        wrong[i] ^= 0x20;
        refuses(wrong, 13, i, "version 1");
    }
    refuses("GET / HTTP/1.1\r\n", 16, 0, "HTTP");
    refuses("POST / HTTP/1.1\r\n", 17, 1, "HTTP");
    refuses("\x16\x03\x01", 3, 0, "TLS");
    refuses("\r\nGET", 5, 2, "HTTP after an empty line");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1_gives_the_source),
        cmocka_unit_test(version_1_is_exactly_as_specified),
        cmocka_unit_test(version_1_ends_with_cr_lf_only),
        cmocka_unit_test(version_1_has_at_most_107_bytes),
        cmocka_unit_test(version_2_gives_the_source),
        cmocka_unit_test(other_transports_and_the_proxy_itself_keep_the_own_address),
        cmocka_unit_test(version_2_refuses_what_nobody_may_send),
        cmocka_unit_test(tlvs_are_skipped_and_fill_the_header),
        cmocka_unit_test(version_2_has_at_most_4096_bytes),
        cmocka_unit_test(a_checksum_must_be_right),
        cmocka_unit_test(a_mark_is_refused_at_its_first_wrong_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
