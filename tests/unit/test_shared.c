/* SPDX-License-Identifier: MIT
 * The shared dictionary: what each call does, time, the limit and who goes for it, and many threads at once.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/thread.h"
#include "base/value.h"
#include "bus/shared.h"

enum { ROOMY = 64 << 20, SMALL = 64 << 10, SECOND = 1000000000 };

static struct metrics counts;

static uint64_t count(enum metric id)
{
    return metrics_get(&counts, id);
}

static int setup(void **state)
{
    memset(&counts, 0, sizeof counts);
    return (*state = shared_create(ROOMY)) != NULL ? 0 : -1;
}

static int setup_small(void **state)
{
    memset(&counts, 0, sizeof counts);
    return (*state = shared_create(SMALL)) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    shared_destroy(*state);
    return 0;
}

static struct shared_key key_of(const char *text)
{
    return (struct shared_key){text, strlen(text)};
}

static enum shared_result put(struct shared *s, const char *key, const char *value)
{
    return shared_set(s, &counts, key_of(key), value, strlen(value), 0, false);
}

static enum shared_result put_for(struct shared *s, const char *key, const char *value, uint64_t ttl_ns)
{
    return shared_set(s, &counts, key_of(key), value, strlen(value), ttl_ns, false);
}

static bool has(struct shared *s, const char *key)
{
    const struct shared_value *v = shared_get(s, &counts, key_of(key));
    shared_unref(v);
    return v != NULL;
}

static void check(struct shared *s, const char *key, const char *value)
{
    const struct shared_value *v = shared_get(s, &counts, key_of(key));
    assert_non_null(v);
    size_t len;
    const void *bytes = shared_bytes(v, &len);
    assert_int_equal(len, strlen(value));
    assert_memory_equal(bytes, value, len);
    shared_unref(v);
}

/* ---- one thread ---- */

static void values_are_kept_replaced_and_deleted(void **state)
{
    struct shared *s = *state;
    assert_false(has(s, "a"));
    assert_int_equal(put(s, "a", "one"), SHARED_OK);
    check(s, "a", "one");
    assert_int_equal(put(s, "a", "another one, which is longer"), SHARED_OK);
    check(s, "a", "another one, which is longer");
    assert_int_equal(put(s, "", ""), SHARED_OK);
    check(s, "", "");
    assert_int_equal(count(METRIC_SHARED_KEYS), 2);
    assert_true(shared_delete(s, &counts, key_of("a")));
    assert_false(shared_delete(s, &counts, key_of("a")));
    assert_false(has(s, "a"));
    assert_true(shared_delete(s, &counts, key_of("")));
    assert_int_equal(count(METRIC_SHARED_KEYS), 0);
    assert_int_equal(count(METRIC_SHARED_BYTES), 0);
}

static void keys_are_bytes(void **state)
{
    struct shared *s = *state;
    char longest[SHARED_KEY] = {0};
    for (size_t len = 0; len <= SHARED_KEY; len++)
        assert_int_equal(shared_set(s, &counts, (struct shared_key){longest, len}, &len, sizeof len, 0, true),
                         SHARED_OK);
    for (size_t len = 0; len <= SHARED_KEY; len++) {
        const struct shared_value *v = shared_get(s, &counts, (struct shared_key){longest, len});
        size_t size;
        assert_memory_equal(shared_bytes(v, &size), &len, sizeof len);
        shared_unref(v);
    }
}

static void add_leaves_what_is_there(void **state)
{
    struct shared *s = *state;
    assert_int_equal(shared_set(s, &counts, key_of("a"), "one", 3, 0, true), SHARED_OK);
    assert_int_equal(shared_set(s, &counts, key_of("a"), "two", 3, 0, true), SHARED_THERE);
    check(s, "a", "one");
    assert_int_equal(put_for(s, "a", "gone", 1), SHARED_OK);
    assert_int_equal(shared_set(s, &counts, key_of("a"), "two", 3, 0, true), SHARED_OK);
    check(s, "a", "two");
}

