/* SPDX-License-Identifier: MIT
 * One WebSocket: sending, control frames, keep-alive and the close handshake (RFC 6455). What it receives is
 * inbound.h. The thread of its worker.
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

#include "base/block.h"
#include "base/list.h"
#include "http/head.h"
#include "net/conn.h"
#include "net/worker.h"
#include "ws/deflate.h"
#include "ws/farewell.h"
#include "ws/framer.h"
#include "ws/inbound.h"
#include "ws/sessions.h"

struct session;
struct subscriber;

/* What the layer above does with a WebSocket. */
struct session_handler {
    /* A message is there, and would be handled next: the handler may begin something that it has to wait for.
     */
    void (*before_message)(struct session *s);
    /* A whole message; `data` is valid during the call. Text has been checked to be UTF-8. `turn` is for
     * inbound_next; NULL: no other message is there yet. */
    void (*on_message)(struct session *s, bool text, const char *data, size_t len, struct inbound_turn *turn);
    /* A ping (which has been answered) or a pong. */
    void (*on_control)(struct session *s, bool ping, const char *data, size_t len);
    /* The send queue has emptied after it was over half of send_limit. */
    void (*on_drain)(struct session *s);
    /* Something is about to be sent: what was published to it before goes first. Only for a session that has
     * a subscriber; sends by session_send_block. */
    void (*catch_up)(struct session *s);
    /* The pattern of its route, for the access log, asked just before on_close; NULL: none. May be NULL. */
    const char *(*route_of)(const struct session *s);
    /* It is over. The session is freed some time after the call: drop every pointer to it. */
    void (*on_close)(struct session *s, unsigned code, const char *reason, size_t reason_len);
};

enum session_state { SESSION_OPEN, SESSION_CLOSING, SESSION_ENDED };

/* What a route allows its WebSockets; each begins as the configuration's value of that name. */
struct session_limits {
    uint64_t max_message, max_frame, send_limit, read_ahead; /* bytes */
    double idle_timeout, ping_interval, close_timeout;       /* seconds; the first two: 0 is off */
    double messages_per_second;                              /* 0 is off */
    bool drop;                                               /* on_slow */
    bool compression, compression_takeover;
    uint64_t compression_min; /* bytes; shorter messages are not compressed */
    void *owner;              /* whose route it is; the handler's; or NULL */
    struct tally *tally;      /* the same: where the route is counted (base/tally.h); or NULL */
};
void session_limits_init(struct session_limits *l, const struct config *config);

/* Someone who wants to know when a message has gone. */
struct session_done {
    struct list link;
    uint64_t end; /* counted as session_more.taken */
    /* Once: the kernel has taken the message's last byte (`why` is NULL), or never will. May be called from
     * anywhere, also inside an entry into Lua. */
    void (*complete)(struct session_done *d, const char *why);
};

/* What most WebSockets do not need most of the time. */
struct session_more {
    struct inbound in;
    struct framer *rx;  /* while inside a frame */
    struct list tasks;  /* the handler's own: what it has suspended */
    struct list dones;  /* in the order of sending */
    uint64_t taken;     /* bytes that the kernel took since the first of them was added */
    void *arrival;      /* the handler's: what must be undone if moving to newer code fails yet; or NULL */
    char *close_reason; /* the peer's; or NULL */
    uint8_t close_reason_len;
};

/* Whose Close came first. */
enum session_closed_by { SESSION_CLOSED_BY_NOBODY, SESSION_CLOSED_BY_US, SESSION_CLOSED_BY_PEER };

/* What the access log says of a WebSocket. It is in memory right behind a session that began while there was
 * such a log. */
struct session_counts {
    uint64_t began_us;
    uint64_t messages_in, messages_out;
    uint64_t bytes_in, bytes_out; /* of frames */
    uint8_t closed_by;            /* enum session_closed_by */
};

struct session {
    struct conn *conn;
    struct head *head;                   /* owned */
    struct session_more *more;           /* while it is needed */
    const struct session_limits *limits; /* borrowed until on_close */
    struct subscriber *subscriber;       /* of topics; NULL: of none */
    struct deflate *deflate;             /* NULL: no permessage-deflate */
    int owner_ref;                       /* this and owner_route are the handler's */
    uint32_t ping_ms;                    /* between pings; 0 is off */
    uint32_t last_heard, last_ping;      /* ticks of the worker's wheel */
    uint16_t owner_route;
    uint16_t close_code;
    uint8_t protocol; /* 1 + the place of the subprotocol among the client's offers; 0 is none */
    uint8_t state;    /* enum session_state */
    bool told : 1;    /* on_close has been called */
    bool awaiting_pong : 1;
    bool drain_due : 1;   /* on_drain is to be told when the queue is empty */
    bool is_client : 1;   /* we have opened it; `head` is the request that we have sent */
    bool leaving : 1;     /* the server stops: it is closed once its message has been answered */
    unsigned refused : 4; /* the handler's: a mark of the code that failed to take it over; 0: none */
    bool counted : 1;     /* it has session_counts */
};

/* The WebSocket layer of a worker; worker->layer[WORKER_WS]. */
struct session_worker {
    const struct session_handler *handler;
    struct session_limits defaults;
    struct framer_pool framers[2]; /* where we are the server, and the client */
    struct deflate_pool deflate;
    struct buf inflated; /* inbound.c's */
    struct sessions sessions;
    struct farewell farewell;
};

