/* SPDX-License-Identifier: MIT
 * The pid file, which stays open and locked while the server runs, so that no second one takes it over. The
 * main thread. */
#ifndef TIDEWIRE_OPS_PIDFILE_H
#define TIDEWIRE_OPS_PIDFILE_H

#include "base/err.h"

/* Writes the process's id to `path` (NULL: does nothing) and locks it. *fd is the open file, or -1. 0, or -1
 * with `e` filled. */
int pidfile_write(const char *path, int *fd, struct err *e);

/* Removes and unlocks it, when *fd is one. Where the process may not remove it, the file is left empty. */
void pidfile_remove(const char *path, int *fd);

#endif
