/* SPDX-License-Identifier: MIT
 * Choosing the subprotocol: what a client may offer and what the server takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ws/subprotocol.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FIELD    "Sec-WebSocket-Protocol: "

static struct head *parse(const char *fields)
{
    char head[2048];
    int n = snprintf(head, sizeof head, "GET /chat HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    struct head *h = NULL;
    struct head_fault fault = {0, "none"};
    if (n >= (int)sizeof head || head_parse(head, (size_t)n, &h, &fault) < 0)
        fail_msg("%d %s for\n%s", fault.status, fault.reason, head);
    return h;
}

static void a_token_has_the_characters_of_rfc_9110(void **state)
{
    (void)state;
    static const char good[] = "!#$%&'*+-.^_`|~0123456789"
                               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (int c = 0; c < 256; c++) {
        char inside[3] = {'a', (char)c, 'b'};
        bool expected = memchr(good, c, sizeof good - 1) != NULL;
        if (head_is_token(inside + 1, 1) != expected || head_is_token(inside, 3) != expected)
            fail_msg("byte 0x%02x", (unsigned)c);
    }
    assert_true(head_is_token(good, sizeof good - 1));
    assert_true(head_is_token("chat, x", 4));
    assert_false(head_is_token("", 0));
    assert_false(head_is_token(NULL, 0));
}

static void offers_are_lists_of_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        bool valid;
    } cases[] = {
        {"", true},
        {"X-Sec-WebSocket-Protocol: @\r\n", true},
        {"Sec-WebSocket-Protocols: @\r\n", true},
        {FIELD "chat\r\n", true},
        {"SEC-WEBSOCKET-PROTOCOL:chat\r\n", true},
        {FIELD "chat, superchat\r\n", true},
        {FIELD "chat,superchat\r\n" FIELD "v2.mqtt\r\n", true},
        {FIELD ",, chat ,\t,superchat,\r\n", true},
        {FIELD "chat, chat\r\n", true},
        {FIELD "\r\n", false},
        {FIELD ",\r\n", false},
        {FIELD ", ,\t,\r\n", false},
        {FIELD "chat\r\n" FIELD "\r\n", false},
        {FIELD "\r\n" FIELD "chat\r\n", false},
        {FIELD "super chat\r\n", false},
        {FIELD "chat;q=1\r\n", false},
        {FIELD "\"chat\"\r\n", false},
        {FIELD "chat/2\r\n", false},
        {FIELD "chat, a=b\r\n", false},
        {FIELD "a=b, chat\r\n", false},
        {FIELD "chat\r\n" FIELD "chat@home\r\n", false},
        {FIELD "caf\xc3\xa9\r\n", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct head *h = parse(cases[i].fields);
        if (subprotocol_offers_valid(h) != cases[i].valid)
            fail_msg("%s", cases[i].fields);
        head_unref(h);
    }
}

/* The names n0 to n(count - 1), in two fields. */
static struct head *parse_many(int count)
{
    char fields[1024];
    size_t at = 0;
    for (int i = 0; i < count; i++)
        at += (size_t)snprintf(fields + at, sizeof fields - at, "%sn%d%s", i == 0 || i == 40 ? FIELD : "", i,
                               i == 39 || i == count - 1 ? "\r\n" : ",,");
    return parse(fields);
}

static void offers_are_at_most_64(void **state)
{
    (void)state;
    struct head *h = parse_many(SUBPROTOCOL_MAX_OFFERS);
    assert_int_equal(SUBPROTOCOL_MAX_OFFERS, 64);
    assert_true(subprotocol_offers_valid(h));
    assert_int_equal(subprotocol_choose(h, (const char *const[]){"n63"}, 1), 63);
    head_unref(h);

    h = parse_many(SUBPROTOCOL_MAX_OFFERS + 1);
    assert_false(subprotocol_offers_valid(h));
    head_unref(h);
}

static void the_servers_order_decides(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        const char *supported[3];
        int position;
    } cases[] = {
        {FIELD "a, b, c\r\n", {"a"}, 0},
        {FIELD "a, b, c\r\n", {"c"}, 2},
        {FIELD "a, b, c\r\n", {"c", "a"}, 2},
        {FIELD "a, b, c\r\n", {"x", "b", "a"}, 1},
        {FIELD "a, b, c\r\n", {"x", "y"}, -1},
        {FIELD "a, b, c\r\n", {"A"}, -1},
        {FIELD "a, B, c\r\n", {"b", "B"}, 1},
        {FIELD "chat\r\n", {"cha"}, -1},
        {FIELD "chat\r\n", {"chat2"}, -1},
        {FIELD "cha, chat2, chat\r\n", {"chat"}, 2},
        {FIELD ", ,a,, b ,\r\n", {"b"}, 1},
        {FIELD "a, b\r\nX: x\r\nsec-websocket-protocol: c, d\r\n", {"d"}, 3},
        {FIELD "a, b\r\nX: x\r\nsec-websocket-protocol: c, d\r\n", {"c", "a"}, 2},
        {FIELD "a, b\r\nX: x\r\n", {"x"}, -1},
        {FIELD "b, a, b\r\n", {"b"}, 0},
        {"", {"a"}, -1},
        {FIELD "a\r\n", {NULL}, -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct head *h = parse(cases[i].fields);
        size_t n = 0, len = 0;
        while (n < 3 && cases[i].supported[n] != NULL)
            n++;
        int position = subprotocol_choose(h, cases[i].supported, n);
        if (position != cases[i].position)
            fail_msg("%d for\n%s", position, cases[i].fields);
        if (position >= 0) {
            const char *offer = subprotocol_offer(h, (unsigned)position, &len);
            size_t k = 0;
            while (k < n &&
                   (strlen(cases[i].supported[k]) != len || memcmp(cases[i].supported[k], offer, len) != 0))
                k++;
            assert_true(k < n);
        }
        head_unref(h);
    }
}

static void an_offer_is_found_by_its_position(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "bb", "ccc", "a"};
    struct head *h = parse(FIELD ", a,\tbb ,\r\nX: x\r\n" FIELD "ccc\r\n" FIELD "a,\r\n");
    const char *bytes = head_bytes(h);
    for (unsigned i = 0; i < COUNT(names); i++) {
        size_t len = 0;
        const char *offer = subprotocol_offer(h, i, &len);
        assert_non_null(offer);
        assert_int_equal(len, strlen(names[i]));
        assert_memory_equal(offer, names[i], len);
        assert_true(offer >= bytes && offer + len <= bytes + h->nbytes);
    }
    size_t len;
    assert_null(subprotocol_offer(h, COUNT(names), &len));
    assert_null(subprotocol_offer(h, (unsigned)-1, &len)); /* what subprotocol_choose says for none */
    head_unref(h);

    h = parse("");
    assert_null(subprotocol_offer(h, 0, &len));
    head_unref(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_has_the_characters_of_rfc_9110),
        cmocka_unit_test(offers_are_lists_of_tokens),
        cmocka_unit_test(offers_are_at_most_64),
        cmocka_unit_test(the_servers_order_decides),
        cmocka_unit_test(an_offer_is_found_by_its_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
