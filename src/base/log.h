/* SPDX-License-Identifier: MIT
 * The log: one line (or, in text form, one line and its indented continuation) per event, written whole, so
 * that threads never mix; on standard error, or where logsink.h was told. Any thread. */
#ifndef TIDEWIRE_BASE_LOG_H
#define TIDEWIRE_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARN,
    LOG_ERROR,
    LOG_ALWAYS /* start-up lines that tools wait for; shown as info at every level, and never left out */
};

enum log_format { LOG_TEXT, LOG_JSON };

/* What an event is about; unset fields are left out. */
struct log_context {
    unsigned worker;   /* from 1; 0 is none */
    uint64_t conn;     /* connection id; 0 is none */
    const char *route; /* pattern; of a WebSocket that a script has opened, its URL */
};

/* What is logged from now on, and how; at any time, also while other threads log. */
void log_setup(enum log_level level, enum log_format format);
enum log_format log_form(void);

/* Lines of one kind that are told in a second, from when the writer thread runs; 0: all. A kind is the same
 * format, or the same text with log_text, at the same level for the same route. At any time. */
void log_limit_repeats(unsigned per_second);

/* Whether levels have colours in text form, and whether what must be seen, errors too, goes to standard error
 * besides: for a start with a log_file. At any time. */
void log_set_colour(bool on);
void log_set_echo(bool on);

/* Starts the thread that writes, with a buffer of so many bytes: from now on nobody waits for whoever reads
 * the log. 0, or -1 with `e` filled. */
int log_start(size_t buffer_bytes, struct err *e);
/* Writes what is left, within a second or two, and ends that thread. Nobody else logs any more. */
void log_stop(void);
/* Writes what is left, within a second, when the process is about to end while threads run. */
void log_leave(void);

bool log_enabled(enum log_level level);

/* Control characters in the message cannot forge lines: they are escaped (JSON) or shown as \xNN, and a line
 * feed starts an indented line (text); bytes that are not UTF-8 likewise. What the buffer has no room for,
 * or, while there is none, what nobody reads (logsink.h), is lost and counted. Keeps errno. */
void log_write(enum log_level level, const struct log_context *ctx, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a text of `len` bytes, which may hold any. */
void log_text(enum log_level level, const struct log_context *ctx, const char *text, size_t len);

#define log_debug(...)  log_write(LOG_DEBUG, NULL, __VA_ARGS__)
#define log_info(...)   log_write(LOG_INFO, NULL, __VA_ARGS__)
#define log_warn(...)   log_write(LOG_WARN, NULL, __VA_ARGS__)
#define log_error(...)  log_write(LOG_ERROR, NULL, __VA_ARGS__)
#define log_always(...) log_write(LOG_ALWAYS, NULL, __VA_ARGS__)

#endif
