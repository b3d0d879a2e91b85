/* SPDX-License-Identifier: MIT
 * Request heads: the search for the end at every split, strict parsing, look-ups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/un.h>

#include "http/head.h"
#include <llhttp.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define GET      "GET / HTTP/1.1\r\n"
#define HOST     "Host: h\r\n"

/* ---- finding the end ---- */

struct scan_case {
    const char *text;
    long result;
};

static const struct scan_case scan_cases[] = {
    {"", 0},
    {"G", 0},
    {"GET / HTTP/1.1", 0},
    {"GET / HTTP/1.1\r", 0},
    {"GET / HTTP/1.1\r\n", 0},
    {"GET / HTTP/1.1\r\n\r", 0},
    {"GET / HTTP/1.1\r\n\r\n", 18},
    {"GET / HTTP/1.1\r\n\r\n\x81\x80garbage\n", 18},
    {"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", 18},
    {"a\r\nb\r\nc\r\n\r\n", 11},
    {"\r\nx\r\n\r\n", 7},
    {"\r\n\r\nx\r\n\r\n", 9},
    {"\r\n\r\n\r", -400},
    {"\r\n\r\n", 0},
    {"\r\n\r\n\r\nx\r\n\r\n", -400},
    {"GET / HTTP/1.1\n", -400},
    {"GET / HTTP/1.1\r\nA: b\n\r\n", -400},
    {"GET / HTTP/1.1\r\nA: b\r\n\n", -400},
    {"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", -400},
    {"GET / HTTP/1.1\r\r\n\r\n", -400},
    {"GET / HTTP/1.1\r\n\rx", -400},
    {"GET / HTTP/1.1\r\n\r\r", -400},
    {"\n", -400},
    {"\r\r", -400},
    {"\rG", -400},
    {"\r\n\n", -400},
    {"GET / HTTP/1.1\r\nA: \x01\r\n\r\n", -400},
    {"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", -400},
    {"GET / HTTP/1.1\r\nA: \x1f\r\n\r\n", -400},
    {"GET / HTTP/1.1\r\nA:\tb\x80\xff ~\r\n\r\n", 28},
    {"\x16\x03\x01\x02", -400}, /* TLS on a plain port */
    {"A: long values are skipped a word at a time, tabs\t or not, high \xc3\xa9 or not\r\n\r\n", 77},
    {"A: long values are skipped a word at a time, but not a BEL\x07 in the midst of them\r\n\r\n", -400},
};

/* The data lies at the very end of a block, so that a read too far is seen. */
static char *guarded(const char *text, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    return copy;
}

static void scans_in_one_go(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(scan_cases); i++) {
        const struct scan_case *c = &scan_cases[i];
        size_t len = strlen(c->text);
        char *data = guarded(c->text, len);
        struct head_scan s = {0};
        long result = head_scan(&s, data, len);
        if (result != c->result || head_scan(&s, data, len) != c->result)
            fail_msg("%ld for %s", result, c->text);
        free(data);
    }
}

static void scans_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(scan_cases); i++) {
        const struct scan_case *c = &scan_cases[i];
        size_t len = strlen(c->text);
        struct head_scan s = {0};
        long result = 0;
        for (size_t n = 0; n <= len && result == 0; n++) {
            char *data = guarded(c->text, n);
            result = head_scan(&s, data, n);
            free(data);
            if (result == 0)
                assert_int_equal(s.at, n);
        }
        if (result != c->result)
            fail_msg("%ld for %s", result, c->text);
    }
}

static void scans_at_every_pair_of_splits(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(scan_cases); i++) {
        const struct scan_case *c = &scan_cases[i];
        size_t len = strlen(c->text);
        for (size_t first = 0; first <= len; first++) {
            for (size_t second = first; second <= len; second++) {
                struct head_scan s = {0};
                long result = head_scan(&s, c->text, first);
                if (result == 0)
                    result = head_scan(&s, c->text, second);
                if (result == 0)
                    result = head_scan(&s, c->text, len);
                if (result != c->result)
                    fail_msg("%ld for %s at %zu, %zu", result, c->text, first, second);
            }
        }
    }
}

