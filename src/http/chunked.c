/* SPDX-License-Identifier: MIT
 * The chunked transfer coding: one table of allowed moves, and the counting beside it. */
#include "http/chunked.h"

#include <stdbool.h>
#include <string.h>

enum state {
    START, /* before a size, of the first chunk */
    AGAIN, /* ... and of every other one */
    SIZE,
    EXT_GAP, /* blanks before the ';' of an extension */
    EXT,     /* after it */
    NAME,
    NAME_GAP,
    VALUE, /* after the '=' */
    WORD,
    QUOTED,
    ESCAPE,
    QUOTED_END,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    LINE, /* where a trailer field or the empty line begins */
    FIELD,
    TEXT,
    LINE_LF,
    END_LF,
    END,
    BAD,
};

enum class { HEX, TOKEN, BLANK, SEMICOLON, EQUALS, COLON, QUOTE, BACKSLASH, OTHER, CR, LF, CONTROL, CLASSES };

#define IN_TOKEN(to) [HEX] = to, [TOKEN] = to
#define PUNCTUATION(to)                                                                                      \
    [BLANK] = to, [SEMICOLON] = to, [EQUALS] = to, [COLON] = to, [QUOTE] = to, [BACKSLASH] = to, [OTHER] = to

/* What is not here is START, where nothing leads: the move is not allowed. */
/* clang-format off */
static const uint8_t moves[][CLASSES] = {
    [START]      = {[HEX] = SIZE},
    [AGAIN]      = {[HEX] = SIZE},
    [SIZE]       = {[HEX] = SIZE, [BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [EXT_GAP]    = {[BLANK] = EXT_GAP, [SEMICOLON] = EXT},
    [EXT]        = {[BLANK] = EXT, IN_TOKEN(NAME)},
    [NAME]       = {IN_TOKEN(NAME), [BLANK] = NAME_GAP, [EQUALS] = VALUE, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [NAME_GAP]   = {[BLANK] = NAME_GAP, [EQUALS] = VALUE, [SEMICOLON] = EXT},
    [VALUE]      = {[BLANK] = VALUE, IN_TOKEN(WORD), [QUOTE] = QUOTED},
    [WORD]       = {IN_TOKEN(WORD), [BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [QUOTED]     = {IN_TOKEN(QUOTED), [BLANK] = QUOTED, [SEMICOLON] = QUOTED, [EQUALS] = QUOTED,
                    [COLON] = QUOTED, [OTHER] = QUOTED, [QUOTE] = QUOTED_END, [BACKSLASH] = ESCAPE},
    [ESCAPE]     = {IN_TOKEN(QUOTED), PUNCTUATION(QUOTED)},
    [QUOTED_END] = {[BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [SIZE_LF]    = {[LF] = DATA}, /* or LINE */
    [DATA_CR]    = {[CR] = DATA_LF},
    [DATA_LF]    = {[LF] = AGAIN},
    [LINE]       = {IN_TOKEN(FIELD), [CR] = END_LF},
    [FIELD]      = {IN_TOKEN(FIELD), [COLON] = TEXT},
    [TEXT]       = {IN_TOKEN(TEXT), PUNCTUATION(TEXT), [CR] = LINE_LF},
    [LINE_LF]    = {[LF] = LINE},
    [END_LF]     = {[LF] = END},
};
/* clang-format on */

/* The value of a hexadecimal digit, or -1. */
static int digit_value(uint8_t c)
{
    uint8_t lower = c | 0x20;
    if (c >= '0' && c <= '9')
        return c - '0';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static enum class class_of(uint8_t c) {
    uint8_t lower = c | 0x20; if (digit_value(c) >= 0) return HEX;
    if (lower >= 'a' && lower <= 'z') return TOKEN; switch (c){
        case ' ' : case '\t' : return BLANK; case ';' : return SEMICOLON; case '=' : return EQUALS;
        case ':' : return COLON;
        case '"' : return QUOTE;
        case '\\' : return BACKSLASH;
        case '\r' : return CR;
        case '\n' : return LF;
        default : if (c < ' ' || c == 0x7f) return CONTROL;
        return strchr("!#$%&'*+-.^_`|~", c) != NULL ? TOKEN : OTHER;
    }
}

/* Whether the byte that led to this state may still come. */
static bool count(struct chunked *c)
{
    if (c->state >= EXT_GAP && c->state <= QUOTED_END)
        return ++c->extension_bytes <= CHUNKED_MAX_EXTENSION &&
               ++c->all_extension_bytes <= CHUNKED_MAX_ALL_EXTENSIONS;
    if (c->state >= FIELD)
        return ++c->trailer_bytes <= CHUNKED_MAX_TRAILER;
    return true;
}

static void step(struct chunked *c, uint8_t byte)
{
    uint8_t from = c->state, to = moves[from][class_of(byte)];
    c->state = to;
    if (to == SIZE) {
        if (from != SIZE)
            c->left = c->extension_bytes = c->digits = 0;
        c->left = c->left * 16 + (uint64_t)digit_value(byte);
        if (++c->digits > CHUNKED_MAX_DIGITS)
            c->state = BAD;
    } else if (to == DATA && c->left == 0) {
        c->state = LINE;
    } else if (to == START || !count(c)) {
        c->state = BAD;
    }
}

int chunked_feed(struct chunked *c, const uint8_t *data, size_t len, size_t *used, const uint8_t **piece,
                 size_t *piece_len)
{
    size_t at = 0;
    while (at < len && c->state < END && c->state != DATA)
        step(c, data[at++]);
    *used = at;
    if (c->state == END)
        return CHUNKED_END;
    if (c->state == BAD)
        return CHUNKED_BAD;
    if (at == len)
        return CHUNKED_MORE;

    size_t n = len - at < c->left ? len - at : (size_t)c->left;
    *piece = data + at;
    *piece_len = n;
    *used = at + n;
    c->left -= n;
    if (c->left == 0)
        c->state = DATA_CR;
    return CHUNKED_PIECE;
}
