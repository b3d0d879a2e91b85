/* SPDX-License-Identifier: MIT
 * Connections by client address: a hash table of chained slots.
 *
 * A handle is a slot's number plus one, and links are handles too, so that 0 is none everywhere. A slot stays
 * where it is as long as it is counted; the arrays may move, and only under the lock. */
#include "net/peers.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <netinet/in.h>
#include <sys/random.h>

#define PEERS_FIRST_BITS 6

struct peers_slot {
    uint64_t address;
    uint32_t count;
    uint32_t next; /* in its bucket, or among the spare ones */
};

static struct {
    pthread_mutex_t lock;
    uint64_t factor;         /* of the hash; random and odd */
    struct peers_slot *slot; /* 1 << bits of them, and as many buckets */
    uint32_t *bucket;
    unsigned bits;    /* 0: no table */
    uint32_t touched; /* slots that were ever used; the others have no content */
    uint32_t spare;   /* chain of slots that are free again */
    uint32_t live;
} peers = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The 64 bits that an address counts by. IPv4 stands where IPv6 has multicast, from which nobody connects. */
static bool peers_address(const struct sockaddr *peer, uint64_t *address)
{
    uint8_t bytes[8] = {0xff, 0xff, 0xff, 0xff};
    if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)peer;
        memcpy(bytes + 4, &in->sin_addr, 4);
    } else if (peer->sa_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(in6))
            memcpy(bytes + 4, in6->s6_addr + 12, 4);
        else
            memcpy(bytes, in6->s6_addr, 8);
    } else
        return false;
    memcpy(address, bytes, sizeof bytes);
    return true;
}

/* The top bits of the product with a random odd number. That is a universal hash: any two addresses that were
 * chosen without knowing the number share a bucket with a chance of at most 2 in the number of buckets. So no
 * choice of addresses makes the chains long; a fixed hash, however well it mixes, can be worked out at home.
 */
static uint32_t *peers_bucket(uint64_t address)
{
    return &peers.bucket[address * peers.factor >> (64 - peers.bits)];
}

static void peers_link(uint32_t handle)
{
    struct peers_slot *s = &peers.slot[handle - 1];
    uint32_t *head = peers_bucket(s->address);
    s->next = *head;
    *head = handle;
}

/* Doubles the table, or begins it. Every slot is in use. */
static int peers_grow(void)
{
    if (peers.factor == 0) {
        if (getrandom(&peers.factor, sizeof peers.factor, 0) != sizeof peers.factor)
            return -1;
        peers.factor |= 1;
    }
    unsigned bits = peers.bits == 0 ? PEERS_FIRST_BITS : peers.bits + 1;
    size_t n = (size_t)1 << bits;
    struct peers_slot *slot = realloc(peers.slot, n * sizeof *slot);
    if (slot == NULL)
        return -1;
    peers.slot = slot;
    uint32_t *bucket = calloc(n, sizeof *bucket);
    if (bucket == NULL)
        return -1;
    free(peers.bucket);
    peers.bucket = bucket;
    peers.bits = bits;
    for (uint32_t handle = 1; handle <= peers.touched; handle++)
        peers_link(handle);
    return 0;
}

/* A slot for an address that has none: its handle, or 0 when memory runs out. */
static uint32_t peers_add(uint64_t address)
{
    uint32_t handle = peers.spare;
    if (handle != 0)
        peers.spare = peers.slot[handle - 1].next;
    else if ((peers.bits > 0 && peers.touched < (uint32_t)1 << peers.bits) || peers_grow() == 0)
        handle = ++peers.touched;
    else
        return 0;
    peers.slot[handle - 1] = (struct peers_slot){.address = address};
    peers_link(handle);
    peers.live++;
    return handle;
}

static uint32_t peers_find(uint64_t address)
{
    uint32_t handle = peers.bits > 0 ? *peers_bucket(address) : 0;
    while (handle != 0 && peers.slot[handle - 1].address != address)
        handle = peers.slot[handle - 1].next;
    return handle;
}

uint32_t peers_enter(const struct sockaddr *peer, uint64_t limit)
{
    uint64_t address;
    if (!peers_address(peer, &address))
        return PEERS_UNLIMITED;
    if (limit == 0)
        return 0;
    pthread_mutex_lock(&peers.lock);
    uint32_t handle = peers_find(address);
    if (handle == 0)
        handle = peers_add(address);
    if (handle == 0)
        handle = PEERS_UNLIMITED;
    else if (peers.slot[handle - 1].count < limit)
        peers.slot[handle - 1].count++;
    else
        handle = 0;
    pthread_mutex_unlock(&peers.lock);
    return handle;
}

/* Takes away a slot that counts nothing any more; with the last one, the table. */
static void peers_remove(uint32_t handle)
{
    struct peers_slot *s = &peers.slot[handle - 1];
    uint32_t *link = peers_bucket(s->address);
    while (*link != handle)
        link = &peers.slot[*link - 1].next;
    *link = s->next;
    s->next = peers.spare;
    peers.spare = handle;
    if (--peers.live > 0)
        return;
    free(peers.slot);
    free(peers.bucket);
    peers.slot = NULL;
    peers.bucket = NULL;
    peers.bits = 0;
    peers.touched = peers.spare = 0;
}

void peers_leave(uint32_t handle)
{
    if (handle == 0 || handle == PEERS_UNLIMITED)
        return;
    pthread_mutex_lock(&peers.lock);
    if (--peers.slot[handle - 1].count == 0)
        peers_remove(handle);
    pthread_mutex_unlock(&peers.lock);
}
