/* SPDX-License-Identifier: MIT
 * The log: formats an event in the thread that has it, and hands the line on. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/logline.h"
#include "base/logrepeat.h"
#include "base/logsink.h"

#define LOG_USUAL   160 /* bytes that a line is longer than its text, at most, mostly */
#define LOG_TICK_MS 250 /* between two looks whether there is something hidden to tell of */

static _Atomic int log_min_level = LOG_INFO;
static _Atomic int log_as = LOG_TEXT;
static _Atomic bool log_colour, log_echo, log_running;
static _Atomic unsigned log_repeats;

static pthread_mutex_t log_repeat_lock = PTHREAD_MUTEX_INITIALIZER;
static struct logrepeat log_repeat; /* under the lock */
static struct hash_key log_key;     /* set before log_running is */

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_min_level, memory_order_relaxed);
}

enum log_format log_form(void)
{
    return (enum log_format)atomic_load_explicit(&log_as, memory_order_relaxed);
}

void log_limit_repeats(unsigned per_second)
{
    atomic_store_explicit(&log_repeats, per_second, memory_order_relaxed);
}

void log_set_colour(bool on)
{
    atomic_store_explicit(&log_colour, on, memory_order_relaxed);
}

void log_set_echo(bool on)
{
    atomic_store_explicit(&log_echo, on, memory_order_relaxed);
}

static void log_format_line(struct buf *out, enum log_level level, const struct log_context *ctx,
                            const char *text, size_t len)
{
    struct logline l = {.level = level, .ctx = ctx, .text = text, .len = len};
    clock_gettime(CLOCK_REALTIME, &l.at);
    l.colour = atomic_load_explicit(&log_colour, memory_order_relaxed);
    if (log_form() == LOG_JSON)
        logline_json(out, &l);
    else
        logline_text(out, &l);
}

static void log_put(enum log_level level, const struct log_context *ctx, const char *text, size_t len)
{
    struct buf line = BUF_INIT;
    buf_reserve(&line, len + LOG_USUAL);
    log_format_line(&line, level, ctx, text, len);
    if (line.len > 0 && line.data[line.len - 1] == '\n') { /* else there was no memory for all of it */
        logsink_put(LOGSINK_LOG, line.data, line.len, level == LOG_ALWAYS);
        if (level >= LOG_ERROR && atomic_load_explicit(&log_echo, memory_order_relaxed))
            logsink_put(LOGSINK_CONSOLE, line.data, line.len, true);
    }
    buf_fini(&line);
}

/* ---- what comes again and again ---- */

static void log_tell_hidden(const struct logrepeat_kind *k, uint64_t now_ms)
{
    char text[LOGREPEAT_TEXT + 80];
    struct log_context about = {.route = k->route[0] != '\0' ? k->route : NULL};
    int n = snprintf(text, sizeof text, "%s ... %llu more like it in the last %.1f s", k->text,
                     (unsigned long long)k->hidden, (double)(now_ms - k->since_ms) / 1000);
    log_put((enum log_level)k->level, &about, text, (size_t)n);
}

/* `site` is what makes its kind: the format, or NULL: the text. */
static bool log_is_told(enum log_level level, const struct log_context *ctx, const char *site,
                        const char *text, size_t len)
{
    unsigned limit = atomic_load_explicit(&log_repeats, memory_order_relaxed);
    if (limit == 0 || level == LOG_ALWAYS || !atomic_load_explicit(&log_running, memory_order_acquire))
        return true;
    const char *route = ctx != NULL ? ctx->route : NULL;
    struct {
        uint64_t what, route, level;
    } kind = {.level = level};
    kind.what = site != NULL ? (uint64_t)(uintptr_t)site : hash_bytes(&log_key, text, len);
    kind.route = route != NULL ? hash_bytes(&log_key, route, strlen(route)) : 0;
    struct logrepeat_line line = {
        .key = hash_bytes(&log_key, &kind, sizeof kind), .level = level, .text = text, .len = len};
    line.route = route;
    struct logrepeat_kind over;
    pthread_mutex_lock(&log_repeat_lock);
    uint64_t now_ms = clock_coarse_ms();
    bool hiding = log_repeat.hiding > 0;
    bool told = logrepeat_take(&log_repeat, &line, limit, now_ms, &over);
    bool wake = !hiding && log_repeat.hiding > 0;
    pthread_mutex_unlock(&log_repeat_lock);
    if (wake)
        logsink_wake();
    if (over.hidden > 0)
        log_tell_hidden(&over, now_ms);
    return told;
}

