/* SPDX-License-Identifier: MIT
 * The client's side of the opening handshake: the reader of answers against a second opinion that splits
 * lines by hand, and against itself with the answer in two pieces; and that no URL can add to the request.
 *
 * The first byte is 'u': the rest is a URL. Otherwise it says where the answer, which is the rest, is cut in
 * two; '@' in it stands for the right Sec-WebSocket-Accept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "client/opening.h"
#include "ws/upgrade.h"

#include "check.h"

#define LIMIT       2048
#define INTERIM_MAX 4

static const char *const protocols[] = {"chat", "v2"};
static const struct extensions_terms want = {
    .deflate = true, .server_takeover = true, .client_takeover = true, .server_bits = 15, .client_bits = 15};
static struct opening opening;
static char accept_value[UPGRADE_ACCEPT_LEN + 1];

static void prepare(void)
{
    struct err e;
    const struct opening_options options = {
        .url = "ws://h/", .protocols = protocols, .nprotocols = 2, .want = &want};
    if (opening.head != NULL)
        return;
    CHECK(upgrade_init() == 0);
    CHECK(opening_init(&opening, &options, &e) == 0);
    CHECK(upgrade_accept(opening.head, accept_value) == 0);
}

/* ---- URLs ---- */

static void try_url(const uint8_t *data, size_t size)
{
    char *url = strndup((const char *)data, size);
    const char *reason, *value;
    size_t len;
    struct err e;
    struct opening o;
    const struct opening_options options = {.url = url};
    CHECK(url != NULL);
    if (opening_init(&o, &options, &e) == 0) {
        CHECK(upgrade_check(o.head, &reason) == 0);
        CHECK(head_bytes(o.head)[o.head->target.at] == '/');
        CHECK(head_single(o.head, "Host", &value, &len) && len > 0);
        CHECK(o.head->nfields == (head_find(o.head, "Authorization", 13, 0) < 0 ? 6 : 7));
        CHECK(o.host[0] != '\0' && o.port != 0);
        opening_fini(&o);
    }
    free(url);
}

/* ---- the second opinion ---- */

struct lines {
    const char *at, *end;
};

/* The next line without its CR LF; false when there is none. */
static bool next_line(struct lines *l, const char **line, size_t *len)
{
    const char *eol = l->end - l->at >= 2 ? memmem(l->at, (size_t)(l->end - l->at), "\r\n", 2) : NULL;
    if (eol == NULL)
        return false;
    *line = l->at;
    *len = (size_t)(eol - l->at);
    l->at = eol + 2;
    return true;
}

static bool has_control(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
            return true;
    return false;
}

enum opinion { GOOD, BAD, SHORT, UNSURE };

struct seen {
    unsigned upgrade, accept, protocol, fields;
    bool upgrade_right, connection, accept_right, protocol_right, length;
    struct buf extensions;
    bool has_extensions;
};

static bool same(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

static bool lists_upgrade(const char *value, size_t len)
{
    for (size_t at = 0; at <= len;) {
        size_t end = at, from = at;
        while (end < len && value[end] != ',')
            end++;
        at = end + 1;
        while (from < end && strchr(" \t", value[from]) != NULL)
            from++;
        while (end > from && strchr(" \t", value[end - 1]) != NULL)
            end--;
        if (same(value + from, end - from, "upgrade"))
            return true;
    }
    return false;
}

static void note(struct seen *s, const char *name, size_t name_len, const char *value, size_t len)
{
    if (same(name, name_len, "upgrade")) {
        s->upgrade++;
        s->upgrade_right = same(value, len, "websocket");
    } else if (same(name, name_len, "connection"))
        s->connection |= lists_upgrade(value, len);
    else if (same(name, name_len, "sec-websocket-accept")) {
        s->accept++;
        s->accept_right = len == UPGRADE_ACCEPT_LEN && memcmp(value, accept_value, len) == 0;
    } else if (same(name, name_len, "sec-websocket-protocol")) {
        s->protocol++;
        s->protocol_right =
            (len == 4 && memcmp(value, "chat", 4) == 0) || (len == 2 && memcmp(value, "v2", 2) == 0);
    } else if (same(name, name_len, "sec-websocket-extensions")) {
        if (s->extensions.len > 0)
            CHECK(buf_puts(&s->extensions, ", ") == 0);
        CHECK(buf_append(&s->extensions, value, len) == 0);
        s->has_extensions = true;
    } else if (same(name, name_len, "content-length") || same(name, name_len, "transfer-encoding"))
        s->length = true; /* llhttp has rules of its own for these */
}

static bool note_line(struct seen *s, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len), *end = line + len;
    if (colon == NULL || !head_is_token(line, (size_t)(colon - line)) || ++s->fields > HEAD_MAX_FIELDS)
        return false;
    const char *value = colon + 1;
    while (value < end && strchr(" \t", *value) != NULL)
        value++;
    while (end > value && strchr(" \t", end[-1]) != NULL)
        end--;
    note(s, line, (size_t)(colon - line), value, (size_t)(end - value));
    return true;
}

