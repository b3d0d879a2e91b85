/* SPDX-License-Identifier: MIT
 * The admin listener: a small HTTP/1.1 server on an address of its own, for machines that look after this
 * one. GET or HEAD of /metrics, /healthz and /readyz; nothing of it passes a worker or a script, so it
 * answers also when these do not. The main thread.
 *
 *   READING --a whole head--> WRITING --all taken--> READING, or LINGERING --the client's end--> gone
 *
 * All of it is bounded: clients, the head's size, and the time for a head, for taking an answer, and between
 * two requests. When there is no place for a client, the one that has been quiet for longest goes. */
#ifndef TIDEWIRE_OPS_ADMIN_H
#define TIDEWIRE_OPS_ADMIN_H

#include <ev.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"

struct admin;

/* What the server says of itself. Each appends to `out`. */
struct admin_answers {
    int (*metrics)(struct buf *out);             /* 0, or -1 when memory runs out */
    bool (*health)(void *user, struct buf *out); /* a line: "ok ..." and true, or what is wrong */
    bool (*ready)(void *user, struct buf *out);  /* the same: whether to send it new clients */
};

/* Whether the keys admin, admin_token and admin_token_file can be used as they are: an address that not only
 * this machine reaches needs a token. Opens nothing, but reads the token's file. 0, or -1 with `e` filled. */
int admin_check(const struct config *config, struct err *e);

/* Opens the address of `admin`; without that key *out is NULL. `answers` and `user` are borrowed until
 * admin_close. `old` is the one whose place it takes, and may have the same port; or NULL. 0, or -1 with `e`
 * filled. */
int admin_open(struct admin **out, struct ev_loop *loop, const struct config *config,
               const struct admin_answers *answers, void *user, const struct admin *old, struct err *e);

/* Logs where it listens; nothing when `a` is NULL. */
void admin_announce(const struct admin *a);
/* The file of its unix socket; NULL: it has none, or `a` is NULL. */
const char *admin_path(const struct admin *a);

/* Reads the token of another configuration, for the same address. With `keep` the file is the same: when it
 * cannot be read any more, by who was root when the server started, the token stays. 0, or -1 with `e`
 * filled. Then admin_commit_token, and it holds for clients that are connected too, or admin_discard_token.
 * `a` may be NULL. */
int admin_prepare_token(struct admin *a, const struct config *config, bool keep, struct err *e);
void admin_commit_token(struct admin *a);
void admin_discard_token(struct admin *a);

/* Closes the listener and its clients. NULL is fine. */
void admin_close(struct admin *a);

#endif
