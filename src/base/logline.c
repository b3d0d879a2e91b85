/* SPDX-License-Identifier: MIT
 * What a line of the log looks like. */
#include "base/logline.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

static const char *const logline_names[] = {"debug", "info", "warn", "error", "info"};
static const char *const logline_colours[] = {"2", "32", "33", "31", "32"}; /* dim, green, yellow, red */

void logline_time(struct buf *out, const struct timespec *at)
{
    /* Breaking a time down costs more than all the rest of a line. */
    static _Thread_local struct {
        time_t second;
        char text[24];
    } last;
    if (last.second != at->tv_sec || last.text[0] == '\0') {
        struct tm tm;
        gmtime_r(&at->tv_sec, &tm);
        strftime(last.text, sizeof last.text, "%Y-%m-%dT%H:%M:%S", &tm);
        last.second = at->tv_sec;
    }
    buf_printf(out, "%s.%03ldZ", last.text, at->tv_nsec / 1000000);
}

/* How many bytes from text[i] on stand for themselves. */
static size_t logline_plain(const char *text, size_t len, size_t i, bool json, bool utf8)
{
    size_t from = i;
    for (; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && (json || c != '\t')) || c == 0x7f || (c >= 0x80 && !utf8) || c == 0xc2 ||
            (json && (c == '"' || c == '\\')))
            break;
    }
    return i - from;
}

void logline_escape(struct buf *out, const char *text, size_t len, bool json)
{
    bool utf8 = utf8_valid(text, len);
    for (size_t i = 0; i < len;) {
        size_t plain = logline_plain(text, len, i, json, utf8);
        buf_append(out, text + i, plain);
        if ((i += plain) == len)
            break;
        unsigned char c = (unsigned char)text[i++];
        if (utf8 && c == 0xc2) { /* U+0080 to U+009F are control characters too */
            unsigned char second = (unsigned char)text[i++];
            if (second < 0xa0)
                buf_printf(out, json ? "\\u%04x" : "\\x%02x", second);
            else
                buf_append(out, text + i - 2, 2);
        } else if (c == '\n')
            buf_puts(out, json ? "\\n" : "\n    ");
        else if (json && (c == '"' || c == '\\'))
            buf_printf(out, "\\%c", c);
        else
            buf_printf(out, json ? "\\u%04x" : "\\x%02x", c);
    }
}

void logline_quote(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0, from = 0; i <= len; i++) {
        unsigned char c = i < len ? (unsigned char)text[i] : 0;
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            continue;
        buf_append(out, text + from, i - from);
        if (i < len)
            buf_printf(out, "\\x%02x", c);
        from = i + 1;
    }
}

static void logline_about(struct buf *out, const struct log_context *ctx)
{
    const char *gap = "";
    if (ctx == NULL || (ctx->worker == 0 && ctx->conn == 0 && ctx->route == NULL))
        return;
    buf_puts(out, "[");
    if (ctx->worker != 0)
        buf_printf(out, "worker %u", ctx->worker), gap = ", ";
    if (ctx->conn != 0)
        buf_printf(out, "%sconnection %llu", gap, (unsigned long long)ctx->conn), gap = ", ";
    if (ctx->route != NULL)
        buf_puts(out, gap), logline_escape(out, ctx->route, strlen(ctx->route), false);
    buf_puts(out, "] ");
}

void logline_text(struct buf *out, const struct logline *l)
{
    logline_time(out, &l->at);
    if (l->colour)
        buf_printf(out, " \x1b[%sm%-5s\x1b[0m ", logline_colours[l->level], logline_names[l->level]);
    else
        buf_printf(out, " %-5s ", logline_names[l->level]);
    logline_about(out, l->ctx);
    logline_escape(out, l->text, l->len, false);
    buf_puts(out, "\n");
}

void logline_json(struct buf *out, const struct logline *l)
{
    const struct log_context *ctx = l->ctx;
    buf_puts(out, "{\"time\":\"");
    logline_time(out, &l->at);
    buf_printf(out, "\",\"level\":\"%s\",\"message\":\"", logline_names[l->level]);
    logline_escape(out, l->text, l->len, true);
    buf_puts(out, "\"");
    if (ctx != NULL && ctx->worker != 0)
        buf_printf(out, ",\"worker\":%u", ctx->worker);
    if (ctx != NULL && ctx->conn != 0)
        buf_printf(out, ",\"connection\":%llu", (unsigned long long)ctx->conn);
    if (ctx != NULL && ctx->route != NULL) {
        buf_puts(out, ",\"route\":\"");
        logline_escape(out, ctx->route, strlen(ctx->route), true);
        buf_puts(out, "\"");
    }
    buf_puts(out, "}\n");
}
