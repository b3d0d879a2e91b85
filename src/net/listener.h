/* SPDX-License-Identifier: MIT
 * Listening sockets: bound by the main thread at start, then each served by the worker that got it. */
#ifndef TIDEWIRE_NET_LISTENER_H
#define TIDEWIRE_NET_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct worker;

/* The sockets of one configured address. */
struct listener_set {
    int *fds;
    size_t nfds;
    char text[128]; /* "127.0.0.1:8080" with the port that was picked, "unix:/path" */
    bool proxied;
    char *unix_path; /* to be removed at the end; NULL for TCP */
};

/* Binds `spec` ("ADDR:PORT", "[ADDR]:PORT", "NAME:PORT", "*:PORT", "unix:/path", each also behind "proxy:"
 * for connections that begin with the PROXY protocol) `count` times with SO_REUSEPORT, once for a unix path.
 * The first socket is bound without it, so a second server gets "address in use" instead of silently sharing
 * the port. 0, or -1 with `e` filled. */
int listener_bind(struct listener_set *set, const char *spec, size_t count, struct err *e);

/* Closes sockets that no worker has taken and removes a unix path. */
void listener_release(struct listener_set *set);

/* Checks the form only, for `tidewire check`. */
int listener_check(const char *spec, struct err *e);

/* Gives socket `number` of the set to a worker whose thread does not run yet. 0, or -1 when memory runs out.
 */
int listener_add(struct worker *w, struct listener_set *set, size_t number);

/* Accepts what is still queued (a close would reset it), then closes. On the worker's thread, or after it
 * ended. */
void listener_close_all(struct worker *w);

#endif
