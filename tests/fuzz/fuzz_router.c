/* SPDX-License-Identifier: MIT
 * The route table against a reference that tries every route and keeps the most specific one that fits.
 *
 * The input is lines. One that starts with a byte whose low four bits are a method's number ('0' to '7') is a
 * pattern to register for that method; any other line is a path, matched with every method. */
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_SIZE   4096
#define MAX_ROUTES 64

/* In order of precedence. */
enum kind { CONSTANT, NAMED, ANY, REST };

struct text {
    const char *at;
    size_t len;
};

struct parts {
    size_t n;
    struct text part[MAX_SIZE / 2];
};

static struct {
    enum router_method method;
    struct parts pattern;
} routes[MAX_ROUTES];
static size_t nroutes;

static void require(bool ok)
{
    if (!ok)
        abort();
}

/* ---- the reference ---- */

static bool same(struct text a, struct text b)
{
    return a.len == b.len && memcmp(a.at, b.at, a.len) == 0;
}

static void split(struct text t, struct parts *out)
{
    out->n = 0;
    bool inside = false;
    for (size_t i = 0; i < t.len; i++) {
        if (t.at[i] == '/') {
            inside = false;
            continue;
        }
        if (!inside)
            out->part[out->n++] = (struct text){t.at + i, 0};
        out->part[out->n - 1].len++;
        inside = true;
    }
}

static enum kind kind_of(struct text part)
{
    if (part.at[0] == ':')
        return NAMED;
    if (part.at[0] == '*')
        return part.len == 1 ? ANY : REST;
    return CONSTANT;
}

static bool valid_part(const struct parts *p, size_t i)
{
    struct text part = p->part[i];
    if (part.at[0] == '*')
        return part.len == 1 || (part.len == 2 && part.at[1] == '*' && i == p->n - 1);
    if (part.at[0] != ':')
        return true;
    for (size_t j = 1; j < part.len; j++)
        if ((unsigned char)part.at[j] < 0x80 && !isalnum((unsigned char)part.at[j]) &&
            strchr("_-", part.at[j]) == NULL)
            return false;
    for (size_t j = 0; j < i; j++)
        if (same(p->part[j], part))
            return false;
    return part.len > 1;
}

static bool valid(struct text pattern, const struct parts *p)
{
    for (size_t i = 0; i < pattern.len; i++)
        if (iscntrl((unsigned char)pattern.at[i]) || pattern.at[i] == '?' || pattern.at[i] == '#')
            return false;
    size_t captures = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (!valid_part(p, i))
            return false;
        captures += kind_of(p->part[i]) != CONSTANT;
    }
    return pattern.len <= 1024 && p->n <= 64 && captures <= 16;
}

/* Whether two valid patterns are one, names aside. */
static bool equivalent(const struct parts *a, const struct parts *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (kind_of(a->part[i]) != kind_of(b->part[i]) ||
            (kind_of(a->part[i]) == CONSTANT && !same(a->part[i], b->part[i])))
            return false;
    return true;
}

static bool decodes_to(struct text encoded, struct text plain)
{
    static char decoded[MAX_SIZE];
    size_t n = 0;
    for (size_t i = 0; i < encoded.len; i++) {
        decoded[n] = encoded.at[i];
        if (encoded.at[i] == '%') {
            if (i + 2 >= encoded.len || !isxdigit((unsigned char)encoded.at[i + 1]) ||
                !isxdigit((unsigned char)encoded.at[i + 2]))
                return false;
            const char hex[3] = {encoded.at[i + 1], encoded.at[i + 2], '\0'};
            decoded[n] = (char)strtol(hex, NULL, 16);
            i += 2;
        }
        n++;
    }
    return same((struct text){decoded, n}, plain);
}

static bool fits(const struct parts *pattern, const struct parts *path)
{
    bool rest = pattern->n > 0 && kind_of(pattern->part[pattern->n - 1]) == REST;
    if (rest ? path->n < pattern->n : path->n != pattern->n)
        return false;
    for (size_t i = 0; i < pattern->n; i++)
        if (kind_of(pattern->part[i]) == CONSTANT && !decodes_to(path->part[i], pattern->part[i]))
            return false;
    return true;
}

/* Whether `a` is the more specific of two different patterns that fit the same path. */
static bool beats(const struct parts *a, const struct parts *b)
{
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (kind_of(a->part[i]) != kind_of(b->part[i]))
            return kind_of(a->part[i]) < kind_of(b->part[i]);
    abort();
}

