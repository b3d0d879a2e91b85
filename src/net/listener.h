/* SPDX-License-Identifier: MIT
 * Listening sockets: bound by the main thread, at start and at a reload, which also closes them: when no
 * worker runs any more, or when every worker has let go of them.
 *
 * Each worker accepts from its own ones: of a TCP address that is one for each worker, of a unix socket or an
 * inherited one the only one, which is worker 1's. While a worker is late (see worker_is_late) another stands
 * in for it and accepts from them too, for the kernel goes on choosing that worker for new connections. So
 * that no number is ever accepted from that has become another file's, a descriptor stays open for as long as
 * any worker knows of it: one that stops shuts its sockets down instead, and then nothing comes any more.
 *
 *   bound --order to serve--> SERVED --order to leave--> LEAVING --after LISTENER_LEAVE_S--> let go of
 *                                ^                           |
 *                                +------ order to serve -----+
 *
 * Closing a socket resets what it has queued, and what completes its handshake in that moment. So an address
 * is left in steps: the kernel begins no more connections there (listener_turn_away), each worker goes on
 * accepting for a while, then lets go, and when all have the sockets are closed. */
#ifndef TIDEWIRE_NET_LISTENER_H
#define TIDEWIRE_NET_LISTENER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "net/mailbox.h"
#include "net/tlscontext.h"

struct listener;
struct worker;

/* The sockets of one configured address. Workers read it. */
struct listener_set {
    int *fds;
    size_t nfds;
    char text[160]; /* "127.0.0.1:8080" with the port that was picked, "unix:/path", either with " (fd:3)" */
    _Atomic bool proxied;
    struct tlscontext_slot tls; /* empty: plain */
    bool inherited;             /* others may have it too: it is not shut down */
    char *unix_path;            /* to be removed at the end; NULL for TCP */
};

/* Binds `spec` ("ADDR:PORT", "[ADDR]:PORT", "NAME:PORT", "*:PORT", "unix:/path", each also behind "proxy:"
 * for connections that begin with the PROXY protocol, and "tls:" with the options of listenspec.h, which are
 * for listener_update) `count` times with SO_REUSEPORT, once for a unix path.
 * Takes over the descriptor that "fd:N" names, a listening stream socket that the parent process has passed.
 * The first socket is bound without it, so a second server gets "address in use" instead of silently sharing
 * the port. 0, or -1 with `e` filled. */
int listener_bind(struct listener_set *set, const char *spec, size_t count, struct err *e);

/* The same beside an address of our own with the same port, which is being left: with SO_REUSEPORT from the
 * start. */
int listener_bind_beside(struct listener_set *set, const char *spec, size_t count, struct err *e);

/* Whether two addresses are one but for what stands before ("proxy:", "tls:") or behind them (from '?' on),
 * so that the sockets of the one do for the other. Port 0 is another one each time. */
bool listener_same_address(const char *spec, const char *other);
/* Whether it may be the port of `set` that is in the way of binding `spec`. */
bool listener_same_port(const struct listener_set *set, const char *spec);
/* Whether it is "fd:N". */
bool listener_is_inherited(const char *spec);

/* What stands before and behind the address is now as in `spec`, with these certificates (listener_load_tls),
 * of which it takes the reference over; for connections from now on. */
void listener_update(struct listener_set *set, const char *spec, struct tlscontext *tls);
bool listener_is_secure(struct listener_set *set);

/* No connection begins there any more; those that have begun can still be accepted. Removes a unix path. */
void listener_turn_away(struct listener_set *set);
/* Takes that back, for TCP. */
void listener_welcome(struct listener_set *set);

/* Removes a unix path. */
void listener_unlink(struct listener_set *set);
/* Closes the sockets: no worker's thread runs any more. Removes a unix path. */
void listener_release(struct listener_set *set);

/* Checks the form, and the certificates; warns of those that have expired. */
int listener_check(const char *spec, struct err *e);

/* Whether only this machine reaches the address, which has nothing before or behind it: loopback, or a unix
 * socket. False for what listener_check refuses. */
bool listener_is_local(const char *spec);

/* The certificates of `spec`, read now: *out is a reference, NULL when it is plain. 0, or -1 with `e` filled.
 */
int listener_load_tls(const char *spec, struct tlscontext **out, struct err *e);

/* The worker, whose thread does not run yet, is to accept from its socket of `set`. 0, or -1 when memory runs
 * out. */
int listener_open(struct worker *w, struct listener_set *set);

/* Tells a running worker to serve an address or to leave it. Comes back as mail when that is done, or the
 * worker has ended; the receiver frees it with listener_order_destroy. A set is not freed before what was
 * ordered about it has come back. */
struct listener_order {
    struct mail mail; /* first */
    struct worker *to;
    struct listener_set *set;
    bool serve; /* else leave */
    struct mailbox *back;
    void (*done)(struct mail *order, void *receiver);
    void *user;
    struct listener *listener; /* set by listener_order_create */
};

/* With all that carrying it out needs, so that it cannot fail. NULL when memory runs out. */
struct listener_order *listener_order_create(const struct listener_order *what);
void listener_order_destroy(struct listener_order *o);
void listener_order_post(struct listener_order *o);

/* Accepts what is still queued (the end of the socket would reset it), then shuts down what is the worker's
 * own. On the worker's thread; after it has ended only gives memory back. */
void listener_close_all(struct worker *w);

/* Begins and ends accepting in place of workers that are late. Often; on the worker's thread. */
void listener_stand_in(struct worker *w);

#endif
