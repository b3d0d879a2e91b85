/* SPDX-License-Identifier: MIT
 * One attempt to open a WebSocket to somewhere: resolves and connects with libcurl, then sends the request
 * and reads the answer (opening.h) over a connection of the worker. The thread of its worker.
 *
 *   connector_start --> CONNECTING --connected--> ASKING --101--> ANSWERED --end of the iteration--> on_done
 *                           |                        |
 *                           +--- error, time-out, the server stops ----> on_done with a sentence
 *
 * While it lives it counts against max_clients, and so does the connection that came of it until it has died
 * (conn.client): nothing has to be given back. */
#ifndef TIDEWIRE_CLIENT_CONNECTOR_H
#define TIDEWIRE_CLIENT_CONNECTOR_H

#include "base/err.h"
#include "client/opening.h"
#include "net/conn.h"
#include "net/tlscontext.h"
#include "net/worker.h"

struct connector;

struct connector_options {
    struct opening_options opening;       /* borrowed during connector_start */
    double timeout;                       /* seconds for everything: resolving, connecting, the answer */
    const struct tlscontext_options *tls; /* for wss://; NULL: the usual ones. Likewise borrowed */
};

/* A WebSocket that is open. All of it is borrowed during on_done.
 *
 * `conn` is OPEN and paused, its deadline is the attempt's, and it is inside no callback but on_later.
 * Whoever is told takes it over at once with conn_set_session, sets a deadline, and calls conn_resume(conn,
 * rest, rest_len), also later, with a copy of `rest`: what came behind the answer's head, the first frames. A
 * connection that is not taken over is closed. */
struct connector_result {
    struct conn *conn;
    struct head *head; /* the request, with the server's address as the remote one; head_ref keeps it */
    const char *url;   /* for people (opening_url) */
    int protocol;      /* place among the offers; -1: none */
    struct extensions_terms terms;
    const uint8_t *rest;
    size_t rest_len;
};

/* Begins. NULL with `e` filled when the options are no good, when there are max_clients already, or the
 * server is stopping. on_done is called exactly once, never from within connector_start, unless
 * connector_cancel comes before: with a result, or with `why` not. It may start and cancel others. */
struct connector *connector_start(struct worker *w, const struct connector_options *options,
                                  void (*on_done)(void *to, const struct connector_result *result,
                                                  const char *why),
                                  void *to, struct err *e);

/* Gives up; on_done will not be called. Not after it has been. */
void connector_cancel(struct connector *k);

#endif
