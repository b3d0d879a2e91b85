/* SPDX-License-Identifier: MIT
 * What becomes of a generation once it is published. */
#include "script/rollout.h"

#include <string.h>

void rollout_init(struct rollout *r, const struct config *config, size_t workers)
{
    memset(r, 0, sizeof *r);
    r->config = config;
    r->workers = workers;
}

static void rollout_set(struct snapshot **to, struct snapshot *files)
{
    if (*to != NULL)
        snapshot_unref(*to);
    *to = files != NULL ? snapshot_ref(files) : NULL;
}

void rollout_fini(struct rollout *r)
{
    rollout_set(&r->files, NULL);
    rollout_set(&r->accepted, NULL);
}

void rollout_publish(struct rollout *r, uint64_t generation, struct snapshot *files, bool back)
{
    rollout_set(&r->files, files);
    if (r->accepted == NULL)
        rollout_set(&r->accepted, files);
    r->generation = generation;
    r->back = back;
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
    if (!r->back && migrate_is_too_many(r->config, r->moved, r->failed))
        return ROLLOUT_BACK;
    rollout_set(&r->accepted, r->files);
    return ROLLOUT_ACCEPT;
}
