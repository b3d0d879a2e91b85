/* SPDX-License-Identifier: MIT
 * A worker's WebSockets by connection id. The thread of its worker; borrows the sessions. */
#ifndef TIDEWIRE_WS_SESSIONS_H
#define TIDEWIRE_WS_SESSIONS_H

#include <stddef.h>
#include <stdint.h>

struct session;

/* Open addressing with linear probing; zero it to start. */
struct sessions {
    struct session **table;
    size_t slots; /* a power of two, or 0 */
    size_t used;
};

/* 0, or -1 when memory runs out. */
int sessions_add(struct sessions *t, struct session *s);
/* `s` must be there. */
void sessions_remove(struct sessions *t, const struct session *s);
/* NULL when there is none. */
struct session *sessions_find(const struct sessions *t, uint64_t id);
void sessions_fini(struct sessions *t);

#endif
