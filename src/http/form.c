/* SPDX-License-Identifier: MIT
 * Submitted forms: pairs of an urlencoded body, parts of a multipart one. */
#include "http/form.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "http/head.h"
#include "http/percent.h"

/* ---- small tools ---- */

struct span {
    const char *at;
    size_t len;
};

static int refuse(struct form *f, const char *reason)
{
    f->reason = reason;
    return -1;
}

static bool is(struct span t, const char *word)
{
    return t.len == strlen(word) && strncasecmp(t.at, word, t.len) == 0;
}

static bool starts_with(const char *at, const char *end, const char *prefix, size_t len)
{
    return (size_t)(end - at) >= len && memcmp(at, prefix, len) == 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    return at;
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Takes a token (RFC 9110, 5.6.2) from *at; false when there is none. */
static bool take_token(const char **at, const char *end, struct span *token)
{
    const char *from = *at;
    while (*at < end && head_is_token_char(**at))
        ++*at;
    *token = (struct span){from, (size_t)(*at - from)};
    return token->len > 0;
}

/* Takes ";name=value" from *at, and blanks and empty parameters before it (RFC 9110, 5.6.6). A backslash in a
 * quoted value is a character like others. Returns 1, 0 at the end, -1 when it is something else. */
static int take_parameter(const char **at, const char *end, struct span *name, struct span *value)
{
    const char *from = *at;
    while (*at < end && (**at == ';' || is_blank(**at)))
        ++*at;
    if (*at == end)
        return 0;
    if (memchr(from, ';', (size_t)(*at - from)) == NULL)
        return -1;
    if (!take_token(at, end, name) || *at == end || *(*at)++ != '=')
        return -1;
    if (*at == end || **at != '"')
        return take_token(at, end, value) ? 1 : -1;
    const char *first = *at + 1, *quote = memchr(first, '"', (size_t)(end - first));
    if (quote == NULL)
        return -1;
    *value = (struct span){first, (size_t)(quote - first)};
    *at = quote + 1;
    return 1;
}

/* ---- the boundary ---- */

static bool boundary_is_good(struct span b)
{
    for (size_t i = 0; i < b.len; i++)
        if (!is_alnum(b.at[i]) && (b.at[i] == '\0' || strchr("'()+_,-./:=? ", b.at[i]) == NULL))
            return false;
    return b.len > 0 && b.len <= FORM_MAX_BOUNDARY && b.at[b.len - 1] != ' ';
}

int form_boundary(const char *content_type, size_t len, char out[FORM_MAX_BOUNDARY + 1])
{
    static const char type[] = "multipart/form-data";
    struct span name, value, boundary = {NULL, 0};
    int rc;

    /* Here a backslash would escape; no client needs one, and two readings of a boundary are one too many. */
    if (len < sizeof type || strncasecmp(content_type, type, sizeof type - 1) != 0 ||
        memchr(content_type, '\\', len) != NULL)
        return -1;
    const char *at = content_type + sizeof type - 1, *end = content_type + len;
    while ((rc = take_parameter(&at, end, &name, &value)) > 0) {
        if (!is(name, "boundary"))
            continue;
        if (boundary.at != NULL || !boundary_is_good(value))
            return -1;
        boundary = value;
    }
    if (rc < 0 || boundary.at == NULL)
        return -1;
    memcpy(out, boundary.at, boundary.len);
    out[boundary.len] = '\0';
    return 0;
}

/* ---- the headers of a part ---- */

struct headers {
    struct span disposition, type;
    const char *data; /* behind the empty line */
};

static int take_header(struct form *f, const char *at, const char *eol, struct headers *h)
{
    struct span name, *kept;
    if (!take_token(&at, eol, &name) || at == eol || *at != ':')
        return refuse(f, "A header of a part of the form is malformed.");
    if (is(name, "content-disposition"))
        kept = &h->disposition;
    else if (is(name, "content-type"))
        kept = &h->type;
    else
        return 0;
    if (kept->at != NULL)
        return refuse(f, "A part of the form has the same header twice.");
    at = skip_blanks(at + 1, eol);
    while (eol > at && is_blank(eol[-1]))
        eol--;
    *kept = (struct span){at, (size_t)(eol - at)};
    return 0;
}

static int take_headers(struct form *f, const char *at, const char *end, struct headers *h)
{
    bool cut = end - at > FORM_MAX_HEADER_BYTES;
    if (cut)
        end = at + FORM_MAX_HEADER_BYTES;
    for (unsigned n = 0;; n++) {
        const char *eol = at;
        while (eol < end && ((unsigned char)*eol >= ' ' || *eol == '\t') && *eol != 0x7f)
            eol++;
        if (end - eol < 2 && cut)
            return refuse(f, "The headers of a part of the form are too long.");
        if (end - eol < 2)
            return refuse(f, "The headers of a part of the form do not end in an empty line.");
        if (!starts_with(eol, end, "\r\n", 2))
            return refuse(f, "A header of a part of the form has a control character.");
        if (eol == at) {
            h->data = eol + 2;
            return 0;
        }
        if (n == FORM_MAX_HEADERS)
            return refuse(f, "A part of the form has too many headers.");
        if (take_header(f, at, eol, h) < 0)
            return -1;
        at = eol + 2;
    }
}

/* Writes the text that `in` stands for and returns its length, which is never greater. */
static size_t unescape(struct span in, char *out)
{
    static const struct {
        char escape[4], means;
    } escapes[] = {{"%22", '"'}, {"%0D", '\r'}, {"%0A", '\n'}};
    const char *end = in.at + in.len;
    size_t n = 0;
    for (const char *at = in.at; at < end;) {
        char c = *at++;
        for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
            if (starts_with(at - 1, end, escapes[i].escape, 3)) {
                c = escapes[i].means;
                at += 2;
                break;
            }
        }
        out[n++] = c;
    }
    return n;
}

