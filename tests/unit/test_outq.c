/* SPDX-License-Identifier: MIT
 * The send queue against a plain string of the same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "net/outq.h"

/* A queue, and what is to be in it: want[at .. len). */
struct twin {
    struct outq q;
    struct outq_pool pool;
    struct buf want;
    size_t at;
    uint8_t next; /* byte to append */
};

static void twin_compare(const struct twin *t)
{
    enum { MAX = 64 };
    struct iovec iov[MAX];
    size_t left = t->want.len - t->at;
    assert_int_equal(t->q.bytes, left);
    assert_int_equal(t->q.head == NULL, left == 0);
    assert_int_equal(t->q.tail == NULL, left == 0);
    for (int max = 0; max <= MAX; max = max * 2 + 1) {
        int n = outq_peek(&t->q, iov, max);
        assert_true(n >= 0 && n <= max && (n > 0 || max == 0 || left == 0));
        size_t seen = 0;
        for (int i = 0; i < n; i++) {
            assert_true(iov[i].iov_len > 0 && iov[i].iov_len <= left - seen);
            assert_memory_equal(iov[i].iov_base, t->want.data + t->at + seen, iov[i].iov_len);
            seen += iov[i].iov_len;
        }
        assert_true(seen == left || n == max);
    }
}

static void twin_append(struct twin *t, size_t len)
{
    uint8_t *data = malloc(len > 0 ? len : 1);
    assert_non_null(data);
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(t->next++ * 167);
    assert_int_equal(outq_append(&t->q, &t->pool, data, len), 0);
    assert_int_equal(buf_append(&t->want, data, len), 0);
    memset(data, 0, len); /* it was copied */
    free(data);
}

/* A part of a block, which the queue shares. The caller keeps its reference. */
static void twin_append_block(struct twin *t, struct block *b, size_t at, size_t len)
{
    unsigned refs = atomic_load(&b->refs);
    assert_int_equal(outq_append_block(&t->q, &t->pool, b, at, len), 0);
    assert_int_equal(atomic_load(&b->refs), refs + 1);
    assert_int_equal(buf_append(&t->want, b->data + at, len), 0);
}

/* `len` new bytes. */
static struct block *make_block(struct twin *t, size_t len)
{
    struct block *b = block_create(len);
    assert_non_null(b);
    for (b->len = 0; b->len < len; b->len++)
        b->data[b->len] = (uint8_t)(t->next++ * 101);
    return b;
}

static void twin_consume(struct twin *t, size_t n)
{
    size_t left = t->want.len - t->at;
    n = n < left ? n : left;
    outq_consume(&t->q, &t->pool, n);
    t->at += n;
}

static void twin_fini(struct twin *t)
{
    outq_clear(&t->q, &t->pool);
    assert_null(t->q.head);
    assert_int_equal(t->q.bytes, 0);
    outq_pool_fini(&t->pool);
    assert_int_equal(t->pool.count, 0);
    buf_fini(&t->want);
}

static void empty(void **state)
{
    (void)state;
    struct twin t = {0};
    twin_compare(&t);
    twin_append(&t, 0);
    twin_compare(&t);
    twin_consume(&t, 0);
    twin_compare(&t);
    twin_fini(&t);
}

static void gathers_small_writes(void **state)
{
    (void)state;
    struct twin t = {0};
    struct iovec iov[4];
    for (int i = 0; i < 100; i++)
        twin_append(&t, 20);
    assert_int_equal(outq_peek(&t.q, iov, 4), 1);
    twin_compare(&t);
    twin_fini(&t);
}

/* Every length around the size of a chunk, into an empty queue and behind a few bytes. */
static void lengths_around_a_chunk(void **state)
{
    (void)state;
    static const size_t before[] = {0, 1, 100, 4000};
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
        struct twin t = {0};
        for (size_t len = 4030; len < 4110; len++) {
            twin_append(&t, before[i]);
            twin_append(&t, len);
            twin_append(&t, 3);
            twin_compare(&t);
            twin_consume(&t, before[i] + 5);
            twin_compare(&t);
            twin_consume(&t, len - 4);
            twin_compare(&t);
            twin_consume(&t, 2);
            twin_compare(&t);
        }
        twin_fini(&t);
    }
}

static void consumes_a_byte_at_a_time(void **state)
{
    (void)state;
    struct twin t = {0};
    for (size_t i = 0; i < 5; i++)
        twin_append(&t, 2500);
    while (t.q.bytes > 0) {
        twin_consume(&t, 1);
        if (t.q.bytes % 97 == 0 || t.q.bytes < 3)
            twin_compare(&t);
    }
    twin_fini(&t);
}

/* A chunk that is partly sent still takes bytes at its end. */
static void appends_behind_what_is_partly_sent(void **state)
{
    (void)state;
    struct twin t = {0};
    for (size_t i = 0; i < 500; i++) {
        twin_append(&t, 30);
        twin_consume(&t, 29);
        twin_compare(&t);
    }
    while (t.q.bytes > 0) {
        twin_consume(&t, 7);
        twin_compare(&t);
    }
    twin_fini(&t);
}