static void a_value_outlives_its_entry_and_its_dictionary(void **state)
{
    (void)state;
    struct shared *s = shared_create(ROOMY);
    put(s, "a", "what was got");
    put(s, "b", "too");
    const struct shared_value *replaced = shared_get(s, &counts, key_of("a"));
    const struct shared_value *kept = shared_get(s, &counts, key_of("b"));
    put(s, "a", "something else");
    check(s, "a", "something else");
    shared_destroy(s);
    size_t len;
    assert_memory_equal(shared_bytes(replaced, &len), "what was got", 12);
    assert_memory_equal(shared_bytes(kept, &len), "too", 3);
    shared_unref(replaced);
    shared_unref(kept);
    shared_unref(NULL);
}

/* ---- incr ---- */

static enum shared_result add(struct shared *s, const char *key, struct shared_number *n, int64_t initial)
{
    const struct shared_number begin = {.is_integer = true, .integer = initial};
    return shared_incr(s, &counts, key_of(key), n, &begin, 0);
}

static void check_integer(struct shared *s, const char *key, int64_t delta, int64_t sum)
{
    struct shared_number n = {.is_integer = true, .integer = delta};
    assert_int_equal(add(s, key, &n, 0), SHARED_OK);
    assert_true(n.is_integer);
    assert_true(n.integer == sum);
}

static void incr_adds_integers(void **state)
{
    struct shared *s = *state;
    check_integer(s, "n", 1, 1);
    check_integer(s, "n", 1, 2);
    check_integer(s, "n", -1000000, -999998);
    check_integer(s, "n", INT64_MAX, INT64_MAX - 999998);
    check_integer(s, "n", 999998, INT64_MAX);
    check_integer(s, "n", 1, INT64_MIN); /* as in Lua */
    struct shared_number n = {.is_integer = true, .integer = 5};
    assert_int_equal(add(s, "m", &n, 100), SHARED_OK);
    assert_true(n.integer == 105);
    uint8_t bytes[VALUE_NUMBER];
    const struct shared_value *v = shared_get(s, &counts, key_of("m"));
    size_t len, expected = value_write_integer(bytes, 105);
    assert_memory_equal(shared_bytes(v, &len), bytes, expected);
    assert_int_equal(len, expected);
    check_integer(s, "m", 1000000, 1000105); /* while somebody holds the old value */
    assert_memory_equal(shared_bytes(v, &len), bytes, expected);
    shared_unref(v);
}

static void incr_with_a_float_gives_a_float(void **state)
{
    struct shared *s = *state;
    struct shared_number n = {.real = 0.5};
    check_integer(s, "n", 2, 2);
    assert_int_equal(add(s, "n", &n, 0), SHARED_OK);
    assert_false(n.is_integer);
    assert_true(n.real == 2.5);
    n = (struct shared_number){.is_integer = true, .integer = 1};
    assert_int_equal(add(s, "n", &n, 0), SHARED_OK);
    assert_false(n.is_integer);
    assert_true(n.real == 3.5);
}

static void incr_leaves_what_is_no_number(void **state)
{
    struct shared *s = *state;
    struct buf b = BUF_INIT;
    struct shared_number n = {.is_integer = true, .integer = 1};
    value_put_string(&b, "1", 1);
    shared_set(s, &counts, key_of("n"), b.data, b.len, 0, false);
    assert_int_equal(add(s, "n", &n, 0), SHARED_NO_NUMBER);
    assert_true(has(s, "n"));
    buf_fini(&b);
}

/* ---- time ---- */

static void wait_until_gone(struct shared *s, const char *key)
{
    while (has(s, key))
        ;
}

static void entries_end_in_time(void **state)
{
    struct shared *s = *state;
    put_for(s, "soon", "x", SECOND / 1000);
    put_for(s, "later", "x", 3600ULL * SECOND);
    put_for(s, "at the end of time", "x", UINT64_MAX);
    put(s, "never", "x");
    wait_until_gone(s, "soon");
    assert_true(has(s, "later") && has(s, "at the end of time") && has(s, "never"));
    assert_false(shared_delete(s, &counts, key_of("soon")));
    assert_int_equal(count(METRIC_SHARED_KEYS), 3);
    assert_int_equal(count(METRIC_SHARED_EVICTIONS), 0);
}

