/* SPDX-License-Identifier: MIT
 * A feed against a plain list of its messages: whatever part of it is asked for, the ranges are those bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "bus/feed.h"

/* Never looked into. */
static char topics[2], sessions[3];

static struct topic *topic_at(size_t i)
{
    return (struct topic *)&topics[i];
}

static const struct session *session_at(size_t i)
{
    return (const struct session *)&sessions[i];
}

/* A feed, and what is to be in it. */
struct twin {
    struct feed_pool pool;
    struct feed *f;
    struct buf bytes;
    size_t end[3000]; /* of each message in `bytes` */
    uint32_t count;
    uint32_t random;
};

static struct twin twin;

static uint32_t some(uint32_t below)
{
    twin.random = twin.random * 1103515245 + 12345;
    return (twin.random >> 8) % below;
}

static int set_up(void **state)
{
    (void)state;
    memset(&twin, 0, sizeof twin);
    twin.random = 1;
    twin.f = feed_get(&twin.pool, topic_at(0));
    return twin.f != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    if (twin.f != NULL)
        feed_put(&twin.pool, twin.f);
    feed_pool_fini(&twin.pool);
    buf_fini(&twin.bytes);
    return twin.pool.spare == NULL && twin.pool.count == 0 ? 0 : -1;
}

/* New bytes at the end of what is to be in it. */
static const char *make(size_t len)
{
    size_t before = twin.bytes.len;
    assert_true(twin.count < sizeof twin.end / sizeof twin.end[0]);
    assert_int_equal(buf_reserve(&twin.bytes, len), 0);
    for (size_t i = 0; i < len; i++)
        twin.bytes.data[twin.bytes.len++] = (char)some(256);
    twin.end[twin.count++] = twin.bytes.len;
    return twin.bytes.data + before;
}

static void add(size_t len, const struct session *except)
{
    uint32_t seq = twin.count * 3;
    assert_int_equal(feed_add(twin.f, make(len), len, seq, except), 0);
}

/* Returns the block, of which the feed has a reference besides the caller's. */
static struct block *add_block(size_t len)
{
    uint32_t seq = twin.count * 3;
    struct block *b = block_create(len);
    assert_non_null(b);
    memcpy(b->data, make(len), len);
    b->len = len;
    assert_int_equal(feed_add_block(twin.f, b, seq, NULL), 0);
    assert_int_equal(atomic_load(&b->refs), 2);
    return b;
}

/* The messages from .. to, and in how many ranges. */
static unsigned compare(uint32_t from, uint32_t to)
{
    unsigned ranges = 0;
    const struct block *before = NULL;
    for (; from < to; ranges++) {
        struct feed_range r = feed_range(twin.f, from, to);
        size_t begin = from > 0 ? twin.end[from - 1] : 0;
        assert_true(r.count > 0 && r.count <= to - from);
        assert_int_equal(r.len, twin.end[from + r.count - 1] - begin);
        assert_true(r.at <= r.block->len && r.len <= r.block->len - r.at);
        assert_memory_equal(r.block->data + r.at, twin.bytes.data + begin, r.len);
        assert_ptr_not_equal(r.block, before); /* no range could be longer */
        before = r.block;
        from += r.count;
    }
    return ranges;
}

static void compare_all_parts(void)
{
    assert_int_equal(twin.f->nrecords, twin.count);
    for (uint32_t from = 0; from < twin.count; from++)
        for (uint32_t to = from + 1; to <= twin.count; to++)
            compare(from, to);
}

static void a_new_feed_is_empty(void **state)
{
    (void)state;
    assert_ptr_equal(twin.f->topic, topic_at(0));
    assert_int_equal(twin.f->nrecords, 0);
    assert_int_equal(twin.f->nsegments, 0);
}

static void records_say_who_published_and_when(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        add(2 + some(50), i % 4 < 3 ? session_at(i % 4) : NULL);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(twin.f->record[i].seq, i * 3);
        assert_ptr_equal(twin.f->record[i].except, i % 4 < 3 ? session_at(i % 4) : NULL);
    }
}

