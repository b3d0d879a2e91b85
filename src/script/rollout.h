/* SPDX-License-Identifier: MIT
 * What becomes of a generation once it is published. The main thread.
 *
 *                        all workers have moved          few connections failed
 *   BUILT --publish--> MOVING ------------------> judged ----------------------> ACCEPTED
 *                        |                           |                              |
 *                        |  a newer one is published |  more than rollback_share    |  a newer one is
 * published v                           v                              v OVERTAKEN                  ROLLED
 * BACK: the files of        OLD (retires in each worker when the accepted one are built       nothing needs
 * it: dispatch.c) and published as the next
 *
 * A generation that was built to roll back is accepted whatever fails, or there would be no end to it. */
#ifndef TIDEWIRE_SCRIPT_ROLLOUT_H
#define TIDEWIRE_SCRIPT_ROLLOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "script/gen.h"
#include "script/migrate.h"

enum rollout_verdict { ROLLOUT_WAIT, ROLLOUT_ACCEPT, ROLLOUT_BACK };

struct rollout {
    size_t workers;
    uint64_t generation;              /* the newest published */
    uint64_t moved, failed, homeless; /* connections; the last are closed, for there is no route for them */
    size_t told;                      /* workers that have reported */
    bool back;                        /* it was built to roll back */
    struct rollout_source {
        struct snapshot *files; /* NULL: none */
        struct setup *setup;
    } newest, accepted; /* what it was made from, and the one accepted last; references */
};

void rollout_init(struct rollout *r, size_t workers);
void rollout_fini(struct rollout *r);

/* A generation is published. The first one has nothing to move and is accepted. */
void rollout_publish(struct rollout *r, const struct gen *gen);

/* A worker has moved what it could. After ROLLOUT_BACK what to build is r->accepted. */
enum rollout_verdict rollout_on_report(struct rollout *r, const struct migrate_report *report);

#endif
