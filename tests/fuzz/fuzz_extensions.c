/* SPDX-License-Identifier: MIT
 * The Sec-WebSocket-Extensions field and what is negotiated with it, against a second opinion that checks the
 * whole list with one regular expression and then cuts it at its separators, whatever is quoted.
 *
 * The input is lines: what the one side and what the other wants, such as "SC9f-" (S, C: without the server's
 * or the client's context; two digits: their windows in hex; -: nothing), then the values of the fields. */
#include <regex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ws/extensions.h"

#include "check.h"

#define MAX_INPUT  700
#define MAX_FIELDS 20
#define MAX_JOINED (MAX_INPUT + 2 * MAX_FIELDS)
#define FIELD      "Sec-WebSocket-Extensions: "

/* ---- a second reading of a list ---- */

#define CHAR  "[!#$%&'*+.^_`|~0-9A-Za-z-]"
#define B     "[ \t]*"
#define VALUE "(" CHAR "+|\"(\\\\?" CHAR ")+\")"
#define ONE   CHAR "+(" B ";" B CHAR "+(" B "=" B VALUE ")?)*"

static bool conforms(const char *text)
{
    static regex_t whole;
    static bool is_compiled;
    if (!is_compiled)
        CHECK(regcomp(&whole, "^[ \t,]*" ONE "(" B ",[ \t,]*" ONE ")*[ \t,]*$", REG_EXTENDED | REG_NOSUB) ==
              0);
    is_compiled = true;
    return regexec(&whole, text, 0, NULL, 0) == 0;
}

static const char *const names[] = {"server_no_context_takeover", "client_no_context_takeover",
                                    "server_max_window_bits", "client_max_window_bits"};

/* One extension of a list that conforms: how often each parameter is there, and its last value. */
struct element {
    bool deflate, strange;
    int times[4];
    int value[4]; /* -1: none; 0: not a window */
};

struct reading {
    bool conforms;
    int n, params;
    struct element elements[MAX_JOINED];
};

static int window_of(const char *value)
{
    static const char *const windows[] = {"8", "9", "10", "11", "12", "13", "14", "15"};
    for (int i = 0; value != NULL && i < 8; i++)
        if (strcmp(value, windows[i]) == 0)
            return 8 + i;
    return value == NULL ? -1 : 0;
}

static void read_element(struct reading *r, char *text)
{
    struct element *e = &r->elements[r->n++];
    *e = (struct element){.deflate = strcmp(strsep(&text, ";"), "permessage-deflate") == 0};
    for (char *param; (param = strsep(&text, ";")) != NULL; r->params++) {
        int i = 0;
        const char *name = strsep(&param, "=");
        while (i < 4 && strcmp(name, names[i]) != 0)
            i++;
        e->strange |= i == 4;
        if (i < 4) {
            e->times[i]++;
            e->value[i] = window_of(param);
        }
    }
}

/* In a list that conforms, what is quoted says a token: so no separator means anything else than that, and
 * quotes, backslashes and blanks mean nothing. */
static const struct reading *read_list(const char *text)
{
    static struct reading r;
    char bare[MAX_JOINED + 1], *rest = bare, *item;
    size_t len = 0;
    r.n = r.params = 0;
    r.conforms = conforms(text);
    if (!r.conforms)
        return &r;
    for (; *text != '\0'; text++)
        if (strchr("\"\\ \t", *text) == NULL)
            bare[len++] = *text;
    bare[len] = '\0';
    while ((item = strsep(&rest, ",")) != NULL)
        if (item[0] != '\0')
            read_element(&r, item);
    r.conforms = r.n <= 64 && r.params <= 64;
    return &r;
}

static bool sound(const struct element *e)
{
    bool twice = e->times[0] > 1 || e->times[1] > 1 || e->times[2] > 1 || e->times[3] > 1;
    bool valued = (e->times[0] && e->value[0] >= 0) || (e->times[1] && e->value[1] >= 0);
    return !e->strange && !twice && !valued && (!e->times[2] || e->value[2] > 0) &&
           (!e->times[3] || e->value[3] != 0);
}

