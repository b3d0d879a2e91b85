/* SPDX-License-Identifier: MIT
 * The head of an HTTP/1.x request: the search for its end, strict parsing over llhttp, look-ups. */
#include "http/head.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/percent.h"
#include "net/tls.h"
#include <llhttp.h>

/* ---- finding the end ----
 *
 * FIRST --CRLF--> SECOND --CRLF--> THIRD      the empty lines before the request line
 *   |               |                |
 *   +------text-----+------text------+--> LINE --CRLF--> NEXT --CRLF--> END
 *                                          ^              |
 *                                          +-----text-----+
 * x_CR: only an LF may follow. */

enum scan_state {
    FIRST,
    FIRST_CR,
    SECOND,
    SECOND_CR,
    THIRD,
    LINE,
    LINE_CR,
    NEXT,
    NEXT_CR,
    END,
    HOPELESS,
};

enum scan_class { TEXT, CR, LF, CONTROL };

/* clang-format off */
static const uint8_t scan_moves[][4] = {
    /*             TEXT      CR         LF        CONTROL */
    [FIRST]     = {LINE,     FIRST_CR,  HOPELESS, HOPELESS},
    [FIRST_CR]  = {HOPELESS, HOPELESS,  SECOND,   HOPELESS},
    [SECOND]    = {LINE,     SECOND_CR, HOPELESS, HOPELESS},
    [SECOND_CR] = {HOPELESS, HOPELESS,  THIRD,    HOPELESS},
    [THIRD]     = {LINE,     HOPELESS,  HOPELESS, HOPELESS},
    [LINE]      = {LINE,     LINE_CR,   HOPELESS, HOPELESS},
    [LINE_CR]   = {HOPELESS, HOPELESS,  NEXT,     HOPELESS},
    [NEXT]      = {LINE,     NEXT_CR,   HOPELESS, HOPELESS},
    [NEXT_CR]   = {HOPELESS, HOPELESS,  END,      HOPELESS},
};
/* clang-format on */

static enum scan_class scan_class(unsigned char c)
{
    if (c == '\r')
        return CR;
    if (c == '\n')
        return LF;
    return (c < ' ' && c != '\t') || c == 0x7f ? CONTROL : TEXT;
}

/* Whether none of the eight bytes is below the blank or DEL: nearly all of a head, eight bytes at a time. */
static bool scan_plain_word(const char *at)
{
    const uint64_t ones = 0x0101010101010101;
    uint64_t word, is_del;
    memcpy(&word, at, sizeof word);
    is_del = word ^ (ones * 0x7f);
    return ((((word - ones * ' ') & ~word) | ((is_del - ones) & ~is_del)) & (ones * 0x80)) == 0;
}

long head_scan(struct head_scan *s, const char *data, size_t len)
{
    size_t at = s->at;
    uint8_t state = s->state;

    while (at < len && state < END) {
        if (state == LINE) {
            while (len - at >= 8 && scan_plain_word(data + at))
                at += 8;
            while (at < len && scan_class((unsigned char)data[at]) == TEXT)
                at++;
            if (at == len)
                break;
        }
        state = scan_moves[state][scan_class((unsigned char)data[at++])];
    }
    s->at = (uint32_t)at;
    s->state = state;
    return state == END ? (long)at : state == HOPELESS ? -400 : 0;
}

/* ---- small tools ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool head_is_token_char(char c)
{
    return is_alnum(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool same(const char *a, size_t len, const char *b, size_t b_len)
{
    return len == b_len && strncasecmp(a, b, len) == 0;
}

bool head_list_next(const char **at, const char *end, const char **element, size_t *len)
{
    while (*at < end && (**at == ',' || is_blank(**at)))
        ++*at;
    if (*at == end)
        return false;
    const char *comma = memchr(*at, ',', (size_t)(end - *at));
    const char *last = comma != NULL ? comma : end;
    *element = *at;
    *at = last;
    while (is_blank(last[-1]))
        last--;
    *len = (size_t)(last - *element);
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Whether this is a host with an optional port (RFC 3986, 3.2.2): no user name, no path, a port of digits.
 * What the host's characters add up to matters to nobody here. */
static bool host_is_plausible(const char *host, size_t len)
{
    const char *at = host, *end = host + len;
    bool literal = len > 0 && *host == '['; /* an IPv6 address, the only host with colons */
    at += literal;
    while (at < end && (is_alnum(*at) || (*at != '\0' && strchr("-._~%!$&'()*+,;=", *at) != NULL) ||
                        (literal && *at == ':')))
        at++;
    if (literal && (at == end || *at++ != ']'))
        return false;
    if (at < end && *at == ':')
        for (at++; at < end && is_digit(*at); at++)
            ;
    return at == end;
}

