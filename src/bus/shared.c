/* SPDX-License-Identifier: MIT
 * The shared dictionary: shards, each a hash table of chains, a list in the order of use and a heap by the
 * time at which entries end. A thread locks one shard at a time.
 *
 * The limit is for all shards together, so that a few large values find room wherever their keys belong. Each
 * shard tells which time its least recently used entry was used, and when its first entry ends, in two words
 * that are read without its lock: a thread that is over the limit takes from the shard where these are least.
 * No value is larger than half the limit, for the tables, which shrink only when a shard is empty, may have
 * up to a quarter of it. So what is put in is never what has to go for it. */
#include "bus/shared.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/list.h"
#include "base/value.h"

#define SHARED_SHARDS  16
#define SHARED_BUCKETS 16 /* of a shard's first table */
#define SHARED_ENDED   2  /* so many entries whose time is over go with each change */
#define SHARED_NEVER   UINT64_MAX

struct shared_value {
    size_t len, room;
    _Atomic uint32_t refs; /* rises only under the lock of the shard that has it */
    uint8_t data[];
};

struct shared_entry {
    struct list use;
    struct shared_entry *next; /* in its bucket */
    struct shared_value *value;
    uint64_t used_ns, end_ns;
    uint32_t hash;
    uint32_t place; /* in the heap, from 1; 0: it has no end */
    uint8_t key_len;
    char key[];
};

struct shared_shard {
    _Alignas(64) pthread_mutex_t lock;
    struct shared_entry **bucket;
    size_t nbuckets, nentries;
    struct shared_entry **heap; /* the one that ends first is at 0 */
    size_t nheap, heap_room;
    struct list use;           /* the least recently used first */
    _Atomic uint64_t used_ns;  /* of that one; SHARED_NEVER: there is none */
    _Atomic uint64_t first_ns; /* the first end; SHARED_NEVER */
};

struct shared {
    struct hash_key secret;
    uint64_t limit;
    _Atomic uint64_t bytes;
    struct shared_shard shard[SHARED_SHARDS];
};

/* One call: where the key belongs, and what has changed. */
struct shared_call {
    struct shared *s;
    struct shared_shard *shard;
    struct shared_key key;
    uint32_t hash;
    uint64_t now_ns;
    int64_t bytes, keys, evicted;
};

static uint64_t shared_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- memory ---- */

/* What malloc takes for it: a word before it, rounded up. */
static int64_t shared_block(size_t bytes)
{
    return (int64_t)((bytes + sizeof(size_t) + 15) & ~(size_t)15);
}

static int64_t shared_cost(size_t key_len, size_t room)
{
    return shared_block(sizeof(struct shared_entry) + key_len) +
           shared_block(sizeof(struct shared_value) + room);
}

static int64_t shared_entry_cost(const struct shared_entry *e)
{
    return shared_cost(e->key_len, e->value->room);
}

/* Every number fits into the place of any other. */
static size_t shared_room(size_t len)
{
    return len < VALUE_NUMBER ? VALUE_NUMBER : len;
}

static struct shared_value *shared_value_create(const void *data, size_t len)
{
    struct shared_value *v = malloc(sizeof *v + shared_room(len));
    if (v == NULL)
        return NULL;
    v->len = len;
    v->room = shared_room(len);
    atomic_init(&v->refs, 1);
    memcpy(v->data, data, len);
    return v;
}

void shared_unref(const struct shared_value *v)
{
    struct shared_value *mine = (struct shared_value *)(uintptr_t)v;
    if (v != NULL && atomic_fetch_sub_explicit(&mine->refs, 1, memory_order_acq_rel) == 1)
        free(mine);
}

const void *shared_bytes(const struct shared_value *v, size_t *len)
{
    *len = v->len;
    return v->data;
}

/* ---- the heap ---- */

static void shared_heap_put(struct shared_shard *shard, size_t at, struct shared_entry *e)
{
    shard->heap[at] = e;
    e->place = (uint32_t)at + 1;
}

/* Finds the place for `e`, from `at` on, where there is a gap. */
static void shared_heap_settle(struct shared_shard *shard, size_t at, struct shared_entry *e)
{
    for (size_t up; at > 0 && shard->heap[up = (at - 1) / 2]->end_ns > e->end_ns; at = up)
        shared_heap_put(shard, at, shard->heap[up]);
    for (size_t down; (down = 2 * at + 1) < shard->nheap; at = down) {
        if (down + 1 < shard->nheap && shard->heap[down + 1]->end_ns < shard->heap[down]->end_ns)
            down++;
        if (shard->heap[down]->end_ns >= e->end_ns)
            break;
        shared_heap_put(shard, at, shard->heap[down]);
    }
    shared_heap_put(shard, at, e);
}