static void scan_refuses_every_control_character_at_every_place(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        bool bad = (byte < ' ' && byte != '\t') || byte == 0x7f;
        for (size_t at = 0; at < 24; at++) {
            char text[32];
            struct head_scan s = {0};
            memset(text, 'x', sizeof text);
            memcpy(text + 28, "\r\n\r\n", 4);
            text[at] = (char)byte;
            if (head_scan(&s, text, sizeof text) != (bad ? -400 : 32))
                fail_msg("byte %d at %zu", byte, at);
        }
    }
}

static void scan_continues_and_does_not_start_again(void **state)
{
    (void)state;
    char text[] = "GET / HTTP/1.1\r\nA: b";
    struct head_scan s = {0};
    assert_int_equal(head_scan(&s, text, strlen(text)), 0);
    memset(text, '\n', strlen(text)); /* what was seen is not looked at again */
    assert_int_equal(head_scan(&s, text, strlen(text)), 0);
}

/* ---- parsing ---- */

struct outcome {
    struct head *h;
    struct head_fault fault;
};

static struct outcome parse(const char *text)
{
    struct outcome o = {NULL, {0, NULL}};
    size_t len = strlen(text);
    char *data = guarded(text, len);
    struct head_scan s = {0};
    if (head_scan(&s, data, len) != (long)len)
        fail_msg("not a whole head: %s", text);
    int rc = head_parse(data, len, &o.h, &o.fault);
    assert_int_equal(rc, o.h != NULL ? 0 : -1);
    free(data);
    return o;
}

static struct head *good(const char *text)
{
    struct outcome o = parse(text);
    if (o.h == NULL)
        fail_msg("%d %s\n%s", o.fault.status, o.fault.reason, text);
    return o.h;
}

static bool span_is(const struct head *h, struct head_span span, const char *text)
{
    return span.at + span.len <= h->nbytes && span.len == strlen(text) &&
           memcmp(head_bytes(h) + span.at, text, span.len) == 0;
}

struct bad_case {
    const char *text;
    int status;
    const char *reason; /* a part of it */
};

#define LINE(line)     line "\r\n" HOST "\r\n"
#define FIELDS(fields) GET HOST fields "\r\n"

