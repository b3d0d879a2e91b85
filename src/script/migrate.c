/* SPDX-License-Identifier: MIT
 * Moves live WebSockets to the newest code. */
#include "script/migrate.h"

#include "base/clock.h"
#include "ws/closecode.h"

#define MIGRATE_LOOK 64 /* sessions between two looks at the clock that have nothing to move */
#define MIGRATE_FEW  10 /* failures that alone stop no sweep */

void migrate_begin(struct migrate *m, uint64_t generation)
{
    *m = (struct migrate){.generation = generation, .state = MIGRATE_MOVING};
}

void migrate_count(struct migrate *m, struct worker *w, enum live_followed how)
{
    m->moved += how == LIVE_MOVED;
    m->failed += how == LIVE_FAILED;
    m->homeless += how == LIVE_HOMELESS;
    if (how != LIVE_HOMELESS)
        metrics_add(w->metrics, how == LIVE_MOVED ? METRIC_MIGRATED : METRIC_MIGRATION_FAILED, 1);
}

bool migrate_is_too_many(const struct config *config, uint64_t moved, uint64_t failed)
{
    return failed > 0 && (double)failed > config->rollback_share * (double)(moved + failed);
}

/* So many have failed that the generation is not going to be accepted. */
static bool migrate_is_hopeless(const struct migrate *m, const struct worker *w)
{
    uint64_t all = metrics_get(w->metrics, METRIC_WEBSOCKETS);
    return m->failed >= MIGRATE_FEW &&
           migrate_is_too_many(w->config, all - (m->failed < all ? m->failed : all), m->failed);
}

static const struct sessions *migrate_sessions(const struct worker *w)
{
    const struct session_worker *l = w->layer[WORKER_WS];
    return &l->sessions;
}

/* What the sweep does with one session; whether that was much. */
static bool migrate_visit(struct migrate *m, struct session *s)
{
    live_end_waiting(s);
    live_settle(s);
    if (m->state == MIGRATE_ACCEPTED && live_is_refused(s)) {
        session_fail(s, CLOSECODE_INTERNAL_ERROR, "internal error");
        return true;
    }
    bool moved = live_follow(s) != LIVE_STAYS;
    if (live_is_behind(s))
        m->behind++;
    return moved;
}

bool migrate_sweep(struct migrate *m, struct worker *w, uint64_t until_ms)
{
    const struct sessions *all = migrate_sessions(w);
    for (unsigned seen = 1;; seen++) {
        if (m->cursor >= all->slots) {
            m->cursor = 0;
            if (!m->again)
                return false;
            m->again = false;
        }
        if (all->slots == 0)
            return false;
        if (m->cursor == 0)
            m->behind = 0;
        struct session *s = all->table[m->cursor++];
        bool moved = s != NULL && migrate_visit(m, s);
        m->again = m->again || moved;
        if (m->state == MIGRATE_MOVING && migrate_is_hopeless(m, w))
            return false;
        if ((moved || seen % MIGRATE_LOOK == 0) && clock_now_ms() >= until_ms)
            return true;
    }
}

bool migrate_one_less(struct migrate *m)
{
    if (m->behind > 0)
        m->behind--;
    return m->state == MIGRATE_MOVING && m->behind == 0;
}

bool migrate_is_through(const struct migrate *m, const struct worker *w)
{
    return m->state == MIGRATE_MOVING && (m->behind == 0 || migrate_is_hopeless(m, w));
}

bool migrate_accept(struct migrate *m, uint64_t generation)
{
    if (generation != m->generation)
        return false;
    m->state = MIGRATE_ACCEPTED;
    return true;
}