static void shared_heap_remove(struct shared_shard *shard, struct shared_entry *e)
{
    if (e->place == 0)
        return;
    size_t at = e->place - 1;
    struct shared_entry *last = shard->heap[--shard->nheap];
    e->place = 0;
    if (last != e)
        shared_heap_settle(shard, at, last);
}

/* Room for one more; 0 or -1. */
static int shared_heap_reserve(struct shared_call *c)
{
    struct shared_shard *shard = c->shard;
    if (shard->nheap < shard->heap_room)
        return 0;
    size_t room = shard->heap_room > 0 ? 2 * shard->heap_room : SHARED_BUCKETS;
    struct shared_entry **heap = room <= UINT32_MAX ? realloc(shard->heap, room * sizeof *heap) : NULL;
    if (heap == NULL)
        return -1;
    c->bytes += shared_block(room * sizeof *heap) -
                (shard->heap_room > 0 ? shared_block(shard->heap_room * sizeof *heap) : 0);
    shard->heap = heap;
    shard->heap_room = room;
    return 0;
}

/* From now on the entry ends then, or never; there is room in the heap. */
static void shared_set_end(struct shared_shard *shard, struct shared_entry *e, uint64_t end_ns)
{
    shared_heap_remove(shard, e);
    e->end_ns = end_ns;
    if (end_ns != SHARED_NEVER)
        shared_heap_settle(shard, shard->nheap++, e);
}

/* ---- the table ---- */

static struct shared_entry **shared_bucket(const struct shared_shard *shard, uint32_t hash)
{
    return &shard->bucket[hash & (shard->nbuckets - 1)];
}

/* Makes the first table, or one twice as large. Without memory for that, chains get longer instead. */
static int shared_grow(struct shared_call *c)
{
    struct shared_shard *shard = c->shard;
    if (shard->nentries < shard->nbuckets)
        return 0;
    struct shared_shard old = {.bucket = shard->bucket, .nbuckets = shard->nbuckets};
    size_t n = old.nbuckets > 0 ? 2 * old.nbuckets : SHARED_BUCKETS;
    struct shared_entry **bucket = n - 1 <= UINT32_MAX ? calloc(n, sizeof *bucket) : NULL;
    if (bucket == NULL)
        return old.nbuckets > 0 ? 0 : -1;
    c->bytes += shared_block(n * sizeof *bucket) -
                (old.nbuckets > 0 ? shared_block(old.nbuckets * sizeof *bucket) : 0);
    shard->bucket = bucket;
    shard->nbuckets = n;
    for (size_t i = 0; i < old.nbuckets; i++)
        for (struct shared_entry *e = old.bucket[i], *next; e != NULL; e = next) {
            next = e->next;
            struct shared_entry **head = shared_bucket(shard, e->hash);
            e->next = *head;
            *head = e;
        }
    free(old.bucket);
    return 0;
}

/* The tables of a shard without entries. */
static void shared_drop_tables(struct shared_call *c)
{
    struct shared_shard *shard = c->shard;
    if (shard->nbuckets > 0)
        c->bytes -= shared_block(shard->nbuckets * sizeof *shard->bucket);
    if (shard->heap_room > 0)
        c->bytes -= shared_block(shard->heap_room * sizeof *shard->heap);
    free(shard->bucket);
    free(shard->heap);
    shard->bucket = shard->heap = NULL;
    shard->nbuckets = shard->heap_room = 0;
}

static void shared_remove(struct shared_call *c, struct shared_entry *e)
{
    struct shared_entry **link = shared_bucket(c->shard, e->hash);
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    list_remove(&e->use);
    shared_heap_remove(c->shard, e);
    c->bytes -= shared_entry_cost(e);
    c->keys--;
    shared_unref(e->value);
    free(e);
    if (--c->shard->nentries == 0)
        shared_drop_tables(c);
}

/* The entry of the key, unless its time is over: then it goes. */
static struct shared_entry *shared_find(struct shared_call *c)
{
    struct shared_entry *e = c->shard->nbuckets > 0 ? *shared_bucket(c->shard, c->hash) : NULL;
    while (e != NULL &&
           (e->hash != c->hash || e->key_len != c->key.len || memcmp(e->key, c->key.text, c->key.len) != 0))
        e = e->next;
    if (e != NULL && e->end_ns <= c->now_ns) {
        shared_remove(c, e);
        return NULL;
    }
    return e;
}

