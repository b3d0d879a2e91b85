/* SPDX-License-Identifier: MIT
 * Origin patterns against a second opinion that reads them with regular expressions.
 *
 * The input is pattern, origin and Host field, each ended by a NUL; the Host field is the rest, NULs too. */
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <regex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ws/origin.h"

#include "check.h"

#define MAX_TEXT 600

/* With a NUL behind it, which is not counted. */
struct text {
    char at[MAX_TEXT + 8];
    size_t len;
};

static struct text make(const char *a, size_t a_len, const char *b)
{
    struct text t = {.len = a_len + strlen(b)};
    memcpy(t.at, a, a_len);
    memcpy(t.at + a_len, b, strlen(b));
    return t;
}

/* Blocks of the exact sizes, so that ASan sees a read beyond them. */
static bool matches(const struct text *pattern, const struct text *origin, const struct text *host)
{
    char *block[3];
    const struct text *text[] = {pattern, origin, host};
    for (int i = 0; i < 3; i++) {
        block[i] = malloc(text[i]->len > 0 ? text[i]->len : 1);
        CHECK(block[i] != NULL);
        memcpy(block[i], text[i]->at, text[i]->len);
    }
    bool result = origin_matches(block[0], pattern->len, block[1], origin->len, block[2], host->len);
    for (int i = 0; i < 3; i++)
        free(block[i]);
    return result;
}

static bool is(const struct text *t, const char *word)
{
    return strlen(t->at) == t->len && strcasecmp(t->at, word) == 0;
}

/* ---- the second opinion ---- */

#define GROUPS 7
enum { SCHEME = 2, BELOW = 3, HOST = 4, PORT = 6 };

struct opinion {
    bool sound;
    char part[GROUPS][MAX_TEXT];
};

static bool address_is_good(const char *host)
{
    char buffer[MAX_TEXT];
    struct in6_addr address;
    snprintf(buffer, sizeof buffer, "%s", host);
    if (buffer[0] == '[') {
        buffer[strlen(buffer) - 1] = '\0';
        return inet_pton(AF_INET6, buffer + 1, &address) == 1;
    }
    const char *dot = strrchr(buffer, '.'), *last = dot != NULL ? dot + 1 : buffer;
    return *last == '\0' || strspn(last, "0123456789") < strlen(last) ||
           inet_pton(AF_INET, buffer, &address) == 1;
}

static struct opinion judge(const struct text *t)
{
    static regex_t form;
    static bool compiled;
    struct opinion o = {.sound = false};
    regmatch_t group[GROUPS];
    if (!compiled)
        CHECK(regcomp(&form,
                      "^(([a-z][a-z0-9+.-]*)://)?(\\*\\.)?"
                      "([a-z0-9_-]+(\\.[a-z0-9_-]+)*\\.?|\\[[0-9a-f:.]+])(:\\*|:[1-9][0-9]{0,4})?$",
                      REG_EXTENDED | REG_ICASE) == 0);
    compiled = true;
    if (strlen(t->at) != t->len || regexec(&form, t->at, GROUPS, group, 0) != 0)
        return o;
    for (int i = 0; i < GROUPS; i++)
        for (regoff_t k = group[i].rm_so; k >= 0 && k < group[i].rm_eo; k++)
            o.part[i][k - group[i].rm_so] = (char)tolower((unsigned char)t->at[k]);
    struct in_addr four;
    o.sound = address_is_good(o.part[HOST]) && (o.part[PORT][0] == '\0' || atoi(o.part[PORT] + 1) <= 65535);
    if (o.part[BELOW][0] != '\0')
        o.sound &= o.part[HOST][0] != '[' && inet_pton(AF_INET, o.part[HOST], &four) != 1;
    return o;
}

static const char *port_text(const struct opinion *o, const char *scheme)
{
    if (o->part[PORT][0] != '\0')
        return o->part[PORT] + 1;
    if (strcmp(scheme, "http") == 0 || strcmp(scheme, "ws") == 0)
        return "80";
    return strcmp(scheme, "https") == 0 || strcmp(scheme, "wss") == 0 ? "443" : "";
}

static bool host_fits(const struct opinion *wanted, const char *host)
{
    const char *name = wanted->part[HOST];
    char a[sizeof(struct in6_addr)], b[sizeof(struct in6_addr)], copy[2][MAX_TEXT];
    if (wanted->part[BELOW][0] != '\0') {
        size_t extra = strlen(host) - strlen(name);
        return strlen(host) > strlen(name) && host[extra - 1] == '.' && strcmp(host + extra, name) == 0;
    }
    if (name[0] != '[' || host[0] != '[')
        return strcmp(host, name) == 0;
    snprintf(copy[0], sizeof copy[0], "%.*s", (int)strlen(name) - 2, name + 1);
    snprintf(copy[1], sizeof copy[1], "%.*s", (int)strlen(host) - 2, host + 1);
    CHECK(inet_pton(AF_INET6, copy[0], a) == 1 && inet_pton(AF_INET6, copy[1], b) == 1);
    return memcmp(a, b, sizeof a) == 0;
}

