/* SPDX-License-Identifier: MIT
 * The access log: a line for each HTTP request when it has been answered, and one for each WebSocket when it
 * is over. Off until access_use: then nothing is noted and nothing is allocated. Any thread, but for
 * access_request: that of the connection's worker. */
#ifndef TIDEWIRE_HTTP_ACCESS_H
#define TIDEWIRE_HTTP_ACCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/logsink.h"
#include "http/head.h"
#include "net/conn.h"

/* Longer ones are cut. */
#define ACCESS_PATH_MAX  2048
#define ACCESS_AGENT_MAX 512

#define ACCESS_GONE 499 /* the status of a request whose client has gone before the answer began */

extern _Atomic bool access_flag;

/* Whether requests and WebSockets that begin now are to be logged. */
static inline bool access_is_on(void)
{
    return atomic_load_explicit(&access_flag, memory_order_relaxed);
}

/* Where the lines go from now on: takes *to over; its fd is -1: nowhere. At any time. */
void access_use(struct logsink_target *to);

/* What is known of a request before it is over. */
struct access_note {
    uint64_t began_us; /* when its first byte was there */
    uint64_t bytes;    /* of the answer's body */
    int status;        /* 0: there is no answer yet */
    bool cut;          /* the answer has not been sent whole */
};

uint64_t access_now_us(void);

/* A request begins: *note is allocated. It stays NULL while the log is off, and when there is no memory. */
void access_begin(struct access_note **note);

/* The request at hand of a connection in its HTTP phase is over: logs it, and frees its note. */
void access_request(const struct conn *c, struct access_note **note);

/* How a WebSocket was. */
struct access_websocket {
    uint64_t began_us;
    uint64_t messages_in, messages_out;
    uint64_t bytes_in, bytes_out; /* of frames */
    unsigned code;
    const char *closed_by; /* static */
    bool is_client;
    const char *route; /* NULL: unknown */
};

void access_session(const struct conn *c, const struct head *head, const struct access_websocket *ws);

/* ---- the lines ---- */

struct access_line {
    struct timespec at;
    uint64_t took_us;
    const char *address;
    const struct head *head; /* NULL: no request could be read */
    int status;
    uint64_t bytes;
    bool cut;
    const char *route; /* or NULL */
    unsigned worker;
    uint64_t conn;
    const struct access_websocket *ws; /* NULL: it is a request */
};

/* Appends a line in the form of Apache's and nginx's combined log, with more at its end, and as JSON. Both
 * are printable, whatever a client has sent; neither has the query, which may hold secrets. */
void access_text(struct buf *out, const struct access_line *l);
void access_json(struct buf *out, const struct access_line *l);

#endif