/* Now it is the one that was used last. */
static void shared_touch(struct shared_call *c, struct shared_entry *e)
{
    e->used_ns = c->now_ns;
    list_remove(&e->use);
    list_append(&c->shard->use, &e->use);
}

/* An entry for a key that has none; takes `value` over. NULL when memory runs out. */
static struct shared_entry *shared_insert(struct shared_call *c, struct shared_value *value, uint64_t end_ns)
{
    struct shared_entry *e = malloc(sizeof *e + c->key.len);
    if (e == NULL || shared_grow(c) < 0 || (end_ns != SHARED_NEVER && shared_heap_reserve(c) < 0)) {
        free(e);
        if (c->shard->nentries == 0)
            shared_drop_tables(c);
        return NULL;
    }
    *e = (struct shared_entry){.value = value, .hash = c->hash, .key_len = (uint8_t)c->key.len};
    memcpy(e->key, c->key.text, c->key.len);
    list_init(&e->use);
    shared_touch(c, e);
    struct shared_entry **head = shared_bucket(c->shard, e->hash);
    e->next = *head;
    *head = e;
    c->shard->nentries++;
    c->bytes += shared_entry_cost(e);
    c->keys++;
    shared_set_end(c->shard, e, end_ns);
    return e;
}

/* ---- calls ---- */

static void shared_lock(struct shared_call *c)
{
    pthread_mutex_lock(&c->shard->lock);
    c->now_ns = shared_now_ns();
}

static void shared_unlock(struct shared_call *c)
{
    struct shared_shard *shard = c->shard;
    uint64_t used = SHARED_NEVER;
    if (!list_empty(&shard->use))
        used = LIST_ENTRY(shard->use.next, struct shared_entry, use)->used_ns;
    uint64_t first = shard->nheap > 0 ? shard->heap[0]->end_ns : SHARED_NEVER;
    atomic_store_explicit(&shard->used_ns, used, memory_order_relaxed);
    atomic_store_explicit(&shard->first_ns, first, memory_order_relaxed);
    pthread_mutex_unlock(&shard->lock);
}

static struct shared_call shared_begin(struct shared *s, struct shared_key key)
{
    uint64_t hash = hash_bytes(&s->secret, key.text, key.len);
    struct shared_call c = {.s = s, .key = key, .hash = (uint32_t)hash};
    c.shard = &s->shard[(hash >> 32) % SHARED_SHARDS];
    shared_lock(&c);
    return c;
}

static void shared_count(struct shared_call *c, struct metrics *m)
{
    if (c->bytes != 0) {
        atomic_fetch_add_explicit(&c->s->bytes, (uint64_t)c->bytes, memory_order_relaxed);
        metrics_add(m, METRIC_SHARED_BYTES, (uint64_t)c->bytes);
    }
    if (c->keys != 0)
        metrics_add(m, METRIC_SHARED_KEYS, (uint64_t)c->keys);
    if (c->evicted != 0)
        metrics_add(m, METRIC_SHARED_EVICTIONS, (uint64_t)c->evicted);
}

static void shared_end(struct shared_call *c, struct metrics *m)
{
    shared_count(c, m); /* under the lock: what another thread takes away has been added before */
    shared_unlock(c);
}

/* Takes away up to `most` entries whose time is over; how many. */
static int shared_expire(struct shared_call *c, int most)
{
    int n = 0;
    for (; n < most && c->shard->nheap > 0 && c->shard->heap[0]->end_ns <= c->now_ns; n++)
        shared_remove(c, c->shard->heap[0]);
    return n;
}

static bool shared_is_over(const struct shared *s)
{
    return atomic_load_explicit(&s->bytes, memory_order_relaxed) > s->limit;
}

/* The shard to take from; NULL when all are empty. */
static struct shared_shard *shared_victim(struct shared *s)
{
    struct shared_shard *victim = NULL, *first = NULL;
    uint64_t used = SHARED_NEVER, end = shared_now_ns();
    for (size_t i = 0; i < SHARED_SHARDS; i++) {
        uint64_t u = atomic_load_explicit(&s->shard[i].used_ns, memory_order_relaxed);
        uint64_t f = atomic_load_explicit(&s->shard[i].first_ns, memory_order_relaxed);
        if (u < used)
            used = u, victim = &s->shard[i];
        if (f <= end)
            end = f, first = &s->shard[i];
    }
    return first != NULL ? first : victim;
}

