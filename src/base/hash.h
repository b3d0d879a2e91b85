/* SPDX-License-Identifier: MIT
 * A keyed hash for tables whose keys others choose: without the secret nobody can work out keys that share a
 * bucket. SipHash-1-3. Any thread; owns nothing. */
#ifndef TIDEWIRE_BASE_HASH_H
#define TIDEWIRE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_key {
    uint64_t half[2];
};

/* A random secret. 0, or -1 when the kernel has none to give. */
int hash_key_init(struct hash_key *key);

/* All 64 bits of it are equally good. Borrows `data`, which may be NULL when `len` is 0. */
uint64_t hash_bytes(const struct hash_key *key, const void *data, size_t len);

#endif
