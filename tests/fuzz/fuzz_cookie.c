/* SPDX-License-Identifier: MIT
 * Cookies: one byte of flags, then name, value, path and domain, each ended by a NUL. What is written is what
 * a regular expression allows, and is read again as it was. All of the input is also a Cookie field, compared
 * with a reading of RFC 6265, 5.4, that cuts from the right. */
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/cookie.h"

#include "check.h"

static bool matches(regex_t *compiled, const char *pattern, int flags, const char *text)
{
    if (compiled->re_nsub == 0)
        CHECK(regcomp(compiled, pattern, REG_EXTENDED | flags) == 0);
    return regexec(compiled, text, 0, NULL, 0) == 0;
}

/* ---- writing ---- */

#define NAME  "[-!#$%&'*+.^_`|~0-9A-Za-z]+"
#define VALUE "[]!#-+./0-:<-Z^-~[-]*"
#define AV    "[ -:<-~]"
#define DATE  "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
#define PATTERN                                                                                              \
    "^" NAME "=" VALUE "(; Path=/" AV "*)?(; Domain=" AV "+)?(; Max-Age=[0-9]+)?(; Expires=" DATE            \
    ")?(; Secure)?(; HttpOnly)?(; SameSite=(None|Lax|Strict))?$"

static bool may_be_written(const struct cookie *c)
{
    static regex_t name, value, path, domain, host, secure;
    bool is_host = matches(&host, "^(__Host-)", REG_ICASE, c->name);
    bool is_secure = matches(&secure, "^(__Secure-)", REG_ICASE, c->name);
    if (!matches(&name, "^(" NAME ")$", 0, c->name) || !matches(&value, "^(" VALUE ")$", 0, c->value))
        return false;
    if (strlen(c->name) + strlen(c->value) > 4096)
        return false;
    if (c->path != NULL && (!matches(&path, "^(/" AV "*)$", 0, c->path) || strlen(c->path) > 1024))
        return false;
    if (c->domain != NULL && (!matches(&domain, "^(" AV "+)$", 0, c->domain) || strlen(c->domain) > 1024))
        return false;
    if ((is_host || is_secure || c->same_site == COOKIE_SAME_SITE_NONE) && !c->secure)
        return false;
    return !is_host || (c->domain == NULL && c->path != NULL && strcmp(c->path, "/") == 0);
}

static void check_writing(const struct cookie *c)
{
    static regex_t pattern;
    struct buf out = BUF_INIT;
    struct err e = {""};
    CHECK(buf_puts(&out, "x") == 0);
    int rc = cookie_write(&out, c, &e);
    CHECK((rc == 0) == may_be_written(c));
    if (rc < 0) {
        CHECK(out.len == 1 && e.text[0] != '\0');
        buf_fini(&out);
        return;
    }
    struct cookie_pair p;
    size_t at = 1;
    CHECK(buf_append(&out, "", 1) == 0); /* a NUL */
    CHECK(strlen(out.data) == out.len - 1 && matches(&pattern, PATTERN, 0, out.data + 1));
    CHECK((strstr(out.data, "; Secure") != NULL) == c->secure);
    CHECK((strstr(out.data, "; HttpOnly") != NULL) == c->http_only);
    CHECK(cookie_next(out.data, out.len - 1, &at, &p));
    CHECK(p.name == out.data + 1 && p.name_len == strlen(c->name) &&
          memcmp(p.name, c->name, p.name_len) == 0);
    CHECK(p.value_len == strlen(c->value) && memcmp(p.value, c->value, p.value_len) == 0);
    buf_fini(&out);
}

/* ---- reading ---- */

struct text {
    const char *at;
    size_t len;
};

static struct text trimmed(struct text t)
{
    for (; t.len > 0 && (*t.at == ' ' || *t.at == '\t'); t.at++)
        t.len--;
    while (t.len > 0 && (t.at[t.len - 1] == ' ' || t.at[t.len - 1] == '\t'))
        t.len--;
    return t;
}

/* Puts the pairs of the field into `pairs`, from the last to the first; how many there are. */
static size_t read_backwards(const char *field, size_t len, struct cookie_pair *pairs)
{
    size_t n = 0;
    for (;;) {
        const char *semicolon = memrchr(field, ';', len);
        const char *from = semicolon != NULL ? semicolon + 1 : field;
        size_t name_len = 0, all = len - (size_t)(from - field);
        while (name_len < all && from[name_len] != '=')
            name_len++;
        struct text name = trimmed((struct text){from, name_len});
        if (name_len < all && name.len > 0) {
            struct text value = trimmed((struct text){from + name_len + 1, all - name_len - 1});
            if (value.len > 1 && value.at[0] == '"' && value.at[value.len - 1] == '"')
                value = (struct text){value.at + 1, value.len - 2};
            pairs[n++] = (struct cookie_pair){name.at, value.at, name.len, value.len};
        }
        if (semicolon == NULL)
            return n;
        len = (size_t)(semicolon - field);
    }
}

static void check_reading(const uint8_t *data, size_t len)
{
    char *block = malloc(len + 1), *field = block + 1; /* to the block's end, so that a look behind is seen */
    struct cookie_pair *expected = calloc(len + 1, sizeof *expected), p;
    CHECK(block != NULL && expected != NULL);
    memcpy(field, data, len);
    size_t n = read_backwards(field, len, expected), at = 0;
    while (cookie_next(field, len, &at, &p)) {
        CHECK(n > 0);
        const struct cookie_pair *q = &expected[--n];
        CHECK(p.name == q->name && p.name_len == q->name_len && p.value_len == q->value_len);
        CHECK(p.value == q->value || p.value_len == 0);
    }
    CHECK(n == 0 && at >= len);
    free(expected);
    free(block);
}

/* Takes a text that is ended by a NUL or by the end of the input. */
static char *take_text(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *nul = *at < end ? memchr(*at, 0, (size_t)(end - *at)) : NULL;
    size_t len = (size_t)((nul != NULL ? nul : end) - *at);
    char *text = strndup((const char *)*at, len);
    CHECK(text != NULL);
    *at += len + (nul != NULL);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    check_reading(data + 1, size - 1);
    const uint8_t *at = data + 1, *end = data + size;
    char *name = take_text(&at, end), *value = take_text(&at, end);
    char *path = take_text(&at, end), *domain = take_text(&at, end);
    uint8_t flags = data[0];
    struct cookie c = {
        .name = name,
        .value = value,
        .path = flags & 1 ? path : NULL,
        .domain = flags & 2 ? domain : NULL,
        .secure = flags & 4,
        .http_only = flags & 8,
        .max_age_s = flags & 16 ? (int64_t)size : -1,
        .expires_s = flags & 32 ? (int64_t)size << 20 : -1,
        .same_site = (enum cookie_same_site)(flags >> 6),
    };
    check_writing(&c);
    free(name);
    free(value);
    free(path);
    free(domain);
    return 0;
}
