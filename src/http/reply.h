/* SPDX-License-Identifier: MIT
 * The answer to the request at hand: whole, or streamed. The thread of the connection's worker; only while
 * its HTTP session is there (http1.h). */
#ifndef TIDEWIRE_HTTP_REPLY_H
#define TIDEWIRE_HTTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>

#include "http/response.h"
#include "net/conn.h"

/* Answers the request at hand. */
void reply_send(struct conn *c, const struct response *r);

/* Answers it with the server's own words: `detail` is one sentence that says what to do, `fields` are more
 * header lines; either may be NULL. */
void reply_error(struct conn *c, int status, const char *detail, const char *fields);

/* The connection ends after the answer to the request at hand. */
void reply_last(struct conn *c);

/* An answer whose length is not known: r->body is ignored. Then pieces, then the end, which may be an early
 * one (`whole` is false): the client can tell. With HEAD, and for a status without a body, there is nothing
 * but the end to send: reply_stream says false. */
bool reply_stream(struct conn *c, const struct response *r);
void reply_piece(struct conn *c, const void *data, size_t len);
void reply_end(struct conn *c, bool whole);

#endif