/* Tells what is hidden and due. Returns whether something is hidden still. */
static bool log_tell_all_hidden(bool all)
{
    struct logrepeat_kind over;
    bool more = true, hiding = false;
    while (more) {
        pthread_mutex_lock(&log_repeat_lock);
        uint64_t now_ms = clock_coarse_ms();
        more = logrepeat_next(&log_repeat, now_ms, all, &over);
        hiding = log_repeat.hiding > 0;
        pthread_mutex_unlock(&log_repeat_lock);
        if (more)
            log_tell_hidden(&over, now_ms);
    }
    return hiding;
}

/* ---- what the sinks tell ---- */

static void log_on_loss(enum logsink_id id, uint64_t lost, struct buf *line)
{
    char text[120];
    bool running = atomic_load_explicit(&log_running, memory_order_relaxed);
    int n = snprintf(text, sizeof text, "%llu %slog lines were lost: %s", (unsigned long long)lost,
                     id == LOGSINK_ACCESS ? "access " : "",
                     running ? "they came faster than they could be written (log_buffer)"
                             : "nobody read standard error");
    if (id == LOGSINK_ACCESS)
        log_put(LOG_WARN, NULL, text, (size_t)n);
    else
        log_format_line(line, LOG_WARN, NULL, text, (size_t)n);
}

static int log_on_tick(void)
{
    return log_tell_all_hidden(false) ? LOG_TICK_MS : -1;
}

static void log_on_reopened(const char *path, const char *why)
{
    if (path == NULL)
        log_info("log files are open anew");
    else
        log_error("log: %s; going on with the file that is open", why);
}

static const struct logsink_hooks log_hooks = {
    .on_loss = log_on_loss, .on_tick = log_on_tick, .on_reopened = log_on_reopened};

/* ---- beginning and end ---- */

void log_setup(enum log_level level, enum log_format format)
{
    logsink_init(&log_hooks);
    atomic_store_explicit(&log_min_level, (int)level, memory_order_relaxed);
    atomic_store_explicit(&log_as, (int)format, memory_order_relaxed);
}

int log_start(size_t buffer_bytes, struct err *e)
{
    if (hash_key_init(&log_key) < 0)
        return err_set(e, "cannot get random bytes: %s", strerror(errno));
    if (logsink_start(buffer_bytes, e) < 0)
        return -1;
    atomic_store_explicit(&log_running, true, memory_order_release);
    return 0;
}

void log_leave(void)
{
    log_tell_all_hidden(true);
    logsink_flush(LOGSINK_LEAVE_MS);
}

void log_stop(void)
{
    log_tell_all_hidden(true);
    logsink_stop();
    atomic_store_explicit(&log_running, false, memory_order_relaxed);
}

/* ---- events ---- */

static void log_event(enum log_level level, const struct log_context *ctx, const char *site, const char *text,
                      size_t len)
{
    int keep_errno = errno;
    if (log_is_told(level, ctx, site, text, len))
        log_put(level, ctx, text, len);
    errno = keep_errno;
}

void log_text(enum log_level level, const struct log_context *ctx, const char *text, size_t len)
{
    if (log_enabled(level))
        log_event(level, ctx, NULL, text, len);
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
    log_event(level, ctx, fmt, message, len < sizeof message ? len : sizeof message - 1);
}
