/* SPDX-License-Identifier: MIT
 * The log: one line (or, in text form, one line and its indented continuation) per event on standard error,
 * written whole, so that threads never mix. Any thread. */
#ifndef TIDEWIRE_BASE_LOG_H
#define TIDEWIRE_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARN,
    LOG_ERROR,
    LOG_ALWAYS /* start-up lines that tools wait for; shown as info at every level */
};

enum log_format { LOG_TEXT, LOG_JSON };

/* What an event is about; unset fields are left out. */
struct log_context {
    unsigned worker;   /* from 1; 0 is none */
    uint64_t conn;     /* connection id; 0 is none */
    const char *route; /* pattern */
};

/* Not while other threads log. */
void log_setup(enum log_level level, enum log_format format);

bool log_enabled(enum log_level level);

/* Control characters in the message cannot forge lines: they are escaped (JSON) or shown as \xNN, and a line
 * feed starts an indented line (text); bytes that are not UTF-8 likewise. A standard error that nobody reads
 * costs a line LOG_PATIENCE_MS once, then lines are dropped and counted until it is read again. Keeps errno.
 */
#define LOG_PATIENCE_MS 200
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