static void set_gives_a_new_time_and_incr_does_not(void **state)
{
    struct shared *s = *state;
    const struct shared_number zero = {.is_integer = true};
    struct shared_number n = {.is_integer = true, .integer = 1};
    put_for(s, "kept", "x", 1000);
    put(s, "kept", "y");
    put(s, "ended", "x");
    put_for(s, "ended", "y", 1000);
    assert_int_equal(shared_incr(s, &counts, key_of("n"), &n, &zero, SECOND / 100), SHARED_OK);
    assert_int_equal(n.integer, 1);
    for (int64_t last = 0; n.integer > last;) { /* falls to 1 when the first one has ended */
        last = n.integer;
        n = (struct shared_number){.is_integer = true, .integer = 1};
        assert_int_equal(shared_incr(s, &counts, key_of("n"), &n, &zero, SECOND), SHARED_OK);
    }
    assert_int_equal(n.integer, 1);
    wait_until_gone(s, "ended");
    assert_true(has(s, "kept"));
}

/* Ends in another order than they came; what is met or changed takes the rest along. */
static void ended_entries_go_with_later_changes(void **state)
{
    struct shared *s = *state;
    char key[16];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "%u", i);
        put_for(s, key, "x", 1 + i * 7919 % 1000);
    }
    for (unsigned i = 0; count(METRIC_SHARED_KEYS) > 20; i++) {
        assert_true(i < 100000);
        snprintf(key, sizeof key, "other %u", i);
        put_for(s, key, "x", 1);
    }
    assert_int_equal(count(METRIC_SHARED_EVICTIONS), 0);
}

/* The heap: of many whose times are mixed, exactly those that are over are gone. */
static void times_are_kept_apart(void **state)
{
    struct shared *s = *state;
    char key[16];
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "%u", i * 7 % 3000);
        put_for(s, key, "x", i % 3 == 0 ? 1 + i % 1000 : (3600ULL + i * 31 % 977) * SECOND);
        if (i % 5 == 0)
            put(s, key, "y");
        if (i % 11 == 0)
            shared_delete(s, &counts, key_of(key));
    }
    uint64_t live = 0;
    for (unsigned i = 0; i < 3000; i++)
        live += i % 11 != 0 && (i % 5 == 0 || i % 3 != 0);
    for (unsigned i = 0; count(METRIC_SHARED_KEYS) != live; i++) { /* each takes ended ones along */
        assert_true(i < 100000);
        snprintf(key, sizeof key, "other %u", i);
        shared_delete(s, &counts, key_of(key));
    }
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "%u", i * 7 % 3000);
        assert_int_equal(has(s, key), i % 11 != 0 && (i % 5 == 0 || i % 3 != 0));
    }
}

/* ---- the limit ---- */

static void the_least_recently_used_goes_first(void **state)
{
    struct shared *s = *state;
    char key[16];
    unsigned n = 0;
    put(s, "used", "x");
    while (count(METRIC_SHARED_EVICTIONS) < 100) {
        snprintf(key, sizeof key, "%u", n++);
        assert_int_equal(put(s, key, "x"), SHARED_OK);
        assert_true(count(METRIC_SHARED_BYTES) <= SMALL);
        assert_true(has(s, "used"));
    }
    uint64_t evicted = count(METRIC_SHARED_EVICTIONS); /* two at once where a table has grown */
    assert_int_equal(count(METRIC_SHARED_KEYS), n + 1 - evicted);
    for (unsigned i = 0; i < n; i++) {
        snprintf(key, sizeof key, "%u", i);
        assert_int_equal(has(s, key), i >= evicted);
    }
}

static void what_has_ended_goes_before_what_is_used(void **state)
{
    struct shared *s = *state;
    static char large[SMALL / 8];
    char key[16];
    for (unsigned i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "old %u", i);
        shared_set(s, &counts, key_of(key), large, sizeof large, 0, false);
        snprintf(key, sizeof key, "ended %u", i);
        shared_set(s, &counts, key_of(key), large, sizeof large, 1, false);
    }
    for (unsigned i = 0; i < 4; i++) {
        snprintf(key, sizeof key, "new %u", i);
        assert_int_equal(shared_set(s, &counts, key_of(key), large, sizeof large, 0, false), SHARED_OK);
    }
    assert_true(has(s, "old 0") && has(s, "old 1") && has(s, "old 2"));
    assert_int_equal(count(METRIC_SHARED_EVICTIONS), 0);
}

