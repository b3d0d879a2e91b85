/* SPDX-License-Identifier: MIT
 * Flat copies: what was put is read, each in one form only, and no bytes make the reader run over. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/value.h"

/* All items of the bytes are read: the last result. They are at the very end of a block, so that
 * AddressSanitizer sees a read beyond them. */
static int outcome(const void *data, size_t len)
{
    struct value_reader r;
    struct value_item item;
    int rc;
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    value_reader_init(&r, copy, len);
    while ((rc = value_next(&r, &item)) > 0)
        ;
    free(copy);
    return rc;
}

#define OUTCOME(text) outcome("" text, sizeof text - 1)

static struct value_item only_item(const struct buf *b)
{
    struct value_reader r;
    struct value_item item, none;
    value_reader_init(&r, b->data, b->len);
    assert_int_equal(value_next(&r, &item), 1);
    assert_int_equal(value_next(&r, &none), 0);
    assert_false(item.is_key);
    return item;
}

static void integers(void **state)
{
    (void)state;
    static const struct {
        int64_t integer;
        size_t len;
    } cases[] = {
        {0, 2},          {-1, 2},
        {1, 2},          {63, 2},
        {-64, 2},        {64, 3},
        {-65, 3},        {8191, 3},
        {8192, 4},       {INT64_MAX, 11},
        {INT64_MIN, 11}, {INT32_MAX, 6},
        {1LL << 53, 9},  {123456789012345678, 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = BUF_INIT;
        uint8_t alone[VALUE_NUMBER];
        assert_int_equal(value_put_integer(&b, cases[i].integer), 0);
        assert_int_equal(b.len, cases[i].len);
        assert_int_equal(value_write_integer(alone, cases[i].integer), b.len);
        assert_memory_equal(alone, b.data, b.len);
        struct value_item item = only_item(&b);
        assert_int_equal(item.kind, VALUE_INTEGER);
        assert_true(item.as.integer == cases[i].integer);
        buf_fini(&b);
    }
}

static void reals_keep_every_bit(void **state)
{
    (void)state;
    const double cases[] = {0.0, -0.0, 0.1, 1.0, -1e308, 5e-324, INFINITY, -INFINITY, NAN, -NAN};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = BUF_INIT;
        assert_int_equal(value_put_real(&b, cases[i]), 0);
        struct value_item item = only_item(&b);
        assert_int_equal(item.kind, VALUE_REAL);
        assert_memory_equal(&item.as.real, &cases[i], sizeof cases[i]);
        buf_fini(&b);
    }
}

static void booleans_nil_and_null(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        static const enum value_kind kinds[] = {VALUE_BOOLEAN, VALUE_BOOLEAN, VALUE_NIL, VALUE_NULL};
        struct buf b = BUF_INIT;
        int rc = i < 2 ? value_put_boolean(&b, i == 1) : i == 2 ? value_put_nil(&b) : value_put_null(&b);
        assert_int_equal(rc, 0);
        assert_int_equal(b.len, 1);
        struct value_item item = only_item(&b);
        assert_int_equal(item.kind, kinds[i]);
        if (i < 2)
            assert_int_equal(item.as.boolean, i == 1);
        buf_fini(&b);
    }
}

static void strings(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 127, 128, 16383, 16384, 100000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct buf b = BUF_INIT;
        char *text = malloc(lengths[i] + 1);
        assert_non_null(text);
        for (size_t k = 0; k < lengths[i]; k++)
            text[k] = (char)(k * 7);
        assert_int_equal(value_put_string(&b, text, lengths[i]), 0);
        struct value_item item = only_item(&b);
        assert_int_equal(item.kind, VALUE_STRING);
        assert_int_equal(item.as.string.len, lengths[i]);
        assert_memory_equal(item.as.string.text, text, lengths[i]);
        buf_fini(&b);
        free(text);
    }
}

/* {[1] = {}, x = {[true] = 1.5}}, of which the last is an array */
static void put_tables(struct buf *b)
{
    size_t outer, inner;
    assert_int_equal(value_begin_table(b, &outer), 0);
    value_put_integer(b, 1);
    assert_int_equal(value_begin_table(b, &inner), 0);
    value_end_table(b, inner, 0);
    value_put_string(b, "x", 1);
    assert_int_equal(value_begin_array(b, &inner), 0);
    value_put_boolean(b, true);
    value_put_real(b, 1.5);
    value_end_table(b, inner, 1);
    value_end_table(b, outer, 2);
}