static const struct bad_case bad_cases[] = {
    /* the request line */
    {LINE("GET"), 400, "not an HTTP request line"},
    {LINE("GET /"), 505, "no HTTP version"},
    {LINE("GET / HTTP/0.9"), 505, "HTTP/1.1"},
    {LINE("GET / HTTP/1.2"), 505, "HTTP/1.1"},
    {LINE("GET / HTTP/2.0"), 505, "HTTP/1.1"},
    {LINE("GET / HTTP/2"), 505, "HTTP/1.1"},
    {LINE("GET / HTTP/1.10"), 505, "HTTP/1.1"},
    {LINE("GET / HTTP/1."), 505, "HTTP/1.1"},
    {LINE("GET / http/1.1"), 505, "HTTP/1.1"},
    {LINE("GET / RTSP/1.0"), 505, "HTTP/1.1"},
    {LINE("SOURCE / ICE/1.0"), 505, "HTTP/1.1"},
    {"PRI * HTTP/2.0\r\n\r\n", 505, "HTTP/1.1"},
    {LINE("GET / HTTP/1.1 "), 400, "not an HTTP request line"},
    {LINE("GET / HTTP/1.1\t"), 505, "HTTP/1.1"},
    {LINE("GET HTTP/1.1"), 400, "no target"},
    {LINE("GET  HTTP/1.1"), 400, "no target"},
    {LINE(" HTTP/1.1"), 400, "no target"},
    {LINE("GET  / HTTP/1.1"), 400, "neither a path"},
    {LINE("GET /  HTTP/1.1"), 400, "percent-encoded"},
    {LINE("GET /a b HTTP/1.1"), 400, "percent-encoded"},
    {LINE("GET\t/ HTTP/1.1"), 400, "no target"},
    {LINE("GET /\tHTTP/1.1"), 505, "no HTTP version"},
    {LINE(" GET / HTTP/1.1"), 400, "neither a path"},
    {LINE("\tGET / HTTP/1.1"), 400, "method has a character"},
    /* the method */
    {LINE("get / HTTP/1.1"), 501, "method"},
    {LINE("GETX / HTTP/1.1"), 501, "method"},
    {LINE("GE / HTTP/1.1"), 501, "method"},
    {LINE("BREW / HTTP/1.1"), 501, "method"},
    {LINE("PLAY / HTTP/1.1"), 501, "method"},
    {LINE("PRI / HTTP/1.1"), 501, "method"},
    {LINE("!#$%&'*+-.^_`|~ / HTTP/1.1"), 501, "method"},
    {LINE("CONNECT h:443 HTTP/1.1"), 501, "CONNECT"},
    {LINE("CONNECT / HTTP/1.1"), 501, "CONNECT"},
    {LINE("G@T / HTTP/1.1"), 400, "method has a character"},
    {LINE("G(T / HTTP/1.1"), 400, "method has a character"},
    {LINE("\xc3\xa9 / HTTP/1.1"), 400, "method has a character"},
    {LINE(" / HTTP/1.1"), 400, "method has a character"},
    /* the target */
    {LINE("GET x HTTP/1.1"), 400, "neither a path"},
    {LINE("GET * HTTP/1.1"), 400, "neither a path"},
    {LINE("OPTIONS ** HTTP/1.1"), 400, "neither a path"},
    {LINE("OPTIONS *?a HTTP/1.1"), 400, "neither a path"},
    {LINE("GET ?a HTTP/1.1"), 400, "neither a path"},
    {LINE("GET h:80 HTTP/1.1"), 400, "neither a path"},
    {LINE("GET ftp://h/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET file:///etc HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http:/h/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http:// HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http:/// HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http://?a HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http://:80/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http://me@h/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http://h\\x/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET http://h h/ HTTP/1.1"), 400, "neither a path"},
    {LINE("GET /# HTTP/1.1"), 400, "fragment"},
    {LINE("GET /a#b HTTP/1.1"), 400, "fragment"},
    {LINE("GET /a?b#c HTTP/1.1"), 400, "fragment"},
    {LINE("GET http://h#c HTTP/1.1"), 400, "fragment"},
    {LINE("GET /% HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /%4 HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /%4?1 HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /%zz HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /a%4g/b HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /a%00b HTTP/1.1"), 400, "percent escape"},
    {LINE("GET http://h/%00 HTTP/1.1"), 400, "percent escape"},
    {LINE("GET /\xc3\xa9 HTTP/1.1"), 400, "percent-encoded"},
    {LINE("GET /?\xc3\xa9 HTTP/1.1"), 400, "percent-encoded"},
    {LINE("GET /?\t HTTP/1.1"), 400, "percent-encoded"},
    {LINE("GET /?a b HTTP/1.1"), 400, "percent-encoded"},
    /* the lines of the header */
    {GET " Host: h\r\n\r\n", 400, "begins with a blank"},
    {GET "\tHost: h\r\n\r\n", 400, "begins with a blank"},
    {FIELDS("A: b\r\n c\r\n"), 400, "folded"},
    {FIELDS("A: b\r\n\tc\r\n"), 400, "folded"},
    {FIELDS("A: b\r\n \r\n"), 400, "folded"},
    {FIELDS("A:\r\n b\r\n"), 400, "folded"},
    {FIELDS("A: b\r\n : c\r\n"), 400, "folded"},
    {FIELDS("Content-Length: 1\r\n 2\r\n"), 400, "folded"},
    {FIELDS("Content-Length:\r\n 2\r\n"), 400, "folded"},
    {FIELDS("Transfer-Encoding:\r\n chunked\r\n"), 400, "folded"},
    {FIELDS("Connection: close\r\n , upgrade\r\n"), 400, "folded"},
    {FIELDS(": b\r\n"), 400, "no name"},
    {FIELDS(":\r\n"), 400, "no name"},
    {FIELDS("A : b\r\n"), 400, "blank between"},
    {FIELDS("A\t: b\r\n"), 400, "blank between"},
    {FIELDS("A b: c\r\n"), 400, "blank between"},
    {FIELDS("A\r\n"), 400, "no colon"},
    {FIELDS("Content-Length\r\n"), 400, "no colon"},
    {FIELDS("(A): b\r\n"), 400, "name has a character"},
    {FIELDS("A\"b: c\r\n"), 400, "name has a character"},
    {FIELDS("A\xc3\xa9: b\r\n"), 400, "name has a character"},
    {FIELDS("A@b: c\r\n"), 400, "name has a character"},
    {FIELDS("Content-Length@: 1\r\n"), 400, "name has a character"},
    /* the host */
    {GET "\r\n", 400, "Host header is missing"},
    {GET "X-Host: h\r\n\r\n", 400, "Host header is missing"},
    {"GET http://h/ HTTP/1.1\r\n\r\n", 400, "Host header is missing"},
    {GET HOST HOST "\r\n", 400, "Host header is repeated"},
    {GET "Host: h\r\nhOST: i\r\n\r\n", 400, "Host header is repeated"},
    {"GET / HTTP/1.0\r\n" HOST HOST "\r\n", 400, "Host header is repeated"},
    {GET "Host: a b\r\n\r\n", 400, "no host has"},
    {GET "Host: a/b\r\n\r\n", 400, "no host has"},
    {GET "Host: me@a\r\n\r\n", 400, "no host has"},
    {GET "Host: a\xc3\xa9\r\n\r\n", 400, "no host has"},
    {GET "Host: <a>\r\n\r\n", 400, "no host has"},
    /* the length */
    {FIELDS("Content-Length:\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: x\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: +1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: -1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 0x1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 1a\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 1.0\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 1 1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 1,1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 1, 1\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: \"1\"\r\n"), 400, "not a decimal"},
    {FIELDS("Content-Length: 18446744073709551616\r\n"), 400, "too large"},
    {FIELDS("Content-Length: 99999999999999999999999\r\n"), 400, "too large"},
    {FIELDS("Content-Length: 1\r\nContent-Length: 1\r\n"), 400, "Content-Length header is repeated"},
    {FIELDS("Content-Length: 1\r\ncontent-length: 2\r\n"), 400, "Content-Length header is repeated"},
    {FIELDS("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "exclude each other"},
    {FIELDS("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400, "exclude each other"},
    {FIELDS("Content-Length: 0\r\nTransfer-Encoding: gzip\r\n"), 400, "exclude each other"},
    /* the transfer coding */
    {FIELDS("Transfer-Encoding:\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: ,\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: gzip\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: identity\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: xchunked\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunkedx\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked;q=1\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: \"chunked\"\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: ,chunked\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked,\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked, chunked\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked, gzip\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked, gzip, chunked\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"), 400, "does not end in"},
    {FIELDS("Transfer-Encoding: gzip, chunked\r\n"), 501, "other than"},
    {FIELDS("Transfer-Encoding: gzip\r\ntransfer-encoding: CHUNKED\r\n"), 501, "other than"},
    {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0 has no"},
    /* an upgrade with a body */
    {FIELDS("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n"), 400, "upgrade"},
    {FIELDS("Content-Length: 0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"), 400, "upgrade"},
    {FIELDS("Upgrade: h2c\r\nConnection: a, upgrade\r\nTransfer-Encoding: chunked\r\n"), 400, "upgrade"},
};

static void refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_cases); i++) {
        const struct bad_case *c = &bad_cases[i];
        struct outcome o = parse(c->text);
        if (o.h != NULL)
            fail_msg("accepted: %s", c->text);
        if (o.fault.status != c->status || strstr(o.fault.reason, c->reason) == NULL)
            fail_msg("%d %s\n%s", o.fault.status, o.fault.reason, c->text);
    }
}

/* No reason may depend on where in the buffer the request line stands. */
static void refuses_after_empty_lines_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_cases); i++) {
        char text[512];
        snprintf(text, sizeof text, "\r\n\r\n%s", bad_cases[i].text);
        struct outcome o = parse(text);
        if (o.h != NULL || o.fault.status != bad_cases[i].status ||
            strstr(o.fault.reason, bad_cases[i].reason) == NULL)
            fail_msg("%d %s\n%s", o.fault.status, o.fault.reason, text);
    }
}

