/* SPDX-License-Identifier: MIT
 * Unmasking in place: the header of each frame, then its payload. Pure; the thread of its connection. */
#include "ws/unmask.h"

#include <string.h>

enum {
    MASK_BIT = 0x80,  /* in the header's second byte; the rest of it is the length, or one of: */
    LENGTH_16 = 126,  /* the length is in the next two bytes */
    LENGTH_64 = 127,  /* ... in the next eight */
    KEY_SIZE = 4,     /* ends a client's header */
    SHORT_HEADER = 2, /* what has to be there to know the header's size */
};

static size_t key_size(const struct unmask *u)
{
    return u->from_server ? 0 : KEY_SIZE;
}

static size_t header_size(const struct unmask *u, const uint8_t *header)
{
    switch (header[1] & ~MASK_BIT) {
    case LENGTH_16: return SHORT_HEADER + 2 + key_size(u);
    case LENGTH_64: return SHORT_HEADER + 8 + key_size(u);
    default: return SHORT_HEADER + key_size(u);
    }
}

/* `size` is without the key: what is beyond the first two bytes is the length. */
static uint64_t payload_length(const uint8_t *header, size_t size)
{
    if (size == SHORT_HEADER)
        return header[1];
    uint64_t length = 0;
    for (size_t i = SHORT_HEADER; i < size; i++)
        length = length << 8 | header[i];
    return length;
}

static enum unmask_result check_header(const struct unmask *u, const uint8_t *header, size_t have)
{
    if (have < SHORT_HEADER)
        return UNMASK_OK;
    if (!(header[1] & MASK_BIT) != u->from_server)
        return UNMASK_WRONG_MASK;
    if ((header[1] & ~MASK_BIT) == LENGTH_64 && have > SHORT_HEADER && header[2] & 0x80)
        return UNMASK_TOO_LONG;
    return UNMASK_OK;
}

/* Copies until the header has `want` bytes or the input ends; returns how many. */
static size_t collect_up_to(struct unmask *u, size_t want, const uint8_t *data, size_t len)
{
    size_t n = want - u->have < len ? want - u->have : len;
    memcpy(u->header + u->have, data, n);
    u->have = (uint8_t)(u->have + n);
    return n;
}

static size_t collect(struct unmask *u, const uint8_t *data, size_t len)
{
    size_t n = 0;
    if (u->have < SHORT_HEADER)
        n = collect_up_to(u, SHORT_HEADER, data, len);
    if (n < len)
        n += collect_up_to(u, header_size(u, u->header), data + n, len - n);
    return n;
}

static enum unmask_result header_step(struct unmask *u, uint8_t *data, size_t len, size_t *used,
                                      const uint8_t **out, size_t *out_len, bool *frame_end)
{
    uint8_t *header = data;
    size_t have = len, size = len >= SHORT_HEADER ? header_size(u, data) : SIZE_MAX;
    if (u->have == 0 && len >= size)
        *used = size;
    else {
        *used = collect(u, data, len);
        header = u->header;
        have = u->have;
        size = have >= SHORT_HEADER ? header_size(u, header) : SIZE_MAX;
    }

    enum unmask_result result = check_header(u, header, have);
    if (result != UNMASK_OK || have < size)
        return result;

    *out = header;
    *out_len = size - key_size(u);
    if (!u->from_server)
        memcpy(u->key, header + *out_len, KEY_SIZE);
    header[1] &= (uint8_t)~MASK_BIT;
    u->left = payload_length(header, *out_len);
    u->have = 0;
    u->in_payload = u->left > 0;
    *frame_end = !u->in_payload;
    return UNMASK_OK;
}

enum unmask_result unmask_step(struct unmask *u, uint8_t *data, size_t len, size_t *used, const uint8_t **out,
                               size_t *out_len, bool *frame_end)
{
    *used = 0;
    *out = data;
    *out_len = 0;
    *frame_end = false;
    if (len == 0)
        return UNMASK_OK;
    if (!u->in_payload)
        return header_step(u, data, len, used, out, out_len, frame_end);

    size_t n = len < u->left ? len : (size_t)u->left;
    if (!u->from_server)
        unmask_xor(data, n, u->key);
    u->left -= n;
    u->in_payload = u->left > 0;
    *used = n;
    *out_len = n;
    *frame_end = !u->in_payload;
    return UNMASK_OK;
}

/* Through memcpy, which compiles to a plain load and store at any alignment. */
static inline void xor_word(uint8_t *data, uint64_t mask)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    word ^= mask;
    memcpy(data, &word, sizeof word);
}

void unmask_xor(uint8_t *data, size_t len, uint8_t key[4])
{
    uint32_t once;
    memcpy(&once, key, sizeof once);
    const uint64_t mask = (uint64_t)once << 32 | once;
    const uint8_t *twice = (const uint8_t *)&mask;
    memcpy(key, twice + len % 4, 4);

    for (; len >= 32; data += 32, len -= 32) { /* unrolled, so that the compiler makes vectors of it */
        xor_word(data, mask);
        xor_word(data + 8, mask);
        xor_word(data + 16, mask);
        xor_word(data + 24, mask);
    }
    for (; len >= 8; data += 8, len -= 8)
        xor_word(data, mask);
    if (len >= 4) { /* after which the key is where it was */
        uint32_t half;
        memcpy(&half, data, sizeof half);
        half ^= once;
        memcpy(data, &half, sizeof half);
        data += 4;
        len -= 4;
    }
    for (size_t i = 0; i < len; i++)
        data[i] ^= twice[i];
}
