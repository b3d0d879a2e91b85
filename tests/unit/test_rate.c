/* SPDX-License-Identifier: MIT
 * The rate limit, with clocks made up: exact counts, bursts, pauses, extremes, several threads. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/rate.h"
#include "base/thread.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const uint64_t second = 1000000;

/* Takes all that fits now, up to `most`. */
static uint64_t take_all(_Atomic uint64_t *at, uint64_t now_us, double per_second, double burst,
                         uint64_t most)
{
    uint64_t n = 0;
    while (n < most && rate_take(at, now_us, per_second, burst))
        n++;
    return n;
}

static void a_zero_word_is_full(void **state)
{
    (void)state;
    static const uint64_t times[] = {0, 1, 999, 1700000000000000};
    for (size_t i = 0; i < COUNT(times); i++) {
        _Atomic uint64_t at = 0;
        assert_int_equal(rate_wait_us(&at, times[i], 10, 5), 0);
        assert_int_equal(take_all(&at, times[i], 10, 5, 100), 5);
    }
}

static void a_refusal_changes_nothing(void **state)
{
    (void)state;
    _Atomic uint64_t at = 0;
    assert_true(rate_take(&at, 7, 1, 1));
    uint64_t before = at;
    for (int i = 0; i < 100; i++)
        assert_false(rate_take(&at, 7 + second - 1, 1, 1));
    assert_int_equal(at, before);
    assert_true(rate_take(&at, 7 + second, 1, 1));
    assert_int_not_equal(at, before);
}

/* Whoever takes whenever he may gets the burst at first and the rate from then on. */
static void exact_counts(void **state)
{
    (void)state;
    static const struct {
        double per_second, burst;
        uint64_t step_us, seconds, taken;
    } cases[] = {
        {1, 1, 1000, 60, 61},         {1, 10, 1000, 60, 70},         {0.5, 1, 1000, 60, 31},
        {0.01, 3, 1000000, 1000, 13}, {10, 1, 1000, 60, 601},        {10, 10, 1000000, 60, 610},
        {250, 1, 4000, 10, 2501},     {1000, 50, 500, 10, 10050},    {100000, 1, 10, 1, 100001},
        {1e6, 1, 1, 1, 1000001},      {1e6, 1000, 1000, 1, 1001000}, {2.5, 1, 1000, 40, 101},
        {10, 5, 1000000, 60, 305}, /* looks too seldom: what did not fit into the bucket is lost */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        _Atomic uint64_t at = 0;
        uint64_t taken = 0, start = 1234567;
        for (uint64_t t = 0; t <= cases[i].seconds * second; t += cases[i].step_us)
            taken +=
                take_all(&at, start + t, cases[i].per_second, cases[i].burst, cases[i].taken + 1 - taken);
        if (taken != cases[i].taken)
            fail_msg("case %zu: %llu taken", i, (unsigned long long)taken);
    }
}

/* One event takes a whole number of nanoseconds, so a rate may be a little off. */
static void uneven_rates(void **state)
{
    (void)state;
    static const double rates[] = {3, 7, 0.3, 33.3, 999, 65537, 700001, 999983};
    for (size_t i = 0; i < COUNT(rates); i++) {
        _Atomic uint64_t at = 0;
        uint64_t n = 0, events = 2000;
        uint64_t now = 0;
        for (; n < events; n++) {
            now += rate_wait_us(&at, now, rates[i], 100);
            assert_true(rate_take(&at, now, rates[i], 100));
        }
        double got = (double)(events - 100) / ((double)now / 1e6);
        if (fabs(got / rates[i] - 1) > 1e-3)
            fail_msg("%g: %.9g", rates[i], got);
    }
}

static void long_pauses_give_the_burst(void **state)
{
    (void)state;
    _Atomic uint64_t at = 0;
    uint64_t now = 0;
    for (uint64_t pause = second; pause < (uint64_t)1 << 50; pause *= 3) {
        assert_int_equal(take_all(&at, now, 20, 20, 1000), 20);
        now += pause;
    }
}

/* rate_wait_us is right to the microsecond. */
static void waits(void **state)
{
    (void)state;
    static const double rates[] = {1e-6, 0.01, 0.3, 1, 3, 10, 777, 65537, 1e6};
    static const double bursts[] = {1, 2, 2.5, 100};
    for (size_t i = 0; i < COUNT(rates); i++)
        for (size_t j = 0; j < COUNT(bursts); j++) {
            _Atomic uint64_t at = 0;
            uint64_t now = 99;
            for (int n = 0; n < 200; n++) {
                uint64_t wait = rate_wait_us(&at, now, rates[i], bursts[j]);
                assert_true(wait <= (uint64_t)(1e6 / rates[i]) + 1);
                if (wait > 0)
                    assert_false(rate_take(&at, now + wait - 1, rates[i], bursts[j]));
                now += wait;
                assert_int_equal(rate_wait_us(&at, now, rates[i], bursts[j]), 0);
                assert_true(rate_take(&at, now, rates[i], bursts[j]));
            }
            assert_true(now > 99);
        }
}

