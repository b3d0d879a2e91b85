/* SPDX-License-Identifier: MIT
 * Whose rights the server has: started as root it opens what only root may open, then becomes the user of the
 * option `user`, for good and before it runs a script. The main thread, at start. */
#ifndef TIDEWIRE_OPS_PRIVILEGES_H
#define TIDEWIRE_OPS_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

#define PRIVILEGES_NAME 64

struct privileges {
    bool drop; /* root is to become another user */
    uid_t uid;
    gid_t gid;
    char name[PRIVILEGES_NAME]; /* of the user; "" when it has none */
};

/* Finds "name", "name:group" or numbers in the user database, before anything is opened. NULL stays as it is.
 * 0, or -1 with `e` filled: nobody has that name, or this process may not become that user. */
int privileges_find(struct privileges *p, const char *user, struct err *e);

/* The socket at `path`, which this process has just made, is to be that user's, so that it can be removed at
 * the end. NULL and a path without a socket are passed over. */
void privileges_give_socket(const struct privileges *p, const char *path);

/* Becomes that user in all threads, and makes sure that there is no way back. 0, or -1 with `e` filled. */
int privileges_drop(const struct privileges *p, struct err *e);

/* Warns when scripts have root's rights and `user` (the option) does not say so. */
void privileges_tell(const char *user);

#endif
