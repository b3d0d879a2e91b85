/* SPDX-License-Identifier: MIT
 * A generation of the code. */
#include "script/gen.h"

#include <stdlib.h>

#include "base/tally.h"

/* Where the VMs count what they do: for each route, and for none. */
static int gen_count_routes(struct gen *g, struct err *e)
{
    const struct router *r = g->vms[0]->router;
    struct tally *none = tally_route(NULL, NULL, true, (unsigned)g->nvms);
    for (size_t w = 0; none != NULL && w < g->nvms; w++)
        g->vms[w]->tally = &none[w];
    for (size_t i = 0; none != NULL && i < router_count(r); i++) {
        const struct router_route *route = router_route(r, i);
        struct tally *parts = tally_route(router_method_name(route->method), route->pattern,
                                          route->method == ROUTER_WEBSOCKET, (unsigned)g->nvms);
        if (parts == NULL)
            return err_set(e, "out of memory");
        for (size_t w = 0; w < g->nvms; w++)
            g->vms[w]->routes[i].limits.tally = &parts[w];
    }
    return none != NULL ? 0 : err_set(e, "out of memory");
}

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
    if (gen_count_routes(g, e) == 0)
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
