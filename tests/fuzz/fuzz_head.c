/* SPDX-License-Identifier: MIT
 * Request heads: the first byte seeds the splits, the rest is the stream. Scanning in pieces agrees with a
 * plain reading of the rules, and a head that parses is put together again from its parts and judged
 * independently. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/head.h"
#include "http/percent.h"
#include "ws/upgrade.h"
#include <llhttp.h>

#include "check.h"

struct text {
    const char *at;
    size_t len;
};

/* ---- the scan ---- */

/* What head_scan has to find, line by line. */
static long expected_scan(const char *data, size_t len)
{
    size_t start = 0, lines = 0, empty_lines = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)data[i];
        if (i > 0 && data[i - 1] == '\r' && c != '\n')
            return -400;
        if (c == '\n') {
            if (i == 0 || data[i - 1] != '\r')
                return -400;
            if (i - 1 > start)
                lines++;
            else if (lines > 0)
                return (long)i + 1;
            else
                empty_lines++;
            start = i + 1;
        } else if (c == '\r') {
            if (i == start && lines == 0 && empty_lines == 2)
                return -400;
        } else if ((c < 32 && c != 9) || c == 127) {
            return -400;
        }
    }
    return 0;
}

/* Scans in pieces of up to seed + 1 bytes: seed 0 is a byte at a time. */
static long scan_in_pieces(const char *data, size_t len, uint8_t seed)
{
    struct head_scan s = {0};
    uint32_t random = seed;
    size_t n = 0;
    for (;;) {
        char *piece = malloc(n + 1); /* moved each time, as a growing buffer may be */
        CHECK(piece != NULL);
        memcpy(piece, data, n);
        long result = head_scan(&s, piece, n);
        free(piece);
        if (result != 0 || n == len)
            return result;
        random = random * 1103515245 + 12345;
        n += seed == 0 ? 1 : 1 + (random >> 16) % (seed + 1u);
        n = n < len ? n : len;
    }
}

/* ---- the parsed head ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool equal(struct text a, const char *b)
{
    if (a.len != strlen(b))
        return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.at[i]) != lower(b[i]))
            return false;
    return true;
}

static struct text text_of(const struct head *h, struct head_span span)
{
    CHECK((size_t)span.at + span.len <= h->nbytes);
    return (struct text){head_bytes(h) + span.at, span.len};
}

static bool is_token(struct text t)
{
    for (size_t i = 0; i < t.len; i++) {
        char c = lower(t.at[i]);
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) && !memchr("!#$%&'*+-.^_`|~", c, 15))
            return false;
    }
    return t.len > 0;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Every comma-separated element, with its blanks taken off, against `token`. */
static bool list_has(struct text list, const char *token)
{
    size_t from = 0;
    for (size_t i = 0; i <= list.len; i++) {
        if (i < list.len && list.at[i] != ',')
            continue;
        struct text element = {list.at + from, i - from};
        while (element.len > 0 && blank(*element.at))
            element = (struct text){element.at + 1, element.len - 1};
        while (element.len > 0 && blank(element.at[element.len - 1]))
            element.len--;
        if (element.len > 0 && equal(element, token))
            return true;
        from = i + 1;
    }
    return false;
}

static const char *expect(const char *at, const char *end, const char *text, size_t len)
{
    CHECK((size_t)(end - at) >= len && memcmp(at, text, len) == 0);
    return at + len;
}

