/* SPDX-License-Identifier: MIT
 * What becomes of a generation once it is published. */
#include "script/rollout.h"

#include <string.h>

void rollout_init(struct rollout *r, size_t workers)
{
    memset(r, 0, sizeof *r);
    r->workers = workers;
}

static void rollout_set(struct rollout_source *to, struct rollout_source from)
{
    const struct rollout_source before = *to;
    to->files = from.files != NULL ? snapshot_ref(from.files) : NULL;
    to->setup = setup_ref(from.setup);
    snapshot_unref(before.files);
    setup_unref(before.setup);
}

void rollout_fini(struct rollout *r)
{
    rollout_set(&r->newest, (struct rollout_source){NULL, NULL});
    rollout_set(&r->accepted, (struct rollout_source){NULL, NULL});
}

void rollout_publish(struct rollout *r, const struct gen *gen)
{
    rollout_set(&r->newest, (struct rollout_source){gen->snapshot, gen->setup});
    if (r->accepted.files == NULL)
        rollout_set(&r->accepted, r->newest);
    r->generation = gen->number;
    r->back = gen->back;
    r->moved = r->failed = r->homeless = r->told = 0;
}

enum rollout_verdict rollout_on_report(struct rollout *r, const struct migrate_report *report)
{
    if (report->generation != r->generation)
        return ROLLOUT_WAIT;
    r->moved += report->moved;
    r->failed += report->failed;
    r->homeless += report->homeless;
    if (++r->told < r->workers)
        return ROLLOUT_WAIT;
    if (!r->back && migrate_is_too_many(&r->newest.setup->config, r->moved, r->failed))
        return ROLLOUT_BACK;
    rollout_set(&r->accepted, r->newest);
    return ROLLOUT_ACCEPT;
}
