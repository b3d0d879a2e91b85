/* SPDX-License-Identifier: MIT
 * The server's own answers, read as a client reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/response.h"

static char *answer(const struct response_error *r)
{
    struct buf b = BUF_INIT;
    assert_int_equal(response_write_error(&b, r), 0);
    assert_null(memchr(b.data, '\0', b.len));
    assert_int_equal(buf_append(&b, "", 1), 0);
    return b.data;
}

static const char *body_of(const char *text)
{
    const char *end = strstr(text, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

/* The value of the only field of that name. */
static const char *field(const char *text, const char *name)
{
    static char value[256];
    char start[64];
    snprintf(start, sizeof start, "\r\n%s: ", name);
    const char *at = strstr(text, start);
    if (at == NULL || at > body_of(text))
        fail_msg("no %s in\n%s", name, text);
    at += strlen(start);
    const char *again = strstr(at, start);
    assert_true(again == NULL || again > body_of(text));
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\r"), at);
    return value;
}

static void reasons(void **state)
{
    (void)state;
    assert_string_equal(response_reason(400), "Bad Request");
    assert_string_equal(response_reason(404), "Not Found");
    assert_string_equal(response_reason(426), "Upgrade Required");
    assert_string_equal(response_reason(503), "Service Unavailable");
    assert_string_equal(response_reason(499), "Error");
}

static void whole_answer(void **state)
{
    (void)state;
    char *text = answer(&(struct response_error){.status = 404, .detail = "No route has this path."});
    assert_memory_equal(text, "HTTP/1.1 404 Not Found\r\n", 24);
    assert_string_equal(body_of(text), "404 Not Found\nNo route has this path.\n");
    assert_string_equal(field(text, "Content-Length"), "38");
    assert_string_equal(field(text, "Content-Type"), "text/plain; charset=utf-8");
    assert_string_equal(field(text, "Connection"), "close");
    free(text);
}

static void without_detail(void **state)
{
    (void)state;
    char *text = answer(&(struct response_error){.status = 500});
    assert_string_equal(body_of(text), "500 Internal Server Error\n");
    free(text);
}

/* An answer is behind whatever is in the buffer, and its length is right whatever its parts. */
static void lengths_fit(void **state)
{
    (void)state;
    static const int statuses[] = {400, 403, 404, 405, 408, 426, 431, 500, 501, 503, 505, 499};
    static const char *const details[] = {NULL, "", "x", "A sentence with caf\xc3\xa9."};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        for (size_t j = 0; j < sizeof details / sizeof details[0]; j++) {
            struct response_error r = {.status = statuses[i], .detail = details[j]};
            char *text = answer(&r), length[24];
            snprintf(length, sizeof length, "%zu", strlen(body_of(text)));
            assert_string_equal(field(text, "Content-Length"), length);
            assert_true(strlen(body_of(text)) > 4);
            r.head_only = true;
            char *head = answer(&r);
            assert_string_equal(body_of(head), "");
            assert_string_equal(field(head, "Content-Length"), length);
            free(head);
            free(text);
        }
}

static void more_fields(void **state)
{
    (void)state;
    char *text = answer(&(struct response_error){.status = 405, .fields = "Allow: GET, HEAD\r\nX-A: b\r\n"});
    assert_string_equal(field(text, "Allow"), "GET, HEAD");
    assert_string_equal(field(text, "X-A"), "b");
    assert_string_equal(field(text, "Connection"), "close");
    assert_string_equal(body_of(text), "405 Method Not Allowed\n");
    free(text);
}

/* RFC 9110, 7.8 and 15.5.22: Upgrade goes with a Connection that names it. */
static void upgrade_required(void **state)
{
    (void)state;
    char *text = answer(&(struct response_error){.status = 426, .fields = "Upgrade: websocket\r\n"});
    assert_string_equal(field(text, "Upgrade"), "websocket");
    assert_string_equal(field(text, "Connection"), "Upgrade, close");
    free(text);
}

/* IMF-fixdate (RFC 9110, 5.6.7). */
static void dated(void **state)
{
    (void)state;
    char *text = answer(&(struct response_error){.status = 400}), day[4], month[4], zone[4];
    unsigned d, y, h, m, s;
    int end = 0;
    const char *date = field(text, "Date");
    assert_int_equal(sscanf(date, "%3[A-Za-z], %2u %3[A-Za-z] %4u %2u:%2u:%2u %3[A-Z]%n", day, &d, month, &y,
                            &h, &m, &s, zone, &end),
                     8);
    assert_int_equal(end, 29);
    assert_int_equal(strlen(date), 29);
    assert_true(date[5] >= '0');
    assert_string_equal(zone, "GMT");
    assert_non_null(strstr("Mon Tue Wed Thu Fri Sat Sun", day));
    assert_non_null(strstr("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec", month));
    assert_true(d >= 1 && d <= 31 && y >= 2024 && h < 24 && m < 60 && s <= 60);
    free(text);
}

static void appends(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_int_equal(buf_puts(&b, "before"), 0);
    assert_int_equal(response_write_error(&b, &(struct response_error){.status = 400}), 0);
    assert_memory_equal(b.data, "beforeHTTP/1.1 400", 18);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasons),     cmocka_unit_test(whole_answer), cmocka_unit_test(without_detail),
        cmocka_unit_test(lengths_fit), cmocka_unit_test(more_fields),  cmocka_unit_test(upgrade_required),
        cmocka_unit_test(dated),       cmocka_unit_test(appends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
