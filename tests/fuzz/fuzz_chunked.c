/* SPDX-License-Identifier: MIT
 * The chunked coding: the first byte seeds the splits, the rest is the stream. Reading it in one go, in
 * pieces, with regular expressions and with llhttp comes to the same body and the same end. */
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/chunked.h"
#include <llhttp.h>

#include "check.h"

struct reading {
    int result;
    size_t end; /* how much of the stream was used */
    uint8_t *body;
    size_t body_len;
};

static struct reading reading_start(size_t size)
{
    struct reading r = {.body = malloc(size + 1)};
    CHECK(r.body != NULL);
    return r;
}

static void add(struct reading *r, const void *data, size_t len)
{
    memcpy(r->body + r->body_len, data, len);
    r->body_len += len;
}

static bool same(const struct reading *a, const struct reading *b)
{
    return a->result == b->result && a->end == b->end && a->body_len == b->body_len &&
           memcmp(a->body, b->body, a->body_len) == 0;
}

/* ---- ours, in pieces of at most `most` bytes; 0: in one go ---- */

static struct reading read_ours(const uint8_t *stream, size_t len, uint32_t seed, size_t most)
{
    struct reading r = reading_start(len);
    struct chunked c = {0};
    r.result = CHUNKED_MORE;
    while (r.result == CHUNKED_MORE && r.end < len) {
        seed = seed * 1103515245 + 12345;
        size_t left = len - r.end, at = 0;
        size_t n = most > 0 ? 1 + (seed >> 16) % most : left;
        n = n < left ? n : left;
        uint8_t *data = malloc(n); /* exactly the piece: a look behind it is seen */
        CHECK(data != NULL);
        memcpy(data, stream + r.end, n);
        do {
            const uint8_t *piece = NULL;
            size_t used = 0, piece_len = 0;
            r.result = chunked_feed(&c, data + at, n - at, &used, &piece, &piece_len);
            CHECK(used <= n - at);
            if (r.result == CHUNKED_PIECE) {
                CHECK(piece_len > 0 && piece >= data + at && piece + piece_len == data + at + used);
                add(&r, piece, piece_len);
            }
            CHECK(r.result != CHUNKED_MORE || used == n - at);
            at += used;
        } while (r.result == CHUNKED_PIECE);
        r.end += at;
        free(data);
    }
    return r;
}

/* ---- the grammar as regular expressions ---- */

#define TOKEN  "[-!#$%&'*+.^_`|~0-9A-Za-z]+"
#define QUOTED "\"([^\"\\]|\\\\.)*\""
#define BWS    "[ \t]*"

static bool matches(regex_t *compiled, const char *pattern, const uint8_t *line, size_t len)
{
    char text[CHUNKED_MAX_TRAILER + 1];
    if (compiled->re_nsub == 0)
        CHECK(regcomp(compiled, pattern, REG_EXTENDED) == 0);
    for (size_t i = 0; i < len; i++)
        if ((line[i] < ' ' && line[i] != '\t') || line[i] == 0x7f)
            return false;
    if (len >= sizeof text)
        return false;
    memcpy(text, line, len);
    text[len] = '\0';
    return regexec(compiled, text, 0, NULL, 0) == 0;
}

/* Takes the line at stream[r->end ...), without its CR LF; NULL when it has none. */
static const uint8_t *take_line(struct reading *r, const uint8_t *stream, size_t len, size_t *line_len)
{
    const uint8_t *line = stream + r->end, *eol = memmem(line, len - r->end, "\r\n", 2);
    if (eol == NULL)
        return NULL;
    *line_len = (size_t)(eol - line);
    r->end += *line_len + 2;
    return line;
}

/* Whether the stream begins with a whole body; then that is in *r. */
static bool read_by_grammar(const uint8_t *stream, size_t len, struct reading *r)
{
    static regex_t size_line, field_line;
    size_t line_len, digits, extensions = 0;
    const uint8_t *line;
    for (;;) {
        line = take_line(r, stream, len, &line_len);
        if (line == NULL ||
            !matches(&size_line,
                     "^[0-9A-Fa-f]{1,15}(" BWS ";" BWS TOKEN "(" BWS "=" BWS "(" TOKEN "|" QUOTED "))?)*$",
                     line, line_len))
            return false;
        digits = strspn((const char *)line, "0123456789abcdefABCDEF"); /* a CR follows */
        extensions += line_len - digits;
        if (line_len - digits > CHUNKED_MAX_EXTENSION || extensions > CHUNKED_MAX_ALL_EXTENSIONS)
            return false;
        uint64_t size = strtoull((const char *)line, NULL, 16);
        if (size == 0)
            break;
        if (len - r->end < size || len - r->end - size < 2 || memcmp(stream + r->end + size, "\r\n", 2) != 0)
            return false;
        add(r, stream + r->end, size);
        r->end += size + 2;
    }
    size_t trailer = r->end;
    do {
        line = take_line(r, stream, len, &line_len);
        if (line == NULL || r->end - trailer > CHUNKED_MAX_TRAILER)
            return false;
        if (line_len > 0 && !matches(&field_line, "^(" TOKEN "):", line, line_len))
            return false;
    } while (line_len > 0);
    r->result = CHUNKED_END;
    return true;
}

/* ---- llhttp ---- */

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    add(parser->data, at, len);
    return 0;
}

static int on_message_complete(llhttp_t *parser)
{
    struct reading *r = parser->data;
    r->result = CHUNKED_END;
    return HPE_PAUSED;
}

/* What llhttp 8.1 does not know or does not let pass: blanks around the signs of an extension, some
 * characters of quoted values, and trailer fields that would change the framing if they were in the head. */
static bool is_known(const llhttp_t *parser)
{
    const char *reason = llhttp_get_error_reason(parser);
    return strstr(reason, "chunk extensions") != NULL || strstr(reason, "chunk size") != NULL ||
           parser->error == HPE_UNEXPECTED_CONTENT_LENGTH || parser->error == HPE_INVALID_CONTENT_LENGTH ||
           parser->error == HPE_INVALID_TRANSFER_ENCODING;
}

static void compare_with_llhttp(const uint8_t *stream, size_t len, const struct reading *ours)
{
    static const char head[] = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const llhttp_settings_t settings = {
        .on_body = on_body,
        .on_message_complete = on_message_complete,
    };
    struct reading theirs = reading_start(len);
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = &theirs;
    CHECK(llhttp_execute(&parser, head, sizeof head - 1) == HPE_OK);
    if (llhttp_execute(&parser, (const char *)stream, len) == HPE_PAUSED) {
        theirs.end = (size_t)((const uint8_t *)llhttp_get_error_pos(&parser) - stream);
        CHECK(same(ours, &theirs));
    } else {
        CHECK(is_known(&parser));
    }
    free(theirs.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const uint8_t *stream = data + 1;
    size_t len = size - 1;
    struct reading whole = read_ours(stream, len, 0, 0);
    struct reading pieces = read_ours(stream, len, data[0], 1 + data[0] % 16u);
    struct reading grammar = reading_start(len);
    CHECK(same(&whole, &pieces));
    CHECK(read_by_grammar(stream, len, &grammar) == (whole.result == CHUNKED_END));
    if (whole.result == CHUNKED_END) {
        CHECK(same(&whole, &grammar));
        compare_with_llhttp(stream, len, &whole);
    }
    free(whole.body);
    free(pieces.body);
    free(grammar.body);
    return 0;
}
