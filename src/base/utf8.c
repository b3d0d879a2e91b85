/* SPDX-License-Identifier: MIT
 * UTF-8 as a state machine whose states are shift counts: one load and one shift for a byte, no branch to
 * mispredict, whatever the script. Pure; any thread. */
#include "base/utf8.h"

#include <string.h>

/*
 *            80..BF            80..BF            80..BF
 *   TAIL3 ----------> TAIL2 ----------> TAIL1 ----------> START <--- 00..7F, over and over
 *     ^    AFTER_F0 ---^ ^   AFTER_E0 ---^ ^                |
 *     |      90..BF      |     A0..BF      |                |  the first byte chooses
 *     |    AFTER_F4 -----'   AFTER_ED -----'                |
 *     |      80..8F            80..9F                       |
 *     '-----------------------------------------------------'
 *
 * All else leads to REJECT, which nothing leaves. The special cases keep out overlong forms (E0, F0),
 * surrogates (ED) and what lies beyond U+10FFFF (F4); C0, C1 and F5..FF start nothing.
 */
enum state {
    REJECT = 0, /* so that a move not listed is a rejection */
    START = 6,
    TAIL1 = 12,
    TAIL2 = 18,
    TAIL3 = 24,
    AFTER_E0 = 30,
    AFTER_ED = 36,
    AFTER_F0 = 42,
    AFTER_F4 = 48,
};

/* A byte's moves: the six bits at position `from` say where it leads. */
#define MOVE(from, to) ((uint64_t)(to) << (from))
#define TAIL           (MOVE(TAIL1, START) | MOVE(TAIL2, TAIL1) | MOVE(TAIL3, TAIL2))

static const uint64_t moves[256] = {
    [0x00 ... 0x7f] = MOVE(START, START),
    [0x80 ... 0x8f] = TAIL | MOVE(AFTER_ED, TAIL1) | MOVE(AFTER_F4, TAIL2),
    [0x90 ... 0x9f] = TAIL | MOVE(AFTER_ED, TAIL1) | MOVE(AFTER_F0, TAIL2),
    [0xa0 ... 0xbf] = TAIL | MOVE(AFTER_E0, TAIL1) | MOVE(AFTER_F0, TAIL2),
    [0xc2 ... 0xdf] = MOVE(START, TAIL1),
    [0xe0] = MOVE(START, AFTER_E0),
    [0xe1 ... 0xec] = MOVE(START, TAIL2),
    [0xed] = MOVE(START, AFTER_ED),
    [0xee ... 0xef] = MOVE(START, TAIL2),
    [0xf0] = MOVE(START, AFTER_F0),
    [0xf1 ... 0xf3] = MOVE(START, TAIL3),
    [0xf4] = MOVE(START, AFTER_F4),
};

enum { WORD = 8, BLOCK = 4 * WORD };

#define HIGH_BITS UINT64_C(0x8080808080808080)

static bool is_ascii(const uint8_t *block)
{
    uint64_t word[BLOCK / WORD];
    memcpy(word, block, sizeof word);
    return ((word[0] | word[1] | word[2] | word[3]) & HIGH_BITS) == 0;
}

static bool is_ascii_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return (word & HIGH_BITS) == 0;
}

/* The bits above the sixth are other states' moves; masking costs nothing where shifts do it anyway. */
static uint64_t walk(uint64_t state, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        state = moves[data[i]] >> (state & 63);
    return state & 63;
}

bool utf8_feed(struct utf8 *u, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t state = u->state ^ START; /* which makes START of a zeroed state */

    for (; len >= BLOCK && state != REJECT; p += BLOCK, len -= BLOCK) {
        if (state != START || !is_ascii(p))
            state = walk(state, p, BLOCK);
    }
    for (; len >= WORD && state == START && is_ascii_word(p); p += WORD, len -= WORD)
        ;
    state = walk(state, p, len);
    u->state = (uint8_t)(state ^ START);
    return state != REJECT;
}

bool utf8_valid(const void *data, size_t len)
{
    struct utf8 u = {0};
    return utf8_feed(&u, data, len) && utf8_complete(&u);
}
