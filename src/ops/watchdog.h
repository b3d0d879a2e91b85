/* SPDX-License-Identifier: MIT
 * Looks after the threads that run scripts: cuts what runs over its budget, tells who is stuck. The main
 * thread. */
#ifndef TIDEWIRE_OPS_WATCHDOG_H
#define TIDEWIRE_OPS_WATCHDOG_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "net/worker.h"
#include "script/budget.h"

struct watchdog {
    ev_timer timer;
    const struct config *config;
    struct budget *builder;
    struct watchdog_worker {
        struct worker *worker;
        struct budget *budget;
        uint64_t beat, beat_since_ms;
    } * workers;
    size_t nworkers;
    void (*on_stuck)(void); /* after it has been logged */
};

/* Starts watching; `builder` may be NULL. The watchdog does not keep the loop alive. */
void watchdog_start(struct watchdog *d, struct ev_loop *loop, const struct config *config,
                    struct budget *builder, void (*on_stuck)(void));

/* Another configuration is in force; the one before is not used any more. */
void watchdog_configure(struct watchdog *d, struct ev_loop *loop, const struct config *config);

/* Watches these workers too, until watchdog_stop. 0, or -1 when memory runs out. */
int watchdog_add_workers(struct watchdog *d, struct worker *const *workers, size_t n);

/* Number of the first worker (from 1) that is stuck or whose loop has not turned for twice handler_budget; 0
 * when all are well. */
unsigned watchdog_unhealthy(const struct watchdog *d);

void watchdog_stop(struct watchdog *d, struct ev_loop *loop);

#endif
