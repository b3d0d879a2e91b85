/* SPDX-License-Identifier: MIT
 * The log: formats an event into one buffer and writes it with one system call. */
#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/utf8.h"

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

/* Appends text so that it can be neither taken for another line nor break a JSON reader. */
static void log_escape(struct buf *out, const char *text, size_t len, bool json)
{
    bool utf8 = utf8_valid(text, len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = utf8 && c == 0xc2 && (unsigned char)text[i + 1] < 0xa0; /* U+0080 to U+009F */
        if (c1)
            c = (unsigned char)text[++i];
        bool control = (c < 0x20 && (json || c != '\t')) || c == 0x7f || c1 || (!utf8 && c >= 0x80);
        if (c == '\n')
            buf_puts(out, json ? "\\n" : "\n    ");
        else if (control)
            buf_printf(out, json ? "\\u%04x" : "\\x%02x", c);
        else if (json && (c == '"' || c == '\\'))
            buf_printf(out, "\\%c", c);
        else
            buf_append(out, &text[i], 1);
    }
}

static void log_as_text(struct buf *line, const char *when, const char *level, const struct log_context *ctx,
                        const char *text, size_t len)
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
    log_escape(line, text, len, false);
    buf_puts(line, "\n");
}

static void log_as_json(struct buf *line, const char *when, const char *level, const struct log_context *ctx,
                        const char *text, size_t len)
{
    buf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"", when, level);
    log_escape(line, text, len, true);
    buf_puts(line, "\"");
    if (ctx != NULL && ctx->worker != 0)
        buf_printf(line, ",\"worker\":%u", ctx->worker);
    if (ctx != NULL && ctx->conn != 0)
        buf_printf(line, ",\"connection\":%llu", (unsigned long long)ctx->conn);
    if (ctx != NULL && ctx->route != NULL) {
        buf_puts(line, ",\"route\":\"");
        log_escape(line, ctx->route, strlen(ctx->route), true);
        buf_puts(line, "\"");
    }
    buf_puts(line, "}\n");
}

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long log_lost; /* lines since standard error was last written; under the lock */
static bool log_torn;          /* the last thing written was the beginning of a line; likewise */

/* Whether standard error takes bytes now, or soon. A pipe that polls as writable takes PIPE_BUF bytes at
 * once. */
static bool log_may_write(int wait_ms)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    int rc;
    do
        rc = poll(&p, 1, wait_ms);
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

static bool log_put(const char *data, size_t len, int wait_ms)
{
    for (size_t at = 0; at < len;) {
        size_t piece = len - at < PIPE_BUF ? len - at : PIPE_BUF;
        bool may = log_may_write(at == 0 ? wait_ms : LOG_PATIENCE_MS);
        ssize_t n = may ? write(STDERR_FILENO, data + at, piece) : -1;
        if (n < 0 && (!may || (errno != EINTR && errno != EAGAIN))) {
            log_torn = log_torn || at > 0;
            return false;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    log_torn = false;
    return true;
}

static void log_format_line(struct buf *line, enum log_level level, const struct log_context *ctx,
                            const char *text, size_t len)
{
    char when[40];
    log_time(when, sizeof when);
    if (atomic_load_explicit(&log_as, memory_order_relaxed) == LOG_JSON)
        log_as_json(line, when, log_names[level], ctx, text, len);
    else
        log_as_text(line, when, log_names[level], ctx, text, len);
}

/* Puts "N lines were lost" before `line`, when some were. */
static void log_note_loss(struct buf *line)
{
    char text[80];
    struct buf both = BUF_INIT;
    int n = snprintf(text, sizeof text, "%lu log lines were lost: nobody read standard error", log_lost);
    log_format_line(&both, LOG_WARN, NULL, text, (size_t)n);
    buf_append(&both, line->data, line->len);
    buf_fini(line);
    *line = both;
}

static void log_emit(struct buf *line)
{
    pthread_mutex_lock(&log_lock);
    int wait_ms = log_lost == 0 ? LOG_PATIENCE_MS : 0;
    if (log_lost > 0)
        log_note_loss(line);
    if ((!log_torn || log_put("\n", 1, wait_ms)) && log_put(line->data, line->len, wait_ms))
        log_lost = 0;
    else
        log_lost++;
    pthread_mutex_unlock(&log_lock);
}

void log_text(enum log_level level, const struct log_context *ctx, const char *text, size_t len)
{
    if (!log_enabled(level))
        return;
    int keep_errno = errno;
    struct buf line = BUF_INIT;
    log_format_line(&line, level, ctx, text, len);
    log_emit(&line);
    buf_fini(&line);
    errno = keep_errno;
}

void log_write(enum log_level level, const struct log_context *ctx, const char *fmt, ...)
{
    char message[8192];
    va_list ap;
    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    int n = vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n;
    log_text(level, ctx, message, len < sizeof message ? len : sizeof message - 1);
}