struct target_case {
    const char *line;
    const char *path;
    const char *query;
    enum llhttp_method method;
};

static const struct target_case target_cases[] = {
    {"GET / HTTP/1.1", "/", "", HTTP_GET},
    {"GET /a/b HTTP/1.1", "/a/b", "", HTTP_GET},
    {"GET /? HTTP/1.1", "/", "", HTTP_GET},
    {"GET /a?b=c&d HTTP/1.1", "/a", "b=c&d", HTTP_GET},
    {"GET /a?b?c HTTP/1.1", "/a", "b?c", HTTP_GET},
    {"GET /?? HTTP/1.1", "/", "?", HTTP_GET},
    {"GET /a?% HTTP/1.1", "/a", "%", HTTP_GET},
    {"GET /a?%00%zz HTTP/1.1", "/a", "%00%zz", HTTP_GET},
    {"GET /%41%2f%C3%A9 HTTP/1.1", "/%41%2f%C3%A9", "", HTTP_GET},
    {"GET /%41 HTTP/1.1", "/%41", "", HTTP_GET},
    {"GET //a//b HTTP/1.1", "//a//b", "", HTTP_GET},
    {"GET /../a HTTP/1.1", "/../a", "", HTTP_GET},
    {"GET /a:b@c;d,e!$'()*+~ HTTP/1.1", "/a:b@c;d,e!$'()*+~", "", HTTP_GET},
    {"GET /x?{\"a\":[1|2]}^`<>\\ HTTP/1.1", "/x", "{\"a\":[1|2]}^`<>\\", HTTP_GET},
    {"POST http://h HTTP/1.1", "/", "", HTTP_POST},
    {"PUT http://h/ HTTP/1.1", "/", "", HTTP_PUT},
    {"DELETE HTTPS://h:80/a?b HTTP/1.1", "/a", "b", HTTP_DELETE},
    {"PATCH ws://h?b/c HTTP/1.1", "/", "b/c", HTTP_PATCH},
    {"GET wSs://[::1]:443//a HTTP/1.1", "//a", "", HTTP_GET},
    {"HEAD http://a.b-c_d~%41/ HTTP/1.1", "/", "", HTTP_HEAD},
    {"OPTIONS * HTTP/1.1", "*", "", HTTP_OPTIONS},
    {"OPTIONS /* HTTP/1.1", "/*", "", HTTP_OPTIONS},
    {"TRACE /HTTP/1.1 HTTP/1.1", "/HTTP/1.1", "", HTTP_TRACE},
    {"M-SEARCH / HTTP/1.1", "/", "", HTTP_MSEARCH},
    {"PROPFIND / HTTP/1.0", "/", "", HTTP_PROPFIND},
};

