/* SPDX-License-Identifier: MIT
 * The chunked transfer coding: a table of allowed moves, and the counting beside it.
 *
 *  START --> SIZE --[extensions]-- CR --> SIZE_LF --LF--> DATA --> DATA_CR --CR--> DATA_LF --LF--> AGAIN
 *             ^                               |                                                      |
 *             +-------------------------------|------------------------------------------------------+
 *                                             +--LF, the size is 0--> LINE --CR--> END_LF --LF--> END
 *                                                                     ^  |
 *                                                        LINE_LF --LF-+  +--> FIELD --> TEXT --CR--> LINE_LF
 */
#include "http/chunked.h"

#include <stdbool.h>
#include <string.h>

enum state {
    START, /* before the size of the first chunk */
    AGAIN, /* before that of another one */
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
    SIZE_LF, /* x_LF: only an LF may follow */
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

enum kind { HEX, TOKEN, BLANK, SEMICOLON, EQUALS, COLON, QUOTE, BACKSLASH, OTHER, CR, LF, CONTROL, KINDS };

/* clang-format off */
#define WORDS(to)       [HEX] = to, [TOKEN] = to
#define PUNCTUATION(to) [BLANK] = to, [SEMICOLON] = to, [EQUALS] = to, [COLON] = to, [OTHER] = to
#define QUOTING(to)     [QUOTE] = to, [BACKSLASH] = to

/* Nothing leads to START, 0: a move that is not here is not allowed. */
static const uint8_t moves[][KINDS] = {
    [START]      = {[HEX] = SIZE},
    [AGAIN]      = {[HEX] = SIZE},
    [SIZE]       = {[HEX] = SIZE, [BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [EXT_GAP]    = {[BLANK] = EXT_GAP, [SEMICOLON] = EXT},
    [EXT]        = {WORDS(NAME), [BLANK] = EXT},
    [NAME]       = {WORDS(NAME), [BLANK] = NAME_GAP, [EQUALS] = VALUE, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [NAME_GAP]   = {[BLANK] = NAME_GAP, [EQUALS] = VALUE, [SEMICOLON] = EXT},
    [VALUE]      = {WORDS(WORD), [BLANK] = VALUE, [QUOTE] = QUOTED},
    [WORD]       = {WORDS(WORD), [BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [QUOTED]     = {WORDS(QUOTED), PUNCTUATION(QUOTED), [QUOTE] = QUOTED_END, [BACKSLASH] = ESCAPE},
    [ESCAPE]     = {WORDS(QUOTED), PUNCTUATION(QUOTED), QUOTING(QUOTED)},
    [QUOTED_END] = {[BLANK] = EXT_GAP, [SEMICOLON] = EXT, [CR] = SIZE_LF},
    [SIZE_LF]    = {[LF] = DATA}, /* LINE, when the size is 0 */
    [DATA_CR]    = {[CR] = DATA_LF},
    [DATA_LF]    = {[LF] = AGAIN},
    [LINE]       = {WORDS(FIELD), [CR] = END_LF},
    [FIELD]      = {WORDS(FIELD), [COLON] = TEXT},
    [TEXT]       = {WORDS(TEXT), PUNCTUATION(TEXT), QUOTING(TEXT), [CR] = LINE_LF},
    [LINE_LF]    = {[LF] = LINE},
    [END_LF]     = {[LF] = END},
};
/* clang-format on */

/* The value of a hexadecimal digit, or -1. */
static int digit_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum kind kind_of(uint8_t c)
{
    switch (c) {
    case ' ':
    case '\t': return BLANK;
    case ';': return SEMICOLON;
    case '=': return EQUALS;
    case ':': return COLON;
    case '"': return QUOTE;
    case '\\': return BACKSLASH;
    case '\r': return CR;
    case '\n': return LF;
    }
    if (c < ' ' || c == 0x7f)
        return CONTROL;
    if (digit_value(c) >= 0)
        return HEX;
    bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    return letter || strchr("!#$%&'*+-.^_`|~", c) != NULL ? TOKEN : OTHER;
}

/* Counts the byte that led to this state; whether it may still come. */
static bool count(struct chunked *c)
{
    if (c->state == SIZE)
        return ++c->digits <= CHUNKED_MAX_DIGITS;
    if (c->state >= EXT_GAP && c->state <= QUOTED_END)
        return ++c->extension_bytes <= CHUNKED_MAX_EXTENSION &&
               ++c->all_extension_bytes <= CHUNKED_MAX_ALL_EXTENSIONS;
    if (c->state >= LINE)
        return ++c->trailer_bytes <= CHUNKED_MAX_TRAILER;
    return true;
}

static void step(struct chunked *c, uint8_t byte)
{
    c->state = moves[c->state][kind_of(byte)];
    if (c->state == START || !count(c)) {
        c->state = BAD;
    } else if (c->state == SIZE) {
        c->left = c->left * 16 + (uint64_t)digit_value(byte);
    } else if (c->state == DATA) {
        c->digits = 0;
        c->extension_bytes = 0;
        if (c->left == 0)
            c->state = LINE;
    }
}

int chunked_feed(struct chunked *c, const uint8_t *data, size_t len, size_t *used, const uint8_t **piece,
                 size_t *piece_len)
{
    size_t at = 0;
    while (at < len && c->state != DATA && c->state < END)
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