static void small_messages_share_a_block(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        add(20, NULL);
    assert_int_equal(compare(0, 50), 1);
    compare_all_parts();
}

/* So that what a subscriber gets is few pieces, however many messages there are. */
static void many_messages_are_few_ranges(void **state)
{
    (void)state;
    while (twin.count < 3000)
        add(100, NULL);
    assert_true(compare(0, 3000) <= 10);
    for (uint32_t from = 0; from < 3000; from += 1 + some(60))
        for (uint32_t to = from; to < 3000; to += 1 + some(700))
            compare(from, to);
}

static void every_part_of_messages_of_all_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {2, 30, 1000, 1024, 1025, 4096, 4097, 16384, 65536, 65537, 200000, 3};
    for (size_t i = 0; i < 60; i++)
        add(sizes[i * 7 % (sizeof sizes / sizeof sizes[0])], NULL);
    compare_all_parts();
}

static void blocks_are_shared_not_copied(void **state)
{
    (void)state;
    struct block *b = add_block(5000);
    assert_ptr_equal(feed_range(twin.f, 0, 1).block, b);
    assert_int_equal(compare(0, 1), 1);
    feed_put(&twin.pool, twin.f);
    twin.f = NULL;
    assert_true(block_is_sole(b));
    block_unref(b);
}

/* What follows a shared block must not be written into it, whoever has it. */
static void blocks_between_copies(void **state)
{
    (void)state;
    struct block *kept[20];
    for (size_t i = 0; i < 20; i++) {
        for (uint32_t n = some(4); n > 0; n--)
            add(2 + some(300), NULL);
        kept[i] = add_block(1 + some(9000));
        if (i % 3 == 0)
            add(1, NULL);
    }
    compare_all_parts();
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(kept[i]->len, kept[i]->cap);
        block_unref(kept[i]);
    }
}

/* What was given out before stays as it is while more is added. */
static void ranges_outlive_what_is_added_later(void **state)
{
    (void)state;
    add(10, NULL);
    struct feed_range r = feed_range(twin.f, 0, 1);
    struct block *b = block_ref(r.block);
    while (twin.count < 2000)
        add(50, NULL);
    feed_put(&twin.pool, twin.f);
    twin.f = NULL;
    assert_memory_equal(b->data + r.at, twin.bytes.data, 10);
    assert_true(block_is_sole(b));
    block_unref(b);
}

static void spare_feeds_are_used_again_and_empty(void **state)
{
    (void)state;
    struct feed *f = twin.f;
    add(10, session_at(0));
    feed_put(&twin.pool, f);
    assert_int_equal(twin.pool.count, 1);
    twin.f = feed_get(&twin.pool, topic_at(1));
    assert_ptr_equal(twin.f, f);
    assert_int_equal(twin.pool.count, 0);
    assert_ptr_equal(f->topic, topic_at(1));
    twin.count = 0;
    twin.bytes.len = 0;
    for (int i = 0; i < 40; i++)
        add(30, NULL);
    compare_all_parts();
}

/* What any records are is told without looking at them again; a feed that is used again begins anew. */
static void sums_up_what_records_are(void **state)
{
    (void)state;
    static const struct {
        bool text;
        size_t len;
    } messages[] = {{true, 5}, {false, 70}, {true, 0}, {false, 1}, {true, 300}};
    for (int round = 0; round < 2; round++) {
        struct feed *f = feed_get(&twin.pool, topic_at(0));
        assert_non_null(f);
        for (uint32_t i = 0; i < 5; i++) {
            assert_int_equal(feed_add(f, "abc", 3, i, NULL), 0);
            feed_describe(f, messages[i].text, messages[i].len);
        }
        for (uint32_t from = 0; from < 5; from++)
            for (uint32_t to = from + 1; to <= 5; to++) {
                struct feed_sum want = {0}, sum = feed_sum(f, from, to);
                for (uint32_t i = from; i < to; i++) {
                    want.bytes += (uint32_t)messages[i].len;
                    want.binary += !messages[i].text;
                    want.binary_bytes += messages[i].text ? 0 : (uint32_t)messages[i].len;
                }
                assert_memory_equal(&sum, &want, sizeof sum);
            }
        feed_put(&twin.pool, f);
    }
}

