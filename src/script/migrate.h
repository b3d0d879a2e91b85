/* SPDX-License-Identifier: MIT
 * Moves a worker's live WebSockets to the newest code after a reload: those that are quiet by a sweep that
 * takes little of each loop iteration, the others before their next message (live.h). The thread of the
 * worker.
 *
 *             all have moved, or failed     the main thread: few failed
 *   MOVING -----------------------> TOLD -----------------------------> ACCEPTED
 *      ^                              |  many failed: an older version is built and published anew
 *      +------ a newer generation ----+----------------------------------------> MOVING
 *
 * What fails to move stays with its code until ACCEPTED, and is closed with 1011 then. */
#ifndef TIDEWIRE_SCRIPT_MIGRATE_H
#define TIDEWIRE_SCRIPT_MIGRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/mailbox.h"
#include "net/worker.h"
#include "script/live.h"
#include "ws/session.h"

enum migrate_state { MIGRATE_MOVING, MIGRATE_TOLD, MIGRATE_ACCEPTED };

struct migrate {
    uint64_t generation;
    enum migrate_state state;
    uint64_t moved, failed, homeless;
    uint64_t behind; /* about how many still have to move: their handlers wait */
    size_t cursor;   /* of the sweep, in the table of sessions */
    bool again;      /* the sweep has moved some, so the table may have changed under it */
};

/* What a worker tells the main thread, which frees it. */
struct migrate_report {
    struct mail mail;
    uint64_t generation, moved, failed, homeless;
};

/* A newer generation serves: all sessions are to move to it. */
void migrate_begin(struct migrate *m, uint64_t generation);

/* Sweeps until the clock says `until_ms`, or it is through. True when it is not. */
bool migrate_sweep(struct migrate *m, struct worker *w, uint64_t until_ms);

/* One of those that were behind is not any more. True when the sweep should look whether that was the last.
 */
bool migrate_one_less(struct migrate *m);

/* Counts what became of a session's move. */
void migrate_count(struct migrate *m, struct worker *w, enum live_followed how);

/* After a sweep: the main thread can be told. */
bool migrate_is_through(const struct migrate *m, const struct worker *w);

/* The generation is accepted: the sweep closes sessions that failed to move. False for an older one. */
bool migrate_accept(struct migrate *m, uint64_t generation);

/* Whether `failed` of all connections that were to move are too many (rollback_share). */
bool migrate_is_too_many(const struct config *config, uint64_t moved, uint64_t failed);

#endif
