/* SPDX-License-Identifier: MIT
 * The builder thread: makes generations when asked, so that no worker waits for a script to load. */
#ifndef TIDEWIRE_SCRIPT_RELOAD_H
#define TIDEWIRE_SCRIPT_RELOAD_H

#include "net/mailbox.h"
#include "script/gen.h"

struct reload;

/* What comes back, as mail to the thread that asked; the receiver frees it. */
struct reload_outcome {
    struct mail mail; /* first */
    struct gen *gen;  /* NULL: refused, see error */
    bool back;        /* it was to go back (reload_restore) */
    struct err error;
    uint64_t ticket;           /* it answers all requests up to this one; 0: of reload_restore */
    struct snapshot *snapshot; /* the files that were read for it, refused or not; a reference, or NULL */
};

struct reload_options {
    struct setup *setup;    /* those of the first generation; the builder takes a reference of each */
    struct snapshot *files; /* what was read for the configuration */
    /* Reads the configuration anew, through `files`. On the builder thread. A reference, or NULL with `e`
     * filled. */
    struct setup *(*read)(void *user, struct snapshot *files, struct err *e);
    void *user;
    const char *script; /* outlives the builder */
    size_t workers;
    const struct vm_bindings *bindings;
    struct mailbox *to;
    void (*deliver)(struct mail *outcome, void *receiver);
};

/* Starts the thread. NULL with `e` filled when it cannot. */
struct reload *reload_create(const struct reload_options *o, struct err *e);

/* Asks for a new generation. Requests that come while one is built coalesce into one more. Returns the
 * request's ticket; they rise. The outcome that answers it was made from files read after this call. Any
 * thread. */
uint64_t reload_request(struct reload *r);

/* Whether a request was made after that of `ticket`. Any thread. */
bool reload_is_newer(struct reload *r, uint64_t ticket);

/* Asks for a generation made from these files under this configuration, of which it takes a reference each,
 * to go back to older code; unless a newer one that was asked for is taken first. */
void reload_restore(struct reload *r, struct snapshot *files, struct setup *setup, uint64_t condemned);

/* The builder's time budget, for the watchdog. */
struct budget *reload_budget(struct reload *r);

/* Ends the thread; a script that is loading is cut. False when it cannot be cut: then the thread runs on and
 * nothing was freed. */
bool reload_destroy(struct reload *r);

#endif