/* ---- what is negotiated ---- */

static bool same(const struct extensions_terms *a, const struct extensions_terms *b)
{
    return a->deflate == b->deflate && a->server_takeover == b->server_takeover &&
           a->client_takeover == b->client_takeover && a->server_bits == b->server_bits &&
           a->client_bits == b->client_bits;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* An answer says what the offer lets it say, and as much as the terms need. */
static void check_answer(const struct element *offer, const struct extensions_terms *want,
                         const struct extensions_terms *agreed, const char *answer)
{
    const struct reading *r = read_list(answer);
    const struct element *e = &r->elements[0];
    CHECK(r->conforms && r->n == 1 && e->deflate && sound(e) && strpbrk(answer, "\"\\\t,") == NULL);
    CHECK(e->times[0] == (offer->times[0] || !want->server_takeover));
    CHECK(e->times[1] == (offer->times[1] || !want->client_takeover));
    CHECK(agreed->server_takeover == !e->times[0] && agreed->client_takeover == !e->times[1]);

    int most = offer->times[2] ? offer->value[2] : 15;
    CHECK(agreed->server_bits == least(most, want->server_bits));
    CHECK(e->times[2] == (offer->times[2] || want->server_bits < 15));
    CHECK(!e->times[2] || e->value[2] == agreed->server_bits);

    most = offer->times[3] && offer->value[3] > 0 ? offer->value[3] : 15;
    CHECK(agreed->client_bits == (offer->times[3] ? least(most, want->client_bits) : 15));
    CHECK(e->times[3] == (offer->times[3] && (offer->value[3] > 0 || want->client_bits < 15)));
    CHECK(!e->times[3] || e->value[3] == agreed->client_bits);
}

static void check_server(const struct head *h, const char *joined, const struct extensions_terms *want)
{
    const struct reading *r = read_list(joined);
    struct extensions_terms agreed;
    char answer[EXTENSIONS_TEXT_MAX];
    bool any = head_find(h, FIELD, sizeof FIELD - 3, 0) >= 0;
    CHECK(extensions_valid(h) == (!any || r->conforms));
    bool accepted = extensions_accept(h, want, &agreed, answer);
    CHECK(accepted == agreed.deflate && accepted == (answer[0] != '\0'));
    int i = 0;
    while (i < r->n && !(r->elements[i].deflate && sound(&r->elements[i])))
        i++;
    CHECK(accepted == (want->deflate && r->conforms && i < r->n));
    if (accepted) {
        struct element offer = r->elements[i];
        check_answer(&offer, want, &agreed, answer);
    }
}

static bool may_answer(const struct reading *r, const struct extensions_terms *offered)
{
    const struct element *e = &r->elements[0];
    return r->conforms && r->n == 1 && e->deflate && offered->deflate && sound(e) &&
           (offered->server_takeover || e->times[0]) &&
           (offered->server_bits == 15 || (e->times[2] && e->value[2] <= offered->server_bits)) &&
           (!e->times[3] || e->value[3] > 0);
}

static void check_client(const char *joined, const struct extensions_terms *offered)
{
    size_t len = strlen(joined);
    char *exact = malloc(len + 1);
    CHECK(exact != NULL);
    memcpy(exact + 1, joined, len);
    struct extensions_terms agreed;
    const char *fault = extensions_agree(offered, exact + 1, len, &agreed);
    free(exact);
    const struct reading *r = read_list(joined);
    const struct element *e = &r->elements[0];
    bool good = may_answer(r, offered);
    CHECK((fault == NULL) == (good || len == 0));
    CHECK(agreed.deflate == good);
    if (!good)
        return;
    CHECK(agreed.server_takeover == !e->times[0]);
    CHECK(agreed.client_takeover == (offered->client_takeover && !e->times[1]));
    CHECK(agreed.server_bits == (e->times[2] ? e->value[2] : 15));
    CHECK(agreed.client_bits == least(e->times[3] ? e->value[3] : 15, offered->client_bits));
}

static struct head *parse(const char *fields)
{
    static char text[MAX_INPUT + MAX_FIELDS * (sizeof FIELD + 2) + 100];
    struct head *h = NULL;
    struct head_scan scan = {0};
    struct head_fault fault;
    long len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    CHECK(len < (long)sizeof text);
    if (head_scan(&scan, text, (size_t)len) != len || head_parse(text, (size_t)len, &h, &fault) < 0)
        return NULL;
    return h;
}

/* The two sides agree when both are ours, on what both can do. */
static void check_both(const struct extensions_terms *client, const struct extensions_terms *server)
{
    char offer[EXTENSIONS_TEXT_MAX], answer[EXTENSIONS_TEXT_MAX],
        field[EXTENSIONS_TEXT_MAX + sizeof FIELD + 2];
    struct extensions_terms at_server, at_client;
    extensions_offer(client, offer);
    CHECK(client->deflate == (offer[0] != '\0'));
    if (!client->deflate)
        return;
    const struct reading *r = read_list(offer);
    const struct element *e = &r->elements[0];
    CHECK(r->conforms && r->n == 1 && e->deflate && sound(e) && e->times[3]);
    CHECK(e->times[0] == !client->server_takeover && e->times[1] == !client->client_takeover);
    CHECK(e->times[2] ? e->value[2] == client->server_bits && e->value[2] < 15 : client->server_bits == 15);
    CHECK(e->value[3] > 0 ? e->value[3] == client->client_bits && e->value[3] < 15
                          : client->client_bits == 15);
    snprintf(field, sizeof field, FIELD "%s\r\n", offer);
    struct head *h = parse(field);
    CHECK(h != NULL);
    CHECK(extensions_accept(h, server, &at_server, answer) == server->deflate);
    CHECK(extensions_agree(client, answer, strlen(answer), &at_client) == NULL);
    CHECK(same(&at_server, &at_client));
    struct extensions_terms both = {
        true,
        client->server_takeover && server->server_takeover,
        client->client_takeover && server->client_takeover,
        (uint8_t)least(client->server_bits, server->server_bits),
        (uint8_t)least(client->client_bits, server->client_bits),
    };
    CHECK(!server->deflate || same(&at_server, &both));
    head_unref(h);
}

static struct extensions_terms terms_of(const char *text)
{
    struct extensions_terms t = {true, true, true, 15, 15};
    int windows = 0;
    for (; text != NULL && *text != '\0'; text++) {
        const char *digit = strchr("89abcdef", *text);
        t.deflate &= *text != '-';
        t.server_takeover &= *text != 'S';
        t.client_takeover &= *text != 'C';
        if (digit != NULL)
            *(windows++ == 0 ? &t.server_bits : &t.client_bits) = (uint8_t)(8 + (digit - "89abcdef"));
    }
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[MAX_INPUT + 1],
        joined[MAX_JOINED + 1] = "", fields[MAX_INPUT + MAX_FIELDS * (sizeof FIELD + 2) + 1] = "";
    if (size > MAX_INPUT || memchr(data, '\0', size) != NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    char *rest = text, *line;
    struct extensions_terms one = terms_of(strsep(&rest, "\n")), other = terms_of(strsep(&rest, "\n"));
    size_t joined_len = 0, fields_len = 0;
    for (int i = 0; i < MAX_FIELDS && (line = strsep(&rest, "\n")) != NULL; i++) {
        joined_len += (size_t)snprintf(joined + joined_len, sizeof joined - joined_len, "%s%s",
                                       i > 0 ? ", " : "", line);
        fields_len += (size_t)snprintf(fields + fields_len, sizeof fields - fields_len, FIELD "%s\r\n", line);
    }
    struct head *h = parse(fields);
    if (h != NULL) {
        check_server(h, joined, &one);
        check_server(h, joined, &other);
    }
    head_unref(h);
    check_client(joined, &one);
    check_client(joined, &other);
    check_both(&one, &other);
    return 0;
}
