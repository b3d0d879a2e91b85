/* SPDX-License-Identifier: MIT
 * Where requests and WebSocket events meet the script: finds the route, performs the upgrade, enters Lua. One
 * per worker, on its thread. */
#ifndef TIDEWIRE_SCRIPT_DISPATCH_H
#define TIDEWIRE_SCRIPT_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "net/mailbox.h"
#include "net/worker.h"
#include "script/live.h"
#include "script/reaper.h"
#include "script/vm.h"
#include "ws/session.h"

struct dispatch_options {
    struct reaper *reaper; /* gets VMs that are done */
    struct mailbox
        *reports; /* the main thread's, which is told by a struct migrate_report when all connections */
    void (*on_report)(struct mail *report, void *receiver); /* that can have moved to new code */
};

/* Before the worker's thread starts. The first VM serves from the start. 0, or -1 when memory runs out (then
 * `vm` stays the caller's). */
int dispatch_worker_init(struct worker *w, struct vm *vm, const struct dispatch_options *o);

/* The main thread: from its next loop iteration on the worker serves new connections with `vm`, which it
 * takes over. When the worker has not got to the VM published before, that one is dropped. */
void dispatch_publish(struct worker *w, struct vm *vm);

/* The main thread: the generation is accepted. What could not move to it is closed. */
void dispatch_accept(struct worker *w, uint64_t generation);

/* For live.c: what became of a session's move to the newest code. */
void dispatch_on_moved(struct worker *w, struct session *s, enum live_followed how);

/* The same: one that had still to move has gone. */
void dispatch_on_gone(struct worker *w);

/* What workers are created with. */
extern const struct worker_hooks dispatch_worker_hooks;

/* The route of a request, by its path and method (HEAD is answered by GET's too), or as a handshake; -1. */
int dispatch_match(const struct router *r, const struct head *head, struct router_match *m);

/* The VM that serves what is new. NULL when the worker has ended. */
struct vm *dispatch_current(const struct worker *w);

/* For the watchdog (main thread). */
struct budget *dispatch_budget(struct worker *w);

/* After the worker's thread has ended, or when it never started. */
void dispatch_worker_fini(struct worker *w);

#endif