/* The bytes are exactly the parts with the punctuation between them: nothing was skipped, joined or split. */
static void check_structure(const struct head *h)
{
    const char *at = head_bytes(h), *end = at + h->nbytes;
    struct text method = text_of(h, h->method_name), target = text_of(h, h->target);
    for (int i = 0; i < 2 && *at == '\r'; i++)
        at = expect(at, end, "\r\n", 2);
    CHECK(method.at == at && is_token(method));
    at = expect(at + method.len, end, " ", 1);
    CHECK(target.at == at && target.len > 0);
    at = expect(at + target.len, end, h->minor ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n", 11);
    for (int i = 0; i < h->nfields; i++) {
        struct text name = text_of(h, h->fields[i].name), value = text_of(h, h->fields[i].value);
        CHECK(name.at == at && is_token(name));
        at = expect(at + name.len, end, ":", 1);
        while (at < end && blank(*at))
            at++;
        if (equal(name, "host") && *target.at != '/' &&
            *target.at != '*') { /* the target's: RFC 9112, 3.2.2 */
            CHECK(value.at > target.at && value.at + value.len <= target.at + target.len);
            at = memchr(at, '\r', (size_t)(end - at));
            at = expect(at, end, "\r\n", 2);
            continue;
        }
        CHECK(value.at == at && (value.len == 0 || !blank(value.at[value.len - 1])));
        for (size_t k = 0; k < value.len; k++)
            CHECK((unsigned char)value.at[k] >= 32 || value.at[k] == '\t');
        CHECK(memchr(value.at, 127, value.len) == NULL);
        at += value.len;
        while (at < end && blank(*at))
            at++;
        at = expect(at, end, "\r\n", 2);
    }
    CHECK(expect(at, end, "\r\n", 2) == end);
}

static void check_target(const struct head *h)
{
    struct text method = text_of(h, h->method_name), target = text_of(h, h->target);
    struct text path = text_of(h, h->path), query = text_of(h, h->query);
    CHECK(strcmp(llhttp_method_name((enum llhttp_method)h->method), "CONNECT") != 0);
    CHECK(strlen(llhttp_method_name((enum llhttp_method)h->method)) == method.len);
    CHECK(memcmp(llhttp_method_name((enum llhttp_method)h->method), method.at, method.len) == 0);
    for (size_t i = 0; i < target.len; i++)
        CHECK(target.at[i] > 32 && target.at[i] < 127 && target.at[i] != '#');
    CHECK(path.at >= target.at && path.at + path.len <= target.at + target.len);
    CHECK(query.at >= path.at + path.len && query.at + query.len == target.at + target.len);
    CHECK(query.len == 0 || query.at[-1] == '?');
    CHECK(memchr(path.at, '?', path.len) == NULL);
    if (equal(path, "*")) {
        CHECK(h->method == HTTP_OPTIONS && target.len == 1);
        return;
    }
    CHECK(path.len > 0 && *path.at == '/');
    if (*target.at == '/') {
        CHECK(path.at == target.at);
        CHECK(path.at + path.len + (memchr(target.at, '?', target.len) != NULL) == query.at);
    } else {
        CHECK(strspn(target.at, "HTPSWhtpsw") < 6 && memcmp(strchr(target.at, ':'), "://", 3) == 0);
    }
    char *decoded = malloc(path.len);
    CHECK(decoded != NULL);
    long n = percent_decode(path.at, path.len, decoded, false);
    CHECK(n > 0 && memchr(decoded, '\0', (size_t)n) == NULL);
    free(decoded);
}

/* How the message is framed and what becomes of the connection, counted anew. */
static void check_framing(const struct head *h)
{
    unsigned hosts = 0, lengths = 0, codings = 0, upgrades = 0;
    bool close = false, keep = false, upgrade = false;
    for (int i = 0; i < h->nfields; i++) {
        struct text name = text_of(h, h->fields[i].name), value = text_of(h, h->fields[i].value);
        if (equal(name, "host")) {
            hosts++;
            CHECK(strcspn(value.at, " /?#@\"<>\\\t\r") >= value.len);
        } else if (equal(name, "content-length")) {
            char digits[64];
            size_t zeros = 0;
            lengths++;
            CHECK(value.len > 0 && strspn(value.at, "0123456789") == value.len);
            while (zeros + 1 < value.len && value.at[zeros] == '0')
                zeros++;
            snprintf(digits, sizeof digits, "%ju", (uintmax_t)h->content_length);
            CHECK(equal((struct text){value.at + zeros, value.len - zeros}, digits));
        } else if (equal(name, "transfer-encoding")) {
            codings++;
            CHECK(equal(value, "chunked"));
        } else if (equal(name, "upgrade")) {
            upgrades++;
        } else if (equal(name, "connection")) {
            close |= list_has(value, "close");
            keep |= list_has(value, "keep-alive");
            upgrade |= list_has(value, "upgrade");
        }
    }
    CHECK(hosts == 1 || (hosts == 0 && h->minor == 0));
    CHECK(lengths + codings <= 1);
    CHECK(codings == 0 || h->minor == 1);
    CHECK(lengths == 1 || h->content_length == 0);
    CHECK(!!(h->flags & HEAD_CONTENT_LENGTH) == (lengths == 1));
    CHECK(!!(h->flags & HEAD_CHUNKED) == (codings == 1));
    CHECK(!!(h->flags & HEAD_KEEP_ALIVE) == (!close && (h->minor == 1 || keep)));
    CHECK(!!(h->flags & HEAD_UPGRADE) == (upgrade && upgrades > 0));
    CHECK(!(h->flags & HEAD_UPGRADE) || lengths + codings == 0);
    CHECK(head_has_token(h, "CONNECTION", "Close") == close);
}

static void check_upgrade(const struct head *h)
{
    const char *reason = NULL;
    bool wanted = false;
    for (int i = head_find(h, "upgrade", 7, 0); i >= 0; i = head_find(h, "upgrade", 7, i + 1))
        wanted |= list_has(text_of(h, h->fields[i].value), "websocket");
    CHECK(upgrade_wanted(h) == wanted);
    int status = wanted ? upgrade_check(h, &reason) : 0;
    CHECK(status == 0 || ((status == 400 || status == 426) && reason != NULL));
    if (!wanted || status != 0)
        return;
    char accept[UPGRADE_ACCEPT_LEN + 1];
    CHECK(h->method == HTTP_GET && h->minor == 1 && (h->flags & HEAD_UPGRADE));
    CHECK(upgrade_init() == 0 && upgrade_accept(h, accept) == 0);
    CHECK(strlen(accept) == UPGRADE_ACCEPT_LEN && accept[UPGRADE_ACCEPT_LEN - 1] == '=');
}

/* The pairs and the characters between them are the query again. */
static void check_query(struct text query)
{
    struct percent_pair pair;
    size_t at = 0, seen = 0;
    char *strict = malloc(query.len + 1), *lax = malloc(query.len + 1);
    CHECK(strict != NULL && lax != NULL);
    while (percent_next_pair(query.at, query.len, &at, &pair)) {
        while (query.at[seen] == '&')
            seen++;
        CHECK(pair.name == query.at + seen && memchr(pair.name, '=', pair.name_len) == NULL);
        seen += pair.name_len;
        if (seen < query.len && query.at[seen] == '=')
            seen++;
        CHECK(pair.value == query.at + seen && memchr(pair.value, '&', pair.value_len) == NULL);
        seen += pair.value_len;
        CHECK(seen == at && (seen == query.len || query.at[seen] == '&'));
    }
    long n = percent_decode(query.at, query.len, strict, true);
    size_t m = percent_decode_lax(query.at, query.len, lax, true);
    CHECK(m <= query.len && (n < 0 || ((size_t)n == m && memcmp(strict, lax, m) == 0)));
    free(strict);
    free(lax);
}

static void check_fault(const struct head_fault *fault)
{
    CHECK(fault->status == 400 || fault->status == 431 || fault->status == 501 || fault->status == 505);
    CHECK(fault->reason != NULL && fault->reason[strlen(fault->reason) - 1] == '.');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *stream = (const char *)data + 1;
    size_t len = size - 1;
    struct head_scan s = {0};
    long found = head_scan(&s, stream, len);
    CHECK(found == expected_scan(stream, len));
    CHECK(found == scan_in_pieces(stream, len, data[0]));
    if (found <= 0)
        return 0;

    struct head *h = NULL;
    struct head_fault fault = {0, NULL};
    char *copy = malloc((size_t)found); /* exactly the head: a look behind it is seen, and it may go away */
    CHECK(copy != NULL);
    memcpy(copy, stream, (size_t)found);
    int rc = head_parse(copy, (size_t)found, &h, &fault);
    free(copy);
    if (rc < 0) {
        check_fault(&fault);
        return 0;
    }
    CHECK(h->nbytes == found && memcmp(head_bytes(h), stream, (size_t)found) == 0);
    CHECK(head_block_size(h) == (size_t)(head_bytes(h) + h->nbytes - (const char *)h));
    check_structure(h);
    check_target(h);
    check_framing(h);
    check_upgrade(h);
    check_query(text_of(h, h->query));
    head_unref(h);
    return 0;
}