static void large_writes(void **state)
{
    (void)state;
    static const size_t lengths[] = {5000, 70000, 1 << 20, 3};
    struct twin t = {0};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        twin_append(&t, 10);
        twin_append(&t, lengths[i]);
        twin_compare(&t);
    }
    while (t.q.bytes > 0) {
        twin_consume(&t, 33333);
        twin_compare(&t);
    }
    twin_fini(&t);
}

static void chunks_are_used_again(void **state)
{
    (void)state;
    struct twin t = {0};
    struct iovec first, second;
    twin_append(&t, 100);
    assert_int_equal(t.pool.count, 0);
    assert_int_equal(outq_peek(&t.q, &first, 1), 1);
    twin_consume(&t, 100);
    assert_int_equal(t.pool.count, 1);
    twin_append(&t, 100);
    assert_int_equal(t.pool.count, 0);
    assert_int_equal(outq_peek(&t.q, &second, 1), 1);
    assert_ptr_equal(first.iov_base, second.iov_base);
    twin_compare(&t);
    twin_fini(&t);
}

/* Only chunks of the common size are kept, and no more than a megabyte of them. */
static void the_pool_is_bounded(void **state)
{
    (void)state;
    struct twin t = {0};
    twin_append(&t, 1 << 20);
    twin_consume(&t, 1 << 20);
    assert_int_equal(t.pool.count, 0);
    for (size_t i = 0; i < 4000; i++)
        twin_append(&t, 1000);
    twin_consume(&t, t.q.bytes);
    twin_compare(&t);
    assert_true(t.pool.count > 0 && t.pool.count * 4096 <= 1 << 20);
    twin_fini(&t);
}

static void queues_share_a_pool(void **state)
{
    (void)state;
    struct outq_pool pool = {0};
    struct outq a = {0}, b = {0};
    struct iovec iov;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(outq_append(&a, &pool, "aaaa", 4), 0);
        assert_int_equal(outq_append(&b, &pool, "bb", 2), 0);
        assert_int_equal(outq_peek(&a, &iov, 1), 1);
        assert_memory_equal(iov.iov_base, "aaaa", 4);
        outq_clear(&a, &pool);
        assert_int_equal(outq_append(&a, &pool, "AA", 2), 0);
        assert_int_equal(outq_peek(&b, &iov, 1), 1);
        assert_memory_equal(iov.iov_base, "bb", 2);
        outq_clear(&b, &pool);
        outq_clear(&a, &pool);
    }
    assert_int_equal(pool.count, 2);
    outq_pool_fini(&pool);
}

static void patterns_at_random(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        struct twin t = {0};
        uint32_t random = seed;
        for (int i = 0; i < 300; i++) {
            random = random * 1103515245 + 12345;
            size_t n = random >> 16;
            n = n % 4 == 0 ? n / 4 : n % 4 == 1 ? n % 600 : n % 30;
            if (random >> 8 & 1)
                twin_append(&t, n);
            else
                twin_consume(&t, n);
            twin_compare(&t);
        }
        twin_fini(&t);
    }
}

/* ---- shared blocks ---- */

static void blocks_are_not_copied(void **state)
{
    (void)state;
    struct twin t = {0};
    struct iovec iov;
    struct block *b = make_block(&t, 5000);
    twin_append_block(&t, b, 10, 4000);
    assert_int_equal(outq_peek(&t.q, &iov, 1), 1);
    assert_ptr_equal(iov.iov_base, b->data + 10);
    assert_int_equal(iov.iov_len, 4000);
    twin_compare(&t);
    twin_consume(&t, 4000);
    assert_true(block_is_sole(b));
    block_unref(b);
    twin_fini(&t);
}

/* Copied bytes go neither into a block nor into the chunk before it. */
static void copies_behind_a_block(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 100, 5000};
    for (size_t i = 0; i < 3; i++) {
        struct twin t = {0};
        struct block *b = make_block(&t, 300);
        b->len = 200; /* there would be room */
        twin_append(&t, 10);
        twin_append_block(&t, b, 0, 200);
        twin_append(&t, lengths[i]);
        twin_append(&t, 3);
        twin_append_block(&t, b, 7, 1);
        twin_append_block(&t, b, 0, 200);
        twin_compare(&t);
        uint8_t last = b->data[299];
        while (t.q.bytes > 0) {
            twin_consume(&t, 7);
            twin_append(&t, t.q.bytes > 40 ? 1 : 0);
            twin_compare(&t);
        }
        assert_int_equal(b->data[299], last);
        assert_true(block_is_sole(b));
        block_unref(b);
        twin_fini(&t);
    }
}

