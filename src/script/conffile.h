/* SPDX-License-Identifier: MIT
 * The configuration file: Lua that returns a table. Any thread. */
#ifndef TIDEWIRE_SCRIPT_CONFFILE_H
#define TIDEWIRE_SCRIPT_CONFFILE_H

#include "base/config.h"
#include "base/err.h"
#include "script/snapshot.h"

/* Runs the file at `path` and stores what its table says. 0, or -1 with `e` filled: unreadable, a Lua error,
 * no table, an unknown key (the nearest right one is named) or a value out of bounds. A file that runs for
 * over CONFFILE_STEPS instructions is an error too. */
#define CONFFILE_STEPS 50000000
int conffile_load(struct config *c, const char *path, struct err *e);

/* The same through a snapshot, also for what the file runs in turn (dofile, loadfile). */
int conffile_load_from(struct config *c, const char *path, struct snapshot *files, struct err *e);

#endif