/* ---- parsing ---- */

enum seen {
    SEEN_HOST = 1,
    SEEN_LENGTH = 2,
    SEEN_CODING = 4,
    SEEN_ODD_CODING = 8, /* a Transfer-Encoding that does not say just "chunked" */
    SEEN_UPGRADE = 16,
    SEEN_CONTINUE = 32,
    WANTS_UPGRADE = 64,
    WANTS_CLOSE = 128,
    WANTS_KEEP_ALIVE = 256,
};

struct parse {
    const char *data;
    const char *end;
    const char *next; /* the line after the one being parsed */
    struct head_fault *fault;
    struct head_span method_name, target, path, query;
    struct head_span authority; /* of a target in the absolute form */
    uint8_t minor;
    unsigned seen; /* enum seen */
    unsigned nfields;
    struct head_field fields[HEAD_MAX_FIELDS];
};

static int refuse(struct parse *p, int status, const char *reason)
{
    p->fault->status = status;
    p->fault->reason = reason;
    return -1;
}

static struct head_span span(const struct parse *p, const char *from, const char *to)
{
    return (struct head_span){(uint16_t)(from - p->data), (uint16_t)(to - from)};
}

/* Says what is wrong with a request line that does not end in a version we speak. */
static int refuse_request_line(struct parse *p, const char *line, const char *eol)
{
    const char *first = memchr(line, ' ', (size_t)(eol - line));
    if (first == NULL || eol[-1] == ' ')
        return refuse(p, 400, "The first line is not an HTTP request line.");
    if (memchr(first + 1, ' ', (size_t)(eol - first - 1)) == NULL)
        return refuse(p, 505, "The request line has no HTTP version.");
    return refuse(p, 505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.");
}

/* Splits the request line. llhttp skips extra blanks and takes other protocols' names; here the line is
 * exactly: method, blank, target, blank, HTTP/1.0 or HTTP/1.1. */
static int split_request_line(struct parse *p)
{
    const char *line = p->next;
    const char *eol = memchr(line, '\r', (size_t)(p->end - line));
    p->next = eol + 2;
    if (eol - line < 9 || memcmp(eol - 9, " HTTP/1.", 8) != 0 || (eol[-1] != '0' && eol[-1] != '1'))
        return refuse_request_line(p, line, eol);
    const char *target_end = eol - 9;
    const char *method_end = memchr(line, ' ', (size_t)(eol - line));
    if (method_end + 1 >= target_end)
        return refuse(p, 400, "The request line has no target.");
    p->method_name = span(p, line, method_end);
    p->target = span(p, method_end + 1, target_end);
    p->minor = (uint8_t)(eol[-1] - '0');
    return 0;
}

/* The end of the scheme and authority of an absolute-form target, or NULL when it is none. */
static const char *skip_authority(const char *target, const char *end)
{
    static const char *const schemes[] = {"http://", "https://", "ws://", "wss://"};
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t len = strlen(schemes[i]);
        if ((size_t)(end - target) <= len || strncasecmp(target, schemes[i], len) != 0)
            continue;
        const char *host = target + len, *at = host;
        while (at < end && *at != '/' && *at != '?' && *at != '#')
            at++;
        return at > host && *host != ':' && host_is_plausible(host, (size_t)(at - host)) ? at : NULL;
    }
    return NULL;
}

/* Whether an escape in the path is one, and not of a NUL, which would cut the path short in C. */
static bool escape_is_good(const char *at, const char *end)
{
    char decoded[3];
    return end - at >= 3 && percent_decode(at, 3, decoded, false) == 1 && decoded[0] != '\0';
}

/* Checks path and query; *path_end is the first '?', or `end`. */
static int check_path(struct parse *p, const char *at, const char *end, const char **path_end)
{
    *path_end = NULL;
    for (; at < end; at++) {
        unsigned char c = (unsigned char)*at;
        if (c <= ' ' || c >= 0x7f)
            return refuse(p, 400, "The request target has a character that must be percent-encoded.");
        if (c == '#')
            return refuse(p, 400, "The request target has a fragment ('#').");
        if (*path_end != NULL)
            continue;
        if (c == '?')
            *path_end = at;
        else if (c == '%' && !escape_is_good(at, end))
            return refuse(p, 400, "The path has a percent escape that is malformed or stands for NUL.");
    }
    if (*path_end == NULL)
        *path_end = end;
    return 0;
}

static bool method_is(const struct parse *p, const char *name)
{
    return p->method_name.len == strlen(name) &&
           memcmp(p->data + p->method_name.at, name, p->method_name.len) == 0;
}