/* Takes away until all is under the limit. */
static void shared_trim(struct shared *s, struct metrics *m)
{
    while (shared_is_over(s)) {
        struct shared_call c = {.s = s, .shard = shared_victim(s)};
        if (c.shard == NULL)
            return;
        shared_lock(&c);
        if (shared_is_over(s) && shared_expire(&c, 1) == 0 && !list_empty(&c.shard->use)) {
            shared_remove(&c, LIST_ENTRY(c.shard->use.next, struct shared_entry, use));
            c.evicted++;
        }
        shared_end(&c, m);
    }
}

const struct shared_value *shared_get(struct shared *s, struct metrics *m, struct shared_key key)
{
    struct shared_value *v = NULL;
    struct shared_call c = shared_begin(s, key);
    struct shared_entry *e = shared_find(&c);
    if (e != NULL) {
        shared_touch(&c, e);
        v = e->value;
        atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    }
    shared_end(&c, m);
    return v;
}

static uint64_t shared_end_of(const struct shared_call *c, uint64_t ttl_ns)
{
    return ttl_ns > 0 && ttl_ns < SHARED_NEVER - c->now_ns ? c->now_ns + ttl_ns : SHARED_NEVER;
}

/* Gives the entry another value, which is taken over; the one it had is in `*value`. 0 or -1. */
static int shared_replace(struct shared_call *c, struct shared_entry *e, struct shared_value **value,
                          uint64_t end_ns)
{
    if (end_ns != SHARED_NEVER && e->place == 0 && shared_heap_reserve(c) < 0)
        return -1;
    struct shared_value *old = e->value;
    c->bytes -= shared_entry_cost(e);
    e->value = *value;
    c->bytes += shared_entry_cost(e);
    *value = old;
    shared_set_end(c->shard, e, end_ns);
    shared_touch(c, e);
    return 0;
}

enum shared_result shared_set(struct shared *s, struct metrics *m, struct shared_key key, const void *data,
                              size_t len, uint64_t ttl_ns, bool only_new)
{
    if (len > s->limit / 2 || (uint64_t)shared_cost(key.len, shared_room(len)) > s->limit / 2)
        return SHARED_TOO_LARGE;
    struct shared_value *value = shared_value_create(data, len);
    if (value == NULL)
        return SHARED_NO_MEMORY;
    enum shared_result result = SHARED_OK;
    struct shared_call c = shared_begin(s, key);
    uint64_t end_ns = shared_end_of(&c, ttl_ns);
    struct shared_entry *e = shared_find(&c);
    shared_expire(&c, SHARED_ENDED); /* none of these is `e` */
    if (e != NULL && only_new) {
        result = SHARED_THERE;
        shared_touch(&c, e);
    } else if (e != NULL)
        result = shared_replace(&c, e, &value, end_ns) == 0 ? SHARED_OK : SHARED_NO_MEMORY;
    else if (shared_insert(&c, value, end_ns) != NULL)
        value = NULL;
    else
        result = SHARED_NO_MEMORY;
    shared_end(&c, m);
    shared_unref(value); /* the old one, or what there was no place for */
    shared_trim(s, m);
    return result;
}

/* Adds to `*number`. Integers go by way of unsigned ones, which may overflow. */
static void shared_add(struct shared_number *number, const struct shared_number *other)
{
    if (number->is_integer && other->is_integer) {
        number->integer = (int64_t)((uint64_t)number->integer + (uint64_t)other->integer);
        return;
    }
    double a = number->is_integer ? (double)number->integer : number->real;
    double b = other->is_integer ? (double)other->integer : other->real;
    *number = (struct shared_number){.real = a + b};
}

static bool shared_read_number(const struct shared_value *v, struct shared_number *number)
{
    struct value_reader r;
    struct value_item item;
    value_reader_init(&r, v->data, v->len);
    if (value_next(&r, &item) != 1 || (item.kind != VALUE_INTEGER && item.kind != VALUE_REAL))
        return false;
    *number = (struct shared_number){.is_integer = item.kind == VALUE_INTEGER};
    if (number->is_integer)
        number->integer = item.as.integer;
    else
        number->real = item.as.real;
    return true;
}

/* In place, unless somebody is still reading what is there: then with another value. */
static enum shared_result shared_put_number(struct shared_call *c, struct shared_entry *e,
                                            const uint8_t *bytes, size_t len)
{
    if (atomic_load_explicit(&e->value->refs, memory_order_acquire) > 1) {
        struct shared_value *value = shared_value_create(bytes, len);
        if (value == NULL)
            return SHARED_NO_MEMORY;
        c->bytes -= shared_entry_cost(e);
        shared_unref(e->value);
        e->value = value;
        c->bytes += shared_entry_cost(e);
    } else {
        memcpy(e->value->data, bytes, len);
        e->value->len = len;
    }
    shared_touch(c, e);
    return SHARED_OK;
}

