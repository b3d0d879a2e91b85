/* SPDX-License-Identifier: MIT
 * HTTP answers of the server itself: status line, fields and a short body for a person. Any thread. */
#ifndef TIDEWIRE_HTTP_RESPONSE_H
#define TIDEWIRE_HTTP_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* "Not Found" for 404; "Error" for a status without a name here. */
const char *response_reason(int status);

struct response_error {
    int status;
    const char *detail; /* one sentence that says what to do, or NULL */
    const char *body;   /* instead of all words of the server's own; NULL is none */
    size_t body_len;
    const char *fields; /* more header lines, each with CRLF, or NULL */
    bool head_only;     /* the request was HEAD: everything but the body */
};

/* Appends a whole answer that ends the connection. 0, or -1 when memory runs out. */
int response_write_error(struct buf *out, const struct response_error *r);

#endif
