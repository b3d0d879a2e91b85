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
    if (g != NULL) {
        snapshot_unref(g->snapshot);
        setup_unref(g->setup);
    }
    free(g);
}
