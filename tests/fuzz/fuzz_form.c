/* SPDX-License-Identifier: MIT
 * Submitted forms: the first line is a Content-Type, the rest the body. With a boundary in it the body is
 * multipart, and read again line by line with regular expressions; otherwise it is urlencoded. What was read
 * is also written the way browsers do and read again. */
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/form.h"

#include "check.h"

/* A copy from the block's second byte to its very end, so that a read beyond it is seen, of nothing too. */
static char *guarded(const void *data, size_t len)
{
    char *block = malloc(len + 1);
    CHECK(block != NULL);
    memcpy(block + 1, data, len);
    return block;
}

/* ---- the fields of a form, one after the other, as text that can be compared ---- */

static void add_text(struct buf *out, const char *text, size_t len)
{
    CHECK(buf_printf(out, "%c%zu:", text != NULL ? '+' : '-', len) == 0 && buf_append(out, text, len) == 0);
}

static void add_field(struct buf *out, const struct form_part *p)
{
    add_text(out, p->name, p->name_len);
    add_text(out, p->filename, p->filename_len);
    add_text(out, p->type, p->type_len);
    add_text(out, p->data, p->data_len);
}

static bool same(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

/* ---- as browsers write them ---- */

static void write_escaped(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        const char *escape = text[i] == '"'    ? "%22"
                             : text[i] == '\r' ? "%0D"
                             : text[i] == '\n' ? "%0A"
                                               : NULL;
        CHECK((escape != NULL ? buf_puts(out, escape) : buf_append(out, text + i, 1)) == 0);
    }
}

static void write_part(struct buf *out, const char *boundary, const struct form_part *p)
{
    buf_printf(out, "--%s\r\nContent-Disposition: form-data; name=\"", boundary);
    write_escaped(out, p->name, p->name_len);
    if (p->filename != NULL) {
        buf_puts(out, "\"; filename=\"");
        write_escaped(out, p->filename, p->filename_len);
    }
    buf_puts(out, "\"\r\n");
    if (p->type != NULL)
        buf_printf(out, "Content-Type: %.*s\r\n", (int)p->type_len, p->type);
    buf_puts(out, "\r\n");
    buf_append(out, p->data, p->data_len);
    buf_puts(out, "\r\n");
}

static void write_encoded(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        buf_printf(out, text[i] == ' ' ? "+" : "%%%02X", (unsigned char)text[i]);
}

static void write_pair(struct buf *out, const struct form_part *p)
{
    CHECK(p->filename == NULL && p->type == NULL);
    write_encoded(out, p->name, p->name_len);
    buf_puts(out, "=");
    write_encoded(out, p->data, p->data_len);
    buf_puts(out, "&");
}

/* Reads a form into *fields and writes it again; whether it was well formed. */
static bool read_form(const char *body, size_t len, const char *boundary, struct buf *fields,
                      struct buf *again)
{
    struct buf text = BUF_INIT;
    struct form_part p;
    struct form f;
    const char *at = body;
    unsigned n = 0;
    int rc;
    form_init(&f, body, len, boundary);
    while ((rc = form_next(&f, &text, &p)) > 0) {
        CHECK(++n <= FORM_MAX_PARTS && p.name != NULL && p.data != NULL);
        CHECK((p.filename != NULL || p.filename_len == 0) && (p.type != NULL || p.type_len == 0));
        add_field(fields, &p);
        if (boundary == NULL) {
            write_pair(again, &p);
            continue;
        }
        CHECK(p.data > at && p.data + p.data_len < body + len); /* in the body, one behind the other */
        at = p.data + p.data_len;
        write_part(again, boundary, &p);
    }
    if (boundary != NULL)
        buf_printf(again, "--%s--\r\n", boundary);
    CHECK(rc == (f.reason != NULL ? -1 : 0) && form_next(&f, &text, &p) == rc);
    CHECK(f.reason == NULL || f.reason[strlen(f.reason) - 1] == '.');
    buf_fini(&text);
    return rc == 0;
}

/* ---- multipart, line by line ---- */

#define TOKEN "[-!#$%&'*+.^_`|~0-9A-Za-z]+"
#define VALUE "(" TOKEN "|\"[^\"]*\")"

