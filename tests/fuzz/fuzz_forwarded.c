/* SPDX-License-Identifier: MIT
 * Who the client is behind proxies, against a second opinion that reads the lists with regular expressions
 * and compares addresses bit by bit, and against forgeries at the left end of a list.
 *
 * The input is lines: trusted ranges with blanks between them, the peer's address, then the request's fields.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <regex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/forwarded.h"

#include "check.h"

#define MAX_INPUT  800
#define MAX_RANGES 16
#define MAX_FIELDS (MAX_INPUT + 200)

/* ---- forms ---- */

#define WORD "[^\"=;, \t]+"
#define TEXT "\"([^\"\\]|\\\\.)*\""
#define PAIR "[ \t]*(" WORD "=(" WORD "|" TEXT "))?[ \t]*"
#define PORT "(:(0|[1-9][0-9]{0,4}|_.+))?"

enum form { ELEMENT, NEXT_PAIR, NODE_4, NODE_6, NODE_BARE, RANGE, FORMS };

static const char *const forms[FORMS] = {
    [ELEMENT] = "^" PAIR "(;" PAIR ")*$", [NEXT_PAIR] = "^[ \t;]*(" WORD ")=(" WORD "|" TEXT ")",
    [NODE_4] = "^([0-9.]+)" PORT "$",     [NODE_6] = "^\\[([0-9a-f:.]+)]" PORT "$",
    [NODE_BARE] = "^([0-9a-f:.]+)(())$",  [RANGE] = "^([0-9a-f:.]+)(/(0|[1-9][0-9]{0,2}))?$",
};

static bool fits(enum form form, const char *text, regmatch_t groups[4])
{
    static regex_t compiled[FORMS];
    static bool is_compiled[FORMS];
    if (!is_compiled[form])
        CHECK(regcomp(&compiled[form], forms[form], REG_EXTENDED | REG_ICASE) == 0);
    is_compiled[form] = true;
    return regexec(&compiled[form], text, groups != NULL ? 4 : 0, groups, 0) == 0;
}

static char *copy(char *out, const char *at, size_t len)
{
    CHECK(len <= MAX_INPUT);
    memcpy(out, at, len);
    out[len] = '\0';
    return out;
}

/* ---- addresses: 128 bits, of which IPv4 has the first 96 from its IPv6 form ---- */

struct bits {
    int family; /* AF_INET6 for both, AF_UNIX, or AF_UNSPEC for none */
    int n;
    uint8_t at[16];
};

static bool bit(const struct bits *b, int i)
{
    return b->at[i / 8] >> (7 - i % 8) & 1;
}

static bool is_ipv4(const struct bits *b)
{
    static const uint8_t before[12] = {[10] = 255, [11] = 255};
    return b->family == AF_INET6 && b->n >= 96 && memcmp(b->at, before, 12) == 0;
}

static struct bits bits_of_text(const char *address)
{
    struct bits b = {.family = AF_INET6, .n = 128, .at = {[10] = 255, [11] = 255}};
    if (inet_pton(AF_INET, address, b.at + 12) != 1 && inet_pton(AF_INET6, address, b.at) != 1)
        b.family = AF_UNSPEC;
    return b;
}

