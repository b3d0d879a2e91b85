/* SPDX-License-Identifier: MIT
 * One connection: a socket, its send queue and its deadline. The thread of its worker only.
 *
 *            conn_finish            queue empty             peer's EOF, deadline
 *   OPEN ---------------> FLUSHING -------------> LINGERING ---------------------+
 *    |                       |                                                   |
 *    +-----------------------+--------- conn_close, socket error ----------------+--> DEAD -> freed
 *
 * LINGERING has shut its writing side and throws away what arrives: a close() with unread input would
 * send a reset, which can destroy an answer that is still on its way. A DEAD connection is freed only
 * at the end of the loop iteration, after ops->on_dead, so it cannot vanish under a callback; its socket is
 * closed at once.
 *
 * A peer that does not take what it is sent is not read from either, once CONN_READ_STOP bytes wait for it:
 * or its pings alone could fill the queue. The protocol above can stop the reading too (conn_pause). */
#ifndef TIDEWIRE_NET_CONN_H
#define TIDEWIRE_NET_CONN_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/outq.h"
#include "net/wheel.h"

#define CONN_READ_STOP (256 * 1024)
#define CONN_SIP       (16 * 1024) /* read at once from a connection that sips */

struct conn;
struct tls;
struct worker;

/* What the protocol above does with a connection. Each may call conn_send, conn_finish and conn_close. */
struct conn_ops {
    /* Bytes arrived; may be changed in place, not kept. Returns how many were dealt with: the rest is kept,
     * and comes again, before anything new is read, when the other connections have had their turn. OPEN
     * only. `len` is 0 when nothing has arrived but conn_resume asked for the call. */
    size_t (*on_data)(struct conn *c, uint8_t *data, size_t len);
    /* Where the next bytes that arrive can go at once, instead of the worker's buffer; on_data is then given
     * these. Returns how many bytes that is, 0: nowhere. May be NULL. */
    size_t (*on_room)(struct conn *c, uint8_t **to);
    /* The peer has ended its side, or the socket failed. Must leave OPEN, or pause. */
    void (*on_eof)(struct conn *c);
    /* The deadline passed. OPEN and FLUSHING; FLUSHING should close. */
    void (*on_timeout)(struct conn *c);
    /* The kernel has taken `n` more bytes of the send queue, or TLS has sealed them; while tell_sent is set.
     * May be called from within conn_flush, hence anywhere: must not enter Lua. May be NULL. */
    void (*on_sent)(struct conn *c, size_t n);
    /* The server stops: take leave. OPEN only. */
    void (*on_stop)(struct conn *c);
    /* What conn_later asked for: at the end of the loop iteration, outside every other callback. May be NULL.
     */
    void (*on_later)(struct conn *c);
    /* The connection is over; release the session. Nothing else is called after it. */
    void (*on_dead)(struct conn *c);
};

enum conn_state { CONN_OPEN, CONN_FLUSHING, CONN_LINGERING, CONN_DEAD };

struct conn {
    ev_io io; /* io.fd is the socket, io.data the protocol's session (conn_session) */
    struct worker *worker;
    const struct conn_ops *ops;
    struct outq out;
    struct wheel_item timer; /* timer.user is the place in the count of its address (peers.h) */
    struct conn *next;       /* in the worker's dirty list */
    uint64_t id;             /* rises; id % number of workers + 1 is the worker */
    uint32_t last_sent;      /* tick of the worker's wheel at which the kernel, or TLS, last took bytes */
    uint8_t state;           /* enum conn_state */
    bool dirty : 1;
    bool later : 1;
    bool holds : 1;        /* input waits in the worker's ready list, or on_data is dealing with it */
    bool again : 1;        /* on_data is to be called again, even without input */
    bool paused : 1;       /* by conn_pause */
    bool sips : 1;         /* reads little at once: what is read may have to be kept */
    bool tell_drained : 1; /* ask for on_later once, when the queue has emptied */
    bool tell_sent : 1;    /* call on_sent */
    bool client : 1;       /* a script has opened it: counts against max_clients until it is DEAD */
    bool secure : 1;       /* there is a `tls`, whose memory a plain connection does not have */
    struct tls *tls[];
};

/* Its TLS; NULL: it is plain. */
static inline struct tls *conn_tls(const struct conn *c)
{
    return c->secure ? c->tls[0] : NULL;
}

/* The protocol's own state. */
static inline void *conn_session(const struct conn *c)
{
    return c->io.data;
}

static inline void conn_set_session(struct conn *c, const struct conn_ops *ops, void *session)
{
    c->ops = ops;
    c->io.data = session;
}

/* Whether input is being read: not while a slow peer's queue is long, while input is held, or when paused. */
static inline bool conn_is_reading(const struct conn *c)
{
    return (c->io.events & EV_READ) != 0 && !c->holds;
}

/* Starts a connection on `fd`, which it takes over, and `tls` (NULL: plain). Its input is plain until
 * tls_start; then on_data must have taken no byte of what is behind. NULL when memory runs out (then fd is
 * closed). */
struct conn *conn_create(struct worker *w, int fd, const struct conn_ops *ops, void *session,
                         struct tls *tls);

/* Whether its TLS handshake is still to come to an end: nothing can be said to the peer. */
bool conn_is_shaking_hands(const struct conn *c);

/* The most that on_data is given at once while the connection sips. */
size_t conn_sip(const struct conn *c);

/* Whether the kernel has not taken all of it yet: bytes wait in the queue, or sealed. */
bool conn_is_sending(const struct conn *c);

/* Adds bytes to the send queue; they leave at the end of the loop iteration. Ignored unless OPEN. 0, or -1
 * when memory ran out: the connection is then closed. */
int conn_send(struct conn *c, const void *data, size_t len);

/* The same; but what is large is not copied: what the kernel takes of it leaves at once, behind the queue. */
int conn_send_at_once(struct conn *c, const void *data, size_t len);

/* The same for bytes of a block, which the queue shares when they are many. */
int conn_send_block(struct conn *c, struct block *b, size_t at, size_t len);

/* Writes what the kernel takes now. Closes on a socket error. */
void conn_flush(struct conn *c);

/* Sends what is queued, then ends the writing side and lingers for at most `linger` seconds. */
void conn_finish(struct conn *c, double linger);

/* Ends at once; what is queued is lost. With TLS the peer hears of the end only when nothing was. */
void conn_close(struct conn *c);

/* ops->on_timeout is called once `seconds` from now; a later call moves it. */
void conn_set_deadline(struct conn *c, double seconds);

/* Stops reading. on_data must take all it is given then; the deadline is the protocol's to set. */
void conn_pause(struct conn *c);

/* Reads again. At the connection's next turn, in any case, on_data gets `data` (copied), which is from before
 * what will be read. */
void conn_resume(struct conn *c, const void *data, size_t len);

/* Whether the peer has gone, as far as the kernel knows, also when there is input before the end; with
 * `or_half`, whether it has ended its side. For a connection that is not being read. A system call. */
bool conn_peer_gone(const struct conn *c, bool or_half);

/* Whether there is something to read that has not been given to on_data, or the peer's end. A system call. */
bool conn_has_input(const struct conn *c);

/* Asks for ops->on_later once. Not from ops->on_dead. */
void conn_later(struct conn *c);

/* For the worker: what a dirty connection is due at the end of an iteration; may free it. */
void conn_settle(struct conn *c);

/* For the worker: gives the connections in its ready list their held input again. */
void conn_feed_ready(struct worker *w);

/* For the worker: the wheel's callback. */
void conn_on_deadline(struct wheel_item *item, void *arg);

#endif
