/* SPDX-License-Identifier: MIT
 * The timer wheel: never early, at most a tick late, whatever the horizon and the count of ticks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/wheel.h"

struct probe {
    struct wheel_item item;
    unsigned fired;
    uint32_t at; /* tick of the last time */
    void (*react)(struct probe *p, struct wheel *w);
    struct probe *other; /* for `react` */
};

static void on_fire(struct wheel_item *item, void *arg)
{
    struct wheel *w = arg;
    struct probe *p = LIST_ENTRY(&item->link, struct probe, item.link);
    assert_true(list_empty(&item->link));
    p->fired++;
    p->at = w->now;
    if (p->react != NULL)
        p->react(p, w);
}

static void advance(struct wheel *w, uint32_t ticks)
{
    while (ticks-- > 0)
        wheel_advance(w, on_fire, w);
}

static void probe_init(struct probe *p)
{
    memset(p, 0, sizeof *p);
    wheel_item_init(&p->item);
}

/* The first tick may come at once, so `seconds` are surely over only with one tick more than they hold. */
static void assert_fires_after(uint32_t start, double seconds)
{
    struct wheel w;
    struct probe p;
    wheel_init(&w);
    w.now = start;
    probe_init(&p);
    wheel_set(&w, &p.item, seconds);
    uint32_t ticks = 0;
    while (p.fired == 0) {
        advance(&w, 1);
        ticks++;
        assert_true((ticks - 2.001) * WHEEL_TICK_MS <= seconds * 1000);
    }
    assert_true((ticks - 1 + 0.001) * WHEEL_TICK_MS >= seconds * 1000);
    advance(&w, 2 * WHEEL_SLOTS);
    assert_int_equal(p.fired, 1);
}

static void never_early(void **state)
{
    (void)state;
    for (double s = 0; s < 3; s += 0.013)
        assert_fires_after(7, s);
    for (uint32_t start = 0; start < WHEEL_SLOTS; start += 37)
        assert_fires_after(start, 0.3);
}

static void beyond_the_horizon(void **state)
{
    (void)state;
    const double turn = WHEEL_SLOTS * WHEEL_TICK_MS / 1000.0;
    for (int turns = 1; turns <= 4; turns++)
        for (int ticks = -4; ticks <= 4; ticks++)
            assert_fires_after(3, turns * turn + ticks * WHEEL_TICK_MS / 1000.0);
    assert_fires_after(500, 3600);
}

static void ticks_wrap_around(void **state)
{
    (void)state;
    static const double seconds[] = {0, 0.1, 0.5, 1, 51, 52, 120};
    for (uint32_t before = 0; before < 1200; before += before < 5 ? 1 : 97)
        for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++)
            assert_fires_after(UINT32_MAX - before, seconds[i]);
}

/* Nothing this far away may be taken for something that is over. */
static void far_away_is_not_over(void **state)
{
    (void)state;
    static const double seconds[] = {1e7, 1e8, 2e8, 3e8, 1e12};
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        struct wheel w;
        struct probe p;
        wheel_init(&w);
        probe_init(&p);
        wheel_set(&w, &p.item, seconds[i]);
        advance(&w, 3 * WHEEL_SLOTS);
        assert_int_equal(p.fired, 0);
        wheel_remove(&p.item);
    }
}

static void moves(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p;
    wheel_init(&w);
    probe_init(&p);
    wheel_set(&w, &p.item, 1);
    advance(&w, 5);
    wheel_set(&w, &p.item, 2); /* later */
    advance(&w, 20);
    assert_int_equal(p.fired, 0);
    advance(&w, 1);
    assert_int_equal(p.fired, 1);

    wheel_set(&w, &p.item, 100);
    wheel_set(&w, &p.item, 0.2); /* sooner */
    advance(&w, 3);
    assert_int_equal(p.fired, 2);
    advance(&w, 3 * WHEEL_SLOTS);
    assert_int_equal(p.fired, 2);
}

static void removes(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p;
    wheel_init(&w);
    probe_init(&p);
    wheel_remove(&p.item); /* not set yet */
    wheel_set(&w, &p.item, 0.1);
    wheel_remove(&p.item);
    wheel_remove(&p.item);
    advance(&w, 2 * WHEEL_SLOTS);
    assert_int_equal(p.fired, 0);
}

/* ---- what the callback may do ---- */

static void remove_other(struct probe *p, struct wheel *w)
{
    (void)w;
    wheel_remove(&p->other->item);
}