static void odd_bursts(void **state)
{
    (void)state;
    static const double below_one[] = {0.999, 0.5, 0, -1, -INFINITY, NAN};
    for (size_t i = 0; i < COUNT(below_one); i++) {
        _Atomic uint64_t at = 0;
        assert_int_equal(take_all(&at, 5, 1, below_one[i], 10), 1);
        assert_int_equal(rate_wait_us(&at, 5, 1, below_one[i]), second);
    }
    _Atomic uint64_t half = 0;
    assert_int_equal(take_all(&half, 5, 1, 2.5, 10), 2);
    assert_int_equal(rate_wait_us(&half, 5, 1, 2.5), second / 2);
    _Atomic uint64_t endless = 0;
    assert_int_equal(take_all(&endless, 5, 1, INFINITY, 100000), 100000);
    _Atomic uint64_t large = 0;
    assert_int_equal(take_all(&large, 5, 1e9 / 3, 1000003, 2000000), 1000003);
}

static void extreme_rates(void **state)
{
    (void)state;
    static const double tiny[] = {1e-9, 1e-12, 1e-300, DBL_TRUE_MIN}, huge[] = {1e9, 1e12, 1e300, INFINITY};
    for (size_t i = 0; i < COUNT(tiny); i++) {
        _Atomic uint64_t at = 0;
        assert_int_equal(take_all(&at, 5, tiny[i], 3, 10), 3);
        assert_int_equal(take_all(&at, 365 * 86400 * second, tiny[i], 3, 10), 0);
        assert_true(rate_wait_us(&at, 5, tiny[i], 3) > 365 * 86400 * second);
    }
    for (size_t i = 0; i < COUNT(huge); i++) {
        _Atomic uint64_t at = 0;
        for (uint64_t now = 5; now < 10; now++) {
            assert_int_equal(take_all(&at, now, huge[i], 1000, 5000), 1000);
            assert_int_equal(rate_wait_us(&at, now, huge[i], 1000), 1);
        }
    }
}

/* The end of time: the bucket as it was then, and nothing wraps. */
static void huge_jumps(void **state)
{
    (void)state;
    static const double rates[] = {1e-300, 1e-9, 1, 1e6, 1e300}, bursts[] = {1, 4, 1e6};
    static const uint64_t ends[] = {(uint64_t)1 << 52, RATE_SPAN / 1000, RATE_SPAN, UINT64_MAX};
    for (size_t i = 0; i < COUNT(rates); i++)
        for (size_t j = 0; j < COUNT(bursts); j++)
            for (size_t k = 0; k < COUNT(ends); k++) {
                _Atomic uint64_t at = 0;
                uint64_t most = (uint64_t)bursts[j];
                assert_int_equal(take_all(&at, ends[k], rates[i], bursts[j], most + 9), most);
                assert_true(rate_wait_us(&at, ends[k], rates[i], bursts[j]) > 0);
            }
    _Atomic uint64_t at = 0;
    assert_int_equal(take_all(&at, 0, 1, 7, 100), 7);
    assert_int_equal(take_all(&at, UINT64_MAX, 1, 7, 100), 7);
}

/* Two threads may read the clock apart; that gives neither of them more. */
static void clocks_apart(void **state)
{
    (void)state;
    _Atomic uint64_t at = 0;
    uint64_t taken = 0;
    for (uint64_t now = second; now <= 11 * second; now += 1000) {
        taken += take_all(&at, now, 100, 10, 1000);
        taken += take_all(&at, now - 700, 100, 10, 1000);
    }
    assert_int_equal(taken, 10 + 10 * 100);
}

/* ---- threads ---- */

enum { THREADS = 4, BURST = 200000, PER_SECOND = 100000 };

static _Atomic uint64_t shared, clock_us;

struct taker {
    uint64_t taken;
    bool moves_clock;
    pthread_t thread;
};

static void *take_until_empty(void *arg)
{
    struct taker *t = arg;
    if (!t->moves_clock)
        t->taken = take_all(&shared, 77, PER_SECOND, BURST, 2 * BURST);
    else
        for (uint64_t now = 0; now < second; now = atomic_fetch_add(&clock_us, 1))
            t->taken += take_all(&shared, now, PER_SECOND, 10, 20);
    return NULL;
}

static uint64_t run_takers(bool moves_clock)
{
    struct taker takers[THREADS];
    uint64_t taken = 0;
    atomic_store(&shared, 0);
    atomic_store(&clock_us, 0);
    for (size_t i = 0; i < THREADS; i++) {
        takers[i] = (struct taker){.moves_clock = moves_clock};
        assert_int_equal(thread_start(&takers[i].thread, take_until_empty, &takers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(takers[i].thread, NULL);
        taken += takers[i].taken;
    }
    return taken;
}

static void threads_share_a_burst(void **state)
{
    (void)state;
    assert_int_equal(run_takers(false), BURST);
}

static void threads_share_a_rate(void **state)
{
    (void)state;
    uint64_t taken = run_takers(true);
    assert_true(taken > 10);
    assert_true(taken <= 10 + PER_SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_zero_word_is_full),
        cmocka_unit_test(a_refusal_changes_nothing),
        cmocka_unit_test(exact_counts),
        cmocka_unit_test(uneven_rates),
        cmocka_unit_test(long_pauses_give_the_burst),
        cmocka_unit_test(waits),
        cmocka_unit_test(odd_bursts),
        cmocka_unit_test(extreme_rates),
        cmocka_unit_test(huge_jumps),
        cmocka_unit_test(clocks_apart),
        cmocka_unit_test(threads_share_a_burst),
        cmocka_unit_test(threads_share_a_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
