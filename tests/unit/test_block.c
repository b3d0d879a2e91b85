/* SPDX-License-Identifier: MIT
 * Shared bytes: who has a reference, and that the last one frees, on one thread and on many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/block.h"
#include "base/thread.h"

static void a_new_block_is_empty_and_its_makers(void **state)
{
    (void)state;
    static const size_t caps[] = {0, 1, 100, 1 << 20};
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        struct block *b = block_create(caps[i]);
        assert_non_null(b);
        assert_int_equal(b->len, 0);
        assert_int_equal(b->cap, caps[i]);
        assert_true(block_is_sole(b));
        memset(b->data, 7, caps[i]); /* all of it is there */
        block_unref(b);
    }
}

static void it_is_there_until_the_last_reference_goes(void **state)
{
    (void)state;
    struct block *b = block_create(5);
    assert_non_null(b);
    memcpy(b->data, "hello", 5);
    b->len = 5;
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(block_ref(b), b);
        assert_false(block_is_sole(b));
    }
    for (int i = 0; i < 3; i++) {
        assert_false(block_is_sole(b));
        block_unref(b);
        assert_memory_equal(b->data, "hello", 5);
    }
    assert_true(block_is_sole(b));
    block_unref(b); /* LeakSanitizer would tell of one too many */
}

/* ---- many threads ---- */

enum { THREADS = 4, ROUNDS = 20000, BYTES = 64 };

static void *take_and_give_back(void *arg)
{
    struct block *b = arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct block *mine = block_ref(b);
        if (mine->data[i % BYTES] != i % BYTES || block_is_sole(mine))
            return NULL;
        block_unref(mine);
    }
    block_unref(b); /* the one it was given */
    return arg;
}

static void threads_count_together(void **state)
{
    (void)state;
    pthread_t thread[THREADS];
    struct block *b = block_create(BYTES);
    assert_non_null(b);
    for (b->len = 0; b->len < BYTES; b->len++)
        b->data[b->len] = (uint8_t)b->len;
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&thread[i], take_and_give_back, block_ref(b)), 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *fine;
        assert_int_equal(pthread_join(thread[i], &fine), 0);
        assert_non_null(fine);
    }
    assert_true(block_is_sole(b));
    block_unref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_block_is_empty_and_its_makers),
        cmocka_unit_test(it_is_there_until_the_last_reference_goes),
        cmocka_unit_test(threads_count_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
