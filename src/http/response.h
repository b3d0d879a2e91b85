/* SPDX-License-Identifier: MIT
 * HTTP answers: the head's lines, and the server's own words for an error. Any thread. */
#ifndef TIDEWIRE_HTTP_RESPONSE_H
#define TIDEWIRE_HTTP_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* "Not Found" for 404; "Error" for a status without a name here. */
const char *response_reason(int status);

/* Whether an answer with that status has a body at all (RFC 9110, 6.4.1). */
static inline bool response_has_body(int status)
{
    return status >= 200 && status != 204 && status != 205 && status != 304;
}

/* An answer whose body is known. Everything is borrowed. */
struct response {
    int status;
    const char *fields; /* header lines, each with its CR LF; NULL is none */
    size_t fields_len;
    const char *type; /* Content-Type; NULL when `fields` say it, or nothing does */
    const char *body;
    size_t body_len;
};

#define RESPONSE_LINES 512

/* Lengths that are none. */
#define RESPONSE_CHUNKED (-1) /* the body comes in chunks */
#define RESPONSE_UNTOLD  (-2) /* there is no body, or it ends with the connection */

/* The status line, Date, Content-Type (when there is one) and the line that tells the body's length in bytes.
 * Returns how long it is; RESPONSE_LINES is enough for the types below. */
size_t response_first_lines(int status, const char *type, int64_t length, char out[RESPONSE_LINES]);

/* The body of an error page: status, reason and one sentence that says what to do (or NULL). Appends; 0, or
 * -1 when memory runs out. */
int response_error_page(struct buf *out, int status, const char *detail, bool json);

#define RESPONSE_TEXT "text/plain; charset=utf-8"
#define RESPONSE_JSON "application/json"

#endif