static bool is_right(const struct seen *s)
{
    struct extensions_terms terms;
    return s->upgrade == 1 && s->upgrade_right && s->connection && s->accept == 1 && s->accept_right &&
           (s->protocol == 0 || (s->protocol == 1 && s->protocol_right)) &&
           (!s->has_extensions ||
            (s->extensions.len > 0 &&
             extensions_agree(&want, s->extensions.data, s->extensions.len, &terms) == NULL));
}

/* One head; *status is its, and *used its length. */
static enum opinion judge_head(const char *text, size_t len, unsigned *status, size_t *used)
{
    struct lines l = {text, text + len};
    struct seen s = {.extensions = BUF_INIT};
    const char *line;
    size_t n;
    char minor, after = ' ';
    bool good = true;
    if (!next_line(&l, &line, &n))
        return SHORT;
    char copy[16] = "";
    snprintf(copy, sizeof copy, "%.*s", n < 13 ? (int)n : 13, line);
    good &= n >= 12 && !has_control(line, n) && strspn(copy + 9, "0123456789") == 3 && copy[9] != '0' &&
            sscanf(copy, "HTTP/1.%c %3u%c", &minor, status, &after) >= 2 && after == ' ' && copy[8] == ' ' &&
            (minor == '1' || minor == '0');
    while (next_line(&l, &line, &n) && n > 0)
        good &= !has_control(line, n) && note_line(&s, line, n);
    bool whole = n == 0 && l.at > text;
    *used = (size_t)(l.at - text);
    enum opinion opinion = !good ? BAD : !whole ? SHORT : s.length ? UNSURE : GOOD;
    if (opinion == GOOD && *status == 101)
        opinion = minor == '1' && is_right(&s) ? GOOD : BAD;
    buf_fini(&s.extensions);
    return opinion;
}

static enum opinion judge(const char *text, size_t len, size_t *used)
{
    *used = 0;
    if (len > LIMIT)
        len = LIMIT;
    for (int interim = 0;; interim++) {
        unsigned status = 0;
        size_t n = 0;
        enum opinion opinion = judge_head(text + *used, len - *used, &status, &n);
        if (opinion != GOOD)
            return opinion == SHORT && len == LIMIT ? BAD : opinion;
        *used += n;
        if (status == 101)
            return GOOD;
        if (status / 100 != 1 || interim == INTERIM_MAX)
            return BAD;
    }
}

/* ---- answers ---- */

static enum opening_state read_pieces(const char *text, size_t cut, size_t len, struct opening_answer *a)
{
    const size_t upto[] = {cut, len};
    enum opening_state state = OPENING_MORE;
    memset(&opening.scan, 0, sizeof opening.scan);
    opening.at = opening.interim = 0;
    for (int i = 0; i < 2 && state == OPENING_MORE; i++) {
        char *exact = malloc(upto[i] > 0 ? upto[i] : 1); /* so that ASan sees a read beyond it */
        CHECK(exact != NULL);
        memcpy(exact, text, upto[i]);
        state = opening_read(&opening, exact, upto[i], LIMIT, a);
        free(exact);
    }
    return state;
}

static void try_answer(const char *text, size_t cut, size_t len)
{
    struct opening_answer whole, pieces;
    size_t used;
    enum opening_state state = read_pieces(text, len, len, &whole);
    enum opinion opinion = judge(text, len, &used);
    CHECK(read_pieces(text, cut < len ? cut : len, len, &pieces) == state);
    CHECK(strcmp(whole.why, pieces.why) == 0 && whole.protocol == pieces.protocol &&
          whole.used == pieces.used);
    CHECK((state == OPENING_FAILED) == (whole.why[0] != '\0'));
    for (const char *at = whole.why; *at != '\0'; at++)
        CHECK(*at >= ' ' && *at <= '~');
    if (state == OPENING_DONE) {
        CHECK(opinion == GOOD || opinion == UNSURE);
        CHECK(whole.used <= LIMIT && memcmp(text + whole.used - 4, "\r\n\r\n", 4) == 0);
        CHECK(opinion == UNSURE || whole.used == used);
    }
    if (opinion == GOOD)
        CHECK(state == OPENING_DONE);
    if (opinion == BAD)
        CHECK(state != OPENING_DONE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf text = BUF_INIT;
    prepare();
    if (size == 0)
        return 0;
    if (data[0] == 'u') {
        try_url(data + 1, size - 1);
        return 0;
    }
    CHECK(buf_reserve(&text, 1) == 0);
    for (size_t i = 1; i < size; i++)
        CHECK((data[i] == '@' ? buf_puts(&text, accept_value) : buf_append(&text, data + i, 1)) == 0);
    try_answer(text.data, data[0], text.len);
    buf_fini(&text);
    return 0;
}
