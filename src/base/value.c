/* SPDX-License-Identifier: MIT
 * Flat copies of Lua data. */
#include "base/value.h"

#include <endian.h>
#include <math.h>
#include <string.h>

enum { TAG_NIL, TAG_FALSE, TAG_TRUE, TAG_INTEGER, TAG_REAL, TAG_STRING, TAG_TABLE, TAG_NULL, TAG_ARRAY };

#define PAIRS_BYTES sizeof(uint32_t)

/* ---- writing ---- */

/* 7 bits a byte; at most 10 bytes. */
static size_t value_write_bits(uint8_t *out, uint64_t bits)
{
    size_t n = 0;
    for (; bits >= 0x80; bits >>= 7)
        out[n++] = (uint8_t)(bits | 0x80);
    out[n++] = (uint8_t)bits;
    return n;
}

static uint64_t value_zigzag(int64_t integer)
{
    return (uint64_t)integer << 1 ^ (integer < 0 ? UINT64_MAX : 0);
}

static int64_t value_unzigzag(uint64_t bits)
{
    return (int64_t)(bits >> 1 ^ (0 - (bits & 1)));
}

size_t value_write_integer(uint8_t out[VALUE_NUMBER], int64_t integer)
{
    out[0] = TAG_INTEGER;
    return 1 + value_write_bits(out + 1, value_zigzag(integer));
}

size_t value_write_real(uint8_t out[VALUE_NUMBER], double real)
{
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    bits = htole64(bits);
    out[0] = TAG_REAL;
    memcpy(out + 1, &bits, sizeof bits);
    return 1 + sizeof bits;
}

static int value_put_tag(struct buf *b, uint8_t tag)
{
    return buf_append(b, &tag, 1);
}

int value_put_nil(struct buf *b)
{
    return value_put_tag(b, TAG_NIL);
}

int value_put_null(struct buf *b)
{
    return value_put_tag(b, TAG_NULL);
}

int value_put_boolean(struct buf *b, bool boolean)
{
    return value_put_tag(b, boolean ? TAG_TRUE : TAG_FALSE);
}

int value_put_integer(struct buf *b, int64_t integer)
{
    uint8_t bytes[VALUE_NUMBER];
    return buf_append(b, bytes, value_write_integer(bytes, integer));
}

int value_put_real(struct buf *b, double real)
{
    uint8_t bytes[VALUE_NUMBER];
    return buf_append(b, bytes, value_write_real(bytes, real));
}

int value_put_string(struct buf *b, const char *text, size_t len)
{
    uint8_t head[VALUE_NUMBER] = {TAG_STRING};
    size_t n = 1 + value_write_bits(head + 1, len);
    if (len > SIZE_MAX - n || buf_reserve(b, n + len) < 0)
        return -1;
    buf_append(b, head, n);
    return buf_append(b, text, len);
}

static int value_begin(struct buf *b, uint8_t tag, size_t *at)
{
    const uint8_t head[1 + PAIRS_BYTES] = {tag};
    *at = b->len;
    return buf_append(b, head, sizeof head);
}

int value_begin_table(struct buf *b, size_t *at)
{
    return value_begin(b, TAG_TABLE, at);
}

int value_begin_array(struct buf *b, size_t *at)
{
    return value_begin(b, TAG_ARRAY, at);
}

void value_end_table(struct buf *b, size_t at, uint32_t pairs)
{
    pairs = htole32(pairs);
    memcpy(b->data + at + 1, &pairs, sizeof pairs);
}

/* ---- reading ---- */

void value_reader_init(struct value_reader *r, const void *data, size_t len)
{
    static const uint8_t nothing;
    r->at = len > 0 ? data : &nothing;
    r->end = r->at + len;
    r->depth = 0;
    r->begun = false;
}

static size_t value_rest(const struct value_reader *r)
{
    return (size_t)(r->end - r->at);
}

/* 0, or -1: cut short, over 64 bits, or longer than need be. */
static int value_read_bits(struct value_reader *r, uint64_t *bits)
{
    *bits = 0;
    for (unsigned shift = 0; r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;
        if (shift == 63 && byte > 1)
            return -1;
        *bits |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return byte == 0 && shift > 0 ? -1 : 0;
    }
    return -1;
}

static int value_read_real(struct value_reader *r, struct value_item *item)
{
    uint64_t bits;
    if (value_rest(r) < sizeof bits)
        return -1;
    memcpy(&bits, r->at, sizeof bits);
    r->at += sizeof bits;
    bits = le64toh(bits);
    item->kind = VALUE_REAL;
    memcpy(&item->as.real, &bits, sizeof bits);
    return item->is_key && isnan(item->as.real) ? -1 : 0;
}

static int value_read_string(struct value_reader *r, struct value_item *item)
{
    uint64_t len;
    if (value_read_bits(r, &len) < 0 || len > value_rest(r))
        return -1;
    item->kind = VALUE_STRING;
    item->as.string.text = (const char *)r->at;
    item->as.string.len = (size_t)len;
    r->at += len;
    return 0;
}

static int value_read_pairs(struct value_reader *r, struct value_item *item, enum value_kind kind)
{
    uint32_t pairs;
    if (item->is_key || r->depth == VALUE_DEPTH || value_rest(r) < sizeof pairs)
        return -1;
    memcpy(&pairs, r->at, sizeof pairs);
    r->at += sizeof pairs;
    item->kind = kind;
    item->as.pairs = le32toh(pairs);
    r->left[r->depth++] = 2 * (uint64_t)item->as.pairs;
    return item->as.pairs > value_rest(r) / 2 ? -1 : 0; /* a key or value takes a byte at least */
}

static int value_read(struct value_reader *r, struct value_item *item)
{
    uint64_t bits;
    if (r->at == r->end)
        return -1;
    switch (*r->at++) {
    case TAG_NIL: item->kind = VALUE_NIL; return item->is_key ? -1 : 0;
    case TAG_FALSE: item->kind = VALUE_BOOLEAN, item->as.boolean = false; return 0;
    case TAG_TRUE: item->kind = VALUE_BOOLEAN, item->as.boolean = true; return 0;
    case TAG_INTEGER:
        if (value_read_bits(r, &bits) < 0)
            return -1;
        item->kind = VALUE_INTEGER;
        item->as.integer = value_unzigzag(bits);
        return 0;
    case TAG_REAL: return value_read_real(r, item);
    case TAG_STRING: return value_read_string(r, item);
    case TAG_TABLE: return value_read_pairs(r, item, VALUE_TABLE);
    case TAG_NULL: item->kind = VALUE_NULL; return 0;
    case TAG_ARRAY: return value_read_pairs(r, item, VALUE_ARRAY);
    default: return -1;
    }
}

int value_next(struct value_reader *r, struct value_item *item)
{
    item->is_key = false;
    if (r->depth > 0) {
        uint64_t *left = &r->left[r->depth - 1];
        if (*left == 0) {
            r->depth--;
            item->kind = VALUE_END;
            return 1;
        }
        item->is_key = *left % 2 == 0;
        --*left;
    } else if (r->begun)
        return r->at == r->end ? 0 : -1;
    r->begun = true;
    return value_read(r, item) < 0 ? -1 : 1;
}
