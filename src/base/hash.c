/* SPDX-License-Identifier: MIT
 * SipHash with one round for each word and three at the end (Aumasson and Bernstein, 2012). */
#include "base/hash.h"

#include <endian.h>
#include <string.h>

#include <sys/random.h>

int hash_key_init(struct hash_key *key)
{
    return getrandom(key, sizeof *key, 0) == sizeof *key ? 0 : -1;
}

static inline uint64_t hash_rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void hash_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = hash_rotate(v[1], 13) ^ v[0];
    v[3] = hash_rotate(v[3], 16) ^ v[2];
    v[0] = hash_rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = hash_rotate(v[1], 17) ^ v[2];
    v[3] = hash_rotate(v[3], 21) ^ v[0];
    v[2] = hash_rotate(v[2], 32);
}

static inline void hash_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    hash_round(v);
    v[0] ^= word;
}

uint64_t hash_bytes(const struct hash_key *key, const void *data, size_t len)
{
    uint64_t v[4] = {
        key->half[0] ^ 0x736f6d6570736575u,
        key->half[1] ^ 0x646f72616e646f6du,
        key->half[0] ^ 0x6c7967656e657261u,
        key->half[1] ^ 0x7465646279746573u,
    };
    const uint8_t *at = data;
    uint64_t word;
    size_t left = len;
    for (; left >= sizeof word; at += sizeof word, left -= sizeof word) {
        memcpy(&word, at, sizeof word);
        hash_word(v, le64toh(word));
    }
    word = (uint64_t)len << 56; /* the last word: the rest, and the length's low byte */
    for (size_t i = 0; i < left; i++)
        word |= (uint64_t)at[i] << (8 * i);
    hash_word(v, word);
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        hash_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
