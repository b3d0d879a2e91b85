/* SPDX-License-Identifier: MIT
 * The registry of topics: one object for each name as long as somebody has a reference, on any thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/thread.h"
#include "bus/topics.h"

enum { WORKERS = 3 };

static int set_up(void **state)
{
    (void)state;
    return topics_init(WORKERS);
}

/* Nothing may be left. */
static int tear_down(void **state)
{
    (void)state;
    uint64_t left = topics_count();
    topics_fini();
    return left == 0 ? 0 : -1;
}

static struct topics_name *get(const char *text, size_t len, bool make)
{
    return topics_get(text, len, topics_hash(text, len), make);
}

static void a_name_is_there_while_somebody_has_it(void **state)
{
    (void)state;
    assert_null(get("room", 4, false));
    struct topics_name *n = get("room", 4, true);
    assert_non_null(n);
    assert_int_equal(topics_count(), 1);
    assert_ptr_equal(get("room", 4, true), n);
    assert_ptr_equal(get("room", 4, false), n);
    assert_ptr_equal(topics_ref(n), n);
    for (int i = 0; i < 3; i++) {
        topics_unref(n);
        assert_int_equal(topics_count(), 1);
    }
    topics_unref(n);
    assert_int_equal(topics_count(), 0);
    assert_null(get("room", 4, false));
}

static void a_new_name_has_no_subscribers(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) { /* nothing is left of the one before */
        struct topics_name *n = get("room", 4, true);
        assert_int_equal(topics_subscribers(n), 0);
        for (uint32_t i = 0; i < WORKERS; i++) {
            assert_null(n->place[i].topic);
            atomic_store(&n->place[i].subscribers, 1u << (8 * i));
        }
        assert_int_equal(topics_subscribers(n), 0x010101);
        topics_unref(n);
    }
}

static void names_are_bytes(void **state)
{
    (void)state;
    static char longest[TOPICS_NAME_MAX + 1];
    memset(longest, 0xff, sizeof longest);
    static const struct {
        const char *text;
        size_t len;
    } names[] = {{"a", 1},    {"a\0", 2},      {"a\0b", 3},  {"\0", 1},
                 {"\0\0", 2}, {"A", 1},        {"a ", 2},    {longest, TOPICS_NAME_MAX - 1},
                 {"*", 1},    {"\xff\xfe", 2}, {longest, 1}, {longest, TOPICS_NAME_MAX}};
    enum { N = sizeof names / sizeof names[0] };
    struct topics_name *n[N];
    for (size_t i = 0; i < N; i++) {
        assert_null(get(names[i].text, names[i].len, false));
        n[i] = get(names[i].text, names[i].len, true);
        assert_non_null(n[i]);
        assert_int_equal(n[i]->len, names[i].len);
        assert_memory_equal(n[i]->text, names[i].text, names[i].len);
        assert_int_equal(topics_count(), i + 1);
    }
    for (size_t i = 0; i < N; i++)
        topics_unref(n[i]);
}

/* Hashes that collide, as an attacker might find them: the names still differ. */
static void the_same_hash_is_not_the_same_name(void **state)
{
    (void)state;
    enum { N = 100 };
    struct topics_name *n[N];
    char text[8];
    for (int i = 0; i < N; i++) {
        size_t len = (size_t)snprintf(text, sizeof text, "%d", i);
        n[i] = topics_get(text, len, 12345, true);
        assert_non_null(n[i]);
        for (int j = 0; j < i; j++)
            assert_ptr_not_equal(n[i], n[j]);
    }
    for (int i = 0; i < N; i++) { /* from the middle outwards */
        int at = (i * 37 + 50) % N;
        size_t len = (size_t)snprintf(text, sizeof text, "%d", at);
        struct topics_name *again = topics_get(text, len, 12345, false);
        assert_ptr_equal(again, n[at]);
        topics_unref(again);
        topics_unref(n[at]);
        assert_null(topics_get(text, len, 12345, false));
    }
}

static void many_names_are_all_found(void **state)
{
    (void)state;
    enum { N = 50000 };
    struct topics_name **n = calloc(N, sizeof *n);
    char text[32];
    assert_non_null(n);
    for (unsigned i = 0; i < N; i++) {
        size_t len = (size_t)snprintf(text, sizeof text, "room:%u", i);
        n[i] = get(text, len, true);
        assert_non_null(n[i]);
        atomic_store(&n[i]->place[i % WORKERS].subscribers, i);
    }
    assert_int_equal(topics_count(), N);
    for (unsigned i = 0; i < N; i++) {
        size_t len = (size_t)snprintf(text, sizeof text, "room:%u", i);
        struct topics_name *again = get(text, len, i % 2);
        assert_ptr_equal(again, n[i]);
        assert_int_equal(topics_subscribers(again), i);
        topics_unref(again);
    }
    for (unsigned i = 0; i < N; i += 2)
        topics_unref(n[i]);
    assert_int_equal(topics_count(), N / 2);
    for (unsigned i = 0; i < N; i++) {
        size_t len = (size_t)snprintf(text, sizeof text, "room:%u", i);
        struct topics_name *again = get(text, len, false);
        assert_ptr_equal(again, i % 2 ? n[i] : NULL);
        if (again != NULL) {
            topics_unref(again);
            topics_unref(again);
        }
    }
    free(n);
}

/* ---- many threads ---- */

enum { THREADS = WORKERS, ROUNDS = 30000, NAMES = 40 };

/* Makes and drops the names that the others make and drop. What a thread has a reference of is what everybody
 * finds, and what it has written at its own place stays there. Returns NULL when it was not so. */
static void *make_and_drop(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg - 1;
    struct topics_name *mine[NAMES] = {0};
    uint32_t random = (uint32_t)me + 1;
    bool fine = true;
    for (unsigned i = 0; i < ROUNDS && fine; i++) {
        char text[16];
        random = random * 1664525 + 1013904223;
        unsigned k = (random >> 16) % NAMES;
        size_t len = (size_t)snprintf(text, sizeof text, "name %u", k);
        struct topics_name *n = get(text, len, mine[k] == NULL);
        fine = n != NULL && n->len == len && memcmp(n->text, text, len) == 0;
        if (fine && mine[k] == NULL) {
            fine = atomic_load(&n->place[me].subscribers) == 0;
            atomic_store(&n->place[me].subscribers, k + 1);
            mine[k] = n;
            continue;
        }
        fine = fine && n == mine[k] && atomic_load(&n->place[me].subscribers) == k + 1;
        fine = fine && topics_subscribers(n) >= k + 1;
        if (n != NULL)
            topics_unref(n);
        atomic_store(&mine[k]->place[me].subscribers, 0);
        topics_unref(mine[k]);
        mine[k] = NULL;
    }
    for (unsigned k = 0; k < NAMES; k++)
        if (mine[k] != NULL)
            topics_unref(mine[k]);
    return fine ? arg : NULL;
}

static void threads_make_and_drop_the_same_names(void **state)
{
    (void)state;
    pthread_t thread[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&thread[i], make_and_drop, (void *)(i + 1)), 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *fine;
        assert_int_equal(pthread_join(thread[i], &fine), 0);
        assert_non_null(fine);
    }
    assert_int_equal(topics_count(), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_name_is_there_while_somebody_has_it),
        TEST(a_new_name_has_no_subscribers),
        TEST(names_are_bytes),
        TEST(the_same_hash_is_not_the_same_name),
        TEST(many_names_are_all_found),
        TEST(threads_make_and_drop_the_same_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