/* The maker goes on writing behind what it has given out. */
static void a_block_grows_while_it_is_queued(void **state)
{
    (void)state;
    struct twin t = {0};
    struct block *b = block_create(4096);
    assert_non_null(b);
    for (size_t i = 0; i < 64; i++) {
        for (size_t end = b->len + 64; b->len < end; b->len++)
            b->data[b->len] = t.next++;
        twin_append_block(&t, b, b->len - 64, 64);
        if (i % 5 == 4)
            twin_consume(&t, 100);
        twin_compare(&t);
    }
    block_unref(b); /* the queue's are enough */
    twin_compare(&t);
    twin_fini(&t);
}

static void a_block_goes_with_its_last_byte(void **state)
{
    (void)state;
    struct twin t = {0};
    struct block *b = make_block(&t, 1000);
    twin_append_block(&t, b, 0, 600);
    twin_append_block(&t, b, 600, 400);
    assert_int_equal(atomic_load(&b->refs), 3);
    twin_consume(&t, 599);
    assert_int_equal(atomic_load(&b->refs), 3);
    twin_consume(&t, 1);
    assert_int_equal(atomic_load(&b->refs), 2);
    twin_consume(&t, 399);
    assert_int_equal(atomic_load(&b->refs), 2);
    twin_compare(&t);
    twin_consume(&t, 1);
    assert_true(block_is_sole(b));
    twin_append_block(&t, b, 0, 1000);
    outq_clear(&t.q, &t.pool);
    assert_true(block_is_sole(b));
    block_unref(b);
    t.at = t.want.len;
    twin_fini(&t);
}

static void many_queues_share_one_block(void **state)
{
    (void)state;
    enum { QUEUES = 50 };
    struct twin t[QUEUES] = {0};
    struct block *b = make_block(&t[0], 3000);
    for (size_t i = 0; i < QUEUES; i++) {
        twin_append(&t[i], i);
        twin_append_block(&t[i], b, i, 3000 - i);
    }
    assert_int_equal(atomic_load(&b->refs), QUEUES + 1);
    block_unref(b);
    for (size_t i = 0; i < QUEUES; i++) { /* some are quick, some are slow */
        twin_consume(&t[i], i * 60);
        twin_compare(&t[i]);
    }
    for (size_t i = 0; i < QUEUES; i++)
        twin_fini(&t[i]);
}

/* One burst must not cost memory for ever. */
static void the_pool_of_references_is_bounded_and_used_again(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    struct twin t = {0};
    struct block *b = make_block(&t, 1);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(outq_append_block(&t.q, &t.pool, b, 0, 1), 0);
    assert_int_equal(t.pool.nrefs, 0);
    outq_clear(&t.q, &t.pool);
    unsigned kept = t.pool.nrefs;
    assert_true(kept > 0 && kept < MANY);
    assert_int_equal(t.pool.count, 0); /* they are none that take bytes */
    assert_int_equal(outq_append_block(&t.q, &t.pool, b, 0, 1), 0);
    assert_int_equal(t.pool.nrefs, kept - 1);
    outq_clear(&t.q, &t.pool);
    assert_true(block_is_sole(b));
    block_unref(b);
    twin_fini(&t);
    assert_null(t.pool.spare_refs);
}

static void copies_and_blocks_at_random(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 30; seed++) {
        struct twin t = {0};
        struct block *b = make_block(&t, 20000);
        uint32_t random = seed;
        for (int i = 0; i < 300; i++) {
            random = random * 1103515245 + 12345;
            size_t n = random >> 16, at = n % 19000;
            n = n % 4 == 0 ? n / 4 : n % 600;
            if (random >> 8 & 1)
                twin_consume(&t, n);
            else if (random >> 9 & 1)
                twin_append(&t, n);
            else
                twin_append_block(&t, b, at, 1 + n % (20000 - at));
            twin_compare(&t);
        }
        twin_fini(&t);
        assert_true(block_is_sole(b));
        block_unref(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty),
        cmocka_unit_test(gathers_small_writes),
        cmocka_unit_test(lengths_around_a_chunk),
        cmocka_unit_test(consumes_a_byte_at_a_time),
        cmocka_unit_test(appends_behind_what_is_partly_sent),
        cmocka_unit_test(large_writes),
        cmocka_unit_test(chunks_are_used_again),
        cmocka_unit_test(the_pool_is_bounded),
        cmocka_unit_test(queues_share_a_pool),
        cmocka_unit_test(patterns_at_random),
        cmocka_unit_test(blocks_are_not_copied),
        cmocka_unit_test(copies_behind_a_block),
        cmocka_unit_test(a_block_grows_while_it_is_queued),
        cmocka_unit_test(a_block_goes_with_its_last_byte),
        cmocka_unit_test(many_queues_share_one_block),
        cmocka_unit_test(the_pool_of_references_is_bounded_and_used_again),
        cmocka_unit_test(copies_and_blocks_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
