/* SPDX-License-Identifier: MIT
 * The PROXY protocol, versions 1 and 2. */
#include "net/proxyline.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "net/cidr.h"

enum { NOT_WHOLE = 0, MALFORMED = -1 };

/* Whether the bytes so far are those of the mark. */
static bool begins(const uint8_t *data, size_t len, const void *mark, size_t mark_len)
{
    return memcmp(data, mark, len < mark_len ? len : mark_len) == 0;
}

/* ---- version 1 ---- */

#define V1_MARK      "PROXY "
#define V1_MAX_BYTES 107

struct word {
    const char *at;
    size_t len;
};

/* Splits at single blanks: a word may be empty, so that two blanks in a row are noticed. Returns how many
 * words there are, which may be more than fit. */
static size_t split(const char *at, const char *end, struct word *words, size_t max)
{
    for (size_t n = 0;; n++) {
        const char *blank = memchr(at, ' ', (size_t)(end - at));
        const char *stop = blank != NULL ? blank : end;
        if (n < max)
            words[n] = (struct word){at, (size_t)(stop - at)};
        if (blank == NULL)
            return n + 1;
        at = blank + 1;
    }
}

static bool is(struct word w, const char *text)
{
    return w.len == strlen(text) && memcmp(w.at, text, w.len) == 0;
}

/* What stands between the mark and the CR. */
static bool parse_v1_line(const char *at, const char *end, struct proxyline *out)
{
    struct word w[5]; /* protocol, source, destination, source port, destination port */
    struct sockaddr_storage source, destination;
    size_t n = split(at, end, w, 5);
    if (is(w[0], "UNKNOWN")) {
        *out = (struct proxyline){.source.ss_family = AF_UNSPEC};
        return true;
    }
    int family = is(w[0], "TCP4") ? AF_INET : is(w[0], "TCP6") ? AF_INET6 : AF_UNSPEC;
    if (family == AF_UNSPEC || n != 5 ||
        !cidr_endpoint(family, w[1].at, w[1].len, w[3].at, w[3].len, &source) ||
        !cidr_endpoint(family, w[2].at, w[2].len, w[4].at, w[4].len, &destination))
        return false;
    out->source = source;
    return true;
}

static int parse_v1(const char *data, size_t len, struct proxyline *out)
{
    size_t n = 0;
    while (n < len && data[n] != '\r' && data[n] != '\n')
        if (++n > V1_MAX_BYTES - 2)
            return MALFORMED;
    if (n == len || (data[n] == '\r' && n + 1 == len))
        return NOT_WHOLE;
    if (data[n] != '\r' || data[n + 1] != '\n' || !parse_v1_line(data + strlen(V1_MARK), data + n, out))
        return MALFORMED;
    return (int)n + 2;
}

/* ---- version 2 ---- */

static const uint8_t v2_mark[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

enum { V2_FIXED_BYTES = 16, V2_CRC32C = 3 };
enum { V2_LOCAL = 0x20, V2_PROXY = 0x21 };
enum { V2_UNSPEC, V2_INET, V2_INET6, V2_UNIX, V2_FAMILIES };
enum { V2_STREAM = 1, V2_DATAGRAM = 2 };

/* Both addresses, and the ports. */
static const size_t v2_address_bytes[V2_FAMILIES] = {
    [V2_INET] = 2 * (4 + 2), [V2_INET6] = 2 * (16 + 2), [V2_UNIX] = 2 * 108};

static size_t get_u16(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

/* Bit by bit: it is for a few hundred bytes once in a connection, and few proxies send it. */
static uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return crc;
}

/* The sum is over the whole header, with zeros where the sum stands. */
static bool crc_is_right(const uint8_t *header, size_t len, size_t at)
{
    static const uint8_t zeros[4];
    uint32_t crc = crc32c(UINT32_MAX, header, at);
    crc = crc32c(crc, zeros, 4);
    crc = ~crc32c(crc, header + at + 4, len - at - 4);
    return crc == ((uint32_t)get_u16(header + at) << 16 | get_u16(header + at + 2));
}

static bool tlvs_are_good(const uint8_t *header, size_t len, size_t at)
{
    while (at < len) {
        if (len - at < 3 || len - at - 3 < get_u16(header + at + 1))
            return false;
        size_t value_len = get_u16(header + at + 1);
        if (header[at] == V2_CRC32C && (value_len != 4 || !crc_is_right(header, len, at + 3)))
            return false;
        at += 3 + value_len;
    }
    return true;
}

static struct sockaddr_storage v2_source(unsigned family, const uint8_t *at)
{
    union {
        struct sockaddr_storage any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } sa = {.any = {.ss_family = AF_UNSPEC}};
    if (family == V2_INET) {
        sa.in.sin_family = AF_INET;
        memcpy(&sa.in.sin_addr, at, 4);
        memcpy(&sa.in.sin_port, at + 2 * 4, 2);
    } else if (family == V2_INET6) {
        sa.in6.sin6_family = AF_INET6;
        memcpy(&sa.in6.sin6_addr, at, 16);
        memcpy(&sa.in6.sin6_port, at + 2 * 16, 2);
    } else if (family == V2_UNIX)
        sa.any.ss_family = AF_UNIX;
    return sa.any;
}

static int parse_v2(const uint8_t *data, size_t len, struct proxyline *out)
{
    if (len > sizeof v2_mark && data[12] != V2_LOCAL && data[12] != V2_PROXY)
        return MALFORMED;
    if (len < V2_FIXED_BYTES)
        return NOT_WHOLE;
    bool local = data[12] == V2_LOCAL; /* its family and transport are to be ignored */
    unsigned family = local ? V2_UNSPEC : data[13] >> 4, transport = local ? V2_UNSPEC : data[13] & 15;
    size_t whole = V2_FIXED_BYTES + get_u16(data + 14);
    if (whole > PROXYLINE_MAX_BYTES || family >= V2_FAMILIES || transport > V2_DATAGRAM)
        return MALFORMED;
    size_t tlvs = V2_FIXED_BYTES + v2_address_bytes[family];
    if (whole < tlvs)
        return MALFORMED;
    if (len < whole)
        return NOT_WHOLE;
    if (family != V2_UNSPEC && !tlvs_are_good(data, whole, tlvs))
        return MALFORMED;
    out->source = v2_source(transport == V2_STREAM ? family : V2_UNSPEC, data + V2_FIXED_BYTES);
    return (int)whole;
}

int proxyline_parse(const uint8_t *data, size_t len, struct proxyline *out)
{
    if (begins(data, len, V1_MARK, strlen(V1_MARK)))
        return parse_v1((const char *)data, len, out);
    if (begins(data, len, v2_mark, sizeof v2_mark))
        return parse_v2(data, len, out);
    return MALFORMED;
}
