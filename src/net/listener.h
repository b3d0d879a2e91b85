/* SPDX-License-Identifier: MIT
 * Listening sockets: bound by the main thread at start, which also closes them, when no worker runs any more.
 *
 * Each worker accepts from its own ones: of a TCP address that is one for each worker, of a unix socket or an
 * inherited one the only one, which is worker 1's. While a worker is late (see worker_is_late) another stands
 * in for it and accepts from them too, for the kernel goes on choosing that worker for new connections. So
 * that no number is ever accepted from that has become another file's, a descriptor stays open until the end:
 * a worker that stops shuts its sockets down instead, and then nothing comes any more. */
#ifndef TIDEWIRE_NET_LISTENER_H
#define TIDEWIRE_NET_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct tlscontext;
struct tlscontext_slot;
struct worker;

/* The sockets of one configured address. Workers read it. */
struct listener_set {
    int *fds;
    size_t nfds;
    char text[160]; /* "127.0.0.1:8080" with the port that was picked, "unix:/path", either with " (fd:3)" */
    bool proxied;
    struct tlscontext_slot *tls; /* NULL: plain */
    bool inherited;              /* others may have it too: it is not shut down */
    char *unix_path;             /* to be removed at the end; NULL for TCP */
};

/* Binds `spec` ("ADDR:PORT", "[ADDR]:PORT", "NAME:PORT", "*:PORT", "unix:/path", each also behind "proxy:"
 * for connections that begin with the PROXY protocol, and "tls:" with the options of listenspec.h) `count`
 * times with SO_REUSEPORT, once for a unix path.
 * Takes over the descriptor that "fd:N" names, a listening stream socket that the parent process has passed.
 * The first socket is bound without it, so a second server gets "address in use" instead of silently sharing
 * the port. 0, or -1 with `e` filled. */
int listener_bind(struct listener_set *set, const char *spec, size_t count, struct err *e);

/* Removes a unix path. */
void listener_unlink(struct listener_set *set);
/* Closes the sockets: no worker's thread runs any more. Removes a unix path. */
void listener_release(struct listener_set *set);

/* Checks the form, and the certificates; warns of those that have expired. */
int listener_check(const char *spec, struct err *e);

/* The certificates of `spec`, read now: *out is a reference, NULL when it is plain. 0, or -1 with `e` filled.
 */
int listener_load_tls(const char *spec, struct tlscontext **out, struct err *e);
/* New connections get these certificates; takes over the reference. Of a set whose spec has "tls:" only. Any
 * thread. */
void listener_renew_tls(struct listener_set *set, struct tlscontext *tls);

/* The worker, whose thread does not run yet, is to accept from its sockets of worker->sets. 0, or -1 when
 * memory runs out. */
int listener_open_all(struct worker *w);

/* Accepts what is still queued (the end of the socket would reset it), then shuts down what is the worker's
 * own. On the worker's thread; after it has ended only gives memory back. */
void listener_close_all(struct worker *w);

/* Begins and ends accepting in place of workers that are late. Often; on the worker's thread. */
void listener_stand_in(struct worker *w);

#endif