static struct bits bits_of(const struct sockaddr_storage *sa)
{
    struct bits b = {.family = AF_INET6, .n = 128, .at = {[10] = 255, [11] = 255}};
    if (sa->ss_family == AF_INET)
        memcpy(b.at + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
    else if (sa->ss_family == AF_INET6)
        memcpy(b.at, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
    else
        b = (struct bits){.family = sa->ss_family};
    return b;
}

/* AF_UNSPEC for what is no range. */
static struct bits range_of(const char *text)
{
    char address[MAX_INPUT + 1];
    regmatch_t g[4];
    struct bits none = {.family = AF_UNSPEC};
    if (strcmp(text, "unix:") == 0)
        return (struct bits){.family = AF_UNIX};
    if (!fits(RANGE, text, g))
        return none;
    struct bits b = bits_of_text(copy(address, text, (size_t)g[1].rm_eo));
    if (g[3].rm_so >= 0) {
        int width = strchr(address, ':') != NULL ? 128 : 32, n = atoi(text + g[3].rm_so);
        if (n > width)
            return none;
        b.n = 128 - width + n;
    }
    for (int i = b.n; i < 128; i++)
        if (bit(&b, i))
            return none;
    return b;
}

static bool range_has(const struct bits *range, const struct bits *peer)
{
    if (range->family != peer->family || is_ipv4(range) != is_ipv4(peer))
        return false;
    for (int i = 0; i < range->n; i++)
        if (bit(range, i) != bit(peer, i))
            return false;
    return true;
}

struct trust {
    struct cidr_list list;
    struct bits range[MAX_RANGES * 7];
    size_t n;
};

static void trust_add(struct trust *t, const char *item)
{
    static const char *const words[][8] = {
        {"private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1",
         "unix:"},
        {"loopback", "127.0.0.0/8", "::1", "unix:"},
    };
    struct err e = {""};
    bool good = cidr_list_add(&t->list, item, strlen(item), &e) == 0;
    CHECK(good == (e.text[0] == '\0') && (good || strchr(e.text, '"') != NULL));
    for (size_t w = 0; w < 2; w++)
        if (strcmp(item, words[w][0]) == 0) {
            CHECK(good);
            for (size_t i = 1; i < 8 && words[w][i] != NULL; i++)
                t->range[t->n++] = range_of(words[w][i]);
            return;
        }
    struct bits range = range_of(item);
    CHECK(good == (range.family != AF_UNSPEC));
    if (good)
        t->range[t->n++] = range;
}

static bool trusts(const struct trust *t, const struct sockaddr_storage *sa)
{
    bool has = false;
    struct bits peer = bits_of(sa);
    for (size_t i = 0; i < t->n; i++)
        has |= range_has(&t->range[i], &peer);
    CHECK(cidr_list_has(&t->list, (const struct sockaddr *)sa) == has);
    return has;
}

/* ---- the walk ---- */

struct client {
    bool known;
    struct sockaddr_storage sa;
};

static bool same(struct client a, struct client b)
{
    return a.known == b.known && (!a.known || memcmp(&a.sa, &b.sa, sizeof a.sa) == 0);
}

static struct client node_of(const char *text)
{
    char address[MAX_INPUT + 1];
    struct client c = {.known = false};
    struct sockaddr_in *in = (struct sockaddr_in *)&c.sa;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&c.sa;
    regmatch_t g[4];
    bool four = fits(NODE_4, text, g);
    if (!four && !fits(NODE_6, text, g) && !fits(NODE_BARE, text, g))
        return c;
    copy(address, text + g[1].rm_so, (size_t)(g[1].rm_eo - g[1].rm_so));
    int port = g[3].rm_so >= 0 ? atoi(text + g[3].rm_so) : 0; /* 0 for a hidden one */
    c.sa.ss_family = four ? AF_INET : AF_INET6;
    *(four ? &in->sin_port : &in6->sin6_port) = htons((uint16_t)port);
    c.known = port <= 65535 &&
              inet_pton(c.sa.ss_family, address, four ? (void *)&in->sin_addr : (void *)&in6->sin6_addr) == 1;
    return c;
}

/* The address in one element, of which the form is right. */
static struct client forwarded_node_of(const char *element)
{
    char name[MAX_INPUT + 1], value[MAX_INPUT + 1], node[MAX_INPUT + 1];
    regmatch_t g[4];
    int found = 0;
    while (fits(NEXT_PAIR, element, g)) {
        copy(name, element + g[1].rm_so, (size_t)(g[1].rm_eo - g[1].rm_so));
        copy(value, element + g[2].rm_so, (size_t)(g[2].rm_eo - g[2].rm_so));
        element += g[0].rm_eo;
        if (strcasecmp(name, "for") != 0)
            continue;
        found++;
        bool quoted = value[0] == '"';
        copy(node, value + quoted, strlen(value) - (quoted ? 2 : 0));
    }
    return found == 1 ? node_of(node) : (struct client){.known = false};
}

static char *trim(char *text)
{
    text += strspn(text, " \t");
    size_t len = strlen(text);
    while (len > 0 && strchr(" \t", text[len - 1]) != NULL)
        text[--len] = '\0';
    return text;
}

/* The last element is the shortest tail behind a comma, or the whole, that has the form of an element. Takes
 * it off the list. */
static bool take_last(char *list, bool plain, char *element)
{
    char tail[MAX_INPUT + 1];
    for (size_t at = strlen(list);; at--) {
        if (at > 0 && list[at - 1] != ',')
            continue;
        const char *text = trim(copy(tail, list + at, strlen(list + at)));
        if (plain || fits(ELEMENT, text, NULL)) {
            copy(element, text, strlen(text));
            list[at > 0 ? at - 1 : 0] = '\0';
            return true;
        }
        if (at == 0)
            return false;
    }
}

static bool named(const struct head *h, int i, const char *name)
{
    const struct head_span *span = &h->fields[i].name;
    return span->len == strlen(name) && strncasecmp(head_bytes(h) + span->at, name, span->len) == 0;
}

static bool has_field(const struct head *h, const char *name)
{
    bool found = false;
    for (int i = 0; i < h->nfields; i++)
        found |= named(h, i, name);
    return found;
}

static struct client expected(const struct head *h, const struct sockaddr_storage *peer,
                              const struct trust *t)
{
    char list[MAX_INPUT + 1], element[MAX_INPUT + 1];
    bool plain = has_field(h, "x-forwarded-for");
    struct client reached = {.known = false};
    int looked = 0;
    if (!trusts(t, peer))
        return reached;
    for (int i = h->nfields - 1; i >= 0; i--) {
        if (!named(h, i, plain ? "x-forwarded-for" : "forwarded"))
            continue;
        copy(list, head_bytes(h) + h->fields[i].value.at, h->fields[i].value.len);
        while (list[0] != '\0') {
            if (looked++ == FORWARDED_MAX_ELEMENTS || !take_last(list, plain, element))
                return reached;
            if (element[0] == '\0')
                continue;
            struct client next = plain ? node_of(element) : forwarded_node_of(element);
            if (!next.known)
                return reached;
            reached = next;
            if (!trusts(t, &next.sa))
                return reached;
        }
    }
    return reached;
}

/* ---- what holds ---- */

static struct head *parse(const char *fields)
{
    static char text[MAX_FIELDS + 100];
    struct head *h = NULL;
    struct head_scan scan = {0};
    struct head_fault fault;
    long len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    if (head_scan(&scan, text, (size_t)len) != len || head_parse(text, (size_t)len, &h, &fault) < 0)
        return NULL;
    return h;
}

static struct client client_of(const struct head *h, const struct sockaddr_storage *peer,
                               const struct cidr_list *trusted)
{
    struct client c, before;
    memset(&c, 0x55, sizeof c);
    before = c;
    bool known = forwarded_client(h, (const struct sockaddr *)peer, trusted, &c.sa);
    CHECK(known || memcmp(&c.sa, &before.sa, sizeof c.sa) == 0);
    c.known = known;
    return c;
}

static struct client with(const char *before, const char *fields, const char *after,
                          const struct sockaddr_storage *peer, const struct trust *t)
{
    static char text[MAX_FIELDS];
    CHECK(snprintf(text, sizeof text, "%s%s%s", before, fields, after) < (int)sizeof text);
    struct head *h = parse(text);
    CHECK(h != NULL);
    struct client c = client_of(h, peer, &t->list);
    head_unref(h);
    return c;
}

/* An untrusted client was named by a trusted proxy: nothing that was there before it can change that. */
static void check_forgeries(const struct head *h, const char *fields, const struct client *client,
                            const struct sockaddr_storage *peer, const struct trust *t)
{
    static const char *const forged[] = {
        "10.0.0.9",         "for=127.0.0.1",  "\"",      "\\\"", "for=\"",
        "for=9.9.9.9;x=\"", "\";for=9.9.9.9", "unknown", ",",
    };
    bool plain = has_field(h, "x-forwarded-for");
    const char *name = plain ? "x-forwarded-for" : "forwarded";
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        char line[64], longer[MAX_FIELDS];
        snprintf(line, sizeof line, "%s: %s\r\n", name, forged[i]);
        CHECK(same(*client, with(line, fields, "", peer, t)));
        int first = 1; /* behind Host */
        while (!named(h, first, name))
            first++;
        const char *value = head_bytes(h) + h->fields[first].value.at, *begin = head_bytes(h) + 25;
        const char *end = head_bytes(h) + h->nbytes - 2;
        CHECK(snprintf(longer, sizeof longer, "%.*s%s, %.*s", (int)(value - begin), begin, forged[i],
                       (int)(end - value), value) < (int)sizeof longer);
        CHECK(same(*client, with("", longer, "", peer, t)));
    }
    CHECK(!plain || same(*client, with("", fields, "Forwarded: for=9.9.9.9\r\n", peer, t)));
}

static void check(const char *fields, const struct sockaddr_storage *peer, const struct trust *t)
{
    struct head *h = parse(fields);
    if (h == NULL)
        return;
    static const struct trust nobody;
    struct client client = client_of(h, peer, &t->list);
    CHECK(same(client, expected(h, peer, t)));
    CHECK(!client_of(h, peer, &nobody.list).known);
    if (client.known && !trusts(t, &client.sa))
        check_forgeries(h, fields, &client, peer, t);
    bool plain = has_field(h, "x-forwarded-for");
    CHECK(!with("", fields, plain ? "X-Forwarded-For: _\r\n" : "Forwarded: for=_\r\n", peer, t).known);
    head_unref(h);
}

static struct sockaddr_storage peer_of(const char *text)
{
    struct sockaddr_storage sa = {.ss_family = strcmp(text, "unix:") == 0 ? AF_UNIX : AF_UNSPEC};
    if (!cidr_endpoint(AF_INET, text, strlen(text), NULL, 0, &sa))
        cidr_endpoint(AF_INET6, text, strlen(text), NULL, 0, &sa);
    return sa;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[MAX_INPUT + 1], fields[MAX_FIELDS];
    if (size > MAX_INPUT - 100 || memchr(data, '\0', size) != NULL)
        return 0;
    char *rest = copy(text, (const char *)data, size), *line, *item, *items = strsep(&rest, "\n");
    struct trust t = {.n = 0};
    for (int i = 0; i < MAX_RANGES && (item = strsep(&items, " ")) != NULL; i++)
        trust_add(&t, item);
    if (rest == NULL)
        return 0;
    struct sockaddr_storage peer = peer_of(strsep(&rest, "\n"));
    size_t len = 0;
    fields[0] = '\0';
    for (int i = 0; i < 30 && (line = strsep(&rest, "\n")) != NULL; i++)
        if (line[0] != '\0')
            len += (size_t)snprintf(fields + len, sizeof fields - len, "%s\r\n", line);
    check(fields, &peer, &t);
    return 0;
}
