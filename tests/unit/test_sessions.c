/* SPDX-License-Identifier: MIT
 * The table of WebSockets by connection id, against a plain array: collisions, growth, gaps that close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/conn.h"
#include "ws/session.h"
#include "ws/sessions.h"

#define MANY  5000
#define SLOTS 64 /* of a table that holds one */

/* What the table looks at, and whether the reference has it. */
static struct {
    struct session session;
    struct conn conn;
    bool in;
} all[MANY];

/* Puts session i under `id`, not yet in any table. */
static struct session *session_at(size_t i, uint64_t id)
{
    memset(&all[i], 0, sizeof all[i]);
    all[i].conn.id = id;
    all[i].session.conn = &all[i].conn;
    return &all[i].session;
}

static void add(struct sessions *t, size_t i)
{
    assert_int_equal(sessions_add(t, &all[i].session), 0);
    all[i].in = true;
}

static void take_out(struct sessions *t, size_t i)
{
    sessions_remove(t, &all[i].session);
    all[i].in = false;
}

/* The first n sessions are found exactly when the reference has them; nothing else is in the table. */
static void check(const struct sessions *t, size_t n)
{
    size_t in = 0, filled = 0;
    for (size_t i = 0; i < n; i++) {
        in += all[i].in;
        assert_ptr_equal(sessions_find(t, all[i].conn.id), all[i].in ? &all[i].session : NULL);
    }
    for (size_t i = 0; i < t->slots; i++)
        filled += t->table[i] != NULL;
    assert_int_equal(t->used, in);
    assert_int_equal(filled, in);
    assert_true(t->slots == 0 || t->used < t->slots); /* or a search for an unknown id would never end */
    assert_int_equal(t->slots & (t->slots - 1), 0);
}

/* The slot at which a session alone in its table lies: where its search begins. */
static size_t home_of(uint64_t id)
{
    struct sessions t = {.table = NULL};
    struct session alone = {.conn = &(struct conn){.id = id}};
    assert_int_equal(sessions_add(&t, &alone), 0);
    assert_int_equal(t.slots, SLOTS);
    size_t at = 0;
    while (t.table[at] == NULL)
        at++;
    sessions_fini(&t);
    return at;
}

/* Ids whose search begins at `home`, rising from *id. */
static uint64_t next_id_at(size_t home, uint64_t *id)
{
    do
        ++*id;
    while (home_of(*id) != home);
    return *id;
}

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

static void an_empty_table_finds_nothing(void **state)
{
    (void)state;
    struct sessions t = {.table = NULL};
    assert_null(sessions_find(&t, 0));
    assert_null(sessions_find(&t, UINT64_MAX));
    sessions_fini(&t);
    sessions_fini(&t);
}

static void finds_by_the_whole_id(void **state)
{
    (void)state;
    static const uint64_t ids[] = {1, 0, UINT64_MAX, UINT64_C(1) << 32, UINT64_C(1) << 63, UINT32_MAX};
    enum { N = sizeof ids / sizeof ids[0] };
    struct sessions t = {.table = NULL};
    for (size_t i = 0; i < N; i++) {
        session_at(i, ids[i]);
        check(&t, i + 1);
        add(&t, i);
        check(&t, i + 1);
        assert_null(sessions_find(&t, ids[i] ^ UINT64_C(1) << 40));
    }
    for (size_t i = 0; i < N; i++) {
        take_out(&t, i);
        check(&t, N);
    }
    sessions_fini(&t);
}

/* Ids as connections get them: they rise with the number of workers as stride. */
static void grows_and_keeps_what_it_has(void **state)
{
    (void)state;
    static const uint64_t strides[] = {1, 2, 3, 64, 256};
    for (size_t k = 0; k < sizeof strides / sizeof strides[0]; k++) {
        struct sessions t = {.table = NULL};
        for (size_t i = 0; i < MANY; i++)
            session_at(i, (i + 1) * strides[k]);
        for (size_t i = 0; i < MANY; i++) {
            size_t slots = t.slots;
            add(&t, i);
            if (t.slots != slots)
                check(&t, MANY);
        }
        check(&t, MANY);
        for (size_t i = 0; i < MANY; i += 2)
            take_out(&t, i);
        check(&t, MANY);
        sessions_fini(&t);
        assert_null(sessions_find(&t, strides[k]));
    }
}

/* Five ids with the same beginning, in each order of removal; `home` may make them run past the table's end.
 */
static void removal_closes_gaps_in_one_run(void **state)
{
    (void)state;
    enum { RUN = 5, ORDERS = RUN * RUN * RUN * RUN * RUN };
    static const size_t homes[] = {0, 7, SLOTS - 3, SLOTS - 1};
    for (size_t k = 0; k < sizeof homes / sizeof homes[0]; k++) {
        uint64_t id = 0;
        for (size_t i = 0; i < RUN; i++)
            session_at(i, next_id_at(homes[k], &id));
        for (size_t order = 0; order < ORDERS; order++) {
            struct sessions t = {.table = NULL};
            for (size_t i = 0; i < RUN; i++)
                add(&t, i);
            for (size_t rest = order, i = 0; i < RUN; i++, rest /= RUN)
                if (all[rest % RUN].in) {
                    take_out(&t, rest % RUN);
                    check(&t, RUN);
                }
            sessions_fini(&t);
        }
    }
}

/* Neighbouring beginnings, so that runs grow into one another, around the table's end; what lies where it
 * belongs must stay when a gap opens before it. */
static void removal_closes_gaps_where_runs_meet(void **state)
{
    (void)state;
    enum { N = 24, SPAN = 6 };
    uint64_t id = 0;
    for (size_t i = 0; i < N; i++)
        session_at(i, next_id_at((SLOTS - SPAN / 2 + i % SPAN) % SLOTS, &id));
    random_state = 1;
    struct sessions t = {.table = NULL};
    for (int step = 0; step < 20000; step++) {
        size_t i = random_below(N);
        if (all[i].in)
            take_out(&t, i);
        else
            add(&t, i);
        check(&t, N);
    }
    assert_int_equal(t.slots, SLOTS);
    sessions_fini(&t);
}

static void agrees_with_the_reference_over_a_long_life(void **state)
{
    (void)state;
    enum { N = 400 };
    uint64_t next = 1;
    struct sessions t = {.table = NULL};
    random_state = 2;
    for (size_t i = 0; i < N; i++)
        session_at(i, next++);
    for (int step = 0; step < 40000; step++) {
        size_t i = random_below(N);
        if (all[i].in) {
            take_out(&t, i);
            session_at(i, next += 1 + random_below(4)); /* an id is never used again */
        } else
            add(&t, i);
        if (step % 64 == 0)
            check(&t, N);
    }
    check(&t, N);
    assert_true(t.slots <= 1024); /* it does not grow by coming and going */
    sessions_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_table_finds_nothing),
        cmocka_unit_test(finds_by_the_whole_id),
        cmocka_unit_test(grows_and_keeps_what_it_has),
        cmocka_unit_test(removal_closes_gaps_in_one_run),
        cmocka_unit_test(removal_closes_gaps_where_runs_meet),
        cmocka_unit_test(agrees_with_the_reference_over_a_long_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
