/* SPDX-License-Identifier: MIT
 * The Sec-WebSocket-Extensions field, and the negotiation of permessage-deflate. */
#include "ws/extensions.h"

#include <stdio.h>
#include <string.h>

#define FIELD    "Sec-WebSocket-Extensions"
#define DEFLATE  "permessage-deflate"
#define MIN_BITS 8
#define MAX_BITS 15

struct text {
    const char *at, *end;
};

/* The parameters of permessage-deflate (RFC 7692, 7.1.1 and 7.1.2), in the order in which they are written.
 */
enum param_id { SERVER_NO_TAKEOVER, CLIENT_NO_TAKEOVER, SERVER_BITS, CLIENT_BITS, PARAMS };

static const char *const param_names[PARAMS] = {
    [SERVER_NO_TAKEOVER] = "server_no_context_takeover",
    [CLIENT_NO_TAKEOVER] = "client_no_context_takeover",
    [SERVER_BITS] = "server_max_window_bits",
    [CLIENT_BITS] = "client_max_window_bits",
};

struct param {
    bool given;
    uint8_t bits; /* its value, 8 to 15; 0 without one */
};

/* One element of the list, and what its parameters say when it is permessage-deflate. */
struct extension {
    bool is_deflate;
    const char *fault; /* NULL, or what is wrong with its parameters, as a client says it */
    struct param params[PARAMS];
};

/* ---- reading (RFC 6455, 9.1) ---- */

struct list {
    struct text rest;
    unsigned extensions, params; /* seen so far */
};

static bool take(struct text *t, char c)
{
    bool found = t->at < t->end && *t->at == c;
    if (found)
        t->at++;
    return found;
}

static void skip_blanks(struct text *t)
{
    while (take(t, ' ') || take(t, '\t'))
        ;
}

static bool take_token(struct text *t, struct text *token)
{
    token->at = t->at;
    while (t->at < t->end && head_is_token_char(*t->at))
        t->at++;
    token->end = t->at;
    return token->at < token->end;
}

static bool is(struct text t, const char *word)
{
    size_t len = (size_t)(t.end - t.at);
    return len == strlen(word) && memcmp(t.at, word, len) == 0;
}

/* Takes a token or a quoted text that says one, which is the same to the reader. *bits becomes the number
 * when it is one from 8 to 15 without leading zeros, else 0. */
static bool take_value(struct text *t, uint8_t *bits)
{
    bool quoted = take(t, '"');
    unsigned len = 0, number = 0;
    for (;; len++) {
        bool escaped = quoted && take(t, '\\');
        if (t->at == t->end || !head_is_token_char(*t->at)) {
            if (escaped)
                return false;
            break;
        }
        unsigned digit = (unsigned)(*t->at++ - '0');
        bool hopeless = digit > 9 || number > MAX_BITS || (digit == 0 && len == 0);
        number = hopeless ? MAX_BITS + 1 : number * 10 + digit;
    }
    *bits = number >= MIN_BITS && number <= MAX_BITS ? (uint8_t)number : 0;
    return len > 0 && (!quoted || take(t, '"'));
}

/* RFC 7692, 7.1. */
static void note_param(struct extension *e, struct text name, bool has_value, uint8_t bits)
{
    int id = 0;
    while (id < PARAMS && !is(name, param_names[id]))
        id++;
    if (id == PARAMS) {
        e->fault = "The server's permessage-deflate has a parameter that does not exist.";
        return;
    }
    bool may_have = id == SERVER_BITS || id == CLIENT_BITS, must_have = id == SERVER_BITS;
    if (e->params[id].given)
        e->fault = "The server's permessage-deflate has a parameter twice.";
    else if (has_value ? !may_have || bits == 0 : must_have)
        e->fault = "The server's permessage-deflate has a parameter with a wrong value.";
    e->params[id] = (struct param){.given = true, .bits = bits};
}