static bool matches(regex_t *compiled, const char *pattern, const char *text, regmatch_t *m)
{
    if (compiled->re_nsub == 0)
        CHECK(regcomp(compiled, pattern, REG_EXTENDED | REG_ICASE) == 0);
    return regexec(compiled, text, m != NULL ? 4 : 0, m, 0) == 0;
}

struct lines {
    const char *at, *end; /* at == NULL: the last one is taken */
    size_t len;           /* of the line taken last */
};

/* Takes what goes to the next CR LF, or to the end. */
static const char *take_line(struct lines *l)
{
    const char *line = l->at;
    if (line == NULL)
        return NULL;
    const char *crlf = memmem(line, (size_t)(l->end - line), "\r\n", 2);
    l->len = (size_t)((crlf != NULL ? crlf : l->end) - line);
    l->at = crlf != NULL ? crlf + 2 : NULL;
    return line;
}

/* 0: an ordinary line. 1: a boundary. 2: the last one. -1: something that begins like one. */
static int boundary_kind(const char *line, size_t len, const char *boundary)
{
    size_t n = strlen(boundary);
    if (len < n + 2 || memcmp(line, "--", 2) != 0 || memcmp(line + 2, boundary, n) != 0)
        return 0;
    const char *at = line + 2 + n, *end = line + len;
    int kind = 1;
    if (end - at >= 2 && at[0] == '-' && at[1] == '-') {
        kind = 2;
        at += 2;
    }
    for (; at < end; at++)
        if (*at != ' ' && *at != '\t')
            return -1;
    return kind;
}

/* Puts the last value of the parameter `name`, unescaped, into `out`; how many there are. The text, from the
 * first ';' on, is known to be well formed. */
static int parameters(const char *text, const char *name, char *out, size_t *len)
{
    static regex_t next;
    regmatch_t m[4];
    int n = 0;
    for (; matches(&next, "^[; \t]*(" TOKEN ")=" VALUE, text, m); text += m[0].rm_eo) {
        size_t name_len = (size_t)(m[1].rm_eo - m[1].rm_so);
        if (name_len != strlen(name) || strncasecmp(text + m[1].rm_so, name, name_len) != 0)
            continue;
        const char *at = text + m[2].rm_so, *end = text + m[2].rm_eo;
        if (*at == '"') {
            at++;
            end--;
        }
        n++;
        for (*len = 0; at < end; at++) {
            bool escape = end - at >= 3 && (memcmp(at, "%22", 3) == 0 || memcmp(at, "%0D", 3) == 0 ||
                                            memcmp(at, "%0A", 3) == 0);
            out[(*len)++] = escape ? (char)strtol((char[]){at[1], at[2], '\0'}, NULL, 16) : *at;
            at += escape ? 2 : 0;
        }
    }
    return n;
}

