/* SPDX-License-Identifier: MIT
 * Flat copies: what the reader takes, the writer makes again byte for byte, for there is one form of each
 * value. What is cut short or goes on is no value. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/value.h"

#include "check.h"

enum { CUTS = 64 };

struct table {
    size_t at;
    uint32_t pairs;
};

static void put(struct buf *b, struct table *tables, unsigned depth, const struct value_item *item)
{
    switch (item->kind) {
    case VALUE_NIL: CHECK(value_put_nil(b) == 0); break;
    case VALUE_NULL: CHECK(value_put_null(b) == 0); break;
    case VALUE_BOOLEAN: CHECK(value_put_boolean(b, item->as.boolean) == 0); break;
    case VALUE_INTEGER: CHECK(value_put_integer(b, item->as.integer) == 0); break;
    case VALUE_REAL: CHECK(value_put_real(b, item->as.real) == 0); break;
    case VALUE_STRING: CHECK(value_put_string(b, item->as.string.text, item->as.string.len) == 0); break;
    case VALUE_TABLE: CHECK(value_begin_table(b, &tables[depth - 1].at) == 0); break;
    case VALUE_ARRAY: CHECK(value_begin_array(b, &tables[depth - 1].at) == 0); break;
    case VALUE_END: value_end_table(b, tables[depth].at, tables[depth].pairs); break;
    }
}

/* Reads it and writes what was read to `b`: the last result of value_next. `depth` counts what the reader
 * says, not what it holds. */
static int copy(const uint8_t *data, size_t size, struct buf *b)
{
    struct value_reader r;
    struct value_item item;
    struct table tables[VALUE_DEPTH];
    unsigned depth = 0;
    int rc;
    value_reader_init(&r, data, size);
    while ((rc = value_next(&r, &item)) > 0) {
        if (item.is_key)
            tables[depth - 1].pairs++;
        bool table = item.kind == VALUE_TABLE || item.kind == VALUE_ARRAY;
        CHECK(!item.is_key || (item.kind != VALUE_NIL && !table && item.kind != VALUE_END));
        if (table) {
            CHECK(depth < VALUE_DEPTH && item.as.pairs <= size / 2);
            tables[depth++].pairs = 0;
        } else if (item.kind == VALUE_END) {
            CHECK(depth > 0);
            depth--;
        } else if (item.kind == VALUE_STRING)
            CHECK((const uint8_t *)item.as.string.text >= data &&
                  item.as.string.len <= (size_t)(data + size - (const uint8_t *)item.as.string.text));
        put(b, tables, depth, &item);
    }
    CHECK(rc < 0 || depth == 0);
    return rc;
}

/* At the end of a block of its own, where AddressSanitizer sees a read beyond it. */
static int outcome(const uint8_t *data, size_t size)
{
    struct buf b = BUF_INIT;
    uint8_t *block = malloc(size > 0 ? size : 1);
    CHECK(block != NULL);
    memcpy(block, data, size);
    int rc = copy(block, size, &b);
    if (rc == 0)
        CHECK(b.len == size && memcmp(b.data, data, size) == 0);
    buf_fini(&b);
    free(block);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (outcome(data, size) < 0)
        return 0;
    for (size_t i = 0; i < CUTS && i < size; i++)
        CHECK(outcome(data, i) < 0 && outcome(data, size - 1 - i) < 0);
    uint8_t *longer = malloc(size + 1);
    CHECK(longer != NULL);
    memcpy(longer, data, size);
    longer[size] = 0;
    CHECK(outcome(longer, size + 1) < 0);
    free(longer);
    return 0;
}