static void splits_the_request_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(target_cases); i++) {
        const struct target_case *c = &target_cases[i];
        const char *target = strchr(c->line, ' ') + 1, *version = strrchr(c->line, ' ') + 1;
        for (int empty_lines = 0; empty_lines < 3; empty_lines++) {
            char text[256], method[32], target_text[128];
            snprintf(text, sizeof text, "%s%s\r\n" HOST "\r\n", &"\r\n\r\n"[4 - 2 * empty_lines], c -> line);
            snprintf(method, sizeof method, "%.*s", (int)(target - c->line - 1), c->line);
            snprintf(target_text, sizeof target_text, "%.*s", (int)(version - target - 1), target);
            struct head *h = good(text);
            if (!span_is(h, h->path, c->path) || !span_is(h, h->query, c->query) ||
                !span_is(h, h->target, target_text) || !span_is(h, h->method_name, method) ||
                h->method != c->method || h->minor != version[7] - '0')
                fail_msg("%s", c->line);
            assert_int_equal(h->nbytes, strlen(text));
            assert_memory_equal(head_bytes(h), text, h->nbytes);
            head_unref(h);
        }
    }
}

struct flags_case {
    const char *text;
    unsigned flags;
    uint64_t content_length;
};

#define OLD "GET / HTTP/1.0\r\n"