static bool has_wildcard(const struct opinion *o)
{
    return o->part[BELOW][0] != '\0' || strcmp(o->part[PORT], ":*") == 0;
}

static bool expected(const struct text *pattern, const struct text *origin, const struct text *host)
{
    struct opinion wanted = judge(is(pattern, "same") ? host : pattern), got = judge(origin);
    if (is(pattern, "*"))
        return true;
    if (is(pattern, "null") || is(origin, "null"))
        return is(pattern, "null") && is(origin, "null");
    const char *scheme = got.part[SCHEME];
    if (!got.sound || scheme[0] == '\0' || has_wildcard(&got) || !wanted.sound)
        return false;
    if (is(pattern, "same") && (has_wildcard(&wanted) || wanted.part[SCHEME][0] != '\0'))
        return false;
    if (wanted.part[SCHEME][0] != '\0' ? strcmp(scheme, wanted.part[SCHEME]) != 0
                                       : strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0 &&
                                             strcmp(scheme, "ws") != 0 && strcmp(scheme, "wss") != 0)
        return false;
    if (strcmp(wanted.part[PORT], ":*") != 0 &&
        strcmp(port_text(&wanted, scheme), port_text(&got, scheme)) != 0)
        return false;
    return host_fits(&wanted, got.part[HOST]);
}

/* ---- what holds ---- */

static struct text change_case(const struct text *t, int (*change)(int))
{
    struct text changed = *t;
    for (size_t i = 0; i < t->len; i++)
        changed.at[i] = (char)((unsigned char)t->at[i] < 0x80 ? change((unsigned char)t->at[i]) : t->at[i]);
    return changed;
}

static bool is_word(const struct text *pattern)
{
    return is(pattern, "*") || is(pattern, "same") || is(pattern, "null");
}

/* Returns whether it is a pattern. */
static bool check_pattern(const struct text *pattern)
{
    struct err e = {""};
    bool good = origin_check_pattern(pattern->at, pattern->len, &e) == 0;
    CHECK(good == (pattern->len <= ORIGIN_MAX_PATTERN && (is_word(pattern) || judge(pattern).sound)));
    CHECK(good == (e.text[0] == '\0'));
    CHECK(good || strchr(e.text, '"') != NULL); /* a right form */
    for (const char *c = e.text; *c != '\0'; c++)
        CHECK(isprint((unsigned char)*c));
    struct text slashed = make(pattern->at, pattern->len, "/");
    CHECK(origin_check_pattern(slashed.at, slashed.len, NULL) == -1);
    return good;
}

static void check_itself(const struct text *pattern, const struct text *host)
{
    struct opinion o = judge(pattern);
    if (is_word(pattern) || has_wildcard(&o))
        return;
    CHECK(matches(pattern, pattern, host) == (o.part[SCHEME][0] != '\0'));
    if (o.part[SCHEME][0] != '\0')
        return;
    /* A pattern without scheme is what a Host field may be. */
    static const struct text same = {"same", 4};
    struct text origin = make("https://", 8, pattern->at);
    CHECK(matches(&same, &origin, pattern));
    CHECK(matches(pattern, &origin, host));
}

static void check_match(const struct text *pattern, const struct text *origin, const struct text *host)
{
    bool result = matches(pattern, origin, host);
    CHECK(result == expected(pattern, origin, host));
    struct text p = change_case(pattern, toupper), o = change_case(origin, tolower);
    struct text h = change_case(host, toupper);
    CHECK(matches(&p, origin, host) == result);
    CHECK(matches(pattern, &o, host) == result);
    CHECK(matches(pattern, origin, &h) == result);
    if (!result || is(pattern, "*"))
        return;
    for (size_t i = 0; i < origin->len; i++)
        CHECK(origin->at[i] > ' ' && origin->at[i] < 0x7f);
    static const char *const tails[] = {"/", " ", ".", ":", "\\", "?", ", null", "\n"};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        struct text longer = make(origin->at, origin->len, tails[i]);
        CHECK(!matches(pattern, &longer, host));
    }
}

static struct text take(const char **at, const char *end, bool rest)
{
    const char *nul = rest ? NULL : memchr(*at, '\0', (size_t)(end - *at));
    const char *stop = nul != NULL ? nul : end;
    struct text t = make(*at, (size_t)(stop - *at), "");
    *at = nul != NULL ? nul + 1 : end;
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_TEXT - 8)
        return 0;
    const char *at = (const char *)data, *end = at + size;
    struct text pattern = take(&at, end, false), origin = take(&at, end, false), host = take(&at, end, true);
    if (!check_pattern(&pattern))
        return 0;
    static const struct text star = {"*", 1}, same = {"same", 4}, null = {"null", 4};
    check_itself(&pattern, &host);
    check_match(&pattern, &origin, &host);
    check_match(&same, &origin, &host);
    check_match(&null, &origin, &host);
    CHECK(matches(&star, &origin, &host));
    return 0;
}
