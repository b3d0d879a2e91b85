/* SPDX-License-Identifier: MIT
 * Which web pages may open a WebSocket. Patterns, origins and Host fields have one grammar and one parser;
 * each may use another part of it. */
#include "ws/origin.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

enum { PORT_DEFAULT = 0, PORT_ANY = -1 };

struct text {
    const char *at;
    size_t len;
};

struct site {
    struct text scheme; /* empty when there is none */
    struct text host;   /* without the "*." before it */
    int port;           /* 1 to 65535, PORT_DEFAULT or PORT_ANY */
    bool below;         /* "*.": the sub-domains of the host */
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_alnum(char c)
{
    return is_letter(c) || is_digit(c);
}

static bool same_text(struct text a, struct text b)
{
    return a.len == b.len && strncasecmp(a.at, b.at, a.len) == 0;
}

static bool is(struct text t, const char *word)
{
    return same_text(t, (struct text){word, strlen(word)});
}

/* ---- parsing ----
 *
 * The functions return what is wrong, for a person, or NULL. */

static const char *take_scheme(struct text *rest, struct text *scheme)
{
    const char *mark = memmem(rest->at, rest->len, "://", 3);
    if (mark == NULL)
        return NULL;
    *scheme = (struct text){rest->at, (size_t)(mark - rest->at)};
    *rest = (struct text){mark + 3, rest->len - scheme->len - 3};
    for (size_t i = 0; i < scheme->len; i++) {
        char c = scheme->at[i];
        if (!is_alnum(c) && c != '+' && c != '-' && c != '.')
            return "a scheme has only letters, digits, '+', '-' and '.', as in \"https://example.com\"; "
                   "http and https both fit \"example.com\"";
    }
    if (scheme->len == 0 || !is_letter(scheme->at[0]))
        return "a scheme begins with a letter, as in \"https://example.com\"";
    return NULL;
}

/* What a URL has and an origin has not. */
static const char *find_surplus(struct text rest)
{
    for (size_t i = 0; i < rest.len; i++) {
        if (rest.at[i] == '@')
            return "an origin has no user name, just a host: \"https://example.com\"";
        if (rest.at[i] == '/' || rest.at[i] == '?' || rest.at[i] == '#')
            return "an origin has no path and no query, it ends with the host or the port: "
                   "\"https://example.com:8443\"";
    }
    return NULL;
}

static const char *parse_port(struct text t, int *port)
{
    static const char fault[] = "a port is a number from 1 to 65535, or '*' for any: \"example.com:8080\", "
                                "\"example.com:*\"; an IPv6 address stands in brackets: \"[::1]:8080\"";
    if (is(t, "*")) {
        *port = PORT_ANY;
        return NULL;
    }
    if (t.len == 0 || t.len > 5 || t.at[0] == '0')
        return fault;
    *port = 0;
    for (size_t i = 0; i < t.len; i++) {
        if (!is_digit(t.at[i]))
            return fault;
        *port = *port * 10 + (t.at[i] - '0');
    }
    return *port <= 65535 ? NULL : fault;
}

static const char *take_port(struct text *rest, int *port)
{
    const char *end = rest->at + rest->len, *from = rest->at;
    if (rest->len > 0 && *rest->at == '[') {
        const char *bracket = memchr(rest->at, ']', rest->len);
        if (bracket == NULL || (bracket + 1 < end && bracket[1] != ':'))
            return "an IPv6 address stands between brackets: \"[::1]\", \"[::1]:8080\"";
        from = bracket + 1;
    }
    const char *colon = memchr(from, ':', (size_t)(end - from));
    if (colon == NULL)
        return NULL;
    rest->len = (size_t)(colon - rest->at);
    return parse_port((struct text){colon + 1, (size_t)(end - colon - 1)}, port);
}

static bool parse_address(int family, struct text t, void *out)
{
    char copy[INET6_ADDRSTRLEN];
    if (t.len >= sizeof copy || memchr(t.at, '\0', t.len) != NULL)
        return false;
    memcpy(copy, t.at, t.len);
    copy[t.len] = '\0';
    return inet_pton(family, copy, out) == 1;
}

static bool has_brackets(struct text host)
{
    return host.len >= 2 && host.at[0] == '[' && host.at[host.len - 1] == ']';
}

static bool parse_ipv6(struct text host, struct in6_addr *out)
{
    return has_brackets(host) && parse_address(AF_INET6, (struct text){host.at + 1, host.len - 2}, out);
}

/* Browsers take a name whose last part is a number for an IPv4 address, and so do we. */
static bool ends_in_number(struct text host)
{
    size_t i = host.len;
    while (i > 0 && is_digit(host.at[i - 1]))
        i--;
    return i < host.len && (i == 0 || host.at[i - 1] == '.');
}

static const char *check_name(struct text host)
{
    size_t len = host.len > 0 && host.at[host.len - 1] == '.' ? host.len - 1 : host.len;
    if (len == 0)
        return "the host is missing: \"https://example.com\"";
    for (size_t i = 0; i < len; i++) {
        char c = host.at[i];
        if (c == '.' && (i == 0 || i + 1 == len || host.at[i - 1] == '.'))
            return "a host name has no empty parts between its dots: \"www.example.com\"";
        if (c == '*')
            return "a '*' stands alone (any origin), before a name (\"*.example.com\") or for the port "
                   "(\"example.com:*\")";
        if (!is_alnum(c) && c != '-' && c != '_' && c != '.')
            return "a host name has only letters, digits, '-', '_' and '.': \"www.example.com\"";
    }
    return NULL;
}

static const char *check_host(const struct site *s)
{
    struct in6_addr six;
    struct in_addr four;
    bool brackets = has_brackets(s->host), number = ends_in_number(s->host);
    const char *fault = brackets ? NULL : check_name(s->host);
    if (fault != NULL)
        return fault;
    if (brackets && !parse_ipv6(s->host, &six))
        return "what stands in the brackets is no IPv6 address like \"[2001:db8::1]\"";
    if (number && !parse_address(AF_INET, s->host, &four))
        return "a host that ends in a number is an IPv4 address like \"192.0.2.1\"";
    if (s->below && (brackets || number))
        return "an address has no sub-domains: \"192.0.2.1\", \"[2001:db8::1]\"";
    return NULL;
}

static const char *parse_site(struct text t, struct site *s)
{
    *s = (struct site){.port = PORT_DEFAULT};
    if (t.len == 0)
        return "it is empty; write \"https://example.com\", \"*.example.com\", \"same\" or \"*\"";
    const char *fault = take_scheme(&t, &s->scheme);
    if (fault == NULL)
        fault = find_surplus(t);
    if (fault != NULL)
        return fault;
    s->below = t.len >= 2 && memcmp(t.at, "*.", 2) == 0;
    s->host = s->below ? (struct text){t.at + 2, t.len - 2} : t;
    fault = take_port(&s->host, &s->port);
    return fault != NULL ? fault : check_host(s);
}

/* What a request may contain: no wildcards. */
static bool parse_plain(struct text t, struct site *s)
{
    return parse_site(t, s) == NULL && !s->below && s->port != PORT_ANY;
}

/* ---- the check ---- */

static int check_bytes(struct text t, struct err *e)
{
    for (size_t i = 0; i < t.len; i++) {
        unsigned char c = (unsigned char)t.at[i];
        if (c == ' ' || c == '\t')
            return err_set(e, "an origin has no blanks; write one pattern for each: \"https://example.com\"");
        if (c < ' ' || c == 0x7f)
            return err_set(e, "byte %zu is a control character; write \"https://example.com\"", i + 1);
        if (c >= 0x80)
            return err_set(e, "byte %zu is not ASCII; write such names as \"xn--bcher-kva.example\"", i + 1);
    }
    return 0;
}

int origin_check_pattern(const char *pattern, size_t len, struct err *e)
{
    struct text t = {pattern, len};
    struct site s;
    if (len > ORIGIN_MAX_PATTERN)
        return err_set(e, "it is longer than %d bytes; write \"https://example.com\"", ORIGIN_MAX_PATTERN);
    if (check_bytes(t, e) < 0)
        return -1;
    if (is(t, "*") || is(t, "same") || is(t, "null"))
        return 0;
    const char *fault = parse_site(t, &s);
    if (fault == NULL)
        return 0;
    if (len > 0 && pattern[len - 1] == '/' && parse_site((struct text){pattern, len - 1}, &s) == NULL)
        return err_set(e, "leave out the slash at the end: \"%.*s\"", (int)len - 1, pattern);
    return err_set(e, "%s", fault);
}

/* ---- matching ---- */

/* ws and wss too: no page has them, but there are clients, not browsers, that say so of themselves. */
static bool is_web(struct text scheme)
{
    return is(scheme, "http") || is(scheme, "https") || is(scheme, "ws") || is(scheme, "wss");
}

static int port_of(const struct site *s, struct text scheme)
{
    if (s->port != PORT_DEFAULT)
        return s->port;
    if (is(scheme, "http") || is(scheme, "ws"))
        return 80;
    return is(scheme, "https") || is(scheme, "wss") ? 443 : PORT_DEFAULT;
}

/* An IPv6 address has many spellings, a browser uses one of them and the pattern perhaps another. */
static bool same_host(struct text a, struct text b)
{
    struct in6_addr six_a, six_b;
    if (parse_ipv6(a, &six_a) && parse_ipv6(b, &six_b))
        return memcmp(&six_a, &six_b, sizeof six_a) == 0;
    return same_text(a, b);
}

static bool is_below(struct text host, struct text parent)
{
    if (host.len <= parent.len)
        return false;
    size_t extra = host.len - parent.len;
    return host.at[extra - 1] == '.' && same_text((struct text){host.at + extra, parent.len}, parent);
}

/* What came without a scheme fits nothing: "null" is no host here. */
static bool fits(const struct site *wanted, const struct site *got)
{
    if (wanted->scheme.len > 0 ? !same_text(wanted->scheme, got->scheme) : !is_web(got->scheme))
        return false;
    if (wanted->port != PORT_ANY && port_of(wanted, got->scheme) != port_of(got, got->scheme))
        return false;
    return wanted->below ? is_below(got->host, wanted->host) : same_host(got->host, wanted->host);
}

bool origin_matches(const char *pattern, size_t plen, const char *origin, size_t olen, const char *host,
                    size_t hlen)
{
    struct text p = {pattern, plen}, o = {origin, olen};
    struct site wanted, got;
    if (is(p, "*"))
        return true;
    if (is(p, "null"))
        return is(o, "null");
    if (!parse_plain(o, &got))
        return false;
    if (is(p, "same")) /* a Host field is a pattern without scheme */
        return parse_plain((struct text){host, hlen}, &wanted) && wanted.scheme.len == 0 &&
               fits(&wanted, &got);
    return parse_site(p, &wanted) == NULL && fits(&wanted, &got);
}