static int reference(enum router_method method, const struct parts *path, uint32_t *allowed)
{
    int best = -1;
    *allowed = 0;
    for (size_t i = 0; i < nroutes; i++) {
        if (!fits(&routes[i].pattern, path))
            continue;
        *allowed |= 1u << routes[i].method;
        if (routes[i].method == method && (best < 0 || beats(&routes[i].pattern, &routes[best].pattern)))
            best = (int)i;
    }
    return best;
}

/* ---- checking against it ---- */

static void check_captures(const struct router_match *m, const struct parts *path)
{
    const struct parts *pattern = &routes[m->route].pattern;
    size_t n = 0;
    for (size_t i = 0; i < pattern->n; i++) {
        enum kind kind = kind_of(pattern->part[i]);
        if (kind == CONSTANT)
            continue;
        require(n < m->ncaptures);
        const struct router_capture *c = &m->captures[n++];
        struct text name = pattern->part[i];
        if (kind == NAMED)
            name = (struct text){name.at + 1, name.len - 1};
        require(same((struct text){c->name, strlen(c->name)}, name));
        const struct text *last = &path->part[kind == REST ? path->n - 1 : i];
        require(c->value == path->part[i].at && c->value + c->value_len == last->at + last->len);
    }
    require(n == m->ncaptures);
}

static void check_path(const struct router *r, struct text line)
{
    static struct parts path;
    char *copy = malloc(line.len + 1);
    require(copy != NULL);
    /* At the end of the block, so that ASan sees a read beyond it. */
    struct text t = {memcpy(copy + 1, line.at, line.len), line.len};
    split(t, &path);
    for (int method = 0; method <= ROUTER_METHODS; method++) {
        struct router_match m;
        memset(&m, 0xa5, sizeof m);
        uint32_t allowed = 0;
        int expected = -1;
        if (t.len > 0 && t.at[0] == '/')
            expected = reference((enum router_method)method, &path, &allowed);
        require(router_match(r, (enum router_method)method, t.at, t.len, &m) == expected);
        require(m.route == expected && m.allowed == allowed);
        if (expected >= 0)
            check_captures(&m, &path);
        else
            require(m.ncaptures == 0);
    }
    free(copy);
}

static void check_pattern(struct router *r, enum router_method method, struct text pattern)
{
    struct parts *parts = &routes[nroutes].pattern;
    split(pattern, parts);
    int expected = valid(pattern, parts) ? (int)nroutes : -1;
    for (size_t i = 0; i < nroutes && expected >= 0; i++)
        if (routes[i].method == method && equivalent(&routes[i].pattern, parts))
            expected = -1;
    struct err e = {""};
    char *copy = malloc(pattern.len + 1);
    require(copy != NULL);
    memcpy(copy + 1, pattern.at, pattern.len);
    int number = router_add(r, method, copy + 1, pattern.len, "main.lua:5", &e);
    free(copy);
    require(number == expected);
    if (number >= 0) {
        require(e.text[0] == '\0');
        routes[nroutes++].method = method;
    } else {
        require(strncmp(e.text, "main.lua:5: route ", 18) == 0);
        for (const char *c = e.text; *c != '\0'; c++)
            require(!iscntrl((unsigned char)*c));
    }
    require(router_count(r) == nroutes);
}

/* A table rebuilt from the normalised patterns is the same, but not before its last route is there. */
static void check_rebuilt(const struct router *r)
{
    struct router *again = router_create();
    require(again != NULL);
    for (size_t i = 0; i < nroutes; i++) {
        if (i == nroutes - 1)
            require(!router_equal(r, again, NULL) && !router_equal(again, r, NULL));
        const struct router_route *route = router_route(r, i);
        /* The leading slash may be one byte too many. */
        int number =
            router_add(again, route->method, route->pattern + 1, strlen(route->pattern) - 1, "x", NULL);
        require(number == (int)i);
    }
    require(router_equal(r, again, NULL) && router_equal(again, r, NULL));
    router_destroy(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_SIZE)
        return 0;
    struct router *r = router_create();
    require(r != NULL);
    nroutes = 0;
    const char *at = (const char *)data;
    const char *end = at + size;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        struct text line = {at, (size_t)((newline == NULL ? end : newline) - at)};
        at = newline == NULL ? end : newline + 1;
        int method = line.len == 0 ? ROUTER_NO_METHOD : line.at[0] & 15;
        if (method >= ROUTER_METHODS)
            check_path(r, line);
        else if (nroutes < MAX_ROUTES)
            check_pattern(r, (enum router_method)method, (struct text){line.at + 1, line.len - 1});
    }
    check_rebuilt(r);
    router_destroy(r);
    return 0;
}
