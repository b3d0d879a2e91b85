/* SPDX-License-Identifier: MIT
 * The growing buffer: what goes in comes out, and a buffer that cannot grow stays as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"

/* AddressSanitizer would end the process where malloc answers NULL. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void empty(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_null(b.data);
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_int_equal(buf_puts(&b, ""), 0);
    assert_int_equal(buf_reserve(&b, 0), 0);
    assert_int_equal(b.len, 0);
    assert_null(b.data);
    buf_fini(&b);
}

static void appends(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_int_equal(buf_append(&b, "a\0b", 3), 0);
    assert_int_equal(buf_puts(&b, "cd"), 0);
    assert_int_equal(buf_printf(&b, "<%d|%s>", -5, "x"), 0);
    assert_int_equal(b.len, 11);
    assert_memory_equal(b.data, "a\0bcd<-5|x>", 11);
    buf_fini(&b);
}

static void grows_by_doubling(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    size_t grown = 0, cap = 0;
    for (size_t i = 0; i < 100000; i++) {
        uint8_t byte = (uint8_t)(i * 31 >> 3);
        assert_int_equal(buf_append(&b, &byte, 1), 0);
        if (b.cap != cap) {
            assert_true(b.cap >= 2 * cap);
            cap = b.cap;
            grown++;
        }
    }
    assert_int_equal(b.len, 100000);
    assert_true(grown < 20);
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal((uint8_t)b.data[i], (uint8_t)(i * 31 >> 3));
    buf_fini(&b);
}

/* Formatting needs room for a NUL, which is not part of the contents: every fill, every length. */
static void prints_at_every_fill(void **state)
{
    (void)state;
    char text[200];
    memset(text, 't', sizeof text);
    for (size_t fill = 0; fill < 140; fill++) {
        for (int len = 0; len < 140; len += 1 + len / 9) {
            struct buf b = BUF_INIT;
            assert_int_equal(buf_append(&b, text, fill), 0);
            assert_int_equal(buf_printf(&b, "%.*s.", len, text), 0);
            assert_int_equal(b.len, fill + (size_t)len + 1);
            assert_true(b.len < b.cap);
            assert_int_equal(b.data[b.len - 1], '.');
            assert_int_equal(b.data[b.len], '\0');
            buf_fini(&b);
        }
    }
}

static void reserve_makes_room_once(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_int_equal(buf_puts(&b, "head"), 0);
    assert_int_equal(buf_reserve(&b, 5000), 0);
    assert_true(b.cap - b.len >= 5000);
    assert_int_equal(b.len, 4);
    const char *data = b.data;
    memset(b.data + b.len, 'x', 5000);
    b.len += 5000;
    assert_int_equal(buf_reserve(&b, b.cap - b.len), 0);
    assert_ptr_equal(b.data, data);
    assert_memory_equal(b.data, "headxxx", 7);
    buf_fini(&b);
}

static void too_much_changes_nothing(void **state)
{
    (void)state;
    const volatile size_t too_much[] = {SIZE_MAX, SIZE_MAX - 4, SIZE_MAX / 2, SIZE_MAX / 2 - 4,
                                        (size_t)1 << 60};
    struct buf b = BUF_INIT;
    assert_int_equal(buf_puts(&b, "kept"), 0);
    const struct buf before = b;
    for (size_t i = 0; i < sizeof too_much / sizeof too_much[0]; i++) {
        assert_int_equal(buf_reserve(&b, too_much[i]), -1);
        assert_memory_equal(&b, &before, sizeof b);
        assert_memory_equal(b.data, "kept", 4);
    }
    buf_fini(&b);
}

static void usable_after_fini(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_int_equal(buf_puts(&b, "one"), 0);
    buf_fini(&b);
    assert_null(b.data);
    assert_int_equal(b.len + b.cap, 0);
    assert_int_equal(buf_puts(&b, "two"), 0);
    assert_memory_equal(b.data, "two", 3);
    buf_fini(&b);
    buf_fini(&b);
}

static void reserves_exactly(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_int_equal(buf_reserve_exact(&b, 1000), 0);
    assert_int_equal(b.cap, 1000);
    assert_int_equal(buf_append(&b, "abc", 3), 0);
    assert_int_equal(b.cap, 1000);
    assert_int_equal(buf_reserve_exact(&b, 997), 0); /* there is */
    assert_int_equal(b.cap, 1000);
    assert_int_equal(buf_reserve_exact(&b, 1001), 0);
    assert_int_equal(b.cap, 1004);
    assert_memory_equal(b.data, "abc", 3);
    assert_int_equal(buf_reserve_exact(&b, SIZE_MAX - 2), -1);
    assert_int_equal(b.cap, 1004);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty),
        cmocka_unit_test(appends),
        cmocka_unit_test(grows_by_doubling),
        cmocka_unit_test(prints_at_every_fill),
        cmocka_unit_test(reserve_makes_room_once),
        cmocka_unit_test(too_much_changes_nothing),
        cmocka_unit_test(usable_after_fini),
        cmocka_unit_test(reserves_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