static int take_disposition(struct form *f, struct span disposition, struct buf *text, struct form_part *part)
{
    struct span type, name, value, field = {NULL, 0}, filename = {NULL, 0};
    int rc;

    if (disposition.at == NULL)
        return refuse(f, "A part of the form has no Content-Disposition.");
    const char *at = disposition.at, *end = at + disposition.len;
    if (!take_token(&at, end, &type) || !is(type, "form-data"))
        return refuse(f, "The Content-Disposition of a part of the form is not \"form-data\".");
    while ((rc = take_parameter(&at, end, &name, &value)) > 0) {
        struct span *kept = is(name, "name") ? &field : is(name, "filename") ? &filename : NULL;
        if (kept == NULL)
            continue;
        if (kept->at != NULL)
            return refuse(f, "A part of the form has two names.");
        *kept = value;
    }
    if (rc < 0)
        return refuse(f, "The Content-Disposition of a part of the form is malformed.");
    if (field.at == NULL)
        return refuse(f, "A part of the form has no name.");
    if (buf_reserve(text, field.len + filename.len + 1) < 0)
        return refuse(f, "The server is out of memory.");
    part->name = text->data;
    part->name_len = text->len = unescape(field, text->data);
    if (filename.at != NULL) {
        part->filename = text->data + text->len;
        part->filename_len = unescape(filename, text->data + text->len);
        text->len += part->filename_len;
    }
    return 0;
}

/* ---- multipart ---- */

/* Takes the rest of the line of a boundary: 1 when a part follows, 0 when this was the last boundary. */
static int take_boundary_line(struct form *f)
{
    const char *at = f->body + f->at, *end = f->body + f->len;
    bool last = starts_with(at, end, "--", 2);
    at = skip_blanks(at + (last ? 2 : 0), end);
    bool has_crlf = starts_with(at, end, "\r\n", 2);
    f->over = last;
    f->at = (size_t)(at - f->body) + (has_crlf ? 2 : 0);
    if (!has_crlf && !(last && at == end))
        return refuse(f, "A line of the form begins like its boundary and goes on differently.");
    if (last && f->at != f->len)
        return refuse(f, "Something follows the last boundary of the form.");
    return !last;
}

static int next_part(struct form *f, struct buf *text, struct form_part *part)
{
    const char *end = f->body + f->len;
    struct headers h = {{NULL, 0}, {NULL, 0}, NULL};

    if (f->at == 0) {
        size_t skip = starts_with(f->body, end, "\r\n", 2) ? 0 : 2;
        if (!starts_with(f->body, end, f->delimiter + skip, f->delimiter_len - skip))
            return refuse(f, "The form does not begin with its boundary.");
        f->at = f->delimiter_len - skip;
    }
    int rc = take_boundary_line(f);
    if (rc <= 0)
        return rc;
    if (++f->count > FORM_MAX_PARTS)
        return refuse(f, "The form has too many parts.");

    /* From the CR LF before the part on: a boundary may be the first thing in it. */
    const char *first = f->body + f->at;
    const char *next = memmem(first - 2, (size_t)(end - first) + 2, f->delimiter, f->delimiter_len);
    if (next == NULL)
        return refuse(f, "The form ends before its last boundary.");
    if (next < first)
        return refuse(f, "A part of the form is empty.");
    if (take_headers(f, first, next, &h) < 0 || take_disposition(f, h.disposition, text, part) < 0)
        return -1;
    part->type = h.type.at;
    part->type_len = h.type.len;
    part->data = h.data;
    part->data_len = (size_t)(next - h.data);
    f->at = (size_t)(next - f->body) + f->delimiter_len;
    return 1;
}

/* ---- urlencoded ---- */

static int next_pair(struct form *f, struct buf *text, struct form_part *part)
{
    struct percent_pair pair;
    if (!percent_next_pair(f->body, f->len, &f->at, &pair))
        return 0;
    if (++f->count > FORM_MAX_PARTS)
        return refuse(f, "The form has too many fields.");
    if (buf_reserve(text, pair.name_len + pair.value_len + 1) < 0)
        return refuse(f, "The server is out of memory.");
    part->name = text->data;
    part->name_len = percent_decode_lax(pair.name, pair.name_len, text->data, true);
    part->data = text->data + part->name_len;
    part->data_len = percent_decode_lax(pair.value, pair.value_len, text->data + part->name_len, true);
    text->len = part->name_len + part->data_len;
    return 1;
}

/* ---- both ---- */

void form_init(struct form *f, const char *body, size_t len, const char *boundary)
{
    *f = (struct form){.body = body != NULL ? body : "", .len = len};
    if (boundary != NULL) {
        size_t boundary_len = strnlen(boundary, FORM_MAX_BOUNDARY);
        memcpy(f->delimiter, "\r\n--", 4);
        memcpy(f->delimiter + 4, boundary, boundary_len);
        f->delimiter_len = 4 + boundary_len;
    }
}

int form_next(struct form *f, struct buf *text, struct form_part *part)
{
    if (f->reason != NULL)
        return -1;
    if (f->over)
        return 0;
    *part = (struct form_part){0};
    text->len = 0;
    return f->delimiter_len > 0 ? next_part(f, text, part) : next_pair(f, text, part);
}
