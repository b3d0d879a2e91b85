/* SPDX-License-Identifier: MIT
 * The addresses that the process listens on, and how a reload changes them: those whose text stays stay
 * bound, new ones are bound before anything is decided (prepare), old ones are left (net/listener.h). The
 * main thread; owns the sockets. */
#ifndef TIDEWIRE_OPS_ADDRESSES_H
#define TIDEWIRE_OPS_ADDRESSES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/config.h"
#include "base/err.h"
#include "net/listener.h"
#include "net/mailbox.h"
#include "net/worker.h"

#define ADDRESSES_MAX 64 /* those that are being left too */

/* How one address fares:
 *
 *           commit                another configuration           all workers have let go
 *   BOUND ---------> SERVED ------------------------> LEAVING --------------------------> (closed)
 *     |                 ^                                |
 *     | discard         +------ it comes back -----------+
 *     v
 *   (closed) */
enum addresses_state { ADDRESSES_BOUND, ADDRESSES_SERVED, ADDRESSES_LEAVING };

struct addresses_entry {
    struct listener_set *set;
    enum addresses_state state;
    char *spec;                  /* as configured */
    char *next;                  /* as in the configuration that is being prepared; NULL: not in it */
    struct tlscontext *next_tls; /* likewise, its certificates; a reference; NULL: plain */
    unsigned orders;             /* under way to workers */
};

/* Zero it. */
struct addresses {
    struct addresses_entry *entries[ADDRESSES_MAX];
    size_t n;
    size_t nworkers;
    struct worker *const *workers; /* NULL: none runs yet */
    struct mailbox *mailbox;       /* the main thread's */
    struct listener_order *prepared[ADDRESSES_MAX * CONFIG_WORKERS_MAX];
    size_t nprepared;
};

/* Binds what is new in `config` and gets everything ready. With `lenient` an address that cannot be bound is
 * only logged. 0, or -1 with `e` filled and everything as it was. */
int addresses_prepare(struct addresses *a, const struct config *config, bool lenient, struct err *e);
/* What has been prepared holds from now on. */
void addresses_commit(struct addresses *a);
/* Takes back what has been prepared. */
void addresses_discard(struct addresses *a);

/* The worker, whose thread does not run yet, is to serve them all. 0, or -1 when memory runs out. */
int addresses_open(const struct addresses *a, struct worker *w);
/* From now on these workers run, to whom changes are told. Logs each address. */
void addresses_serve(struct addresses *a, struct worker *const *workers);

/* Removes the files of unix sockets, when the process is about to end. */
void addresses_unlink(struct addresses *a);
/* No worker runs any more, and the mailbox is empty. */
void addresses_fini(struct addresses *a);

#endif
