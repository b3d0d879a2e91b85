/* SPDX-License-Identifier: MIT
 * A generation of the code. */
#include "script/gen.h"

#include <stdlib.h>

struct gen *gen_build(const struct config *config, const char *script, size_t workers, uint64_t number,
                      struct snapshot *files, const struct vm_bindings *bindings, struct budget *budget,
                      struct err *e)
{
    struct gen *g = calloc(1, sizeof *g + workers * sizeof g->vms[0]);
    if (g == NULL || (g->snapshot = files != NULL ? snapshot_ref(files) : snapshot_create()) == NULL) {
        err_set(e, "out of memory");
        goto fail;
    }
    g->back = files != NULL;
    g->number = number;
    g->nvms = workers;
    for (size_t i = 0; i < workers; i++) {
        struct vm_options o = {
            .config = config,
            .bindings = bindings,
            .snapshot = g->snapshot,
            .budget = budget,
            .worker = (unsigned)i + 1,
            .workers = (unsigned)workers,
            .generation = number,
        };
        g->vms[i] = vm_load(&o, script, e);
        if (g->vms[i] == NULL)
            goto fail;
        if (!router_equal(g->vms[0]->router, g->vms[i]->router, e)) {
            err_prefix(e, "worker %zu registers other routes than worker 1: ", i + 1);
            goto fail;
        }
    }
    return g;
fail:
    gen_destroy(g);
    return NULL;
}

void gen_destroy(struct gen *g)
{
    for (size_t i = 0; g != NULL && i < g->nvms; i++)
        if (g->vms[i] != NULL)
            vm_destroy(g->vms[i]);
    if (g != NULL && g->snapshot != NULL)
        snapshot_unref(g->snapshot);
    free(g);
}
