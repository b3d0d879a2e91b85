/* SPDX-License-Identifier: MIT
 * One state of the configuration. */
#include "net/setup.h"

#include <stdlib.h>
#include <string.h>

static int setup_read_proxies(struct cidr_list *out, const struct config *c, struct err *e)
{
    const struct config_list *list = &c->trusted_proxies;
    for (size_t i = 0; i < list->n; i++)
        if (cidr_list_add(out, list->item[i], strlen(list->item[i]), e) < 0)
            return err_prefix(e, "trusted_proxies: ");
    for (size_t i = 0; i < c->listen.n; i++)
        if (list->n == 0 && strncmp(c->listen.item[i], "proxy:", 6) == 0)
            return err_set(e, "listen: %s takes connections from trusted_proxies only, and there are none",
                           c->listen.item[i]);
    return 0;
}

struct setup *setup_create(struct config *c, struct err *e)
{
    struct setup *s = calloc(1, sizeof *s);
    if (s == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    if (setup_read_proxies(&s->trusted_proxies, c, e) < 0) {
        free(s);
        return NULL;
    }
    atomic_init(&s->refs, 1);
    s->config = *c;
    memset(c, 0, sizeof *c);
    return s;
}

struct setup *setup_ref(struct setup *s)
{
    if (s != NULL)
        atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void setup_unref(struct setup *s)
{
    if (s == NULL || atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    config_fini(&s->config);
    free(s->kept);
    free(s);
}
