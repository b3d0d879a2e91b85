/* SPDX-License-Identifier: MIT
 * Moves live WebSockets to the newest code. */
#include "script/migrate.h"

#include "base/clock.h"
#include "script/live.h"
#include "ws/closecode.h"

#define MIGRATE_LOOK 64 /* sessions between two looks at the clock that have nothing to move */
#define MIGRATE_FEW  10 /* failures that alone stop no sweep */

void migrate_begin(struct migrate *m, uint64_t generation)
{
    *m = (struct migrate){.generation = generation, .state = MIGRATE_MOVING};
}

void migrate_count(struct migrate *m, struct worker *w, bool moved)
{
    *(moved ? &m->moved : &m->failed) += 1;
    metrics_add(w->metrics, moved ? METRIC_MIGRATED : METRIC_MIGRATION_FAILED, 1);
}

bool migrate_is_too_many(const struct config *config, uint64_t moved, uint64_t failed)
{
    return failed > 0 && (double)failed > config->rollback_share * (double)(moved + failed);
}

bool migrate_is_hopeless(const struct migrate *m, const struct worker *w)
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

bool migrate_sweep(struct migrate *m, struct worker *w, uint64_t until_ms)
{
    const struct sessions *all = migrate_sessions(w);
    unsigned seen = 0;
    for (;;) {
        if (m->cursor >= all->slots) {
            m->cursor = 0;
            if (!m->again)
                return false;
            m->again = false; /* sessions that closed meanwhile may have moved others past the cursor */
        }
        if (all->slots == 0)
            return false;
        struct session *s = all->table[m->cursor++];
        bool moved = s != NULL && live_follow(s) != LIVE_STAYS;
        m->again = m->again || moved;
        if (migrate_is_hopeless(m, w))
            return false;
        if ((moved || ++seen % MIGRATE_LOOK == 0) && clock_now_ms() >= until_ms)
            return true;
    }
}

void migrate_accept(struct migrate *m, struct worker *w, uint64_t generation)
{
    const struct sessions *all = migrate_sessions(w);
    if (generation != m->generation)
        return;
    m->state = MIGRATE_ACCEPTED;
    for (size_t i = 0; i < all->slots; i++)
        if (all->table[i] != NULL && live_is_refused(all->table[i]))
            session_fail(all->table[i], CLOSECODE_INTERNAL_ERROR, "internal error");
}
