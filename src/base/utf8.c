/* SPDX-License-Identifier: MIT
 * UTF-8 in three ways: ASCII by wide loads; short text, and the end of a piece, by a state machine whose
 * states are shift counts; longer text of any script by looking up its nibbles, 16 bytes at a time. Pure; any
 * thread.
 *
 * The lookup is the method of John Keiser and Daniel Lemire, "Validating UTF-8 In Less Than One Instruction
 * Per Byte", 2020. */
#include "base/utf8.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

/* A load and a shift for a byte, and no branch to mispredict. The bits above the sixth are other states'
 * moves; masking costs nothing where shifts do it anyway. */
static uint64_t walk(uint64_t state, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        state = moves[p[i]] >> (state & 63);
    return state & 63;
}

/* ---- ASCII ---- */

typedef uint64_t vector __attribute__((vector_size(16)));

enum { WORD = 8, VECTOR = 16, BLOCK = 4 * VECTOR };

#define HIGH_BITS UINT64_C(0x8080808080808080)

static inline bool is_ascii_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return (word & HIGH_BITS) == 0;
}

static inline vector load(const uint8_t *p)
{
    vector v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline bool is_ascii(vector v)
{
    return ((v[0] | v[1]) & HIGH_BITS) == 0;
}

static inline bool is_ascii_block(const uint8_t *p)
{
    return is_ascii(load(p) | load(p + VECTOR) | load(p + 2 * VECTOR) | load(p + 3 * VECTOR));
}

/* Text of WORD to 2 * VECTOR bytes, which most messages are. */
static inline bool is_ascii_short(const uint8_t *p, size_t len)
{
    if (len <= VECTOR)
        return is_ascii_word(p) && is_ascii_word(p + len - WORD);
    return is_ascii(load(p) | load(p + len - VECTOR));
}

/* How many bytes of at least WORD are ASCII for sure: all of them, or those before the load that saw another.
 * The last load ends where the text does, so it may see bytes again. */
static size_t skip_ascii(const uint8_t *p, size_t len)
{
    if (len < VECTOR)
        return is_ascii_word(p) && is_ascii_word(p + len - WORD) ? len : 0;
    size_t i = 0;
    while (len - i >= BLOCK && is_ascii_block(p + i))
        i += BLOCK;
    if (len - i >= BLOCK)
        return i;
    while (len - i >= VECTOR && is_ascii(load(p + i)))
        i += VECTOR;
    return len - i < VECTOR && is_ascii(load(p + len - VECTOR)) ? len : i;
}

/* ---- any script ---- */

#if defined(__x86_64__)

/* What can be wrong with two bytes in a row. A table says what one nibble of them leaves possible; what all
 * three leave is the case. TAIL_TAIL is no fault where a lead two or three bytes back asks for it. */
enum fault {
    LEAD_ALONE = 1 << 0, /* C0..FF, then no tail */
    TAIL_ALONE = 1 << 1, /* 00..7F, then 80..BF */
    OVERLONG_2 = 1 << 2, /* C0..C1, then 80..BF */
    OVERLONG_3 = 1 << 3, /* E0, then 80..9F */
    SURROGATE = 1 << 4,  /* ED, then A0..BF */
    F_THEN_8 = 1 << 5,   /* F0 (overlong) or F5..FF (beyond U+10FFFF), then 80..8F */
    BEYOND = 1 << 6,     /* F4..FF, then 90..BF */
    TAIL_TAIL = 1 << 7,  /* 80..BF, then 80..BF */
};

static const uint8_t high_before[16] = {
    [0x0 ... 0x7] = TAIL_ALONE,
    [0x8 ... 0xb] = TAIL_TAIL,
    [0xc] = LEAD_ALONE | OVERLONG_2,
    [0xd] = LEAD_ALONE,
    [0xe] = LEAD_ALONE | OVERLONG_3 | SURROGATE,
    [0xf] = LEAD_ALONE | F_THEN_8 | BEYOND,
};

#define ANY_LOW (LEAD_ALONE | TAIL_ALONE | TAIL_TAIL)
static const uint8_t low_before[16] = {
    [0x0] = ANY_LOW | OVERLONG_2 | OVERLONG_3 | F_THEN_8,
    [0x1] = ANY_LOW | OVERLONG_2,
    [0x2 ... 0x3] = ANY_LOW,
    [0x4] = ANY_LOW | BEYOND,
    [0x5 ... 0xc] = ANY_LOW | F_THEN_8 | BEYOND,
    [0xd] = ANY_LOW | F_THEN_8 | BEYOND | SURROGATE,
    [0xe ... 0xf] = ANY_LOW | F_THEN_8 | BEYOND,
};

#define ANY_TAIL (TAIL_ALONE | TAIL_TAIL | OVERLONG_2)
static const uint8_t high_here[16] = {
    [0x0 ... 0x7] = LEAD_ALONE,
    [0x8] = ANY_TAIL | OVERLONG_3 | F_THEN_8,
    [0x9] = ANY_TAIL | OVERLONG_3 | BEYOND,
    [0xa ... 0xb] = ANY_TAIL | SURROGATE | BEYOND,
    [0xc ... 0xf] = LEAD_ALONE,
};

#define SSSE3 __attribute__((target("ssse3")))

SSSE3 static inline __m128i pick(const uint8_t table[16], __m128i index)
{
    return _mm_shuffle_epi8((__m128i)load(table), index & _mm_set1_epi8(0x0f));
}

/* The faults at each byte of b, with b1 the bytes before them, b2 those before b1, b3 those before b2. A
 * third byte is due after E0..FF, a fourth after F0..FF: there a tail follows a tail, and nowhere else. */
SSSE3 static inline __m128i faults_of(__m128i b, __m128i b1, __m128i b2, __m128i b3)
{
    __m128i pair = pick(high_before, _mm_srli_epi16(b1, 4)) & pick(low_before, b1) &
                   pick(high_here, _mm_srli_epi16(b, 4));
    __m128i third = _mm_subs_epu8(b2, _mm_set1_epi8(0xe0 - 0x80)); /* leaves 80 or more of E0 or more */
    __m128i fourth = _mm_subs_epu8(b3, _mm_set1_epi8(0xf0 - 0x80));
    return pair ^ ((third | fourth) & _mm_set1_epi8((char)TAIL_TAIL));
}

SSSE3 static inline __m128i faults_at(const uint8_t *p)
{
    return faults_of((__m128i)load(p), (__m128i)load(p - 1), (__m128i)load(p - 2), (__m128i)load(p - 3));
}

enum { LOOKUP_MIN = VECTOR + 3 }; /* the last vector looks three bytes back */

/* Whether text that starts with a character has no fault; one in its last character may remain unseen. */
SSSE3 static bool look_up(const uint8_t *p, size_t len)
{
    __m128i b = (__m128i)load(p); /* and zeros, which are ASCII, before it */
    __m128i faults = faults_of(b, _mm_slli_si128(b, 1), _mm_slli_si128(b, 2), _mm_slli_si128(b, 3));
    size_t i = VECTOR;
    for (; len - i >= BLOCK; i += BLOCK) {
        if (is_ascii_block(p + i) && is_ascii_word(p + i - WORD))
            continue;
        for (size_t j = i; j < i + BLOCK; j += VECTOR)
            faults |= faults_at(p + j);
    }
    for (; len - i >= VECTOR; i += VECTOR)
        faults |= faults_at(p + i);
    faults |= faults_at(p + len - VECTOR);
    return (faults[0] | faults[1]) == 0;
}

#endif

/* The state after a piece of WORD bytes or more that begins between two characters. */
static uint64_t feed_from_start(const uint8_t *p, size_t len)
{
    size_t i = skip_ascii(p, len);
    if (i == len)
        return START;
#if defined(__x86_64__)
    if (len >= LOOKUP_MIN && __builtin_cpu_supports("ssse3")) {
        i = i < len - LOOKUP_MIN ? i : len - LOOKUP_MIN; /* ASCII before it in either case */
        if (!look_up(p + i, len - i))
            return REJECT;
        for (i = len - 1; i > len - 4 && (p[i] & 0xc0) == 0x80; i--)
            ; /* to the last character; REJECT is right for a fourth tail */
    }
#endif
    uint64_t state = START;
    for (; len - i >= BLOCK && state != REJECT; i += BLOCK) {
        if (state != START || !is_ascii_block(p + i))
            state = walk(state, p + i, BLOCK);
    }
    return walk(state, p + i, len - i);
}

bool utf8_feed(struct utf8 *u, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t state = u->state ^ START; /* which makes START of a zeroed state */

    if (state == START && len >= WORD && len <= 2 * VECTOR && is_ascii_short(p, len))
        return true;
    for (; len > 0 && state != START && state != REJECT; p++, len--)
        state = walk(state, p, 1);
    if (state == START)
        state = len < WORD ? walk(state, p, len) : feed_from_start(p, len);
    u->state = (uint8_t)(state ^ START);
    return state != REJECT;
}

bool utf8_valid(const void *data, size_t len)
{
    struct utf8 u = {0};
    return utf8_feed(&u, data, len) && utf8_complete(&u);
}