static const struct flags_case flags_cases[] = {
    {FIELDS(""), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Connection: close\r\n"), 0, 0},
    {FIELDS("Connection: Keep-Alive, CLOSE\r\n"), 0, 0},
    {FIELDS("Connection: keep-alive\r\nConnection: a,close\r\n"), 0, 0},
    {FIELDS("Connection: closed\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Connection:\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Proxy-Connection: close\r\n"), HEAD_KEEP_ALIVE, 0},
    {OLD "\r\n", 0, 0},
    {OLD "Connection: keep-alive\r\n\r\n", HEAD_KEEP_ALIVE, 0},
    {OLD "Connection: keep-alive, close\r\n\r\n", 0, 0},
    {OLD "Proxy-Connection: keep-alive\r\n\r\n", 0, 0},
    {OLD "Content-Length: 7\r\n\r\n", HEAD_CONTENT_LENGTH, 7},
    {FIELDS("Upgrade: x\r\nConnection: upgrade\r\n"), HEAD_KEEP_ALIVE | HEAD_UPGRADE, 0},
    {FIELDS("connection: ,, UPGRADE\t,\r\nUPGRADE:\r\n"), HEAD_KEEP_ALIVE | HEAD_UPGRADE, 0},
    {FIELDS("Upgrade: x\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Connection: upgrade\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Connection: \"upgrade\"\r\nUpgrade: x\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Proxy-Connection: upgrade\r\nUpgrade: x\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Upgrade: x\r\nContent-Length: 2\r\n"), HEAD_KEEP_ALIVE | HEAD_CONTENT_LENGTH, 2},
    {FIELDS("Connection: upgrade\r\nContent-Length: 2\r\n"), HEAD_KEEP_ALIVE | HEAD_CONTENT_LENGTH, 2},
    {FIELDS("Content-Length: 0\r\n"), HEAD_KEEP_ALIVE | HEAD_CONTENT_LENGTH, 0},
    {FIELDS("CONTENT-LENGTH:0042 \r\n"), HEAD_KEEP_ALIVE | HEAD_CONTENT_LENGTH, 42},
    {FIELDS("Content-Length: 18446744073709551615\r\n"), HEAD_KEEP_ALIVE | HEAD_CONTENT_LENGTH, UINT64_MAX},
    {FIELDS("X-Content-Length: 1\r\nContent-Lengths: 2\r\n"), HEAD_KEEP_ALIVE, 0},
    {FIELDS("Transfer-Encoding:\tChunked \r\n"), HEAD_KEEP_ALIVE | HEAD_CHUNKED, 0},
    {FIELDS("Expect: 100-Continue\r\n"), HEAD_KEEP_ALIVE | HEAD_EXPECT_CONTINUE, 0},
    {FIELDS("Expect: 100-continued\r\n"), HEAD_KEEP_ALIVE, 0},
    {OLD "Expect: 100-continue\r\n\r\n", 0, 0},
};

static void sets_flags_and_length(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(flags_cases); i++) {
        const struct flags_case *c = &flags_cases[i];
        struct head *h = good(c->text);
        if (h->flags != c->flags || h->content_length != c->content_length)
            fail_msg("flags %u, length %ju\n%s", h->flags, (uintmax_t)h->content_length, c->text);
        head_unref(h);
    }
}

