/* SPDX-License-Identifier: MIT
 * Flat copies of Lua data, to be carried from one Lua state to another: nil, booleans, integers, floats,
 * strings, a null that is not nil, and tables of these, which may be marked as arrays. Knows nothing of Lua.
 * One thread at a time; owns nothing.
 *
 * A value is a byte that says what it is, and then
 *
 *   nil, false, true,
 *   null               nothing
 *   integer            zigzag (0, -1, 1, -2 ...), 7 bits a byte, lowest first; all but the last have the
 *                      top bit set
 *   float              8 bytes, lowest first
 *   string             its length, as an integer without the zigzag; then its bytes
 *   table, array       how many pairs, 4 bytes, lowest first; then key, value, key, value ...
 *
 * A key is neither nil nor NaN nor a table. An array is a table with a mark: its keys may be any. There is
 * one way to write each value, and the reader insists on it; that keys differ it does not check. */
#ifndef TIDEWIRE_BASE_VALUE_H
#define TIDEWIRE_BASE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define VALUE_DEPTH  64 /* so many tables in one another */
#define VALUE_NUMBER 11 /* bytes of a number, at most */

/* ---- writing ---- */

/* Each appends; 0, or -1 when memory runs out (the buffer is then unchanged). */
int value_put_nil(struct buf *b);
int value_put_null(struct buf *b);
int value_put_boolean(struct buf *b, bool boolean);
int value_put_integer(struct buf *b, int64_t integer);
int value_put_real(struct buf *b, double real);
int value_put_string(struct buf *b, const char *text, size_t len);

/* Begins a table, or one that is marked: `*at` is for value_end_table, which is told the number of pairs put
 * in between. The depth is the caller's to bound, and that no key is what a key cannot be. */
int value_begin_table(struct buf *b, size_t *at);
int value_begin_array(struct buf *b, size_t *at);
void value_end_table(struct buf *b, size_t at, uint32_t pairs);

/* A number on its own; how many bytes it takes. */
size_t value_write_integer(uint8_t out[VALUE_NUMBER], int64_t integer);
size_t value_write_real(uint8_t out[VALUE_NUMBER], double real);

/* ---- reading ---- */

enum value_kind {
    VALUE_NIL,
    VALUE_NULL,
    VALUE_BOOLEAN,
    VALUE_INTEGER,
    VALUE_REAL,
    VALUE_STRING,
    VALUE_TABLE, /* its pairs follow, then VALUE_END */
    VALUE_ARRAY, /* the same of a table that is marked */
    VALUE_END,
};

struct value_item {
    enum value_kind kind;
    bool is_key; /* of a pair in the innermost table */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct {
            const char *text; /* within the bytes that are read */
            size_t len;
        } string;
        uint32_t pairs; /* of a table or array: never more than the bytes that are left can hold */
    } as;
};

/* A place in the bytes of one value. */
struct value_reader {
    const uint8_t *at, *end;
    unsigned depth;
    bool begun;
    uint64_t left[VALUE_DEPTH]; /* of each open table: keys and values that are still to come */
};

/* Borrows the bytes until the last value_next. */
void value_reader_init(struct value_reader *r, const void *data, size_t len);

/* The next item: 1. After the last one 0. -1 when the bytes are no value, or more than one; then nothing more
 * is to be read. Whatever the bytes are, nothing beyond them is touched. */
int value_next(struct value_reader *r, struct value_item *item);

#endif