static void a_value_over_half_the_limit_is_refused(void **state)
{
    struct shared *s = *state;
    char *large = calloc(1, SMALL);
    assert_non_null(large);
    put(s, "large", "x");
    assert_int_equal(shared_set(s, &counts, key_of("large"), large, SMALL / 2, 0, false), SHARED_TOO_LARGE);
    check(s, "large", "x");
    for (unsigned i = 0; i < 20; i++) { /* whatever else there is, it is there when it is taken */
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        assert_int_equal(shared_set(s, &counts, key_of(key), large, SMALL / 2 - 256, 0, false), SHARED_OK);
        assert_true(has(s, key));
    }
    assert_true(count(METRIC_SHARED_BYTES) <= SMALL);
    free(large);
}

static void a_value_is_replaced_without_room_for_both(void **state)
{
    struct shared *s = *state;
    static char large[SMALL / 2 - 256];
    put(s, "other", "x");
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(shared_set(s, &counts, key_of("a"), large, sizeof large, 0, false), SHARED_OK);
    assert_true(has(s, "other"));
    assert_int_equal(count(METRIC_SHARED_EVICTIONS), 0);
}

/* ---- keys ---- */

static void keys_are_listed_by_prefix(void **state)
{
    struct shared *s = *state;
    struct buf b = BUF_INIT;
    bool more;
    char key[16];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%s:%u", i % 2 == 0 ? "even" : "odd", i);
        put(s, key, "x");
    }
    put_for(s, "even:ended", "x", 1);
    assert_int_equal(shared_keys(s, key_of("even:"), 1000, &b, &more), 100);
    assert_false(more);
    unsigned sum = 0, n = 0;
    for (size_t at = 0; at < b.len; at += 1 + (size_t)(uint8_t)b.data[at], n++) {
        assert_memory_equal(b.data + at + 1, "even:", 5);
        snprintf(key, sizeof key, "%.*s", b.data[at] - 5, b.data + at + 6);
        sum += (unsigned)atoi(key);
    }
    assert_int_equal(n, 100);
    assert_int_equal(sum, 9900);
    b.len = 0;
    assert_int_equal(shared_keys(s, key_of("even:"), 100, &b, &more), 100);
    assert_false(more);
    assert_int_equal(shared_keys(s, key_of("even:"), 99, &b, &more), 99);
    assert_true(more);
    assert_int_equal(shared_keys(s, key_of(""), 1000, &b, &more), 200);
    assert_int_equal(shared_keys(s, key_of("even:1234567890"), 1000, &b, &more), 0);
    assert_false(more);
    buf_fini(&b);
}

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 20000, NAMES = 64 };

static struct metrics thread_counts[THREADS];
static struct shared *together;
static _Atomic int64_t added;

/* Every value says its length, and is one byte throughout: a torn one shows. */
static void check_whole(const struct shared_value *v)
{
    size_t len;
    const uint8_t *bytes = shared_bytes(v, &len);
    if (bytes[0] == 3)
        return; /* a number */
    for (size_t i = 1; i < len; i++)
        if (bytes[i] != bytes[0] || len != (size_t)bytes[0] * 10)
            abort();
}