static void trims_values_and_keeps_the_rest(void **state)
{
    (void)state;
    static const struct {
        const char *line, *name, *value;
    } cases[] = {
        {"A: b", "A", "b"},
        {"a:b", "a", "b"},
        {"A:  \t b \t ", "A", "b"},
        {"A: b \t c", "A", "b \t c"},
        {"A:", "A", ""},
        {"A: \t ", "A", ""},
        {"A: b: c", "A", "b: c"},
        {"A::", "A", ":"},
        {"!#$%&'*+-.^_`|~09azAZ: \xc3\xa9\"()", "!#$%&'*+-.^_`|~09azAZ", "\xc3\xa9\"()"},
        {"Connection: \x80 ,  ", "Connection", "\x80 ,"},
        {"Upgrade: \x80 ", "Upgrade", "\x80"},
        {"Content-Length: 1 ", "Content-Length", "1"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, GET HOST "%s\r\nLast:x\r\n\r\n", cases[i].line);
        struct head *h = good(text);
        assert_int_equal(h->nfields, 3);
        if (!span_is(h, h->fields[1].name, cases[i].name) || !span_is(h, h->fields[1].value, cases[i].value))
            fail_msg("%s", cases[i].line);
        assert_true(span_is(h, h->fields[0].name, "Host") && span_is(h, h->fields[0].value, "h"));
        assert_true(span_is(h, h->fields[2].name, "Last") && span_is(h, h->fields[2].value, "x"));
        head_unref(h);
    }
}

static void takes_hosts(void **state)
{
    (void)state;
    static const char *const hosts[] = {"",          "h",      "a.b:80",        "[::1]:8080",
                                        "127.0.0.1", "a_b-c~", "%41!$&'()*+,;="};
    for (size_t i = 0; i < COUNT(hosts); i++) {
        char text[128];
        snprintf(text, sizeof text, GET "Host: %s\r\n\r\n", hosts[i]);
        head_unref(good(text));
    }
    head_unref(good("GET / HTTP/1.0\r\n\r\n"));
}

static char *many_fields(size_t n, size_t value_len)
{
    size_t cap = 64 + n * (8 + value_len), len;
    char *text = malloc(cap);
    len = (size_t)snprintf(text, cap, GET HOST);
    for (size_t i = 1; i < n; i++) {
        memcpy(text + len, "A: ", 3);
        memset(text + len + 3, 'b', value_len);
        memcpy(text + len + 3 + value_len, "\r\n", 3);
        len += 5 + value_len;
    }
    memcpy(text + len, "\r\n", 3);
    return text;
}

static void bounds_the_number_of_fields(void **state)
{
    (void)state;
    char *text = many_fields(HEAD_MAX_FIELDS, 1);
    struct head *h = good(text);
    assert_int_equal(h->nfields, HEAD_MAX_FIELDS);
    assert_true(span_is(h, h->fields[HEAD_MAX_FIELDS - 1].value, "b"));
    assert_int_equal(head_block_size(h), offsetof(struct head, fields) + 8 * HEAD_MAX_FIELDS + strlen(text));
    head_unref(h);
    free(text);

    text = many_fields(HEAD_MAX_FIELDS + 1, 1);
    struct outcome o = parse(text);
    assert_null(o.h);
    assert_int_equal(o.fault.status, 431);
    free(text);
}

static void bounds_the_length(void **state)
{
    (void)state;
    size_t frame = strlen(GET HOST) + strlen("A: \r\n") + strlen("\r\n");
    char *text = many_fields(2, HEAD_MAX_BYTES - frame);
    assert_int_equal(strlen(text), HEAD_MAX_BYTES);
    struct head *h = good(text);
    assert_int_equal(h->nbytes, HEAD_MAX_BYTES);
    assert_int_equal(h->fields[1].value.len, HEAD_MAX_BYTES - frame);
    head_unref(h);
    free(text);

    text = many_fields(2, HEAD_MAX_BYTES - frame + 1);
    struct outcome o = parse(text);
    assert_null(o.h);
    assert_int_equal(o.fault.status, 431);
    free(text);
}

/* ---- look-ups ---- */