/* Takes the headers of a part, to the empty line and with it. */
static bool read_headers(struct lines *l, const char *boundary, struct buf *fields, char *type,
                         size_t *type_len)
{
    static regex_t header, disposition;
    static char text[FORM_MAX_HEADER_BYTES], name[FORM_MAX_HEADER_BYTES], filename[FORM_MAX_HEADER_BYTES];
    static char value[FORM_MAX_HEADER_BYTES];
    const char *first = l->at, *line;
    bool disposed = false, typed = false;
    size_t name_len, filename_len = 0;
    int filenames = 0;
    for (unsigned n = 0;; n++) {
        line = take_line(l);
        if (line == NULL || l->at == NULL || l->at - first > FORM_MAX_HEADER_BYTES ||
            boundary_kind(line, l->len, boundary) != 0)
            return false;
        if (l->len == 0)
            break;
        regmatch_t m[4];
        memcpy(text, line, l->len);
        text[l->len] = '\0';
        for (size_t i = 0; i < l->len; i++)
            if ((text[i] >= 0 && text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
                return false;
        if (n == FORM_MAX_HEADERS || !matches(&header, "^(" TOKEN "):[ \t]*(.*[^ \t])?[ \t]*$", text, m))
            return false;
        size_t value_len = m[2].rm_so < 0 ? 0 : (size_t)(m[2].rm_eo - m[2].rm_so);
        memcpy(value, text + m[2].rm_so * (value_len > 0), value_len);
        value[value_len] = '\0';
        text[m[1].rm_eo] = '\0';
        if (strcasecmp(text, "content-type") == 0) {
            if (typed)
                return false;
            typed = true;
            memcpy(type, value, *type_len = value_len);
        } else if (strcasecmp(text, "content-disposition") == 0) {
            if (disposed ||
                !matches(&disposition, "^form-data([ \t]*;[; \t]*" TOKEN "=" VALUE ")*[; \t]*$", value,
                         NULL) ||
                parameters(value + strlen("form-data"), "name", name, &name_len) != 1 ||
                (filenames = parameters(value + strlen("form-data"), "filename", filename, &filename_len)) >
                    1)
                return false;
            disposed = true;
        }
    }
    if (!disposed)
        return false;
    add_text(fields, name, name_len);
    add_text(fields, filenames > 0 ? filename : NULL, filename_len);
    add_text(fields, typed ? type : NULL, typed ? *type_len : 0);
    return true;
}

static bool read_lines(const char *body, size_t len, const char *boundary, struct buf *fields)
{
    static char type[FORM_MAX_HEADER_BYTES];
    struct lines l = {body, body + len, 0};
    const char *line = take_line(&l);
    if (l.len == 0)
        line = take_line(&l);
    for (unsigned n = 0; line != NULL; n++) {
        int kind = boundary_kind(line, l.len, boundary);
        if (kind == 2)
            return l.at == NULL || l.at == l.end;
        size_t type_len = 0;
        if (kind != 1 || n == FORM_MAX_PARTS || !read_headers(&l, boundary, fields, type, &type_len))
            return false;
        const char *data = l.at;
        do
            line = take_line(&l);
        while (line != NULL && boundary_kind(line, l.len, boundary) == 0);
        if (line == NULL)
            return false;
        if (line == data) /* without a line for its data: the boundary's CR LF was the empty line */
            return false;
        add_text(fields, data, (size_t)(line - 2 - data));
    }
    return false;
}

/* ---- the boundary ---- */

/* `boundary` is what form_boundary found, or NULL. */
static void check_boundary(const char *type, size_t len, const char *boundary)
{
    static regex_t grammar, alphabet;
    char *text = strndup(type, len), *found = malloc(len + 1);
    size_t found_len = 0;
    CHECK(text != NULL && found != NULL);
    bool ok =
        strchr(text, '\\') == NULL &&
        matches(&grammar, "^multipart/form-data([ \t]*;[; \t]*" TOKEN "=" VALUE ")*[; \t]*$", text, NULL) &&
        parameters(text + strlen("multipart/form-data"), "boundary", found, &found_len) == 1;
    found[found_len] = '\0';
    ok = ok && found_len <= FORM_MAX_BOUNDARY &&
         matches(&alphabet, "^([-0-9A-Za-z'()+_,./:=? ]*[-0-9A-Za-z'()+_,./:=?])$", found, NULL);
    CHECK(ok == (boundary != NULL) && (!ok || strcmp(found, boundary) == 0));
    free(found);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *eol = size > 0 ? memchr(data, '\n', size) : NULL;
    if (eol == NULL)
        return 0;
    size_t type_len = (size_t)(eol - data), len = size - type_len - 1;
    char *type = guarded(data, type_len), *body = guarded(eol + 1, len);
    char boundary[FORM_MAX_BOUNDARY + 1];
    bool parts = form_boundary(type + 1, type_len, boundary) == 0;
    struct buf fields = BUF_INIT, again = BUF_INIT, fields_again = BUF_INIT, ignored = BUF_INIT,
               lines = BUF_INIT;
    if (memchr(data, '\0', type_len) == NULL) /* no head has one */
        check_boundary(type + 1, type_len, parts ? boundary : NULL);

    bool ok = read_form(body + 1, len, parts ? boundary : NULL, &fields, &again);
    if (parts) {
        CHECK(read_lines(body + 1, len, boundary, &lines) == ok);
        CHECK(!ok || same(&fields, &lines));
    }
    if (ok && len < FORM_MAX_HEADER_BYTES - 128) { /* what is written may be a little longer */
        CHECK(read_form(again.data, again.len, parts ? boundary : NULL, &fields_again, &ignored));
        CHECK(same(&fields, &fields_again));
    }
    buf_fini(&fields);
    buf_fini(&again);
    buf_fini(&fields_again);
    buf_fini(&ignored);
    buf_fini(&lines);
    free(type);
    free(body);
    return 0;
}
