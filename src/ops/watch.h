/* SPDX-License-Identifier: MIT
 * Tells when a file changes from which the newest code was made, or the newest that was refused. inotify
 * (libev's ev_stat) says so at once; a look at every file each second finds what it does not see: network
 * file systems, links that lead elsewhere, a second save within one second. The main thread; keeps a
 * reference to the snapshot that serves. */
#ifndef TIDEWIRE_OPS_WATCH_H
#define TIDEWIRE_OPS_WATCH_H

#include <ev.h>
#include <stdbool.h>

#include "script/snapshot.h"

#define WATCH_QUIET_S 0.1 /* so long nothing must have changed */
#define WATCH_LATE_S  1.0 /* but this is long enough */
#define WATCH_LOOK_S  1.0

struct watch;

/* Called when all is quiet again, with the path of one file that changed; `others` more did. It should ask
 * for a load and say so with watch_taken. */
typedef void watch_handler(void *user, const char *path, size_t others);

/* Watches `config_file` (NULL: none) from now on. NULL when memory runs out. */
struct watch *watch_create(struct ev_loop *loop, const char *config_file, watch_handler *handler, void *user);
void watch_destroy(struct watch *w);

/* The newest outcome was made from `s`: its files are watched from now on, and what has changed since it read
 * them counts. When it was refused, those of the code that goes on stay watched too. `w` may be NULL. */
void watch_follow(struct watch *w, struct snapshot *s, bool accepted);

/* A load was asked for, which will read all that is there now. `w` may be NULL. */
void watch_taken(struct watch *w);

#endif