static int split_target(struct parse *p)
{
    const char *target = p->data + p->target.at;
    const char *end = target + p->target.len;
    const char *path = target, *path_end;

    if (method_is(p, "CONNECT"))
        return refuse(p, 501, "This server is no proxy: it does not support CONNECT.");
    if (p->target.len == 1 && *target == '*' && method_is(p, "OPTIONS")) {
        p->path = p->target;
        p->query = span(p, end, end);
        return 0;
    }
    if (*target != '/' && (path = skip_authority(target, end)) == NULL)
        return refuse(p, 400, "The request target is neither a path nor an http, https, ws or wss URL.");
    if (path > target)
        p->authority = span(p, (const char *)memchr(target, '/', p->target.len) + 2, path);
    if (check_path(p, path, end, &path_end) < 0)
        return -1;
    p->query = span(p, path_end < end ? path_end + 1 : end, end);
    if (path == path_end) { /* http://host has the path "/": the scheme lends its own */
        path = memchr(target, '/', p->target.len);
        path_end = path + 1;
    }
    p->path = span(p, path, path_end);
    return 0;
}

/* llhttp's own flags are no help for Connection: they hear Proxy-Connection too. */
static void note_connection(struct parse *p, const char *value, size_t value_len)
{
    const char *at = value, *element;
    size_t len;
    while (head_list_next(&at, value + value_len, &element, &len)) {
        if (same(element, len, "upgrade", 7))
            p->seen |= WANTS_UPGRADE;
        else if (same(element, len, "close", 5))
            p->seen |= WANTS_CLOSE;
        else if (same(element, len, "keep-alive", 10))
            p->seen |= WANTS_KEEP_ALIVE;
    }
}

static int note_host(struct parse *p, const char *value, size_t len)
{
    if (p->seen & SEEN_HOST)
        return refuse(p, 400, "The Host header is repeated.");
    if (!host_is_plausible(value, len))
        return refuse(p, 400, "The Host header has a character that no host has.");
    p->seen |= SEEN_HOST;
    return 0;
}

/* Notes the fields that decide about the message's length and the connection's fate. */
static int note_field(struct parse *p, const char *name, size_t name_len, const char *value, size_t len)
{
    switch (name_len) {
    case 4: return same(name, 4, "host", 4) ? note_host(p, value, len) : 0;
    case 6:
        if (same(name, 6, "expect", 6) && same(value, len, "100-continue", 12))
            p->seen |= SEEN_CONTINUE;
        return 0;
    case 7:
        if (same(name, 7, "upgrade", 7))
            p->seen |= SEEN_UPGRADE;
        return 0;
    case 10:
        if (same(name, 10, "connection", 10))
            note_connection(p, value, len);
        return 0;
    case 14:
        if (!same(name, 14, "content-length", 14))
            return 0;
        if (p->seen & SEEN_LENGTH)
            return refuse(p, 400, "The Content-Length header is repeated.");
        p->seen |= SEEN_LENGTH;
        return 0;
    case 17:
        if (same(name, 17, "transfer-encoding", 17))
            p->seen |= SEEN_CODING | (same(value, len, "chunked", 7) ? 0 : SEEN_ODD_CODING);
        return 0;
    default: return 0;
    }
}

/* llhttp has found a name and its colon. The value is taken from the line here and not from llhttp, which
 * joins folded lines: each name has to stand where the line before it ended. */
static int on_header_field(llhttp_t *parser, const char *name, size_t len)
{
    struct parse *p = parser->data;
    if (len == 0)
        return refuse(p, 400, "A header has no name.");
    if (name != p->next)
        return refuse(p, 400, "A header line is malformed.");
    if (p->nfields == HEAD_MAX_FIELDS)
        return refuse(p, 431, "The request has too many headers.");

    const char *value = name + len + 1;
    const char *eol = memchr(value, '\r', (size_t)(p->end - value));
    p->next = eol + 2;
    if (is_blank(*p->next))
        return refuse(p, 400, "A header is folded over two lines.");
    while (is_blank(*value))
        value++;
    while (eol > value && is_blank(eol[-1]))
        eol--;
    struct head_field *f = &p->fields[p->nfields++];
    *f = (struct head_field){span(p, name, name + len), span(p, value, eol)};
    if (note_field(p, name, len, value, (size_t)(eol - value)) < 0)
        return -1;
    if (p->authority.len > 0 && same(name, len, "host", 4)) /* RFC 9112, 3.2.2 */
        f->value = p->authority;
    return 0;
}

