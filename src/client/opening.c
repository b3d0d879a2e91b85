/* SPDX-License-Identifier: MIT
 * The client's side of the opening handshake. */
#include "client/opening.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "ws/subprotocol.h"
#include "ws/upgrade.h"
#include <llhttp.h>

#define KEY_BYTES   16
#define INTERIM_MAX 4   /* answers before the real one */
#define QUOTE_MAX   100 /* bytes of the peer's, or of an option, in a message */
#define USER_MAX    1024

static bool is(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

/* Copies what is printable, with a '?' for every other byte, as far as a message is to quote it. */
static const char *quote(char out[QUOTE_MAX + 4], const char *text, size_t len)
{
    size_t n = len < QUOTE_MAX ? len : QUOTE_MAX;
    for (size_t i = 0; i < n; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    memcpy(out + n, n < len ? "..." : "", n < len ? 4 : 1);
    return out;
}

/* ---- the URL ---- */

static const struct {
    const char *name;
    bool tls;
} schemes[] = {{"ws://", false}, {"wss://", true}, {"http://", false}, {"https://", true}};

/* The URL behind its scheme; NULL when that is none of ours. */
static const char *skip_scheme(const char *url, bool *tls)
{
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t len = strlen(schemes[i].name);
        if (strncasecmp(url, schemes[i].name, len) == 0) {
            *tls = schemes[i].tls;
            return url + len;
        }
    }
    return NULL;
}

static int refuse_url(struct err *e, const char *why)
{
    return err_set(e, "bad URL: %s", why);
}

/* The part as a string of the heap for curl_free; NULL when there is none, or no memory. */
static char *url_part(const struct opening *o, CURLUPart part, unsigned flags, CURLUcode *rc)
{
    char *text = NULL;
    *rc = curl_url_get(o->url, part, &text, flags);
    return text;
}

static int take_host(struct opening *o, struct err *e)
{
    CURLUcode rc;
    char *host = url_part(o, CURLUPART_HOST, 0, &rc);
    size_t len = host != NULL ? strlen(host) : 0;
    if (host == NULL)
        return refuse_url(e, curl_url_strerror(rc));
    for (size_t i = 0; i < len; i++)
        if (host[i] <= ' ' || host[i] > '~') {
            curl_free(host);
            return refuse_url(e, "the host is not ASCII; write it in its form that begins with xn--");
        }
    o->literal_v6 = host[0] == '[';
    o->host = strndup(host + o->literal_v6, len - 2 * o->literal_v6);
    curl_free(host);
    return o->host != NULL ? 0 : err_set(e, "out of memory");
}

static int take_port(struct opening *o, struct err *e)
{
    CURLUcode rc;
    char *port = url_part(o, CURLUPART_PORT, CURLU_DEFAULT_PORT, &rc);
    if (port == NULL)
        return refuse_url(e, curl_url_strerror(rc));
    o->port = (uint16_t)strtoul(port, NULL, 10);
    curl_free(port);
    return o->port != 0 ? 0 : refuse_url(e, "port 0");
}

/* TLS is ours, not libcurl's. */
static int hide_tls(struct opening *o, struct err *e)
{
    char port[8];
    snprintf(port, sizeof port, "%u", o->port);
    if (!o->tls || (curl_url_set(o->url, CURLUPART_PORT, port, 0) == CURLUE_OK &&
                    curl_url_set(o->url, CURLUPART_SCHEME, "http", 0) == CURLUE_OK))
        return 0;
    return err_set(e, "out of memory");
}

static int take_url(struct opening *o, const char *url, struct err *e)
{
    char quoted[QUOTE_MAX + 4];
    struct buf text = BUF_INIT;
    const char *rest = skip_scheme(url, &o->tls);
    if (rest == NULL)
        return err_set(e, "bad URL \"%s\": it must begin with ws:// or wss://",
                       quote(quoted, url, strlen(url)));
    if (strchr(url, '#') != NULL) /* RFC 6455, 3 */
        return refuse_url(e, "a WebSocket's has no fragment ('#')");
    if (strchr(url, ' ') != NULL)
        return refuse_url(e, "it has a blank; write it as %20");
    if (*rest == '/' || *rest == '\0')
        return refuse_url(e, "it has no host");
    o->url = curl_url();
    if (o->url == NULL || buf_puts(&text, o->tls ? "https://" : "http://") < 0 ||
        buf_append(&text, rest, strlen(rest) + 1) < 0) {
        buf_fini(&text);
        return err_set(e, "out of memory");
    }
    CURLUcode rc = curl_url_set(o->url, CURLUPART_URL, text.data, CURLU_URLENCODE);
    buf_fini(&text);
    if (rc != CURLUE_OK)
        return refuse_url(e, curl_url_strerror(rc));
    return take_host(o, e) < 0 || take_port(o, e) < 0 ? -1 : hide_tls(o, e);
}

/* ---- what is asked for ---- */

static int refuse_field(struct err *e, const struct opening_field *f, const char *why)
{
    char quoted[QUOTE_MAX + 4];
    return err_set(e, "header \"%s\" %s", quote(quoted, f->name, f->name_len), why);
}

/* Those are the handshake's own, or tell of a body, which it has not (RFC 6455, 4.1). */
static bool field_is_ours(const struct opening_field *f)
{
    static const char *const names[] = {"Connection", "Upgrade", "Content-Length", "Transfer-Encoding"};
    static const char prefix[] = "Sec-WebSocket-";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (is(f->name, f->name_len, names[i]))
            return true;
    return f->name_len >= sizeof prefix - 1 && strncasecmp(f->name, prefix, sizeof prefix - 1) == 0;
}

static int check_field(const struct opening_field *f, struct err *e)
{
    if (!head_is_token(f->name, f->name_len))
        return refuse_field(e, f, "has a name that is not a token (RFC 9110, 5.6.2)");
    if (field_is_ours(f))
        return refuse_field(e, f, "belongs to the handshake and cannot be given");
    for (size_t i = 0; i < f->value_len; i++) {
        unsigned char c = (unsigned char)f->value[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return refuse_field(e, f, "has a control character in its value");
    }
    return 0;
}

static int check_fields(const struct opening_options *options, struct err *e)
{
    for (size_t i = 0; i < options->nfields; i++)
        if (check_field(&options->fields[i], e) < 0)
            return -1;
    return 0;
}

/* RFC 6455, 4.1, item 10 of the request: different tokens. */
static int check_protocols(const struct opening_options *options, struct err *e)
{
    char quoted[QUOTE_MAX + 4];
    if (options->nprotocols > SUBPROTOCOL_MAX_OFFERS)
        return err_set(e, "more than %d protocols", SUBPROTOCOL_MAX_OFFERS);
    for (size_t i = 0; i < options->nprotocols; i++) {
        const char *name = options->protocols[i];
        quote(quoted, name, strlen(name));
        if (!head_is_token(name, strlen(name)))
            return err_set(e, "protocol \"%s\" is not a token (RFC 9110, 5.6.2)", quoted);
        for (size_t k = 0; k < i; k++)
            if (strcmp(name, options->protocols[k]) == 0)
                return err_set(e, "protocol \"%s\" is given twice", quoted);
    }
    return 0;
}

static bool has_field(const struct opening_options *options, const char *name)
{
    for (size_t i = 0; i < options->nfields; i++)
        if (is(options->fields[i].name, options->fields[i].name_len, name))
            return true;
    return false;
}

/* ---- the request ---- */

/* RFC 7617, 2: no control characters, and no colon in the user name. */
static bool user_is_sound(const char *user, const char *password)
{
    if (user == NULL || password == NULL || strchr(user, ':') != NULL)
        return false;
    for (int i = 0; i < 2; i++)
        for (const char *at = i == 0 ? user : password; *at != '\0'; at++)
            if ((unsigned char)*at < ' ' || *at == 0x7f)
                return false;
    return strlen(user) + strlen(password) < USER_MAX;
}

/* "user:password" in base64. Percent escapes stand for bytes; a missing part is an empty one. */
static int put_user(struct buf *out, const char *user, const char *password)
{
    char text[USER_MAX + 2];
    unsigned char coded[sizeof text * 4 / 3 + 4];
    int len = snprintf(text, sizeof text, "%s:%s", user, password);
    EVP_EncodeBlock(coded, (const unsigned char *)text, len);
    return buf_printf(out, "Authorization: Basic %s\r\n", (const char *)coded);
}

static int put_authorization(struct buf *out, const struct opening *o, const struct opening_options *options,
                             struct err *e)
{
    CURLUcode user_rc, password_rc;
    char *user = url_part(o, CURLUPART_USER, CURLU_URLDECODE, &user_rc);
    char *password = url_part(o, CURLUPART_PASSWORD, CURLU_URLDECODE, &password_rc);
    bool none = user_rc == CURLUE_NO_USER && password_rc == CURLUE_NO_PASSWORD;
    int rc = 0;
    if (!none && !has_field(options, "Authorization")) {
        const char *u = user_rc == CURLUE_NO_USER ? "" : user;
        const char *p = password_rc == CURLUE_NO_PASSWORD ? "" : password;
        if (!user_is_sound(u, p))
            rc = refuse_url(e, "its user name or password cannot be sent as Basic credentials (RFC 7617)");
        else if (put_user(out, u, p) < 0)
            rc = err_set(e, "out of memory");
    }
    curl_free(user);
    curl_free(password);
    return rc;
}

/* The first line: path and query, as the URL has them; no '?' before nothing (RFC 6455, 3). */
static int put_request_line(struct buf *out, const struct opening *o, struct err *e)
{
    CURLUcode path_rc, query_rc;
    char *path = url_part(o, CURLUPART_PATH, 0, &path_rc);
    char *query = url_part(o, CURLUPART_QUERY, 0, &query_rc);
    const char *q = query != NULL ? query : "";
    int rc = -1;
    if (path != NULL && (query != NULL || query_rc == CURLUE_NO_QUERY))
        rc = buf_printf(out, "GET %s%s%s HTTP/1.1\r\n", path, *q != '\0' ? "?" : "", q);
    curl_free(path);
    curl_free(query);
    return rc < 0 ? err_set(e, "out of memory") : 0;
}

/* RFC 6455, 4.1, item 4 of the request: the port only when it is not the scheme's. */
static int put_host(struct buf *out, const struct opening *o)
{
    const char *open = o->literal_v6 ? "[" : "", *close = o->literal_v6 ? "]" : "";
    if (o->port == (o->tls ? 443 : 80))
        return buf_printf(out, "Host: %s%s%s\r\n", open, o->host, close);
    return buf_printf(out, "Host: %s%s%s:%u\r\n", open, o->host, close, o->port);
}

/* RFC 6455, 4.1, items 5 to 9 of the request. */
static int put_handshake(struct buf *out)
{
    unsigned char key[KEY_BYTES], coded[KEY_BYTES * 4 / 3 + 4];
    if (RAND_bytes(key, sizeof key) != 1)
        return -1;
    EVP_EncodeBlock(coded, key, sizeof key);
    return buf_printf(out,
                      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: %s\r\n",
                      (const char *)coded);
}

static int put_offers(struct buf *out, const struct opening *o, const struct opening_options *options)
{
    for (size_t i = 0; i < options->nprotocols; i++)
        if (buf_puts(out, i == 0 ? "Sec-WebSocket-Protocol: " : ", ") < 0 ||
            buf_puts(out, options->protocols[i]) < 0)
            return -1;
    if (options->nprotocols > 0 && buf_puts(out, "\r\n") < 0)
        return -1;
    if (!o->offered.deflate)
        return 0;
    char text[EXTENSIONS_TEXT_MAX];
    extensions_offer(&o->offered, text);
    return buf_printf(out, "Sec-WebSocket-Extensions: %s\r\n", text);
}

static int put_fields(struct buf *out, const struct opening_options *options)
{
    if (!has_field(options, "User-Agent") &&
        buf_puts(out, "User-Agent: tidewire/" TIDEWIRE_VERSION "\r\n") < 0)
        return -1;
    for (size_t i = 0; i < options->nfields; i++) {
        const struct opening_field *f = &options->fields[i];
        if (buf_append(out, f->name, f->name_len) < 0 || buf_puts(out, ": ") < 0 ||
            buf_append(out, f->value, f->value_len) < 0 || buf_puts(out, "\r\n") < 0)
            return -1;
    }
    return buf_puts(out, "\r\n");
}

static int put_request(struct buf *out, const struct opening *o, const struct opening_options *options,
                       struct err *e)
{
    if (put_request_line(out, o, e) < 0)
        return -1;
    if ((!has_field(options, "Host") && put_host(out, o) < 0) || put_handshake(out) < 0 ||
        put_offers(out, o, options) < 0)
        return err_set(e, "out of memory");
    if (put_authorization(out, o, options, e) < 0)
        return -1;
    return put_fields(out, options) < 0 ? err_set(e, "out of memory") : 0;
}

int opening_init(struct opening *o, const struct opening_options *options, struct err *e)
{
    struct buf text = BUF_INIT;
    struct head_fault fault;
    memset(o, 0, sizeof *o);
    if (options->want != NULL)
        o->offered = *options->want;
    if (take_url(o, options->url, e) < 0 || check_fields(options, e) < 0 || check_protocols(options, e) < 0 ||
        put_request(&text, o, options, e) < 0)
        goto fail;
    if (head_parse(text.data, text.len, &o->head, &fault) < 0) {
        o->head = NULL;
        err_set(e, "the request cannot be sent: %s", fault.reason);
        goto fail;
    }
    buf_fini(&text);
    return 0;

fail:
    buf_fini(&text);
    opening_fini(o);
    return -1;
}

void opening_fini(struct opening *o)
{
    head_unref(o->head);
    curl_url_cleanup(o->url);
    free(o->host);
    memset(o, 0, sizeof *o);
}

void opening_url(const struct opening *o, char out[OPENING_URL_MAX])
{
    char port[8] = "";
    const char *path = head_bytes(o->head) + o->head->path.at;
    if (o->port != (o->tls ? 443 : 80))
        snprintf(port, sizeof port, ":%u", o->port);
    snprintf(out, OPENING_URL_MAX, o->literal_v6 ? "%s://[%s]%s%.*s" : "%s://%s%s%.*s", o->tls ? "wss" : "ws",
             o->host, port, (int)o->head->path.len, path);
}

void opening_where(const struct opening *o, char *out, size_t size)
{
    snprintf(out, size, o->literal_v6 ? "[%s]:%u" : "%s:%u", o->host, o->port);
}

/* ---- the answer's head ---- */

struct field {
    const char *name, *value;
    size_t name_len, value_len;
};

struct answer {
    const char *end, *next; /* of the head; the line after the one being parsed */
    const char *reason;     /* phrase */
    size_t reason_len;
    int status;
    unsigned nfields;
    struct field fields[HEAD_MAX_FIELDS];
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* llhttp has found a name and its colon. It would join folded lines: so each name has to stand where the line
 * before it ended. */
static int on_field(llhttp_t *parser, const char *name, size_t len)
{
    struct answer *p = parser->data;
    if (name != p->next || len == 0 || p->nfields == HEAD_MAX_FIELDS)
        return -1;
    const char *value = name + len + 1;
    const char *eol = memchr(value, '\r', (size_t)(p->end - value));
    p->next = eol + 2;
    while (is_blank(*value))
        value++;
    while (eol > value && is_blank(eol[-1]))
        eol--;
    p->fields[p->nfields++] = (struct field){name, value, len, (size_t)(eol - value)};
    return 0;
}

/* 2: the bytes after the head are not llhttp's. */
static int on_end_of_head(llhttp_t *parser)
{
    (void)parser;
    return 2;
}

static const llhttp_settings_t answer_settings = {
    .on_header_field = on_field,
    .on_headers_complete = on_end_of_head,
};

/* "HTTP/1.1 101 Switching Protocols" (RFC 9112, 4), of which a missing blank at the end is forgiven. */
static bool split_status_line(struct answer *p, const char *line)
{
    const char *eol = memchr(line, '\r', (size_t)(p->end - line));
    p->next = eol + 2;
    if (eol - line < 12 || memcmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ')
        return false;
    for (int i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9')
            return false;
        p->status = p->status * 10 + line[i] - '0';
    }
    if (eol > line + 12 && line[12] != ' ')
        return false;
    p->reason = eol > line + 12 ? line + 13 : eol;
    p->reason_len = (size_t)(eol - p->reason);
    return p->status >= 100;
}

static bool parse_answer(struct answer *p, const char *data, size_t len)
{
    p->end = data + len;
    p->status = 0;
    p->nfields = 0;
    if (!split_status_line(p, data))
        return false;
    llhttp_t parser;
    llhttp_init(&parser, HTTP_RESPONSE, &answer_settings);
    parser.data = p;
    return llhttp_execute(&parser, data, len) == HPE_PAUSED_UPGRADE &&
           llhttp_get_error_pos(&parser) == p->end && p->next == p->end - 2;
}

/* The field of that name, and how many there are. */
static const struct field *find(const struct answer *p, const char *name, unsigned *count)
{
    const struct field *found = NULL;
    *count = 0;
    for (unsigned i = 0; i < p->nfields; i++)
        if (is(p->fields[i].name, p->fields[i].name_len, name) && ++*count == 1)
            found = &p->fields[i];
    return found;
}

/* ---- judging it (RFC 6455, 4.1, the list of what a client must verify) ---- */

static enum opening_state fail(struct opening_answer *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static enum opening_state fail(struct opening_answer *a, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->why, sizeof a->why, fmt, args);
    va_end(args);
    return OPENING_FAILED;
}

/* Items 1: any other status than 101 is plain HTTP. */
static enum opening_state fail_status(const struct answer *p, struct opening_answer *a)
{
    char quoted[QUOTE_MAX + 4];
    unsigned count;
    const struct field *location = find(p, "Location", &count);
    if (p->status / 100 == 3 && location != NULL)
        return fail(a, "the server redirects to %s (%d); redirects are not followed",
                    quote(quoted, location->value, location->value_len), p->status);
    return fail(a, "the server answered %d%s%s", p->status, p->reason_len > 0 ? " " : "",
                quote(quoted, p->reason, p->reason_len));
}

static bool connection_has_upgrade(const struct answer *p)
{
    for (unsigned i = 0; i < p->nfields; i++) {
        const struct field *f = &p->fields[i];
        const char *at = f->value, *element;
        size_t len;
        if (!is(f->name, f->name_len, "Connection"))
            continue;
        while (head_list_next(&at, f->value + f->value_len, &element, &len))
            if (is(element, len, "upgrade"))
                return true;
    }
    return false;
}

/* Items 2 to 4. */
static enum opening_state check_upgrade(const struct opening *o, const struct answer *p,
                                        struct opening_answer *a)
{
    char wanted[UPGRADE_ACCEPT_LEN + 1];
    unsigned count;
    const struct field *f = find(p, "Upgrade", &count);
    if (count != 1 || !is(f->value, f->value_len, "websocket"))
        return fail(a, "the answer's Upgrade is not \"websocket\"");
    if (!connection_has_upgrade(p))
        return fail(a, "the answer's Connection does not say \"upgrade\"");
    f = find(p, "Sec-WebSocket-Accept", &count);
    if (count != 1)
        return fail(a, "the answer's Sec-WebSocket-Accept is %s", count == 0 ? "missing" : "repeated");
    if (upgrade_accept(o->head, wanted) < 0)
        return fail(a, "out of memory");
    if (f->value_len != UPGRADE_ACCEPT_LEN || memcmp(f->value, wanted, UPGRADE_ACCEPT_LEN) != 0)
        return fail(a, "the answer's Sec-WebSocket-Accept is wrong");
    return OPENING_DONE;
}

/* Item 6. None at all is fine: then the server speaks none of those offered. */
static enum opening_state check_protocol(const struct opening *o, const struct answer *p,
                                         struct opening_answer *a)
{
    char quoted[QUOTE_MAX + 4];
    const char *offer;
    size_t len;
    unsigned count;
    const struct field *f = find(p, "Sec-WebSocket-Protocol", &count);
    a->protocol = -1;
    if (count == 0)
        return OPENING_DONE;
    if (count > 1)
        return fail(a, "the answer's Sec-WebSocket-Protocol is repeated");
    for (unsigned i = 0; (offer = subprotocol_offer(o->head, i, &len)) != NULL; i++)
        if (len == f->value_len && memcmp(offer, f->value, len) == 0)
            a->protocol = (int)i;
    if (a->protocol < 0)
        return fail(a, "the server chose the protocol \"%s\", which was not offered",
                    quote(quoted, f->value, f->value_len));
    return OPENING_DONE;
}

/* Item 5. The field may be split, and lists something (RFC 6455, 9.1). */
static enum opening_state check_extensions(const struct opening *o, const struct answer *p,
                                           struct opening_answer *a)
{
    struct buf all = BUF_INIT;
    bool some = false;
    for (unsigned i = 0; i < p->nfields; i++) {
        const struct field *f = &p->fields[i];
        if (!is(f->name, f->name_len, "Sec-WebSocket-Extensions"))
            continue;
        some = true;
        if ((all.len > 0 && buf_puts(&all, ", ") < 0) || buf_append(&all, f->value, f->value_len) < 0) {
            buf_fini(&all);
            return fail(a, "out of memory");
        }
    }
    const char *why = some && all.len == 0
                          ? "the answer's Sec-WebSocket-Extensions is empty"
                          : extensions_agree(&o->offered, some ? all.data : "", all.len, &a->terms);
    buf_fini(&all);
    if (why == NULL)
        return OPENING_DONE;
    int len = (int)strcspn(why + 1, "."); /* a sentence by itself; here it is part of one */
    return fail(a, "%c%.*s", tolower((unsigned char)why[0]), len, why + 1);
}

static enum opening_state judge(struct opening *o, const struct answer *p, struct opening_answer *a)
{
    enum opening_state state = check_upgrade(o, p, a);
    if (state == OPENING_DONE)
        state = check_protocol(o, p, a);
    if (state == OPENING_DONE)
        state = check_extensions(o, p, a);
    return state;
}

/* A whole head, from o->at on. MORE: it was only one before the real one. */
static enum opening_state take_head(struct opening *o, const char *head, size_t len, struct opening_answer *a)
{
    struct answer p; /* the fields stay uninitialized: 8 KiB that most answers do not use */
    if (!parse_answer(&p, head, len))
        return fail(a, "the server's answer is malformed");
    o->at += len;
    memset(&o->scan, 0, sizeof o->scan);
    if (p.status / 100 == 1 && p.status != 101)
        return ++o->interim <= INTERIM_MAX
                   ? OPENING_MORE
                   : fail(a, "the server sent more than %d interim answers", INTERIM_MAX);
    a->used = o->at;
    if (p.status != 101)
        return fail_status(&p, a);
    if (head[7] != '1') /* RFC 6455, 4.2.2; an upgrade is not for HTTP/1.0 (RFC 9110, 7.8) */
        return fail(a, "the server answered in HTTP/1.0");
    return judge(o, &p, a);
}

/* Whether the answer begins as one in HTTP/1.0 or 1.1 does, as far as it is there. */
static bool begins_as_http(const char *data, size_t len)
{
    static const char start[] = "HTTP/1.";
    size_t n = len < sizeof start - 1 ? len : sizeof start - 1;
    return memcmp(data, start, n) == 0 && (len < 8 || data[7] == '0' || data[7] == '1');
}

enum opening_state opening_read(struct opening *o, const char *data, size_t len, size_t limit,
                                struct opening_answer *a)
{
    enum opening_state state = OPENING_MORE;
    size_t seen = len < limit ? len : limit;
    *a = (struct opening_answer){.protocol = -1};
    while (state == OPENING_MORE && seen > o->at) {
        if (!begins_as_http(data + o->at, seen - o->at))
            return fail(a, "the server does not speak HTTP/1.1 on this port");
        long end = head_scan(&o->scan, data + o->at, seen - o->at);
        if (end < 0)
            return fail(a, "the server's answer is malformed");
        if (end == 0)
            break;
        state = take_head(o, data + o->at, (size_t)end, a);
    }
    if (state == OPENING_MORE && len >= limit)
        return fail(a, "the head of the server's answer is longer than %zu bytes", limit);
    return state;
}
