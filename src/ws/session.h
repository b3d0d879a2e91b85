/* SPDX-License-Identifier: MIT
 * One WebSocket: messages, control frames, keep-alive and the close handshake (RFC 6455). The thread of its
 * worker.
 *
 *            we send Close                   the peer's Close
 *   OPEN --------------------> CLOSING ---------------------------+
 *    |                            |                               |
 *    |  the peer's Close: answer  |  close_timeout, EOF           v
 *    +----------------------------+---------------------------> ENDED
 *    |  fault: send Close, do not wait (7.1.7); EOF, silence      ^
 *    +------------------------------------------------------------+
 *
 * ENDED takes and sends nothing more; its handler's on_close follows at the end of the loop iteration,
 * exactly once, outside every other callback. */
#ifndef TIDEWIRE_WS_SESSION_H
#define TIDEWIRE_WS_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/head.h"
#include "net/conn.h"
#include "net/worker.h"
#include "ws/framer.h"

struct session;

/* What the layer above does with a WebSocket. */
struct session_handler {
    /* A whole message; `data` is valid during the call. Text has been checked to be UTF-8. */
    void (*on_message)(struct session *s, bool text, const char *data, size_t len);
    /* A ping (which has been answered) or a pong. */
    void (*on_control)(struct session *s, bool ping, const char *data, size_t len);
    /* The send queue has emptied after it was over half of send_limit. */
    void (*on_drain)(struct session *s);
    /* It is over. The session is freed some time after the call: drop every pointer to it. */
    void (*on_close)(struct session *s, unsigned code, const char *reason, size_t reason_len);
};

enum session_state { SESSION_OPEN, SESSION_CLOSING, SESSION_ENDED };

struct session {
    struct conn *conn;
    struct head *head;               /* owned */
    struct framer *rx;               /* while inside a frame */
    struct session_partial *partial; /* while inside a fragmented or large message, or a control frame */
    char *close_reason;              /* the peer's; or NULL */
    void *owner;                     /* this, owner_ref and owner_route are the handler's */
    int owner_ref;
    uint32_t ping_ms;               /* between pings; 0 is off */
    uint32_t last_heard, last_ping; /* ticks of the worker's wheel */
    uint16_t owner_route;
    uint16_t close_code;
    uint8_t close_reason_len;
    uint8_t state; /* enum session_state */
    bool told : 1; /* on_close has been called */
    bool awaiting_pong : 1;
    bool drain_due : 1; /* on_drain is to be told when the queue is empty */
};

/* The WebSocket layer of a worker; worker->layer[WORKER_WS]. 0, or -1 when memory runs out. */
int session_worker_init(struct worker *w, const struct session_handler *handler);
void session_worker_fini(struct worker *w);

/* Answers the handshake, which upgrade_check has passed, and turns the connection into a WebSocket. Takes
 * `head` over in any case. NULL when memory runs out; then the connection is closed. */
struct session *session_open(struct conn *c, struct head *head);

enum session_sent {
    SESSION_SENT,
    SESSION_NOT_OPEN,
    SESSION_QUEUE_FULL /* the peer is too slow: the connection is being closed with 1013 */
};

/* Whether messages can still be sent. */
static inline bool session_is_open(const struct session *s)
{
    return s->state == SESSION_OPEN && s->conn->state == CONN_OPEN;
}

/* Queues a message. Text must be UTF-8, which the caller has checked. */
enum session_sent session_send(struct session *s, bool text, const void *data, size_t len);

/* Sends a ping or a pong of at most 125 bytes; exempt from the send limit. */
enum session_sent session_send_control(struct session *s, bool ping, const void *data, size_t len);

/* Changes the time between pings from now on; 0 turns them off. */
void session_set_ping_interval(struct session *s, double seconds);

/* The open session with that connection id on this worker, or NULL. */
struct session *session_find(struct worker *w, uint64_t id);

/* Starts the close handshake; what is queued goes first. Ignored unless OPEN. `code` may be
 * CLOSECODE_NO_STATUS. */
void session_close(struct session *s, unsigned code, const char *reason, size_t reason_len);

/* Sends Close with `code` and ends without waiting for the peer's (7.1.7); on_close reports `code`. */
void session_fail(struct session *s, unsigned code, const char *reason);

#endif
