/* SPDX-License-Identifier: MIT
 * The log: formats an event into one buffer and writes it with one system call. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

static _Atomic int log_min_level = LOG_INFO;
static _Atomic int log_as = LOG_TEXT;

static const char *const log_names[] = {"debug", "info", "warn", "error", "info"};

void log_setup(enum log_level level, enum log_format format)
{
    atomic_store_explicit(&log_min_level, (int)level, memory_order_relaxed);
    atomic_store_explicit(&log_as, (int)format, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_min_level, memory_order_relaxed);
}

static void log_time(char *out, size_t size)
{
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, size - n, ".%03ldZ", ts.tv_nsec / 1000000);
}

/* Appends bytes as the inside of a JSON string; bytes that are not ASCII pass as they are. */
static void log_json_text(struct buf *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c == '\n')
            buf_puts(out, "\\n");
        else if (c < 0x20 || c == 0x7f)
            buf_printf(out, "\\u%04x", c);
        else
            buf_append(out, p, 1);
    }
}

static void log_plain_text(struct buf *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\n')
            buf_puts(out, "\n    ");
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            buf_printf(out, "\\x%02x", c);
        else
            buf_append(out, p, 1);
    }
}

static void log_as_text(struct buf *line, const char *when, const char *level, const struct log_context *ctx,
                        const char *message)
{
    buf_printf(line, "%s %-5s ", when, level);
    if (ctx != NULL && (ctx->worker != 0 || ctx->conn != 0 || ctx->route != NULL)) {
        const char *gap = "";
        buf_puts(line, "[");
        if (ctx->worker != 0)
            buf_printf(line, "worker %u", ctx->worker), gap = ", ";
        if (ctx->conn != 0)
            buf_printf(line, "%sconnection %llu", gap, (unsigned long long)ctx->conn), gap = ", ";
        if (ctx->route != NULL)
            buf_printf(line, "%s%s", gap, ctx->route);
        buf_puts(line, "] ");
    }
    log_plain_text(line, message);
    buf_puts(line, "\n");
}

static void log_as_json(struct buf *line, const char *when, const char *level, const struct log_context *ctx,
                        const char *message)
{
    buf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"", when, level);
    log_json_text(line, message);
    buf_puts(line, "\"");
    if (ctx != NULL && ctx->worker != 0)
        buf_printf(line, ",\"worker\":%u", ctx->worker);
    if (ctx != NULL && ctx->conn != 0)
        buf_printf(line, ",\"connection\":%llu", (unsigned long long)ctx->conn);
    if (ctx != NULL && ctx->route != NULL) {
        buf_puts(line, ",\"route\":\"");
        log_json_text(line, ctx->route);
        buf_puts(line, "\"");
    }
    buf_puts(line, "}\n");
}

void log_write(enum log_level level, const struct log_context *ctx, const char *fmt, ...)
{
    if (!log_enabled(level))
        return;
    int keep_errno = errno;
    char message[8192], when[40];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    log_time(when, sizeof when);

    struct buf line = BUF_INIT;
    if (atomic_load_explicit(&log_as, memory_order_relaxed) == LOG_JSON)
        log_as_json(&line, when, log_names[level], ctx, message);
    else
        log_as_text(&line, when, log_names[level], ctx, message);
    for (size_t at = 0; at < line.len;) {
        ssize_t n = write(STDERR_FILENO, line.data + at, line.len - at);
        if (n < 0 && errno != EINTR)
            break; /* nowhere left to tell */
        at += n > 0 ? (size_t)n : 0;
    }
    buf_fini(&line);
    errno = keep_errno;
}
