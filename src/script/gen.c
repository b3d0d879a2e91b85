/* SPDX-License-Identifier: MIT
 * A generation of the code. */
#include "script/gen.h"

#include <stdlib.h>

struct gen *gen_build(const struct gen_options *o, struct err *e)
{
    struct gen *g = calloc(1, sizeof *g + o->workers * sizeof g->vms[0]);
    if (g == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    g->snapshot = snapshot_ref(o->files);
    g->setup = setup_ref(o->setup);
    g->back = o->back;
    g->number = o->number;
    g->nvms = o->workers;
    for (size_t i = 0; i < o->workers; i++) {
        struct vm_options vm = {
            .setup = g->setup,
            .bindings = o->bindings,
            .snapshot = g->snapshot,
            .budget = o->budget,
            .worker = (unsigned)i + 1,
            .workers = (unsigned)o->workers,
            .generation = o->number,
        };
        g->vms[i] = vm_load(&vm, o->script, e);
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
    if (g != NULL) {
        snapshot_unref(g->snapshot);
        setup_unref(g->setup);
    }
    free(g);
}
