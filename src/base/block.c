/* SPDX-License-Identifier: MIT
 * Bytes that are written once and then shared. */
#include "base/block.h"

#include <stdlib.h>

struct block *block_create(size_t cap)
{
    struct block *b = malloc(sizeof *b + cap);
    if (b == NULL)
        return NULL;
    atomic_init(&b->refs, 1);
    b->len = 0;
    b->cap = cap;
    return b;
}

void block_unref(struct block *b)
{
    /* What other threads have read of it comes before the freeing. */
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
        free(b);
}
