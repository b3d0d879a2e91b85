/* SPDX-License-Identifier: MIT
 * Bytes that are written once and then shared: counted, by any thread. Who makes a block may append to it as
 * long as what others have been given of it stays as it is. */
#ifndef TIDEWIRE_BASE_BLOCK_H
#define TIDEWIRE_BASE_BLOCK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct block {
    _Atomic uint32_t refs;
    size_t len, cap; /* the maker's */
    uint8_t data[];
};

/* Empty, with one reference. NULL when memory runs out. */
struct block *block_create(size_t cap);

static inline struct block *block_ref(struct block *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

/* Whether nobody else has it. */
static inline int block_is_sole(const struct block *b)
{
    return atomic_load_explicit(&b->refs, memory_order_acquire) == 1;
}

/* Frees it with the last reference. */
void block_unref(struct block *b);

#endif