static bool read_param(struct list *l, struct extension *e)
{
    struct text name;
    uint8_t bits = 0;
    skip_blanks(&l->rest);
    if (!take_token(&l->rest, &name) || ++l->params > EXTENSIONS_MAX_LISTED)
        return false;
    skip_blanks(&l->rest);
    bool has_value = take(&l->rest, '=');
    if (has_value) {
        skip_blanks(&l->rest);
        if (!take_value(&l->rest, &bits))
            return false;
        skip_blanks(&l->rest);
    }
    if (e->is_deflate)
        note_param(e, name, has_value, bits);
    return true;
}

/* 1 with the next extension, 0 at the end, -1 when the list is malformed or too long. */
static int read_extension(struct list *l, struct extension *e)
{
    struct text name;
    do
        skip_blanks(&l->rest);
    while (take(&l->rest, ','));
    if (l->rest.at == l->rest.end)
        return 0;
    if (!take_token(&l->rest, &name) || ++l->extensions > EXTENSIONS_MAX_LISTED)
        return -1;
    *e = (struct extension){.is_deflate = is(name, DEFLATE)};
    skip_blanks(&l->rest);
    while (take(&l->rest, ';'))
        if (!read_param(l, e))
            return -1;
    return l->rest.at == l->rest.end || *l->rest.at == ',' ? 1 : -1;
}

/* The list of all the fields of a request. No element goes over the end of a field: neither a token nor a
 * quoted text that says one may hold the comma that joins two fields. */
struct walk {
    const struct head *h;
    int field;
    struct list list;
};

static struct walk walk_start(const struct head *h)
{
    return (struct walk){.h = h, .field = -1};
}

/* As read_extension; not to be called again after its end. */
static int walk_next(struct walk *w, struct extension *e)
{
    for (;;) {
        int found = read_extension(&w->list, e);
        if (found != 0)
            return found;
        w->field = head_find(w->h, FIELD, sizeof FIELD - 1, w->field + 1);
        if (w->field < 0)
            return 0;
        struct head_span value = w->h->fields[w->field].value;
        w->list.rest.at = head_bytes(w->h) + value.at;
        w->list.rest.end = w->list.rest.at + value.len;
    }
}

bool extensions_valid(const struct head *h)
{
    struct walk w = walk_start(h);
    struct extension e;
    int found;
    while ((found = walk_next(&w, &e)) > 0)
        ;
    return found == 0 && (w.list.extensions > 0 || head_find(h, FIELD, sizeof FIELD - 1, 0) < 0);
}

/* ---- writing ---- */

static void write_deflate(const struct param params[PARAMS], char out[EXTENSIONS_TEXT_MAX])
{
    size_t len = (size_t)snprintf(out, EXTENSIONS_TEXT_MAX, "%s", DEFLATE);
    for (int id = 0; id < PARAMS; id++) {
        const struct param *p = &params[id];
        if (p->given)
            len += (size_t)snprintf(out + len, EXTENSIONS_TEXT_MAX - len, "; %s", param_names[id]);
        if (p->given && p->bits > 0)
            len += (size_t)snprintf(out + len, EXTENSIONS_TEXT_MAX - len, "=%u", p->bits);
    }
}

/* ---- the server ---- */

/* The window for an offer: without a value in it, the largest. */
static uint8_t narrower(struct param offer, uint8_t want)
{
    return offer.bits > 0 && offer.bits < want ? offer.bits : want;
}

static struct extensions_terms meet(const struct extension *offer, const struct extensions_terms *want)
{
    const struct param *p = offer->params;
    return (struct extensions_terms){
        .deflate = true,
        .server_takeover = want->server_takeover && !p[SERVER_NO_TAKEOVER].given,
        .client_takeover = want->client_takeover && !p[CLIENT_NO_TAKEOVER].given,
        .server_bits = narrower(p[SERVER_BITS], want->server_bits),
        .client_bits = p[CLIENT_BITS].given ? narrower(p[CLIENT_BITS], want->client_bits) : MAX_BITS,
    };
}

/* A window of 15 bits is what is spoken when nothing is said about it; yet an offer of server_max_window_bits
 * is accepted only by naming it (RFC 7692, 7.1.2.1), and one of client_max_window_bits with a value is
 * answered likewise. */