/* 0, or -1 when memory runs out. */
int session_worker_init(struct worker *w, const struct session_handler *handler);
void session_worker_fini(struct worker *w);
/* The worker's configuration is another one. */
void session_worker_configure(struct worker *w);

/* How a handshake is answered. */
struct session_accept {
    const struct session_limits *limits;
    int protocol;       /* the place among the client's offers; -1 is none */
    const char *fields; /* more header lines, each with its CR LF; "" is none */
};

/* Answers the handshake, which upgrade_check has passed, and turns the connection into a WebSocket. Takes
 * `head` over in any case. NULL when memory runs out; then the connection is closed. */
struct session *session_open(struct conn *c, struct head *head, const struct session_accept *how);

/* The same where we are the client and the server has accepted: turns the connection into a WebSocket. The
 * request that we have sent is `head`, which is taken over in any case; how->fields is not used. NULL when
 * memory runs out; then the connection is closed. */
struct session *session_open_client(struct conn *c, struct head *head, const struct session_accept *how,
                                    const struct extensions_terms *terms);

/* What to offer a server, by these limits and what room there is. The memory it would take counts until
 * session_offer_over, which is called before session_open_client, or when nothing comes of it. */
struct extensions_terms session_offer(const struct worker *w, const struct session_limits *l);
void session_offer_over(const struct worker *w, const struct extensions_terms *offered);

enum session_sent {
    SESSION_SENT,
    SESSION_NOT_OPEN,
    SESSION_QUEUE_FULL /* the peer is too slow: on_slow says whether the connection lives */
};

/* Whose it is; NULL after on_close. */
static inline void *session_owner(const struct session *s)
{
    return s->limits->owner;
}

/* NULL: nothing is counted. */
static inline struct session_counts *session_counts(struct session *s)
{
    return s->counted ? (struct session_counts *)(s + 1) : NULL;
}

/* Whether messages can still be sent. */
static inline bool session_is_open(const struct session *s)
{
    return s->state == SESSION_OPEN && s->conn->state == CONN_OPEN;
}

/* Queues a message. Text must be UTF-8, which the caller has checked. */
enum session_sent session_send(struct session *s, bool text, const void *data, size_t len);

/* What several messages are, for the metrics: how many, and the bytes of their payload. */
struct session_batch {
    size_t count, binary;
    uint64_t bytes, binary_bytes;
};

/* Queues messages that are framed already, as a server does: bytes of a block, which are shared. When
 * they are several and do not all fit, nothing happens and it returns SESSION_QUEUE_FULL: they may be sent
 * one by one. Of compressed ones the caller tells with deflate_forget. */
enum session_sent session_send_block(struct session *s, struct block *b, size_t at, size_t len,
                                     const struct session_batch *what);

/* More messages are not even tried, after one that found no room. */
void session_drop(struct session *s, size_t count);

/* Bytes that wait to be sent, of what was published to it too. */
size_t session_buffered(struct session *s);

/* Tells `d`, of which nothing but `complete` needs to be set, once everything queued so far has gone. */
void session_when_sent(struct session *s, struct session_done *d);

/* Sends a ping or a pong of at most 125 bytes; exempt from the send limit. */
enum session_sent session_send_control(struct session *s, bool ping, const void *data, size_t len);

/* s->limits are others now: what they say about time holds from now on. */
void session_limits_changed(struct session *s);

/* Changes the time between pings from now on; 0 turns them off. */
void session_set_ping_interval(struct session *s, double seconds);

/* The open session with that connection id on this worker, or NULL. */
struct session *session_find(struct worker *w, uint64_t id);

/* Starts the close handshake; what is queued goes first. Ignored unless OPEN. `code` may be
 * CLOSECODE_NO_STATUS. */
void session_close(struct session *s, unsigned code, const char *reason, size_t reason_len);

/* Sends Close with `code` and ends without waiting for the peer's (7.1.7); on_close reports `code`. */
void session_fail(struct session *s, unsigned code, const char *reason);

/* ---- for inbound.c ---- */

static inline struct session_worker *session_layer(const struct session *s)
{
    return s->conn->worker->layer[WORKER_WS];
}

static inline struct framer_pool *session_framers(const struct session *s)
{
    struct session_worker *layer = session_layer(s);
    return s->is_client ? &layer->framers[1] : &layer->framers[0];
}

static inline struct metrics *session_metrics(const struct session *s)
{
    return s->conn->worker->metrics;
}

/* s->more, made when there is none; NULL when memory runs out. */
struct session_more *session_need_more(struct session *s);
/* Frees it when nothing of it is in use. */
void session_tidy(struct session *s);

/* Whether to read little at once: what is read may have to be kept, or takes its time. */
static inline bool session_sips(const struct session *s)
{
    return s->limits->messages_per_second > 0 || s->deflate != NULL;
}

/* A frame came from the peer: it lives. */
static inline void session_heard(struct session *s)
{
    s->last_heard = s->conn->worker->wheel.now;
    s->awaiting_pong = false;
}

/* After a pause: the peer gets a full ping interval, and its idle time begins anew. */
void session_restart_clock(struct session *s);

/* The peer is gone without a Close. */
void session_lost(struct session *s);

/* A whole control frame. 0 or the close code to fail with. */
unsigned session_on_control_frame(struct session *s, uint8_t opcode, const uint8_t *payload, size_t len);

#endif
