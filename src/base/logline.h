/* SPDX-License-Identifier: MIT
 * What a line of the log looks like: escaping, times, and the two forms. Pure; any thread; owns nothing. Each
 * function appends; what finds no memory is missing from the buffer. */
#ifndef TIDEWIRE_BASE_LOGLINE_H
#define TIDEWIRE_BASE_LOGLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/buf.h"
#include "base/log.h"

struct logline {
    struct timespec at;
    enum log_level level;
    const struct log_context *ctx; /* or NULL */
    const char *text;
    size_t len;
    bool colour; /* text form: the level in its colour */
};

/* One event, with the line feed at its end. */
void logline_text(struct buf *out, const struct logline *l);
void logline_json(struct buf *out, const struct logline *l);

/* Text so that it can neither be taken for another line nor break a reader of JSON: control characters, and
 * all that is not ASCII when it is not UTF-8, become \u00NN, and in text form \xNN. There a line feed begins
 * an indented line. */
void logline_escape(struct buf *out, const char *text, size_t len, bool json);

/* The same for what stands between quotes in text form: nothing but printable ASCII is left as it is, quote
 * and backslash are not either. */
void logline_quote(struct buf *out, const char *text, size_t len);

/* "2026-01-02T03:04:05.678Z" */
void logline_time(struct buf *out, const struct timespec *at);

#endif
