/* SPDX-License-Identifier: MIT
 * A worker's WebSockets by connection id. */
#include "ws/sessions.h"

#include <stdlib.h>

#include "ws/session.h"

/* Ids count up, so their low bits alone would do but for the stride of several workers; the product mixes
 * them. */
static size_t sessions_home(const struct sessions *t, uint64_t id)
{
    return (size_t)(id * 0x9e3779b97f4a7c15u >> 32) & (t->slots - 1);
}

static void sessions_put(struct sessions *t, struct session *s)
{
    size_t i = sessions_home(t, s->conn->id);
    while (t->table[i] != NULL)
        i = (i + 1) & (t->slots - 1);
    t->table[i] = s;
}

static int sessions_grow(struct sessions *t)
{
    struct sessions grown = {.slots = t->slots == 0 ? 64 : t->slots * 2, .used = t->used};
    grown.table = calloc(grown.slots, sizeof(struct session *));
    if (grown.table == NULL)
        return -1;
    for (size_t i = 0; i < t->slots; i++)
        if (t->table[i] != NULL)
            sessions_put(&grown, t->table[i]);
    free(t->table);
    *t = grown;
    return 0;
}

int sessions_add(struct sessions *t, struct session *s)
{
    if ((t->used + 1) * 4 > t->slots * 3 && sessions_grow(t) < 0)
        return -1;
    sessions_put(t, s);
    t->used++;
    return 0;
}

void sessions_remove(struct sessions *t, const struct session *s)
{
    size_t mask = t->slots - 1, gap = sessions_home(t, s->conn->id);
    while (t->table[gap] != s)
        gap = (gap + 1) & mask;
    t->table[gap] = NULL;
    t->used--;
    /* What follows may have been put here because the gap was taken: close it, or it would not be found. */
    for (size_t i = (gap + 1) & mask; t->table[i] != NULL; i = (i + 1) & mask) {
        size_t home = sessions_home(t, t->table[i]->conn->id);
        if (((i - home) & mask) < ((i - gap) & mask))
            continue;
        t->table[gap] = t->table[i];
        t->table[i] = NULL;
        gap = i;
    }
}

struct session *sessions_find(const struct sessions *t, uint64_t id)
{
    if (t->slots == 0)
        return NULL;
    for (size_t i = sessions_home(t, id); t->table[i] != NULL; i = (i + 1) & (t->slots - 1))
        if (t->table[i]->conn->id == id)
            return t->table[i];
    return NULL;
}

void sessions_fini(struct sessions *t)
{
    free(t->table);
    *t = (struct sessions){.table = NULL};
}
