/* SPDX-License-Identifier: MIT
 * The fields of a submitted form: application/x-www-form-urlencoded (WHATWG URL, 5.1) and multipart/form-data
 * (RFC 7578, RFC 2046, 5.1.1), out of a whole body in memory.
 *
 * Pure: no sockets, no Lua; any thread. A `struct form` owns nothing and borrows the body. */
#ifndef TIDEWIRE_HTTP_FORM_H
#define TIDEWIRE_HTTP_FORM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define FORM_MAX_PARTS        1024 /* or pairs */
#define FORM_MAX_HEADERS      16   /* of one part */
#define FORM_MAX_HEADER_BYTES 8192 /* of one part, the empty line too */
#define FORM_MAX_BOUNDARY     70

/* The boundary in the value of a Content-Type field: token or quoted, of the characters that RFC 2046 allows.
 * 0, or -1 when this is not multipart/form-data with exactly one good boundary. */
int form_boundary(const char *content_type, size_t len, char out[FORM_MAX_BOUNDARY + 1]);

struct form {
    const char *body;
    size_t len, at;
    unsigned count;
    bool over;
    const char *reason;                        /* why form_next said -1: one static sentence for a person */
    size_t delimiter_len;                      /* 0: urlencoded */
    char delimiter[4 + FORM_MAX_BOUNDARY + 1]; /* CR LF, two dashes, the boundary */
};

/* An empty body may be NULL. `boundary` is NULL for application/x-www-form-urlencoded; it is copied. */
void form_init(struct form *f, const char *body, size_t len, const char *boundary);

struct form_part {
    const char *name;     /* never NULL */
    const char *filename; /* NULL: none was sent. Empty: a file input without a file. Not safe as a path. */
    const char *type;     /* the part's Content-Type as sent, or NULL */
    const char *data;     /* the decoded value, or the part's bytes */
    size_t name_len, filename_len, type_len, data_len;
};

/* The next field: 1 and *part, 0 at the end of the form, -1 with f->reason when the body is malformed or
 * memory ran out; 0 and -1 are for good. `name`, `filename` and an urlencoded value are decoded into `text`,
 * which is emptied first, so they last until the next call; `type` and multipart data point into the body.
 *
 * urlencoded: '+' is a blank, an escape that is none stays as it is, and nothing is malformed.
 *
 * multipart: lines end in CR LF and the closing boundary has to be there. Nothing may stand before the first
 * boundary but one empty line, nothing after the last but the end of its line. A part needs one
 * Content-Disposition: form-data with a name; folded headers are refused, other headers and parameters
 * (`filename*` too, RFC 7578, 4.2) passed over. In `name` and `filename` %22, %0D and %0A stand for '"', CR
 * and LF, and every other character for itself, the backslash too. So Chromium, Firefox and curl (since 7.81)
 * write them; the '\"' of older clients is refused, and their '\\' stays two characters. */
int form_next(struct form *f, struct buf *text, struct form_part *part);

#endif
