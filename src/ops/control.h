/* SPDX-License-Identifier: MIT
 * The control socket: a unix socket on which `tidewire health` and the like talk to a running server of the
 * same user. A request is one line, the answer is text until the end: "ok ..." or "error ...". The main
 * thread. */
#ifndef TIDEWIRE_OPS_CONTROL_H
#define TIDEWIRE_OPS_CONTROL_H

#include <ev.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"

struct control;

/* Answers one request: appends to `answer`. */
typedef void control_handler(void *user, const char *request, struct buf *answer);

/* Opens the socket of the configuration: the one named; else beside the pid file; else in $XDG_RUNTIME_DIR;
 * else the abstract name @tidewire-UID. A default that another server has is passed over with a warning: then
 * *out is NULL. 0, or -1 with `e` filled. */
int control_open(struct control **out, struct ev_loop *loop, const struct config *config,
                 control_handler *handler, void *user, struct err *e);
void control_close(struct control *c);

/* The client's side: sends `request`, appends the answer. 0, or -1 with `e` filled when nobody answers
 * within a few seconds. Blocks. */
int control_ask(const struct config *config, const char *request, struct buf *answer, struct err *e);

#endif
