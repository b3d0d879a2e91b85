/* SPDX-License-Identifier: MIT
 * HTTP answers of the server itself. */
#include "http/response.h"

#include <string.h>
#include <time.h>

/* RFC 9110, 15; RFC 6585; RFC 7725; RFC 8470. */
static const struct response_status {
    int code;
    const char *reason;
} response_statuses[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {203, "Non-Authoritative Information"},
    {204, "No Content"},
    {205, "Reset Content"},
    {206, "Partial Content"},
    {300, "Multiple Choices"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {402, "Payment Required"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {407, "Proxy Authentication Required"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {425, "Too Early"},
    {426, "Upgrade Required"},
    {428, "Precondition Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {451, "Unavailable For Legal Reasons"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};

const char *response_reason(int status)
{
    for (size_t i = 0; i < sizeof response_statuses / sizeof response_statuses[0]; i++)
        if (response_statuses[i].code == status)
            return response_statuses[i].reason;
    return "Error";
}

/* IMF-fixdate (RFC 9110, 5.6.7), made once a second. */
static const char *response_date(void)
{
    static _Thread_local struct {
        time_t when;
        char text[40];
    } last;
    time_t now = time(NULL);
    if (now != last.when) {
        struct tm tm;
        gmtime_r(&now, &tm);
        strftime(last.text, sizeof last.text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        last.when = now;
    }
    return last.text;
}

static char *response_put_number(char *to, uint64_t n)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    return mempcpy(to, digits + at, sizeof digits - at);
}

size_t response_first_lines(int status, const char *type, int64_t length, char out[RESPONSE_LINES])
{
    /* Every answer passes here: snprintf would be a tenth of a short one's time. */
    char *to = stpcpy(out, "HTTP/1.1 ");
    to = response_put_number(to, (uint64_t)status);
    to = stpcpy(to, " ");
    to = stpcpy(to, response_reason(status));
    to = stpcpy(to, "\r\nDate: ");
    to = stpcpy(to, response_date());
    if (type != NULL) {
        to = stpcpy(to, "\r\nContent-Type: ");
        to = stpcpy(to, type);
    }
    if (length == RESPONSE_CHUNKED)
        to = stpcpy(to, "\r\nTransfer-Encoding: chunked");
    else if (length >= 0) {
        to = stpcpy(to, "\r\nContent-Length: ");
        to = response_put_number(to, (uint64_t)length);
    }
    return (size_t)(stpcpy(to, "\r\n") - out);
}

/* The sentences are the server's own: nothing in them needs escaping but the quotes. */
static int response_error_json(struct buf *out, int status, const char *reason, const char *detail)
{
    if (buf_printf(out, "{\"status\":%d,\"error\":\"%s\"", status, reason) < 0)
        return -1;
    if (detail != NULL && buf_puts(out, ",\"detail\":\"") < 0)
        return -1;
    for (const char *p = detail; p != NULL && *p != '\0'; p++)
        if ((*p == '"' && buf_puts(out, "\\") < 0) || buf_append(out, p, 1) < 0)
            return -1;
    return buf_puts(out, detail != NULL ? "\"}\n" : "}\n");
}

int response_error_page(struct buf *out, int status, const char *detail, bool json)
{
    const char *reason = response_reason(status);
    if (json)
        return response_error_json(out, status, reason, detail);
    return buf_printf(out, "%d %s\n%s%s", status, reason, detail != NULL ? detail : "",
                      detail != NULL ? "\n" : "");
}
