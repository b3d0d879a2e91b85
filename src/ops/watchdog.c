/* SPDX-License-Identifier: MIT
 * Looks after the threads that run scripts. */
#include "ops/watchdog.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "script/dispatch.h"

static void watchdog_look(struct watchdog *d, struct budget *b, unsigned worker, uint64_t now)
{
    if (budget_watch(b, now) != BUDGET_STUCK)
        return;
    struct log_context about = {.worker = worker};
    log_write(
        LOG_ERROR, &about,
        "stuck: a script has run for over %.3g s and could not be cut, so it is probably inside one call "
        "of a C function (such as string.find with a costly pattern); this thread serves nobody until "
        "that returns",
        2 * budget_limit(b));
    if (d->config->abort_stuck)
        d->on_stuck();
}

static void watchdog_on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct watchdog *d = timer->data;
    uint64_t now = clock_now_ms();
    if (d->builder != NULL)
        watchdog_look(d, d->builder, 0, now);
    for (size_t i = 0; i < d->nworkers; i++) {
        struct watchdog_worker *w = &d->workers[i];
        watchdog_look(d, w->budget, w->worker->index, now);
        uint64_t beat = atomic_load_explicit(&w->worker->beat, memory_order_relaxed);
        if (beat != w->beat || w->beat_since_ms == 0) {
            w->beat = beat;
            w->beat_since_ms = now;
        }
    }
}

void watchdog_start(struct watchdog *d, struct ev_loop *loop, const struct config *config,
                    struct budget *builder, void (*on_stuck)(void))
{
    memset(d, 0, sizeof *d);
    d->builder = builder;
    d->on_stuck = on_stuck;
    ev_timer_init(&d->timer, watchdog_on_timer, 0, 0);
    d->timer.data = d;
    watchdog_configure(d, loop, config);
    ev_unref(loop);
}

void watchdog_configure(struct watchdog *d, struct ev_loop *loop, const struct config *config)
{
    double shortest =
        config->handler_budget < config->load_budget ? config->handler_budget : config->load_budget;
    d->config = config;
    d->timer.repeat = shortest / 10 < 0.1 ? shortest / 10 : 0.1;
    ev_timer_again(loop, &d->timer);
}

int watchdog_add_workers(struct watchdog *d, struct worker *const *workers, size_t n)
{
    d->workers = calloc(n, sizeof d->workers[0]);
    if (d->workers == NULL)
        return -1;
    for (size_t i = 0; i < n; i++)
        d->workers[i] = (struct watchdog_worker){.worker = workers[i], .budget = dispatch_budget(workers[i])};
    d->nworkers = n;
    return 0;
}

unsigned watchdog_unhealthy(const struct watchdog *d)
{
    uint64_t now = clock_now_ms();
    for (size_t i = 0; i < d->nworkers; i++) {
        const struct watchdog_worker *w = &d->workers[i];
        bool silent = w->beat_since_ms != 0 &&
                      (double)(now - w->beat_since_ms) > 2000 * d->config->handler_budget + 1000;
        if (silent || budget_is_stuck(w->budget))
            return w->worker->index;
    }
    return 0;
}

void watchdog_stop(struct watchdog *d, struct ev_loop *loop)
{
    ev_ref(loop);
    ev_timer_stop(loop, &d->timer);
    free(d->workers);
    d->workers = NULL;
    d->nworkers = 0;
}