static void tables_nest(void **state)
{
    (void)state;
    static const struct {
        enum value_kind kind;
        bool is_key;
    } expected[] = {
        {VALUE_TABLE, false}, {VALUE_INTEGER, true}, {VALUE_TABLE, false},  {VALUE_END, false},
        {VALUE_STRING, true}, {VALUE_ARRAY, false},  {VALUE_BOOLEAN, true}, {VALUE_REAL, false},
        {VALUE_END, false},   {VALUE_END, false},
    };
    struct buf b = BUF_INIT;
    struct value_reader r;
    struct value_item item;
    put_tables(&b);
    value_reader_init(&r, b.data, b.len);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(value_next(&r, &item), 1);
        assert_int_equal(item.kind, expected[i].kind);
        assert_int_equal(item.is_key, expected[i].is_key);
        if (i == 0)
            assert_int_equal(item.as.pairs, 2);
    }
    assert_int_equal(value_next(&r, &item), 0);
    buf_fini(&b);
}

static void what_is_cut_short_is_no_value(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    put_tables(&b);
    assert_int_equal(outcome(b.data, b.len), 0);
    for (size_t len = 0; len < b.len; len++)
        assert_int_equal(outcome(b.data, len), -1);
    assert_int_equal(value_put_nil(&b), 0);
    assert_int_equal(outcome(b.data, b.len), -1); /* nor is more than one */
    buf_fini(&b);
}

static int nested(unsigned depth)
{
    struct buf b = BUF_INIT;
    size_t at[VALUE_DEPTH + 2];
    for (unsigned i = 0; i < depth; i++) {
        if (i > 0)
            value_put_integer(&b, 1);
        assert_int_equal(i % 2 ? value_begin_array(&b, &at[i]) : value_begin_table(&b, &at[i]), 0);
    }
    for (unsigned i = depth; i-- > 0;)
        value_end_table(&b, at[i], i + 1 < depth);
    int rc = outcome(b.data, b.len);
    buf_fini(&b);
    return rc;
}

static void depth_is_bounded(void **state)
{
    (void)state;
    assert_int_equal(nested(1), 0);
    assert_int_equal(nested(VALUE_DEPTH), 0);
    assert_int_equal(nested(VALUE_DEPTH + 1), -1);
}

static void refused(void **state)
{
    (void)state;
    assert_int_equal(OUTCOME("\3\0"), 0);
    assert_int_equal(OUTCOME("\11"), -1); /* no such thing */
    assert_int_equal(OUTCOME("\377"), -1);
    assert_int_equal(OUTCOME("\3\200\0"), -1);                                 /* 0, longer than need be */
    assert_int_equal(OUTCOME("\3\377\377\377\377\377\377\377\377\377\1"), 0);  /* 64 bits */
    assert_int_equal(OUTCOME("\3\377\377\377\377\377\377\377\377\377\2"), -1); /* 65 */
    assert_int_equal(OUTCOME("\3\377\377\377\377\377\377\377\377\377\201\0"), -1); /* and no end */
    assert_int_equal(OUTCOME("\5\2a"), -1);                                        /* shorter than it says */
    assert_int_equal(OUTCOME("\5\377\377\377\377\377\377\377\377\377\1a"), -1);
    assert_int_equal(OUTCOME("\6\1\0\0\0\2\2"), 0);
    assert_int_equal(OUTCOME("\6\2\0\0\0\2\2"), -1); /* fewer pairs than it says */
    assert_int_equal(OUTCOME("\6\377\377\377\377\2\2"), -1);
    assert_int_equal(OUTCOME("\6\1\0\0\0\0\2"), -1);          /* nil as a key */
    assert_int_equal(OUTCOME("\6\1\0\0\0\2\0"), 0);           /* as a value */
    assert_int_equal(OUTCOME("\6\1\0\0\0\6\0\0\0\0\2"), -1);  /* a table as a key */
    assert_int_equal(OUTCOME("\6\1\0\0\0\10\0\0\0\0\2"), -1); /* an array as a key */
    assert_int_equal(OUTCOME("\6\1\0\0\0\7\7"), 0);           /* null as both */
    assert_int_equal(OUTCOME("\10\0\0\0\0"), 0);
    assert_int_equal(OUTCOME("\10\1\0\0\0\2"), -1);
    assert_int_equal(OUTCOME("\10\377\377\377\377\2\2"), -1);
    assert_int_equal(OUTCOME("\6\1\0\0\0\4\0\0\0\0\0\0\370\177\2"), -1); /* NaN */
    assert_int_equal(OUTCOME("\6\1\0\0\0\2\4\0\0\0\0\0\0\370\177"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers),
        cmocka_unit_test(reals_keep_every_bit),
        cmocka_unit_test(booleans_nil_and_null),
        cmocka_unit_test(strings),
        cmocka_unit_test(tables_nest),
        cmocka_unit_test(what_is_cut_short_is_no_value),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
