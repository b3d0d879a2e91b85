/* SPDX-License-Identifier: MIT
 * A message for the person who has to act on a failure at start-up or reload. Any thread; owns nothing. */
#ifndef TIDEWIRE_BASE_ERR_H
#define TIDEWIRE_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

/* What went wrong and what to do about it. May hold several lines (a Lua traceback). */
struct err {
    char text[4096];
};

/* Replaces the text (cut at the end when too long). `e` may be NULL. Returns -1, so that callers can
 * write `return err_set(e, ...)`. */
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts `prefix...` before what is already there. Returns -1. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
