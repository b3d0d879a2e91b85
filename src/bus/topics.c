/* SPDX-License-Identifier: MIT
 * The topics of the whole process by name. */
#include "bus/topics.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define TOPICS_PARTS 64
#define TOPICS_FIRST 16 /* buckets of a part */

struct topics_part {
    _Alignas(64) pthread_mutex_t lock;
    struct topics_name **bucket;
    size_t nbuckets, count;
};

static struct {
    struct hash_key key;
    unsigned workers;
    _Atomic uint64_t count;
    struct topics_part part[TOPICS_PARTS];
} topics;

int topics_init(unsigned workers)
{
    topics.workers = workers;
    for (size_t i = 0; i < TOPICS_PARTS; i++)
        pthread_mutex_init(&topics.part[i].lock, NULL);
    return hash_key_init(&topics.key);
}

void topics_fini(void)
{
    for (size_t i = 0; i < TOPICS_PARTS; i++) {
        pthread_mutex_destroy(&topics.part[i].lock);
        free(topics.part[i].bucket);
        topics.part[i].bucket = NULL;
        topics.part[i].nbuckets = 0;
    }
}

uint64_t topics_hash(const char *text, size_t len)
{
    return hash_bytes(&topics.key, text, len);
}

/* The parts go by the high bits, the buckets by the low ones. */
static struct topics_part *topics_part_of(uint64_t hash)
{
    return &topics.part[hash >> 58];
}

static struct topics_name **topics_bucket(struct topics_part *p, uint64_t hash)
{
    return &p->bucket[hash & (p->nbuckets - 1)];
}

static int topics_grow_locked(struct topics_part *p)
{
    struct topics_part grown = {.nbuckets = p->nbuckets == 0 ? TOPICS_FIRST : p->nbuckets * 2};
    grown.bucket = calloc(grown.nbuckets, sizeof(struct topics_name *));
    if (grown.bucket == NULL)
        return -1;
    for (size_t i = 0; i < p->nbuckets; i++)
        for (struct topics_name *n = p->bucket[i], *next; n != NULL; n = next) {
            struct topics_name **to = topics_bucket(&grown, n->hash);
            next = n->next;
            n->next = *to;
            *to = n;
        }
    free(p->bucket);
    p->bucket = grown.bucket;
    p->nbuckets = grown.nbuckets;
    return 0;
}

static struct topics_name *topics_find_locked(struct topics_part *p, const char *text, size_t len,
                                              uint64_t hash)
{
    struct topics_name *n = p->nbuckets > 0 ? *topics_bucket(p, hash) : NULL;
    while (n != NULL && (n->hash != hash || n->len != len || memcmp(n->text, text, len) != 0))
        n = n->next;
    return n;
}

static struct topics_name *topics_make_locked(struct topics_part *p, const char *text, size_t len,
                                              uint64_t hash)
{
    if (p->count >= p->nbuckets && topics_grow_locked(p) < 0 && p->nbuckets == 0)
        return NULL;
    size_t places = topics.workers * sizeof(struct topics_place);
    struct topics_name *n = calloc(1, sizeof *n + places + len);
    if (n == NULL)
        return NULL;
    n->hash = hash;
    n->len = (uint8_t)len;
    n->text = (char *)n->place + places;
    memcpy(n->text, text, len);
    struct topics_name **to = topics_bucket(p, hash);
    n->next = *to;
    *to = n;
    p->count++;
    atomic_fetch_add_explicit(&topics.count, 1, memory_order_relaxed);
    return n;
}

struct topics_name *topics_get(const char *text, size_t len, uint64_t hash, bool make)
{
    struct topics_part *p = topics_part_of(hash);
    pthread_mutex_lock(&p->lock);
    struct topics_name *n = topics_find_locked(p, text, len, hash);
    if (n == NULL && make)
        n = topics_make_locked(p, text, len, hash);
    if (n != NULL)
        topics_ref(n);
    pthread_mutex_unlock(&p->lock);
    return n;
}

void topics_unref(struct topics_name *n)
{
    uint32_t refs = atomic_load_explicit(&n->refs, memory_order_relaxed);
    while (refs > 1)
        if (atomic_compare_exchange_weak_explicit(&n->refs, &refs, refs - 1, memory_order_acq_rel,
                                                  memory_order_relaxed))
            return;
    /* It may be the last: only under the lock, or somebody could find it meanwhile. */
    struct topics_part *p = topics_part_of(n->hash);
    pthread_mutex_lock(&p->lock);
    bool last = atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) == 1;
    if (last) {
        struct topics_name **at = topics_bucket(p, n->hash);
        while (*at != n)
            at = &(*at)->next;
        *at = n->next;
        p->count--;
        atomic_fetch_sub_explicit(&topics.count, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&p->lock);
    if (last)
        free(n);
}

uint64_t topics_subscribers(const struct topics_name *n)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < topics.workers; i++)
        sum += atomic_load_explicit(&n->place[i].subscribers, memory_order_acquire);
    return sum;
}

uint64_t topics_count(void)
{
    return atomic_load_explicit(&topics.count, memory_order_relaxed);
}
