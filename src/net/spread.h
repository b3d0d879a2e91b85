/* SPDX-License-Identifier: MIT
 * Which worker serves a new connection: the one that accepted it, or, past a small imbalance, the least
 * loaded one, which gets the descriptor. Each function says whose thread may call it; what is on its way to a
 * worker is owned by that worker's struct spread.
 *
 * SO_REUSEPORT lets the kernel choose a worker by a hash of the addresses, which knows nothing of who has how
 * many; a unix socket or an inherited one is accepted from by one worker only. So the accepting worker
 * compares loads. A load is the number of open connections, and of those on their way, or a burst would all
 * go to the one that was the least loaded when it began.
 *
 * A worker that has been in one iteration of its loop for long (worker_is_late) gets nothing, and what it got
 * just before that can be taken back by another (spread_take_back). */
#ifndef TIDEWIRE_NET_SPREAD_H
#define TIDEWIRE_NET_SPREAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "net/mailbox.h"

/* How many connections more than the least loaded worker one may have before it hands a new one over. It is
 * the unevenness that stays. Handing over is cheap beside accepting: with 32 for it half as many go to
 * another worker, and no more connections a second come about. */
#define SPREAD_SLACK 4

struct worker;
struct spread_arrival;
struct tlscontext;

/* How a new connection begins. */
struct spread_how {
    bool proxied;           /* with the PROXY protocol */
    struct tlscontext *tls; /* then with TLS; a reference; NULL: plain */
};

/* What is on its way to one worker. */
struct spread {
    _Atomic bool open;         /* written under the lock, read anywhere */
    _Atomic unsigned arriving; /* those in the list, and those that are about to be put there */
    pthread_mutex_t lock;
    struct spread_arrival *first, **last;
    struct mail note; /* "look at the list" */
    bool noted;       /* the note is in the worker's mailbox */
};

/* Closed at first. Before the worker's thread runs. */
void spread_init(struct spread *s);
/* Closed, hence empty. */
void spread_fini(struct spread *s);

/* From now on others may hand connections over. Any thread. */
void spread_open(struct worker *w);
/* The worker's thread could not be started after all: closes what is on its way. */
void spread_abandon(struct worker *w);
/* Starts what is on its way; nothing more comes after it. The worker's own thread, which may call it again.
 */
void spread_close(struct worker *w);
/* Any thread. */
bool spread_is_open(const struct worker *w);

/* Connections that one go of accepting gives to others: one wake-up for each of them. */
struct spread_batch {
    struct worker *w; /* the accepting one; its thread */
    struct spread_arrival *first, **last;
};

void spread_begin(struct spread_batch *b, struct worker *w);
/* Takes fd and the reference in `how` over: starts the connection here (worker_hooks.on_accept), or keeps it
 * for spread_end. */
void spread_place(struct spread_batch *b, int fd, const struct sockaddr_storage *peer, struct spread_how how);
/* Hands over what was kept. What a worker does not take any more starts here. */
void spread_end(struct spread_batch *b);

/* `late` does not get to what is on its way to it: places that anew. The thread of `w`, another worker. */
void spread_take_back(struct worker *w, struct worker *late);

#endif
