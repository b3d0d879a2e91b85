/* SPDX-License-Identifier: MIT
 * UTF-8 validation against a decoder that asks, after each byte, whether any code point could still come of
 * it.
 *
 * The input: eight bytes that say how to cut the rest into pieces, over and over; then the text. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 8 };

/* The code points that begin as the bytes so far do are [first, first + 64^missing). */
struct naive {
    uint32_t first, smallest; /* a shorter form would do for less than `smallest` */
    int missing;
    bool failed;
};

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void start_character(struct naive *n, uint8_t byte)
{
    static const struct {
        uint8_t mask, bits;
        uint32_t smallest;
    } form[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

    for (int i = 0; i < 4; i++) {
        if ((byte & form[i].mask) == form[i].bits) {
            n->first = byte & (uint8_t)~form[i].mask;
            n->smallest = form[i].smallest;
            n->missing = i;
            return;
        }
    }
    n->failed = true;
}

static void naive_byte(struct naive *n, uint8_t byte)
{
    if (n->missing == 0) {
        start_character(n, byte);
    } else if ((byte & 0xc0) == 0x80) {
        n->first = n->first << 6 | (byte & 0x3f);
        n->missing--;
    } else {
        n->failed = true;
    }
    uint32_t low = n->first << 6 * n->missing;
    uint32_t high = low | ((UINT32_C(1) << 6 * n->missing) - 1);
    if (high < n->smallest || low > 0x10ffff || (low >= 0xd800 && high <= 0xdfff))
        n->failed = true;
}

/* Short pieces for small bytes, among them empty ones; long pieces for the others. */
static size_t piece_size(uint8_t cut, size_t left)
{
    size_t size = cut < 0x80 ? cut : (size_t)(cut - 0x7f) * 16;
    return size < left ? size : left;
}

/* In a block of its own, so that AddressSanitizer sees a step beyond it. */
static bool feed_copy(struct utf8 *u, const uint8_t *piece, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    require(copy != NULL);
    if (len > 0)
        memcpy(copy, piece, len);
    bool ok = utf8_feed(u, copy, len);
    free(copy);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < CUTS)
        return 0;
    const uint8_t *text = data + CUTS;
    size_t len = size - CUTS;

    struct naive naive = {0};
    struct utf8 pieces = {0}, bytes = {0};
    size_t at = 0;
    for (size_t i = 0; at < len && !naive.failed; i++) {
        size_t n = piece_size(data[i % CUTS], len - at);
        if (n == 0 && i >= CUTS)
            n = 1;
        bool ok = feed_copy(&pieces, text + at, n);
        for (size_t end = at + n; at < end && !naive.failed; at++) {
            naive_byte(&naive, text[at]);
            require(utf8_feed(&bytes, text + at, 1) == !naive.failed);
        }
        require(ok == !naive.failed);
        require(naive.failed || utf8_complete(&pieces) == (naive.missing == 0));
        require(naive.failed || utf8_complete(&bytes) == (naive.missing == 0));
    }
    require(utf8_valid(text, len) == (!naive.failed && naive.missing == 0));
    return 0;
}
