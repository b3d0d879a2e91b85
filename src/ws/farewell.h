/* SPDX-License-Identifier: MIT
 * How a worker takes leave of its WebSockets when the server stops. The thread of the worker; borrows its
 * sessions.
 *
 *   the stop                 half of drain_timeout                        drain_timeout
 *   |-- slices of 1001, each 100 ms --|-- 1001 to whoever is still open, wait for answers --|-- cut
 *
 * So that not all clients come to another server in the same moment, and memory for that many Close frames is
 * never needed at once. Where the process has few WebSockets, everybody is told at the stop. Whose message is
 * being handled by a handler that waits is told when that is over; what scripts have opened (app.connect),
 * after the visitors, who may need it. */
#ifndef TIDEWIRE_WS_FAREWELL_H
#define TIDEWIRE_WS_FAREWELL_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>

#define FAREWELL_FEW     100 /* WebSockets of all workers that are told at once */
#define FAREWELL_SLICE_S 0.1

struct conn;
struct session;
struct worker;

struct farewell {
    ev_timer timer;  /* one slice after the other */
    unsigned slices; /* that are left; the last one is for everybody */
    size_t share;    /* how many each slice tells; 0: all were told at once */
    size_t cursor;   /* in the worker's table of sessions */
    bool begun;
};

/* conn_ops.on_stop of a WebSocket. */
void farewell_on_stop(struct conn *c);

/* The session's turn has come while it had an answer to finish (session.leaving): is it through? */
void farewell_look_again(struct session *s);

/* When the loop is over. */
void farewell_fini(struct worker *w);

#endif
