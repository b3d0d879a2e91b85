/* SPDX-License-Identifier: MIT
 * The first bytes of a connection behind a proxy: every cut, a second opinion on both versions, and the
 * header written anew from what was read. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/proxyline.h"

#include "check.h"

#define MARK "\r\n\r\n\0\r\nQUIT\n"

/* In a block of exactly that size, so that ASan sees a read beyond it. *out is as it was unless the result is
 * positive. */
static int parse(const uint8_t *data, size_t len, struct proxyline *out)
{
    struct proxyline before;
    memset(&before, 0x55, sizeof before);
    *out = before;
    uint8_t *block = malloc(len + 1);
    CHECK(block != NULL);
    memcpy(block + 1, data, len);
    int result = proxyline_parse(block + 1, len, out);
    free(block);
    CHECK(result > 0 || memcmp(out, &before, sizeof before) == 0);
    CHECK(result >= -1 && result <= PROXYLINE_MAX_BYTES && (result < 0 || (size_t)result <= len));
    return result;
}

static bool same(const struct proxyline *a, const struct proxyline *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static struct proxyline endpoint(int family, const void *address, unsigned port)
{
    struct proxyline p = {.source.ss_family = (sa_family_t)family};
    struct sockaddr_in *in = (struct sockaddr_in *)&p.source;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&p.source;
    if (family == AF_INET) {
        memcpy(&in->sin_addr, address, 4);
        in->sin_port = htons((uint16_t)port);
    } else if (family == AF_INET6) {
        memcpy(&in6->sin6_addr, address, 16);
        in6->sin6_port = htons((uint16_t)port);
    }
    return p;
}

/* ---- second opinions on a whole header: its length, or -1 ---- */

static int expected_v1(const uint8_t *data, size_t len, struct proxyline *out)
{
    static regex_t form;
    static bool compiled;
    char text[108], address[2][108];
    uint8_t bytes[2][16];
    regmatch_t g[6];
    if (!compiled)
        CHECK(regcomp(&form,
                      "^PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) "
                      "(0|[1-9][0-9]{0,4})\r$",
                      REG_EXTENDED) == 0);
    compiled = true;
    const uint8_t *lf = memchr(data, '\n', len < 107 ? len : 107);
    const uint8_t *cr = memchr(data, '\r', len);
    if (lf == NULL || cr != lf - 1)
        return -1;
    int whole = (int)(lf - data) + 1;
    if (memcmp(data, "PROXY UNKNOWN", 13) == 0 && (data[13] == ' ' || data[13] == '\r')) {
        *out = endpoint(AF_UNSPEC, NULL, 0);
        return whole;
    }
    memcpy(text, data, (size_t)whole - 1);
    text[whole - 1] = '\0';
    if (strlen(text) + 1 != (size_t)whole || regexec(&form, text, 6, g, 0) != 0)
        return -1;
    int family = text[g[1].rm_so] == '4' ? AF_INET : AF_INET6;
    int source_port = atoi(text + g[4].rm_so), destination_port = atoi(text + g[5].rm_so);
    for (int i = 0; i < 2; i++) {
        snprintf(address[i], sizeof address[i], "%.*s", (int)(g[2 + i].rm_eo - g[2 + i].rm_so),
                 text + g[2 + i].rm_so);
        if (inet_pton(family, address[i], bytes[i]) != 1)
            return -1;
    }
    if (source_port > 65535 || destination_port > 65535)
        return -1;
    *out = endpoint(family, bytes[0], (unsigned)source_port);
    return whole;
}

/* CRC32c by long division of the whole message as a polynomial, with the bits as they are on the wire. */
static uint32_t crc_of(const uint8_t *data, size_t len)
{
    uint32_t rest = UINT32_MAX, mirrored = 0;
    for (size_t i = 0; i < 8 * len; i++) {
        uint32_t in = data[i / 8] >> i % 8 & 1;
        uint32_t out = rest >> 31;
        rest = rest << 1 ^ (in != out ? 0x1edc6f41 : 0);
    }
    for (int i = 0; i < 32; i++)
        mirrored |= (rest >> i & 1) << (31 - i);
    return ~mirrored;
}

static bool crc_fits(const uint8_t *data, size_t whole, size_t at)
{
    uint8_t zeroed[PROXYLINE_MAX_BYTES];
    uint32_t sum;
    memcpy(zeroed, data, whole);
    memset(zeroed + at, 0, 4);
    memcpy(&sum, data + at, 4);
    return ntohl(sum) == crc_of(zeroed, whole);
}

static int expected_v2(const uint8_t *data, size_t len, struct proxyline *out)
{
    if (len < 16 || (data[12] != 0x20 && data[12] != 0x21))
        return -1;
    size_t whole = 16u + data[14] * 256u + data[15];
    if (whole > len || whole > 4096)
        return -1;
    *out = endpoint(AF_UNSPEC, NULL, 0);
    if (data[12] == 0x20)
        return (int)whole;
    if (data[13] > 0x32 || (data[13] & 15) > 2)
        return -1;
    static const size_t sizes[] = {0, 12, 36, 216};
    size_t at = 16 + sizes[data[13] >> 4];
    if (whole < at)
        return -1;
    if (data[13] == 0x11)
        *out = endpoint(AF_INET, data + 16, data[24] * 256u + data[25]);
    else if (data[13] == 0x21)
        *out = endpoint(AF_INET6, data + 16, data[48] * 256u + data[49]);
    else if (data[13] == 0x31)
        *out = endpoint(AF_UNIX, NULL, 0);
    while (data[13] >= 0x10 && at < whole) {
        size_t value = at + 3;
        if (value > whole || value + data[at + 1] * 256u + data[at + 2] > whole)
            return -1;
        at = value + data[at + 1] * 256u + data[at + 2];
        if (data[value - 3] == 3 && (at - value != 4 || !crc_fits(data, whole, value)))
            return -1;
    }
    return (int)whole;
}

/* ---- what holds ---- */

/* 0 up to some byte, and from there on one answer, whatever follows: the length at that byte, or -1. */
static int check_cuts(const uint8_t *data, size_t len, struct proxyline *out)
{
    struct proxyline cut;
    int result = parse(data, len, out);
    size_t decided = len + 1;
    for (size_t n = 0; n <= len; n += n < 300 || n + 20 >= len || n % 97 == 0 ? 1 : 97 - n % 97) {
        int r = parse(data, n, &cut);
        if (r != 0 && decided > len)
            decided = n;
        CHECK(r == (n >= decided ? result : 0) && (result <= 0 || (r > 0) == (n >= (size_t)result)));
        CHECK(r <= 0 || same(&cut, out));
    }
    return result;
}

/* What was read, as either version writes it. */
static void check_again(const struct proxyline *line)
{
    uint8_t header[64] = MARK "\x21";
    char text[120], address[INET6_ADDRSTRLEN];
    struct proxyline again;
    const struct sockaddr_in *in = (const void *)&line->source;
    const struct sockaddr_in6 *in6 = (const void *)&line->source;
    bool four = line->source.ss_family == AF_INET;
    if (!four && line->source.ss_family != AF_INET6)
        return;
    const void *bytes = four ? (const void *)&in->sin_addr : &in6->sin6_addr;
    in_port_t port = four ? in->sin_port : in6->sin6_port;
    size_t size = four ? 4 : 16;

    inet_ntop(line->source.ss_family, bytes, address, sizeof address);
    int len = snprintf(text, sizeof text, "PROXY TCP%c %s %s %d 0\r\n", four ? '4' : '6', address, address,
                       ntohs(port));
    CHECK(parse((const uint8_t *)text, (size_t)len, &again) == len && same(&again, line));

    header[13] = four ? 0x11 : 0x21;
    header[15] = (uint8_t)(2 * size + 4 + 7);
    memcpy(header + 16, bytes, size);
    memcpy(header + 16 + 2 * size, &port, 2);
    size_t sum_at = 16 + 2 * size + 4 + 3, whole = sum_at + 4;
    memcpy(header + sum_at - 3, "\x03\x00\x04", 3);
    uint32_t sum = htonl(crc_of(header, whole));
    memcpy(header + sum_at, &sum, 4);
    CHECK(parse(header, whole, &again) == (int)whole && same(&again, line));
    for (size_t i = 16 * 8; i < whole * 8; i += 7) {
        if (i / 8 >= sum_at - 3 && i / 8 < sum_at)
            continue;
        header[i / 8] ^= (uint8_t)(1 << i % 8);
        CHECK(parse(header, whole, &again) == -1);
        header[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}

/* Behind a right header everything is the client's. */
static void check_tail(const uint8_t *data, int used, const struct proxyline *line)
{
    static const char *const tails[] = {"\r\n", " ", "PROXY UNKNOWN\r\n", "\xff\xff\xff\xff"};
    uint8_t longer[PROXYLINE_MAX_BYTES + 16];
    struct proxyline again;
    memcpy(longer, data, (size_t)used);
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        memcpy(longer + used, tails[i], strlen(tails[i]));
        CHECK(parse(longer, (size_t)used + strlen(tails[i]), &again) == used && same(&again, line));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxyline line, wanted;
    int result = check_cuts(data, size, &line), opinion = -1;
    if (size >= 14 && memcmp(data, "PROXY ", 6) == 0)
        opinion = expected_v1(data, size, &wanted);
    else if (size >= 16 && memcmp(data, MARK, 12) == 0)
        opinion = expected_v2(data, size, &wanted);
    CHECK(opinion > 0 ? result == opinion && same(&line, &wanted) : result <= 0);
    if (result > 0) {
        check_tail(data, result, &line);
        check_again(&line);
        return 0;
    }
    /* With everything that a header can have there, it is decided. */
    uint8_t longer[2 * PROXYLINE_MAX_BYTES] = {0};
    if (size < PROXYLINE_MAX_BYTES && size > 0) {
        memcpy(longer, data, size);
        CHECK(parse(longer, size + PROXYLINE_MAX_BYTES, &line) != 0);
    }
    return 0;
}