/* 2: the bytes after the head are not llhttp's. */
static int on_headers_complete(llhttp_t *parser)
{
    (void)parser;
    return 2;
}

static const llhttp_settings_t parse_settings = {
    .on_header_field = on_header_field,
    .on_headers_complete = on_headers_complete,
};

bool head_is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!head_is_token_char(text[i]))
            return false;
    return len > 0;
}

/* Says what is wrong with a header line whose name llhttp refused. */
static int refuse_header_line(struct parse *p)
{
    const char *at = p->next;
    if (is_blank(*at))
        return refuse(p, 400, "A header line begins with a blank.");
    while (head_is_token_char(*at))
        at++;
    if (*at == '\r')
        return refuse(p, 400, "A header line has no colon.");
    if (is_blank(*at))
        return refuse(p, 400, "There is a blank between a header's name and its colon.");
    return refuse(p, 400, "A header's name has a character that is not allowed there.");
}

/* Says in our words why llhttp stopped before the end. */
static int refuse_for_llhttp(struct parse *p, enum llhttp_errno error)
{
    switch (error) {
    case HPE_USER: return -1; /* a callback has said it */
    case HPE_INVALID_CONTENT_LENGTH:
        return refuse(p, 400, "The Content-Length is not a decimal number, or too large for one.");
    case HPE_UNEXPECTED_CONTENT_LENGTH:
        return refuse(p, 400, "Content-Length and Transfer-Encoding exclude each other.");
    case HPE_INVALID_TRANSFER_ENCODING:
        return refuse(p, 400, "The Transfer-Encoding does not end in \"chunked\", once.");
    case HPE_INVALID_URL: return refuse(p, 400, "The request target is malformed.");
    case HPE_INVALID_HEADER_TOKEN:
    case HPE_UNEXPECTED_SPACE: return refuse_header_line(p);
    default: /* llhttp has several codes for a method it does not know, or knows only from RTSP or HTTP/2 */
        if (head_is_token(p->data + p->method_name.at, p->method_name.len))
            return refuse(p, 501, "This server does not know the request's method.");
        return refuse(p, 400, "The request's method has a character that is not allowed there.");
    }
}

/* 501 for a list of codings that is sound but not ours, 400 for one that leaves the length open. That nothing
 * follows "chunked" is llhttp's care. */
static int refuse_codings(struct parse *p)
{
    bool has_other = false, ends_chunked = false;
    for (unsigned i = 0; i < p->nfields; i++) {
        const struct head_field *f = &p->fields[i];
        if (!same(p->data + f->name.at, f->name.len, "transfer-encoding", 17))
            continue;
        const char *at = p->data + f->value.at, *end = at + f->value.len, *element;
        size_t len;
        while (head_list_next(&at, end, &element, &len)) {
            ends_chunked = same(element, len, "chunked", 7);
            has_other |= !ends_chunked;
        }
    }
    if (has_other && ends_chunked)
        return refuse(p, 501, "No Transfer-Encoding other than \"chunked\" is supported.");
    return refuse(p, 400, "The Transfer-Encoding does not end in \"chunked\", once.");
}

/* What only the whole head can tell and llhttp does not. */
static int check_fields(struct parse *p)
{
    unsigned seen = p->seen;
    if (p->minor > 0 && !(seen & SEEN_HOST))
        return refuse(p, 400, "The Host header is missing.");
    if ((seen & SEEN_CODING) && p->minor == 0)
        return refuse(p, 400, "HTTP/1.0 has no Transfer-Encoding.");
    if (seen & SEEN_ODD_CODING)
        return refuse_codings(p);
    if ((seen & SEEN_UPGRADE) && (seen & WANTS_UPGRADE) && (seen & (SEEN_LENGTH | SEEN_CODING)))
        return refuse(p, 400, "A request that asks for an upgrade may not have a body.");
    return 0;
}

static uint8_t flags_of(const struct parse *p)
{
    unsigned seen = p->seen, flags = 0;
    if (!(seen & WANTS_CLOSE) && (p->minor > 0 || (seen & WANTS_KEEP_ALIVE)))
        flags |= HEAD_KEEP_ALIVE;
    if ((seen & SEEN_UPGRADE) && (seen & WANTS_UPGRADE))
        flags |= HEAD_UPGRADE;
    if (seen & SEEN_LENGTH)
        flags |= HEAD_CONTENT_LENGTH;
    if (seen & SEEN_CODING)
        flags |= HEAD_CHUNKED;
    if ((seen & SEEN_CONTINUE) && p->minor > 0)
        flags |= HEAD_EXPECT_CONTINUE;
    return (uint8_t)flags;
}