static void write_answer(const struct extension *offer, const struct extensions_terms *t,
                         char answer[EXTENSIONS_TEXT_MAX])
{
    const struct param *p = offer->params;
    write_deflate(
        (const struct param[PARAMS]){
            [SERVER_NO_TAKEOVER] = {!t->server_takeover, 0},
            [CLIENT_NO_TAKEOVER] = {!t->client_takeover, 0},
            [SERVER_BITS] = {p[SERVER_BITS].given || t->server_bits < MAX_BITS, t->server_bits},
            [CLIENT_BITS] = {p[CLIENT_BITS].bits > 0 || t->client_bits < MAX_BITS, t->client_bits},
        },
        answer);
}

bool extensions_accept(const struct head *h, const struct extensions_terms *want,
                       struct extensions_terms *agreed, char answer[EXTENSIONS_TEXT_MAX])
{
    struct walk w = walk_start(h);
    struct extension e;
    bool wanted = want->deflate && extensions_valid(h);
    while (wanted && walk_next(&w, &e) > 0)
        if (e.is_deflate && e.fault == NULL) {
            *agreed = meet(&e, want);
            write_answer(&e, agreed, answer);
            return true;
        }
    *agreed = (struct extensions_terms){.deflate = false};
    answer[0] = '\0';
    return false;
}

/* ---- the client ---- */

void extensions_offer(const struct extensions_terms *want, char out[EXTENSIONS_TEXT_MAX])
{
    out[0] = '\0';
    if (!want->deflate)
        return;
    write_deflate(
        (const struct param[PARAMS]){
            [SERVER_NO_TAKEOVER] = {!want->server_takeover, 0},
            [CLIENT_NO_TAKEOVER] = {!want->client_takeover, 0},
            [SERVER_BITS] = {want->server_bits < MAX_BITS, want->server_bits},
            [CLIENT_BITS] = {true, want->client_bits < MAX_BITS ? want->client_bits : 0},
        },
        out);
}

/* The answer names nothing but what was offered, and that once (RFC 6455, 4.1 and 9.1; RFC 7692, 5). */
static const char *read_answer(struct text value, bool offered, struct extension *deflate)
{
    struct list l = {.rest = value};
    struct extension e;
    int found;
    while ((found = read_extension(&l, &e)) > 0) {
        if (!e.is_deflate || !offered)
            return "The server speaks an extension that was not offered.";
        if (deflate->is_deflate)
            return "The server answers with permessage-deflate twice.";
        *deflate = e;
    }
    if (found < 0 || l.extensions == 0)
        return "The server's Sec-WebSocket-Extensions header is malformed.";
    return deflate->fault;
}

/* RFC 7692, 7.1.1.1, 7.1.2.1 and 7.1.2.2: what was asked of the server is in its answer. */
static const char *check_answer(const struct extension *e, const struct extensions_terms *offered)
{
    const struct param *p = e->params;
    if (!offered->server_takeover && !p[SERVER_NO_TAKEOVER].given)
        return "The server's answer lacks server_no_context_takeover, which was asked for.";
    if (offered->server_bits < MAX_BITS && !p[SERVER_BITS].given)
        return "The server's answer lacks server_max_window_bits, which was asked for.";
    if (p[SERVER_BITS].given && p[SERVER_BITS].bits > offered->server_bits)
        return "The server's answer has a larger server_max_window_bits than was asked for.";
    if (p[CLIENT_BITS].given && p[CLIENT_BITS].bits == 0)
        return "The server's answer has client_max_window_bits without a value.";
    return NULL;
}

const char *extensions_agree(const struct extensions_terms *offered, const char *value, size_t len,
                             struct extensions_terms *agreed)
{
    struct extension e = {.is_deflate = false};
    struct extensions_terms terms = {.deflate = false};
    const char *fault = NULL;
    if (len > 0)
        fault = read_answer((struct text){value, value + len}, offered->deflate, &e);
    if (fault == NULL && e.is_deflate)
        fault = check_answer(&e, offered);
    if (fault == NULL && e.is_deflate) {
        terms = meet(&e, offered);
        terms.client_bits = narrower(e.params[CLIENT_BITS], offered->client_bits);
    }
    *agreed = terms;
    return fault;
}
