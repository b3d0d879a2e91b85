/* SPDX-License-Identifier: MIT
 * Compressed bodies of answers. */
#include "http/gzip.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include <zlib.h>

#define GZIP_LEVEL   1 /* three quarters of what level 6 saves, at a third of its time */
#define GZIP_WRAPPER (15 + 16)

/* The value of the first line of that name in header lines; NULL when there is none. */
static const char *gzip_find(const char *fields, size_t len, const char *name, size_t *value_len)
{
    size_t name_len = strlen(name);
    for (size_t at = 0; at < len;) {
        const char *line = fields + at, *end = memchr(line, '\r', len - at);
        size_t n = end != NULL ? (size_t)(end - line) : len - at;
        at += n + 2;
        if (n <= name_len || line[name_len] != ':' || strncasecmp(line, name, name_len) != 0)
            continue;
        line += name_len + 1;
        n -= name_len + 1;
        for (; n > 0 && *line == ' '; n--)
            line++;
        *value_len = n;
        return line;
    }
    return NULL;
}

static bool gzip_starts(const char *text, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    return len >= n && strncasecmp(text, prefix, n) == 0;
}

static bool gzip_is_text(const char *type, size_t len)
{
    static const char *const kinds[] = {"text/", "application/json", "application/javascript",
                                        "application/xml", "image/svg+xml"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (gzip_starts(type, len, kinds[i]))
            return !gzip_starts(type, len, "text/event-stream");
    return false;
}

bool gzip_is_worth(const char *type, const char *fields, size_t fields_len)
{
    size_t len;
    if (gzip_find(fields, fields_len, "Content-Encoding", &len) != NULL)
        return false;
    const char *cache = gzip_find(fields, fields_len, "Cache-Control", &len);
    if (cache != NULL && memmem(cache, len, "no-transform", 12) != NULL)
        return false;
    const char *said = gzip_find(fields, fields_len, "Content-Type", &len);
    if (said != NULL)
        return gzip_is_text(said, len);
    return type != NULL && gzip_is_text(type, strlen(type));
}

int gzip_note(struct buf *fields)
{
    size_t len;
    if (buf_puts(fields, "Content-Encoding: gzip\r\n") < 0)
        return -1;
    const char *tag = gzip_find(fields->data, fields->len, "ETag", &len);
    if (tag == NULL || len == 0 || *tag != '"')
        return 0;
    size_t at = (size_t)(tag - fields->data);
    if (buf_reserve(fields, 2) < 0)
        return -1;
    memmove(fields->data + at + 2, fields->data + at, fields->len - at);
    memcpy(fields->data + at, "W/", 2);
    fields->len += 2;
    return 0;
}

static _Thread_local struct {
    z_stream z;
    bool ready;
} gzip;

void gzip_thread_fini(void)
{
    if (gzip.ready)
        deflateEnd(&gzip.z);
    gzip.ready = false;
}

int gzip_body(struct buf *out, const char *body, size_t len)
{
    if (!gzip.ready &&
        deflateInit2(&gzip.z, GZIP_LEVEL, Z_DEFLATED, GZIP_WRAPPER, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return -1;
    gzip.ready = true;
    if (deflateReset(&gzip.z) != Z_OK || buf_reserve(out, deflateBound(&gzip.z, len)) < 0)
        return -1;
    gzip.z.next_in = (z_const Bytef *)(uintptr_t)body;
    gzip.z.avail_in = (uInt)len;
    gzip.z.next_out = (Bytef *)out->data + out->len;
    gzip.z.avail_out = (uInt)(out->cap - out->len);
    if (deflate(&gzip.z, Z_FINISH) != Z_STREAM_END)
        return -1;
    out->len = out->cap - gzip.z.avail_out;
    return 0;
}
