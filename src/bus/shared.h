/* SPDX-License-Identifier: MIT
 * app.shared: keys and values for all workers of the process, which reloads leave alone. Any thread, for each
 * part of the table has its own lock; every call is one step for all others. Owns its entries; knows nothing
 * of Lua, values are flat copies (base/value.h). */
#ifndef TIDEWIRE_BUS_SHARED_H
#define TIDEWIRE_BUS_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/metrics.h"

#define SHARED_KEY 255 /* bytes of a key, at most */

struct shared;

/* A value as it was when it was got. It is never changed, and freed with its last reference. */
struct shared_value;

struct shared_key {
    const char *text;
    size_t len; /* up to SHARED_KEY */
};

struct shared_number {
    bool is_integer;
    int64_t integer;
    double real; /* when it is no integer */
};

enum shared_result {
    SHARED_OK,
    SHARED_THERE,     /* add: the key has a value */
    SHARED_NO_NUMBER, /* incr: its value is something else */
    SHARED_TOO_LARGE, /* over half the limit */
    SHARED_NO_MEMORY,
};

/* What keys, values and all that is needed to find them may take. Beyond it go first the entries whose time
 * is over, then those that were not used for longest. Threads that put something in at the same time may each
 * be over the limit by that for a moment. NULL when memory runs out. */
struct shared *shared_create(uint64_t limit_bytes);
/* No thread uses it any more; values that were got may outlive it. */
void shared_destroy(struct shared *s);

/* In what follows `m` is the metrics block of the calling thread, and `ttl_ns` the time after which the entry
 * is as if it had been deleted; 0: never. Nothing is taken over. */

/* The value, to be given back with shared_unref; NULL when there is none. */
const struct shared_value *shared_get(struct shared *s, struct metrics *m, struct shared_key key);
const void *shared_bytes(const struct shared_value *v, size_t *len);
/* NULL is fine. Any thread. */
void shared_unref(const struct shared_value *v);

/* Gives the key a value, which replaces the one it had, and its time; `only_new`: unless it has one. */
enum shared_result shared_set(struct shared *s, struct metrics *m, struct shared_key key, const void *data,
                              size_t len, uint64_t ttl_ns, bool only_new);

/* Adds to a number, which keeps its time; without a value it begins with `initial`, and `ttl_ns`. Integers
 * give an integer, which wraps around as Lua's do. The sum is in `*number`, which holds `delta` before. */
enum shared_result shared_incr(struct shared *s, struct metrics *m, struct shared_key key,
                               struct shared_number *number, const struct shared_number *initial,
                               uint64_t ttl_ns);

/* Whether there was one. */
bool shared_delete(struct shared *s, struct metrics *m, struct shared_key key);

/* Appends up to `most` keys that begin with `prefix` to `out`, each after a byte that is its length: how many
 * they are, or -1 when memory runs out. `*more`: there are others. Looks at every key, part by part, so it is
 * no picture of one moment. */
int64_t shared_keys(struct shared *s, struct shared_key prefix, uint64_t most, struct buf *out, bool *more);

#endif
