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

/* IMF-fixdate (RFC 9110, 5.6.7). */
static void response_date(char out[40])
{
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(out, 40, "%a, %d %b %Y %H:%M:%S GMT", &tm);
}

int response_write_error(struct buf *out, const struct response_error *r)
{
    const char *reason = response_reason(r->status), *detail = r->detail != NULL ? r->detail : "";
    char date[40];
    response_date(date);
    size_t length =
        r->body != NULL ? r->body_len : 4 + strlen(reason) + 1 + (*detail != '\0' ? strlen(detail) + 1 : 0);
    int rc = buf_printf(out,
                        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                        "Content-Length: %zu\r\n%s%s\r\n",
                        r->status, reason, date, length, r->fields != NULL ? r->fields : "",
                        r->status == 426 ? "Connection: Upgrade, close\r\n" : "Connection: close\r\n");
    if (rc < 0 || r->head_only)
        return rc;
    if (r->body != NULL)
        return buf_append(out, r->body, r->body_len);
    return buf_printf(out, "%d %s\n%s%s", r->status, reason, detail, *detail != '\0' ? "\n" : "");
}
