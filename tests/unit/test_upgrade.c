/* SPDX-License-Identifier: MIT
 * The server's side of the WebSocket opening handshake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ws/upgrade.h"

#define HOST    "Host: h\r\n"
#define ASKS    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define VERSION "Sec-WebSocket-Version: 13\r\n"
#define KEY     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define GET     "GET /chat HTTP/1.1\r\n" HOST

static struct head *parse(const char *text)
{
    char head[1024];
    int n = snprintf(head, sizeof head, "%s\r\n", text);
    struct head *h;
    struct head_fault fault = {0, "none"};
    if (head_parse(head, (size_t)n, &h, &fault) < 0)
        fail_msg("%d %s for\n%s", fault.status, fault.reason, head);
    return h;
}

struct check_case {
    const char *head;
    int status;
    const char *reason; /* a part of it */
};

static const struct check_case check_cases[] = {
    {GET ASKS VERSION KEY, 0, ""},
    {GET "UPGRADE: WebSocket\r\nCONNECTION: keep-alive, uPGRADE\r\n" VERSION KEY, 0, ""},
    {GET "Upgrade: h2c, websocket\r\nConnection: foo\r\nConnection: upgrade\r\n" VERSION KEY, 0, ""},
    {GET ASKS "sec-websocket-version:13\r\nsec-websocket-key:  ++++////0000zzzzAAAAAA==  \r\n", 0, ""},
    {"POST / HTTP/1.1\r\n" HOST ASKS VERSION KEY, 400, "GET"},
    {"HEAD / HTTP/1.1\r\n" HOST ASKS VERSION KEY, 400, "GET"},
    {"GET / HTTP/1.0\r\n" HOST ASKS VERSION KEY, 400, "HTTP/1.0"},
    {GET "Upgrade: websocket\r\n" VERSION KEY, 400, "Connection"},
    {GET "Upgrade: websocket\r\nConnection: upgraded\r\n" VERSION KEY, 400, "Connection"},
    {GET "Upgrade: websocket\r\nConnection: keep-alive\r\n" VERSION KEY, 400, "Connection"},
    {GET "Upgrade: websocket\r\nProxy-Connection: upgrade\r\n" VERSION KEY, 400, "Connection"},
    {GET "Upgrade: websocket\r\nContent-Length: 1\r\n" VERSION KEY, 400, "body"},
    {GET "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n" VERSION KEY, 400, "body"},
    {GET ASKS KEY, 426, "Version"},
    {GET ASKS VERSION VERSION KEY, 426, "Version"},
    {GET ASKS "Sec-WebSocket-Version: 8\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version: 13, 8\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version: 1\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version: 130\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version: 14\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version: 013\r\n" KEY, 426, "13"},
    {GET ASKS "Sec-WebSocket-Version:\r\n" KEY, 426, "13"},
    {GET ASKS VERSION, 400, "Key"},
    {GET ASKS VERSION KEY KEY, 400, "Key"},
    {GET ASKS VERSION "Sec-WebSocket-Key:\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ===\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWQ=\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWRh\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j-_==\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ-==\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: d.hlIHNhbXBsZSBub25jZQ==\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=A\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBs SBub25jZQ==\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: =GhlIHNhbXBsZSBub25jZQ==\r\n", 400, "16 bytes"},
    {GET ASKS VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ=Q=\r\n", 400, "16 bytes"},
    {GET ASKS VERSION KEY "Sec-WebSocket-Protocol: chat, superchat\r\n", 0, ""},
    {GET ASKS VERSION KEY "Sec-WebSocket-Protocol: super chat\r\n", 400, "Protocol header is malformed."},
    {GET ASKS VERSION KEY "Sec-WebSocket-Protocol:\r\n", 400, "Protocol header is malformed."},
    {GET ASKS VERSION KEY "Sec-WebSocket-Extensions: permessage-deflate; x=1, y\r\n", 0, ""},
    {GET ASKS VERSION KEY "Sec-WebSocket-Extensions: permessage-deflate;\r\n", 400,
     "Extensions header is malformed."},
};

static void checks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof check_cases / sizeof check_cases[0]; i++) {
        const struct check_case *c = &check_cases[i];
        const char *reason = "";
        struct head *h = parse(c->head);
        assert_true(upgrade_wanted(h));
        int status = upgrade_check(h, &reason);
        if (status != c->status || strstr(reason, c->reason) == NULL)
            fail_msg("%d %s for\n%s", status, reason, c->head);
        head_unref(h);
    }
}

static void wanted_only_by_the_upgrade_field(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        bool wanted;
    } cases[] = {
        {GET, false},
        {GET "Connection: upgrade\r\n" VERSION KEY, false},
        {GET "Upgrade: h2c\r\nConnection: upgrade\r\n" VERSION KEY, false},
        {GET "Upgrade: websockets\r\nConnection: upgrade\r\n" VERSION KEY, false},
        {GET "Upgrade: websocket/13\r\n", false},
        {GET "X-Upgrade: websocket\r\n", false},
        {GET "Upgrade:\r\n", false},
        {GET "Upgrade: websocket\r\n", true},
        {GET "Upgrade: ,\t, WEBSOCKET ,\r\n", true},
        {GET "Upgrade: h2c\r\nUpgrade: websocket\r\n", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct head *h = parse(cases[i].head);
        if (upgrade_wanted(h) != cases[i].wanted)
            fail_msg("%s", cases[i].head);
        head_unref(h);
    }
}

static void accepts_as_the_rfc_does(void **state)
{
    (void)state;
    char accept[UPGRADE_ACCEPT_LEN + 1];
    struct head *h = parse(GET ASKS VERSION KEY);
    memset(accept, 'x', sizeof accept);
    assert_int_equal(upgrade_init(), 0);
    assert_int_equal(upgrade_accept(h, accept), 0);
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); /* RFC 6455, 1.3 */
    head_unref(h);

    h = parse(GET ASKS VERSION "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n");
    assert_int_equal(upgrade_init(), 0);
    assert_int_equal(upgrade_accept(h, accept), 0);
    assert_string_equal(accept, "HSmrc0sMlYUkAGmm5OPpG2HaGWk="); /* MDN's example */
    head_unref(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks),
        cmocka_unit_test(wanted_only_by_the_upgrade_field),
        cmocka_unit_test(accepts_as_the_rfc_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
