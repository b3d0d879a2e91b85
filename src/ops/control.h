/* SPDX-License-Identifier: MIT
 * The control socket: a unix socket on which `tidewire health` and the like talk to a running server of the
 * same user. A request is one line, the answer is text until the end: "ok ..." or "error ...". When the
 * answer takes its time, a line "wait N" comes first: it will be there within N seconds. The main thread. */
#ifndef TIDEWIRE_OPS_CONTROL_H
#define TIDEWIRE_OPS_CONTROL_H

#include <ev.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"

struct control;

struct control_request {
    const char *line;
    struct buf *answer;
    uint64_t ticket;   /* 0 */
    double patience_s; /* for how long the client may wait, when `ticket` is set */
};

/* Answers one request: appends to `answer`, or sets `ticket` and `patience_s` and leaves the answer to
 * control_answer. */
typedef void control_handler(void *user, struct control_request *request);

/* Opens the socket of the configuration: the one named; else beside the pid file; else in $XDG_RUNTIME_DIR;
 * else the abstract name @tidewire-UID. A default that another server has is passed over with a warning: then
 * *out is NULL. 0, or -1 with `e` filled. */
int control_open(struct control **out, struct ev_loop *loop, const struct config *config,
                 control_handler *handler, void *user, struct err *e);
void control_close(struct control *c);

/* Where it is in the file system; NULL when it has an abstract name, or `c` is NULL. */
const char *control_path(const struct control *c);

/* Answers all clients that wait for a ticket up to `ticket`, if they are still there. `c` may be NULL. */
void control_answer(struct control *c, uint64_t ticket, const char *text);

/* The client's side: sends `request`, appends the answer. 0, or -1 with `e` filled when nobody answers
 * within a few seconds, or within the time that the server asked for. Blocks. */
int control_ask(const struct config *config, const char *request, struct buf *answer, struct err *e);

#endif
