/* SPDX-License-Identifier: MIT
 * The lines of the access log: both forms, and that nothing a client sends can forge one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "http/access.h"

static struct buf out;

static const char *made(void)
{
    buf_append(&out, "", 1);
    out.len = 0;
    return out.data;
}

static int tear_down(void **state)
{
    (void)state;
    buf_fini(&out);
    return 0;
}

static struct head *parse(const char *text)
{
    struct head *head;
    struct head_fault fault;
    assert_int_equal(head_parse(text, strlen(text), &head, &fault), 0);
    return head;
}

static struct access_line line_of(const struct head *head)
{
    return (struct access_line){.at = {1767323045, 678000000},
                                .took_us = 1500,
                                .address = "192.0.2.7",
                                .head = head,
                                .status = 200,
                                .bytes = 42,
                                .route = "/users/:id",
                                .worker = 2,
                                .conn = 17};
}

static void requests(void **state)
{
    (void)state;
    struct head *head =
        parse("GET /users/5?token=secret HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/7.88\r\n\r\n");
    struct access_line line = line_of(head);
    access_text(&out, &line);
    assert_string_equal(made(),
                        "192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] \"GET /users/5 HTTP/1.1\" 200 42 \"-\" "
                        "\"curl/7.88\" 1.500ms route=\"/users/:id\" worker=2 connection=17\n");
    access_json(&out, &line);
    assert_string_equal(
        made(), "{\"time\":\"2026-01-02T03:04:05.678Z\",\"access\":\"request\",\"address\":\"192.0.2.7\","
                "\"method\":\"GET\",\"path\":\"/users/5\",\"status\":200,\"bytes\":42,\"ms\":1.500,"
                "\"route\":\"/users/:id\",\"worker\":2,\"connection\":17,\"user_agent\":\"curl/7.88\"}\n");
    head_unref(head);
}

/* There may be no head, no route and no user agent; an answer may be cut. */
static void what_is_not_known(void **state)
{
    (void)state;
    struct access_line line = line_of(NULL);
    line.route = NULL;
    line.status = 400;
    line.cut = true;
    access_text(&out, &line);
    assert_string_equal(made(), "192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] \"-\" 400 42 \"-\" \"-\" 1.500ms "
                                "route=\"-\" worker=2 connection=17 cut\n");
    access_json(&out, &line);
    assert_string_equal(
        made(), "{\"time\":\"2026-01-02T03:04:05.678Z\",\"access\":\"request\",\"address\":\"192.0.2.7\","
                "\"status\":400,\"bytes\":42,\"ms\":1.500,\"cut\":true,\"worker\":2,\"connection\":17}\n");
}

static void websockets(void **state)
{
    (void)state;
    struct head *head = parse("GET /chat?x HTTP/1.1\r\nHost: example.com:81\r\n\r\n");
    struct access_websocket ws = {.messages_in = 1,
                                  .messages_out = 2,
                                  .bytes_in = 30,
                                  .bytes_out = 42,
                                  .code = 1001,
                                  .closed_by = "peer"};
    struct access_line line = line_of(head);
    line.status = 101;
    line.ws = &ws;
    access_text(&out, &line);
    assert_string_equal(
        made(),
        "192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] \"GET /chat HTTP/1.1\" 101 42 \"-\" \"-\" 1.500ms "
        "route=\"/users/:id\" worker=2 connection=17 websocket in=1/30 out=2/42 close=1001 by=peer\n");
    ws.is_client = true;
    line.route = NULL;
    access_text(&out, &line);
    assert_string_equal(
        made(), "192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] \"GET ws://example.com:81/chat HTTP/1.1\" 101 42 "
                "\"-\" \"-\" 1.500ms route=\"-\" worker=2 connection=17 client in=1/30 out=2/42 close=1001 "
                "by=peer\n");
    access_json(&out, &line);
    assert_string_equal(
        made(),
        "{\"time\":\"2026-01-02T03:04:05.678Z\",\"access\":\"client\",\"address\":\"192.0.2.7\","
        "\"method\":\"GET\",\"host\":\"example.com:81\",\"path\":\"/chat\",\"status\":101,\"bytes\":42,"
        "\"ms\":1.500,\"worker\":2,\"connection\":17,\"messages_in\":1,\"bytes_in\":30,\"messages_out\":2,"
        "\"bytes_out\":42,\"close_code\":1001,\"closed_by\":\"peer\"}\n");
    head_unref(head);
}

static void nothing_forges_a_line(void **state)
{
    (void)state;
    struct head *head = parse("GET /a\"b\\c%ff HTTP/1.1\r\nHost: x\r\n"
                              "User-Agent: \" 200 9 \xff\\\xc2\x85\t{\"x\":1}\r\n\r\n");
    struct access_line line = line_of(head);
    access_text(&out, &line);
    assert_string_equal(made(),
                        "192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] \"GET /a\\x22b\\x5cc%ff HTTP/1.1\" 200 "
                        "42 \"-\" \"\\x22 200 9 \\xff\\x5c\\xc2\\x85\\x09{\\x22x\\x22:1}\" 1.500ms "
                        "route=\"/users/:id\" worker=2 connection=17\n");
    access_json(&out, &line);
    const char *json = made();
    assert_non_null(strstr(json, "\"path\":\"/a\\\"b\\\\c%ff\""));
    assert_non_null(
        strstr(json, "\"user_agent\":\"\\\" 200 9 \\u00ff\\\\\\u00c2\\u0085\\u0009{\\\"x\\\":1}\"}\n"));
    head_unref(head);
}

/* Between characters. */
static void long_ones_are_cut(void **state)
{
    (void)state;
    char text[ACCESS_PATH_MAX * 2 + ACCESS_AGENT_MAX * 2 + 100], want[ACCESS_AGENT_MAX + 40];
    int n = snprintf(text, sizeof text, "GET /");
    memset(text + n, 'p', ACCESS_PATH_MAX + 100);
    n += ACCESS_PATH_MAX + 100;
    n += snprintf(text + n, sizeof text - (size_t)n, " HTTP/1.1\r\nHost: x\r\nUser-Agent: x");
    for (int i = 0; i < ACCESS_AGENT_MAX; i++, n += 2)
        memcpy(text + n, "\xc3\xa9", 2);
    snprintf(text + n, sizeof text - (size_t)n, "\r\n\r\n");
    struct head *head = parse(text);
    struct access_line line = line_of(head);
    access_json(&out, &line);
    const char *json = made();
    assert_int_equal(strspn(strstr(json, "/pp") + 1, "p"), ACCESS_PATH_MAX - 1);
    n = snprintf(want, sizeof want, "\"user_agent\":\"x");
    for (int i = 0; i < (ACCESS_AGENT_MAX - 1) / 2; i++, n += 2)
        memcpy(want + n, "\xc3\xa9", 2);
    snprintf(want + n, sizeof want - (size_t)n, "\"}\n");
    assert_non_null(strstr(json, want));
    head_unref(head);
}

static void off_costs_nothing(void **state)
{
    (void)state;
    struct access_note *note = NULL;
    assert_false(access_is_on());
    access_begin(&note);
    assert_null(note);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(requests),          TEST(what_is_not_known), TEST(websockets), TEST(nothing_forges_a_line),
        TEST(long_ones_are_cut), TEST(off_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