/* Both are due in the same tick; whichever comes first takes the other away. */
static void callback_removes_one_that_is_due(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p[2];
    wheel_init(&w);
    for (size_t i = 0; i < 2; i++) {
        probe_init(&p[i]);
        p[i].react = remove_other;
        p[i].other = &p[1 - i];
        wheel_set(&w, &p[i].item, 0.5);
    }
    advance(&w, 2 * WHEEL_SLOTS);
    assert_int_equal(p[0].fired + p[1].fired, 1);
}

static void postpone_other(struct probe *p, struct wheel *w)
{
    p->react = NULL;
    p->other->react = NULL;
    wheel_set(w, &p->other->item, 1);
}

static void callback_moves_one_that_is_due(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p[2];
    wheel_init(&w);
    for (size_t i = 0; i < 2; i++) {
        probe_init(&p[i]);
        p[i].react = postpone_other;
        p[i].other = &p[1 - i];
        wheel_set(&w, &p[i].item, 0.5);
    }
    advance(&w, 2 * WHEEL_SLOTS);
    assert_int_equal(p[0].fired, 1);
    assert_int_equal(p[1].fired, 1);
    uint32_t apart = p[0].at < p[1].at ? p[1].at - p[0].at : p[0].at - p[1].at;
    assert_int_equal(apart, 11);
}

static void again_at_once(struct probe *p, struct wheel *w)
{
    wheel_set(w, &p->item, 0);
}

/* It fires once a tick: setting it again does not keep the tick from ending. */
static void callback_sets_itself_again(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p;
    wheel_init(&w);
    probe_init(&p);
    p.react = again_at_once;
    wheel_set(&w, &p.item, 0);
    for (unsigned i = 1; i <= 3 * WHEEL_SLOTS; i++) {
        advance(&w, 1);
        assert_int_equal(p.fired, i);
    }
}

static void again_a_turn_later(struct probe *p, struct wheel *w)
{
    wheel_set(w, &p->item, (WHEEL_SLOTS - 1) * WHEEL_TICK_MS / 1000.0);
}

/* The slot that is being emptied is the one it goes to. */
static void callback_sets_itself_into_the_same_slot(void **state)
{
    (void)state;
    struct wheel w;
    struct probe p;
    wheel_init(&w);
    probe_init(&p);
    p.react = again_a_turn_later;
    wheel_set(&w, &p.item, 0);
    for (unsigned i = 0; i < 4; i++) {
        advance(&w, WHEEL_SLOTS);
        assert_int_equal(p.fired, i + 1);
    }
}

/* ---- many at once, against a plain list of due ticks ---- */

static void many(void **state)
{
    (void)state;
    enum { COUNT = 300, ROUNDS = 4000 };
    static struct probe p[COUNT];
    static uint32_t due[COUNT]; /* 0: none */
    static unsigned expected[COUNT];
    struct wheel w;
    uint32_t random = 1;
    wheel_init(&w);
    for (size_t i = 0; i < COUNT; i++)
        probe_init(&p[i]);
    for (unsigned round = 0; round < ROUNDS; round++) {
        random = random * 1103515245 + 12345;
        size_t i = (random >> 16) % COUNT;
        uint32_t ticks = random >> 8 & 0x3ff;
        if (ticks < 100) {
            wheel_remove(&p[i].item);
            due[i] = 0;
        } else {
            wheel_set(&w, &p[i].item, ticks * WHEEL_TICK_MS / 1000.0);
            due[i] = p[i].item.due;
            assert_true(due[i] - w.now == ticks + 1 || due[i] - w.now == ticks + 2);
        }
        advance(&w, 1);
        for (size_t k = 0; k < COUNT; k++) {
            expected[k] += due[k] == w.now;
            due[k] = due[k] == w.now ? 0 : due[k];
            assert_int_equal(p[k].fired, expected[k]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_early),
        cmocka_unit_test(beyond_the_horizon),
        cmocka_unit_test(ticks_wrap_around),
        cmocka_unit_test(far_away_is_not_over),
        cmocka_unit_test(moves),
        cmocka_unit_test(removes),
        cmocka_unit_test(callback_removes_one_that_is_due),
        cmocka_unit_test(callback_moves_one_that_is_due),
        cmocka_unit_test(callback_sets_itself_again),
        cmocka_unit_test(callback_sets_itself_into_the_same_slot),
        cmocka_unit_test(many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