static int make_block(struct parse *p, const llhttp_t *parser, struct head **out)
{
    size_t fields_size = p->nfields * sizeof p->fields[0], nbytes = (size_t)(p->end - p->data);
    struct head *h = malloc(offsetof(struct head, fields) + fields_size + nbytes);
    if (h == NULL)
        return refuse(p, 500, "The server is out of memory.");
    *h = (struct head){
        .refs = 1,
        .content_length = parser->content_length,
        .target = p->target,
        .path = p->path,
        .query = p->query,
        .method_name = p->method_name,
        .nfields = (uint16_t)p->nfields,
        .nbytes = (uint16_t)nbytes,
        .method = parser->method,
        .minor = p->minor,
        .flags = flags_of(p),
    };
    memcpy(h->fields, p->fields, fields_size);
    memcpy(h->fields + p->nfields, p->data, nbytes);
    *out = h;
    return 0;
}

int head_parse(const char *data, size_t len, struct head **out, struct head_fault *fault)
{
    assert(len >= 4 && memcmp(data + len - 4, "\r\n\r\n", 4) == 0);
    struct parse p; /* the fields stay uninitialized: 2 KiB that most heads do not use */
    p.data = p.next = data;
    p.end = data + len;
    p.fault = fault;
    p.authority = (struct head_span){0, 0};
    p.seen = p.nfields = 0;

    if (len > HEAD_MAX_BYTES)
        return refuse(&p, 431, "The request head is too long.");
    while (*p.next == '\r')
        p.next += 2;
    if (split_request_line(&p) < 0 || split_target(&p) < 0)
        return -1;

    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &parse_settings);
    parser.data = &p;
    enum llhttp_errno error = llhttp_execute(&parser, data, len);
    if (error != HPE_PAUSED_UPGRADE)
        return refuse_for_llhttp(&p, error);
    if (llhttp_get_error_pos(&parser) != p.end || p.next != p.end - 2)
        return refuse(&p, 400, "A header line is malformed.");
    if (check_fields(&p) < 0)
        return -1;
    return make_block(&p, &parser, out);
}

struct head *head_ref(struct head *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
    return h;
}

void head_unref(struct head *h)
{
    if (h == NULL || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
        return;
    tls_facts_unref(h->tls);
    free(h);
}

/* ---- the peer's address ---- */

void head_set_remote(struct head *h, const struct sockaddr *sa)
{
    h->remote_family = (uint8_t)sa->sa_family;
    h->remote_port = 0;
    memset(h->remote_ip, 0, sizeof h->remote_ip);
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        h->remote_port = ntohs(in.sin_port);
        memcpy(h->remote_ip, &in.sin_addr, 4);
    } else if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        h->remote_port = ntohs(in6.sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
            h->remote_family = AF_INET;
            memcpy(h->remote_ip, in6.sin6_addr.s6_addr + 12, 4);
        } else {
            memcpy(h->remote_ip, &in6.sin6_addr, 16);
        }
    }
}

void head_remote_text(const struct head *h, char *out, size_t size)
{
    const char *text = NULL;
    if (h->remote_family == AF_INET || h->remote_family == AF_INET6)
        text = inet_ntop(h->remote_family, h->remote_ip, out, (socklen_t)size);
    if (text == NULL)
        snprintf(out, size, "%s", h->remote_family == AF_UNIX ? "unix:" : "");
}

/* ---- look-ups ---- */

const char *head_bytes(const struct head *h)
{
    return (const char *)(h->fields + h->nfields);
}

int head_find(const struct head *h, const char *name, size_t name_len, int from)
{
    const char *bytes = head_bytes(h);
    for (int i = from; i < h->nfields; i++)
        if (same(bytes + h->fields[i].name.at, h->fields[i].name.len, name, name_len))
            return i;
    return -1;
}

bool head_single(const struct head *h, const char *name, const char **value, size_t *len)
{
    size_t name_len = strlen(name);
    int i = head_find(h, name, name_len, 0);
    if (i < 0 || head_find(h, name, name_len, i + 1) >= 0)
        return false;
    *value = head_bytes(h) + h->fields[i].value.at;
    *len = h->fields[i].value.len;
    return true;
}

bool head_has_token(const struct head *h, const char *name, const char *token)
{
    size_t name_len = strlen(name), token_len = strlen(token), len;
    for (int i = head_find(h, name, name_len, 0); i >= 0; i = head_find(h, name, name_len, i + 1)) {
        const char *at = head_bytes(h) + h->fields[i].value.at, *element;
        const char *end = at + h->fields[i].value.len;
        while (head_list_next(&at, end, &element, &len))
            if (same(element, len, token, token_len))
                return true;
    }
    return false;
}
