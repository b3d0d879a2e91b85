/* SPDX-License-Identifier: MIT
 * The lines that answers begin with, and the server's own error pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "http/response.h"

static const char *lines_with_length(int status, const char *type, int64_t length)
{
    static char out[RESPONSE_LINES + 1];
    size_t n = response_first_lines(status, type, length, out);
    assert_true(n < RESPONSE_LINES);
    out[n] = '\0';
    return out;
}

static const char *first_lines(int status, const char *type)
{
    return lines_with_length(status, type, RESPONSE_UNTOLD);
}

static void page_is(int status, const char *detail, bool json, const char *want)
{
    struct buf b = BUF_INIT;
    assert_int_equal(buf_puts(&b, "before"), 0);
    assert_int_equal(response_error_page(&b, status, detail, json), 0);
    assert_int_equal(b.len, 6 + strlen(want));
    assert_memory_equal(b.data + 6, want, strlen(want));
    buf_fini(&b);
}

static void reasons(void **state)
{
    (void)state;
    assert_string_equal(response_reason(200), "OK");
    assert_string_equal(response_reason(400), "Bad Request");
    assert_string_equal(response_reason(404), "Not Found");
    assert_string_equal(response_reason(426), "Upgrade Required");
    assert_string_equal(response_reason(503), "Service Unavailable");
    assert_string_equal(response_reason(499), "Error");
}

static void some_have_no_body(void **state)
{
    (void)state;
    assert_true(response_has_body(200) && response_has_body(404) && response_has_body(500));
    assert_false(response_has_body(101) || response_has_body(204) || response_has_body(304));
}

static void pages_for_people(void **state)
{
    (void)state;
    page_is(404, "No route has this path.", false, "404 Not Found\nNo route has this path.\n");
    page_is(500, NULL, false, "500 Internal Server Error\n");
}

static void pages_for_programs(void **state)
{
    (void)state;
    page_is(404, "Say \"please\".", true,
            "{\"status\":404,\"error\":\"Not Found\",\"detail\":\"Say \\\"please\\\".\"}\n");
    page_is(500, NULL, true, "{\"status\":500,\"error\":\"Internal Server Error\"}\n");
}

static void begins_with_the_status(void **state)
{
    (void)state;
    assert_memory_equal(first_lines(404, NULL), "HTTP/1.1 404 Not Found\r\nDate: ", 30);
    assert_null(strstr(first_lines(200, NULL), "Content-Type"));
    assert_non_null(strstr(first_lines(200, RESPONSE_JSON), "\r\nContent-Type: application/json\r\n"));
}

static void ends_with(const char *lines, const char *end)
{
    assert_true(strlen(lines) > strlen(end));
    assert_string_equal(lines + strlen(lines) - strlen(end), end);
}

static void tells_the_length(void **state)
{
    (void)state;
    ends_with(lines_with_length(200, NULL, 0), " GMT\r\nContent-Length: 0\r\n");
    ends_with(lines_with_length(200, NULL, 10), "\r\nContent-Length: 10\r\n");
    ends_with(lines_with_length(200, RESPONSE_JSON, INT64_MAX),
              "json\r\nContent-Length: 9223372036854775807\r\n");
    ends_with(lines_with_length(200, RESPONSE_TEXT, RESPONSE_CHUNKED),
              "utf-8\r\nTransfer-Encoding: chunked\r\n");
    ends_with(lines_with_length(304, NULL, RESPONSE_UNTOLD), " GMT\r\n");
}

/* IMF-fixdate (RFC 9110, 5.6.7). */
static void dated(void **state)
{
    (void)state;
    char day[4], month[4], zone[4];
    unsigned d, y, h, m, s;
    int end = 0;
    const char *date = strstr(first_lines(200, NULL), "Date: ") + 6;
    assert_int_equal(sscanf(date, "%3[A-Za-z], %2u %3[A-Za-z] %4u %2u:%2u:%2u %3[A-Z]%n", day, &d, month, &y,
                            &h, &m, &s, zone, &end),
                     8);
    assert_int_equal(end, 29);
    assert_memory_equal(date + 29, "\r\n", 2);
    assert_true(date[5] >= '0');
    assert_string_equal(zone, "GMT");
    assert_non_null(strstr("Mon Tue Wed Thu Fri Sat Sun", day));
    assert_non_null(strstr("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec", month));
    assert_true(d >= 1 && d <= 31 && y >= 2024 && h < 24 && m < 60 && s <= 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasons),
        cmocka_unit_test(some_have_no_body),
        cmocka_unit_test(pages_for_people),
        cmocka_unit_test(pages_for_programs),
        cmocka_unit_test(begins_with_the_status),
        cmocka_unit_test(tells_the_length),
        cmocka_unit_test(dated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
