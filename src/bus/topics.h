/* SPDX-License-Identifier: MIT
 * The topics of the whole process by name: who has subscribers where. Any thread; a lock for each part of the
 * names, taken when a worker meets a topic that it does not know, never for a message to one it knows. */
#ifndef TIDEWIRE_BUS_TOPICS_H
#define TIDEWIRE_BUS_TOPICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOPICS_NAME_MAX 255 /* bytes */

struct topic;

/* What one worker has of a topic. */
struct topics_place {
    _Atomic uint32_t subscribers; /* written by that worker, read by all */
    struct topic *topic;          /* that worker's; nobody else looks */
};

struct topics_name {
    struct topics_name *next; /* in its bucket */
    uint64_t hash;
    _Atomic uint32_t refs;
    uint8_t len;
    char *text;                  /* behind the places */
    struct topics_place place[]; /* by worker */
};

/* For `workers` workers; before their threads run. 0, or -1 when there is no randomness or memory. */
int topics_init(unsigned workers);
/* After they have ended. */
void topics_fini(void);

uint64_t topics_hash(const char *text, size_t len);

/* The topic of that name with a reference for the caller. One that nobody knows is made when `make` says so;
 * NULL when it is not, or when memory runs out. `len` is at most TOPICS_NAME_MAX. */
struct topics_name *topics_get(const char *text, size_t len, uint64_t hash, bool make);

/* One more reference for who has one. */
static inline struct topics_name *topics_ref(struct topics_name *n)
{
    atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    return n;
}

/* Forgets the topic with the last reference. */
void topics_unref(struct topics_name *n);

/* Subscribers in all workers. */
uint64_t topics_subscribers(const struct topics_name *n);

/* Topics that are known now. */
uint64_t topics_count(void);

#endif
