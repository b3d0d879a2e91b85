/* SPDX-License-Identifier: MIT
 * The configuration in force, and how a reload replaces it: read anew on the builder thread, then, on the
 * main thread, everything that it takes is prepared, and only when nothing fails is it committed, together
 * with the new code. What a key needs is a part here; all other keys are read where they count, by the
 * workers from worker->config, by scripts from vm->config.
 *
 *   IN FORCE --settings_prepare--> PREPARED --settings_commit--> IN FORCE (the new one)
 *      ^              |
 *      +-- a fault: --+
 *          all that was prepared is discarded */
#ifndef TIDEWIRE_OPS_SETTINGS_H
#define TIDEWIRE_OPS_SETTINGS_H

#include <stdbool.h>

#include "base/err.h"
#include "net/setup.h"
#include "ops/addresses.h"
#include "ops/admin.h"
#include "ops/cli.h"
#include "ops/logs.h"
#include "script/snapshot.h"

struct settings {
    const struct cli *cli;
    struct setup *now, *next; /* references; next: prepared, or NULL */
    struct addresses addresses;
    struct {
        struct admin *now, *next; /* next: prepared; either may be NULL */
        bool moves;               /* next takes the place of now */
        struct ev_loop *loop;
        const struct admin_answers *answers; /* borrowed */
        void *user;
    } admin;
    struct logs logs; /* prepared, when they move to other files */
    bool logs_move;
    bool had_file; /* the builder's, once it runs: there was a configuration file when it was last read */
};

/* cli->setup is in force; `cli` is borrowed. */
void settings_init(struct settings *s, const struct cli *cli);
/* No worker runs any more, and the mailbox is empty. */
void settings_fini(struct settings *s);

/* Reads the configuration anew, as struct reload_options wants it: `settings` is a struct settings. Keys that
 * are fixed keep their value. On the builder thread. */
struct setup *settings_read(void *settings, struct snapshot *files, struct err *e);

/* Prepares everything that `next` needs. `back`: it was in force before, and must not fail because somebody
 * else has an address now. 0, or -1 with `e` filled and all as it was. */
int settings_prepare(struct settings *s, struct setup *next, bool back, struct err *e);
/* What was prepared is in force from now on. */
void settings_commit(struct settings *s);

static inline const struct config *settings_config(const struct settings *s)
{
    return &s->now->config;
}

/* For `tidewire check`: to standard output, what is other than the default. */
void settings_print(const struct cli *cli);

#endif
