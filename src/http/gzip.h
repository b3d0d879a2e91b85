/* SPDX-License-Identifier: MIT
 * Compressed bodies of answers (RFC 9110, 8.4.1.3; RFC 1952). Any thread; one state for each. */
#ifndef TIDEWIRE_HTTP_GZIP_H
#define TIDEWIRE_HTTP_GZIP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Whether a body of that type gains by it, and its header lines (or NULL) do not speak against it: text, JSON
 * and the like; not when Content-Encoding is there already, nor with Cache-Control: no-transform. `type` is
 * the Content-Type when the lines do not say it. */
bool gzip_is_worth(const char *type, const char *fields, size_t fields_len);

/* Appends; 0, or -1 when memory runs out. */
int gzip_body(struct buf *out, const char *body, size_t len);

/* Adds the header line of a compressed body. An ETag becomes a weak one: the bytes are not those it was made
 * for (RFC 9110, 8.8.1). 0, or -1 when memory runs out. */
int gzip_note(struct buf *fields);

/* The thread is about to end. */
void gzip_thread_fini(void);

#endif