static void finds_fields(void **state)
{
    (void)state;
    struct head *h = good(FIELDS("Cookie: a\r\nX: 1\r\ncookie: b\r\nCOOKIE: c\r\nCookies: d\r\n"));
    const char *value;
    size_t len;
    assert_int_equal(head_find(h, "COOKIE", 6, 0), 1);
    assert_int_equal(head_find(h, "cookie", 6, 1), 1);
    assert_int_equal(head_find(h, "cookie", 6, 2), 3);
    assert_int_equal(head_find(h, "Cookie", 6, 4), 4);
    assert_int_equal(head_find(h, "Cookie", 6, 5), -1);
    assert_int_equal(head_find(h, "Cookie", 6, 99), -1);
    assert_int_equal(head_find(h, "Cooki", 5, 0), -1);
    assert_int_equal(head_find(h, "", 0, 0), -1);
    assert_false(head_single(h, "cookie", &value, &len));
    assert_false(head_single(h, "none", &value, &len));
    assert_true(head_single(h, "x", &value, &len));
    assert_int_equal(len, 1);
    assert_memory_equal(value, "1", 1);
    assert_true(head_single(h, "COOKIES", &value, &len));
    assert_memory_equal(value, "d", 1);
    head_unref(h);
}

static void finds_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *line, *token;
        bool has;
    } cases[] = {
        {"T: a", "a", true},          {"T: A", "a", true},
        {"T: ab", "a", false},        {"T: a", "ab", false},
        {"T: a b", "a", false},       {"T: x,a", "a", true},
        {"T: a,x", "a", true},        {"T: x , \ta\t , y", "a", true},
        {"T: ,,a,,", "a", true},      {"T: ,", "a", false},
        {"T:", "a", false},           {"T: x\r\nT: y, a", "a", true},
        {"T: x\r\nU: a", "a", false}, {"T: \"a\"", "a", false},
        {"T: a;q=1", "a", false},     {"U: a", "a", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[128];
        snprintf(text, sizeof text, GET HOST "%s\r\n\r\n", cases[i].line);
        struct head *h = good(text);
        if (head_has_token(h, "t", cases[i].token) != cases[i].has)
            fail_msg("%s has %s", cases[i].line, cases[i].token);
        head_unref(h);
    }
}

/* ---- the peer's address ---- */

static void check_remote(struct head *h, const void *sa, const char *text, int family, int port)
{
    char out[INET6_ADDRSTRLEN];
    head_set_remote(h, sa);
    head_remote_text(h, out, sizeof out);
    assert_string_equal(out, text);
    assert_int_equal(h->remote_family, family);
    assert_int_equal(h->remote_port, port);
}

static void keeps_the_remote_address(void **state)
{
    (void)state;
    struct head *h = good(FIELDS(""));
    char out[INET6_ADDRSTRLEN];
    head_remote_text(h, out, sizeof out);
    assert_string_equal(out, "");

    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(8080)};
    inet_pton(AF_INET, "192.0.2.255", &in.sin_addr);
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(65535)};
    inet_pton(AF_INET6, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", &in6.sin6_addr);
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(1)};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    check_remote(h, &in6, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", AF_INET6, 65535);
    check_remote(h, &in, "192.0.2.255", AF_INET, 8080);
    static const uint8_t nothing[12];
    assert_memory_equal(h->remote_ip + 4, nothing, sizeof nothing); /* nothing is left of the longer one */
    check_remote(h, &mapped, "127.0.0.1", AF_INET, 1);
    check_remote(h, &un, "unix:", AF_UNIX, 0);
    head_unref(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scans_in_one_go),
        cmocka_unit_test(scans_byte_by_byte),
        cmocka_unit_test(scans_at_every_pair_of_splits),
        cmocka_unit_test(scan_refuses_every_control_character_at_every_place),
        cmocka_unit_test(scan_continues_and_does_not_start_again),
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_after_empty_lines_too),
        cmocka_unit_test(splits_the_request_line),
        cmocka_unit_test(sets_flags_and_length),
        cmocka_unit_test(trims_values_and_keeps_the_rest),
        cmocka_unit_test(takes_hosts),
        cmocka_unit_test(bounds_the_number_of_fields),
        cmocka_unit_test(bounds_the_length),
        cmocka_unit_test(finds_fields),
        cmocka_unit_test(finds_tokens),
        cmocka_unit_test(keeps_the_remote_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