static enum shared_result shared_incr_locked(struct shared_call *c, struct shared_number *number,
                                             const struct shared_number *initial, uint64_t ttl_ns)
{
    struct shared_number old = *initial;
    struct shared_entry *e = shared_find(c);
    if (e != NULL && !shared_read_number(e->value, &old))
        return SHARED_NO_NUMBER;
    uint8_t bytes[VALUE_NUMBER];
    shared_add(number, &old);
    size_t len = number->is_integer ? value_write_integer(bytes, number->integer)
                                    : value_write_real(bytes, number->real);
    if (e != NULL)
        return shared_put_number(c, e, bytes, len);
    shared_expire(c, SHARED_ENDED);
    struct shared_value *value = shared_value_create(bytes, len);
    if (value != NULL && shared_insert(c, value, shared_end_of(c, ttl_ns)) != NULL)
        return SHARED_OK;
    shared_unref(value);
    return SHARED_NO_MEMORY;
}

enum shared_result shared_incr(struct shared *s, struct metrics *m, struct shared_key key,
                               struct shared_number *number, const struct shared_number *initial,
                               uint64_t ttl_ns)
{
    struct shared_call c = shared_begin(s, key);
    enum shared_result result = shared_incr_locked(&c, number, initial, ttl_ns);
    shared_end(&c, m);
    shared_trim(s, m);
    return result;
}

bool shared_delete(struct shared *s, struct metrics *m, struct shared_key key)
{
    struct shared_call c = shared_begin(s, key);
    struct shared_entry *e = shared_find(&c);
    if (e != NULL)
        shared_remove(&c, e);
    shared_expire(&c, SHARED_ENDED);
    shared_end(&c, m);
    return e != NULL;
}

/* ---- keys ---- */

static bool shared_fits(const struct shared_entry *e, struct shared_key prefix, uint64_t now_ns)
{
    return e->end_ns > now_ns && e->key_len >= prefix.len && memcmp(e->key, prefix.text, prefix.len) == 0;
}

/* The keys of one shard; 0 or -1. */
static int shared_list(struct shared_call *c, uint64_t most, struct buf *out, uint64_t *n)
{
    for (struct list *l = c->shard->use.next; l != &c->shard->use && *n <= most; l = l->next) {
        const struct shared_entry *e = LIST_ENTRY(l, struct shared_entry, use);
        if (!shared_fits(e, c->key, c->now_ns))
            continue;
        if (++*n > most)
            break;
        if (buf_reserve(out, 1 + (size_t)e->key_len) < 0)
            return -1;
        buf_append(out, &e->key_len, 1);
        buf_append(out, e->key, e->key_len);
    }
    return 0;
}

int64_t shared_keys(struct shared *s, struct shared_key prefix, uint64_t most, struct buf *out, bool *more)
{
    uint64_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < SHARED_SHARDS && n <= most && rc == 0; i++) {
        struct shared_call c = {.s = s, .shard = &s->shard[i], .key = prefix};
        shared_lock(&c);
        rc = shared_list(&c, most, out, &n);
        shared_unlock(&c);
    }
    *more = n > most;
    return rc < 0 ? -1 : (int64_t)(*more ? most : n);
}

/* ---- the dictionary ---- */

struct shared *shared_create(uint64_t limit_bytes)
{
    struct shared *s = aligned_alloc(_Alignof(struct shared), sizeof *s);
    if (s == NULL)
        return NULL;
    memset(s, 0, sizeof *s);
    if (hash_key_init(&s->secret) < 0) {
        free(s);
        return NULL;
    }
    s->limit = limit_bytes;
    for (size_t i = 0; i < SHARED_SHARDS; i++) {
        pthread_mutex_init(&s->shard[i].lock, NULL);
        list_init(&s->shard[i].use);
        atomic_init(&s->shard[i].used_ns, SHARED_NEVER);
        atomic_init(&s->shard[i].first_ns, SHARED_NEVER);
    }
    return s;
}

void shared_destroy(struct shared *s)
{
    for (size_t i = 0; s != NULL && i < SHARED_SHARDS; i++) {
        struct shared_call c = {.s = s, .shard = &s->shard[i]};
        while (!list_empty(&c.shard->use))
            shared_remove(&c, LIST_ENTRY(c.shard->use.next, struct shared_entry, use));
        pthread_mutex_destroy(&c.shard->lock);
    }
    free(s);
}