static void *work(void *arg)
{
    struct metrics *m = arg;
    const struct shared_number zero = {.is_integer = true};
    uint32_t seed = (uint32_t)(m - thread_counts + 1) * 2654435761u;
    uint8_t bytes[2560];
    struct buf list = BUF_INIT;
    for (unsigned i = 0; i < ROUNDS; i++) {
        char key[16];
        bool more;
        seed = seed * 1664525 + 1013904223;
        snprintf(key, sizeof key, "%u", (seed >> 16) % NAMES);
        size_t len = 10 * (size_t)(4 + (seed >> 8) % 250);
        memset(bytes, (int)(len / 10), len);
        switch (seed >> 29) {
        case 0:
        case 1: shared_set(together, m, key_of(key), bytes, len, 0, false); break;
        case 2: shared_set(together, m, key_of(key), bytes, len, 1 + seed % 100000, true); break;
        case 3: shared_delete(together, m, key_of(key)); break;
        case 4: list.len = 0, shared_keys(together, key_of("1"), 10, &list, &more); break;
        default: {
            const struct shared_value *v = shared_get(together, m, key_of(key));
            if (v != NULL)
                check_whole(v);
            shared_unref(v);
        }
        }
        struct shared_number n = {.is_integer = true, .integer = 1};
        if (shared_incr(together, m, key_of("sum"), &n, &zero, 0) == SHARED_OK)
            atomic_fetch_add(&added, 1);
        shared_unref(shared_get(together, m, key_of("sum")));
    }
    buf_fini(&list);
    return NULL;
}

static void run_threads(struct shared *s)
{
    pthread_t thread[THREADS];
    memset(thread_counts, 0, sizeof thread_counts);
    together = s;
    added = 0;
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&thread[i], work, &thread_counts[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(added, THREADS * ROUNDS);
}

static uint64_t total(enum metric id)
{
    uint64_t sum = count(id);
    for (size_t i = 0; i < THREADS; i++)
        sum += metrics_get(&thread_counts[i], id);
    return sum;
}

static void threads_lose_nothing(void **state)
{
    struct shared *s = *state;
    run_threads(s);
    check_integer(s, "sum", 0, THREADS * ROUNDS);
    struct buf b = BUF_INIT;
    bool more;
    assert_int_equal(total(METRIC_SHARED_EVICTIONS), 0);
    assert_true(shared_keys(s, key_of(""), 1000, &b, &more) <= (int64_t)total(METRIC_SHARED_KEYS));
    for (size_t at = 0; at < b.len; at += 1 + (size_t)(uint8_t)b.data[at])
        shared_delete(s, &counts, (struct shared_key){b.data + at + 1, (uint8_t)b.data[at]});
    for (unsigned i = 0; i < NAMES; i++) { /* and those that have ended and were not met */
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        shared_delete(s, &counts, key_of(key));
    }
    assert_int_equal(total(METRIC_SHARED_KEYS), 0);
    assert_int_equal(total(METRIC_SHARED_BYTES), 0);
    buf_fini(&b);
}

static void threads_over_the_limit_come_back_to_it(void **state)
{
    struct shared *s = *state;
    run_threads(s);
    assert_true(total(METRIC_SHARED_EVICTIONS) > 0);
    assert_true(total(METRIC_SHARED_BYTES) <= SMALL);
    assert_true(total(METRIC_SHARED_KEYS) <= NAMES + 1);
}

#define ROOMY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SMALL_TEST(f) cmocka_unit_test_setup_teardown(f, setup_small, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOMY_TEST(values_are_kept_replaced_and_deleted),
        ROOMY_TEST(keys_are_bytes),
        ROOMY_TEST(add_leaves_what_is_there),
        cmocka_unit_test(a_value_outlives_its_entry_and_its_dictionary),
        ROOMY_TEST(incr_adds_integers),
        ROOMY_TEST(incr_with_a_float_gives_a_float),
        ROOMY_TEST(incr_leaves_what_is_no_number),
        ROOMY_TEST(entries_end_in_time),
        ROOMY_TEST(set_gives_a_new_time_and_incr_does_not),
        ROOMY_TEST(ended_entries_go_with_later_changes),
        ROOMY_TEST(times_are_kept_apart),
        SMALL_TEST(the_least_recently_used_goes_first),
        SMALL_TEST(what_has_ended_goes_before_what_is_used),
        SMALL_TEST(a_value_over_half_the_limit_is_refused),
        SMALL_TEST(a_value_is_replaced_without_room_for_both),
        ROOMY_TEST(keys_are_listed_by_prefix),
        ROOMY_TEST(threads_lose_nothing),
        SMALL_TEST(threads_over_the_limit_come_back_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
