/* SPDX-License-Identifier: MIT
 * For tests of what lives on a worker: one that is never started. The test runs its loop by hand and makes
 * its ticks itself, so that nothing depends on the time. */
#ifndef TIDEWIRE_TESTS_WORKER_FIXTURE_H
#define TIDEWIRE_TESTS_WORKER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "net/worker.h"

static struct config config;
static struct worker *worker;

static inline void worker_set_up(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    assert_int_equal(config_init(&config), 0);
    worker = worker_create(1, &config, NULL);
    assert_non_null(worker);
    ev_timer_stop(worker->loop, &worker->tick);
}

/* Nothing may be left of any connection. */
static inline void worker_tear_down(void)
{
    assert_int_equal(worker->nconns, 0);
    assert_null(worker->dirty);
    assert_true(list_empty(&worker->ready));
    assert_false(ev_is_active(&worker->spin)); /* the loop rests */
    assert_int_equal(worker_total_conns(), 0);
    for (enum metric state = METRIC_CONNECTIONS; state <= METRIC_CONNECTIONS_CLOSED; state++)
        assert_int_equal(metrics_sum(state), 0);
    assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
    worker_destroy(worker);
    config_fini(&config);
}

/* Everything that is ready, input that waits for its turn, and what comes of it: a socket pair has no delay.
 */
static inline void run(void)
{
    for (int quiet = 0; quiet < 4; quiet = list_empty(&worker->ready) ? quiet + 1 : 0)
        ev_run(worker->loop, EVRUN_NOWAIT);
}

static inline void tick(unsigned ticks)
{
    while (ticks-- > 0) {
        wheel_advance(&worker->wheel, conn_on_deadline, worker);
        run();
    }
}

#endif