static void the_pool_is_bounded(void **state)
{
    (void)state;
    struct feed *f[200];
    for (size_t i = 0; i < 200; i++) {
        f[i] = feed_get(&twin.pool, topic_at(0));
        assert_non_null(f[i]);
        assert_int_equal(feed_add(f[i], "abc", 3, 0, NULL), 0);
    }
    for (size_t i = 0; i < 200; i++)
        feed_put(&twin.pool, f[i]);
    assert_true(twin.pool.count > 0 && twin.pool.count < 200);
}

/* One burst must not cost memory for ever. */
static void a_feed_of_many_messages_is_not_kept(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100000; i++)
        assert_int_equal(feed_add(twin.f, "abc", 3, i, NULL), 0);
    feed_put(&twin.pool, twin.f);
    twin.f = NULL;
    assert_int_equal(twin.pool.count, 0);
}

static struct feed *add_encoding(unsigned bits)
{
    struct feed *e = feed_get(&twin.pool, topic_at(0));
    assert_non_null(e);
    e->shape = (struct feed_shape){.bits = bits, .min = 100};
    e->compressed = true;
    assert_int_equal(feed_add(e, "encoded", 7, 0, NULL), 0);
    e->next = twin.f->encodings;
    twin.f->encodings = e;
    return e;
}

static void encodings_go_where_their_feed_goes(void **state)
{
    (void)state;
    add(10, NULL);
    for (unsigned bits = 8; bits <= 15; bits++)
        add_encoding(bits);
    feed_put(&twin.pool, twin.f);
    assert_int_equal(twin.pool.count, 9);
    twin.f = feed_get(&twin.pool, topic_at(0));
    assert_null(twin.f->encodings);
}

/* Or the next topic's subscribers would get what is somebody else's. */
static void an_encoding_is_used_again_as_a_plain_and_empty_feed(void **state)
{
    (void)state;
    struct feed *e = add_encoding(9), *again[2];
    feed_put(&twin.pool, twin.f);
    for (size_t i = 0; i < 2; i++) {
        again[i] = feed_get(&twin.pool, topic_at(1));
        assert_int_equal(again[i]->nrecords, 0);
        assert_int_equal(again[i]->nsegments, 0);
        assert_int_equal(again[i]->shape.bits, 0);
        assert_int_equal(again[i]->shape.min, 0);
        assert_int_equal(again[i]->longest, 0);
        assert_false(again[i]->compressed);
        assert_null(again[i]->encodings);
    }
    assert_true(again[0] == e || again[1] == e);
    feed_put(&twin.pool, again[0]);
    twin.f = again[1];
}

static void the_longest_message_is_known(void **state)
{
    (void)state;
    assert_int_equal(twin.f->longest, 0);
    add(300, NULL);
    add(20, NULL);
    assert_int_equal(twin.f->longest, 300);
    block_unref(add_block(5000));
    add(7, NULL);
    assert_int_equal(twin.f->longest, 5000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_new_feed_is_empty),
        TEST(records_say_who_published_and_when),
        TEST(small_messages_share_a_block),
        TEST(many_messages_are_few_ranges),
        TEST(every_part_of_messages_of_all_sizes),
        TEST(blocks_are_shared_not_copied),
        TEST(blocks_between_copies),
        TEST(ranges_outlive_what_is_added_later),
        TEST(spare_feeds_are_used_again_and_empty),
        TEST(sums_up_what_records_are),
        TEST(the_pool_is_bounded),
        TEST(a_feed_of_many_messages_is_not_kept),
        TEST(encodings_go_where_their_feed_goes),
        TEST(an_encoding_is_used_again_as_a_plain_and_empty_feed),
        TEST(the_longest_message_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
