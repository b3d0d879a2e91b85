/* SPDX-License-Identifier: MIT
 * HTTP answers of the server itself. */
#include "http/response.h"

#include <string.h>
#include <time.h>

const char *response_reason(int status)
{
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 426: return "Upgrade Required";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Error";
    }
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
    size_t length = 4 + strlen(reason) + 1 + (*detail != '\0' ? strlen(detail) + 1 : 0);
    int rc = buf_printf(out,
                        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                        "Content-Length: %zu\r\n%s%s\r\n",
                        r->status, reason, date, length, r->fields != NULL ? r->fields : "",
                        r->status == 426 ? "Connection: Upgrade, close\r\n" : "Connection: close\r\n");
    if (rc == 0 && !r->head_only)
        rc = buf_printf(out, "%d %s\n%s%s", r->status, reason, detail, *detail != '\0' ? "\n" : "");
    return rc;
}
