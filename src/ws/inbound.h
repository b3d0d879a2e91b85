/* SPDX-License-Identifier: MIT
 * What a WebSocket receives: frames to messages, the messages in order to the handler. The thread of its
 * worker.
 *
 * While one of the session's handlers is suspended the next messages wait: frames are still parsed, control
 * frames are handled at once, whole messages are kept up to read_ahead. Beyond that reading stops, bytes that
 * have been read stay as they are, and only a coarse probe watches the peer. */
#ifndef TIDEWIRE_WS_INBOUND_H
#define TIDEWIRE_WS_INBOUND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "net/conn.h"

/* Handlers of one WebSocket that may be suspended at once: without pings there is never more than one. */
#define INBOUND_SUSPENDED_MAX 16

struct session;
struct inbound_message;
struct inbound_turn; /* a read's input and how far it has been dealt with */

/* What a session keeps only while it needs it. */
struct inbound {
    struct buf body;                      /* of the message that is not whole yet */
    struct utf8 utf8;                     /* where the check of that one stands */
    uint64_t packed;                      /* bytes of it, when it is compressed */
    struct inbound_message *first, *last; /* messages that wait */
    size_t waiting;                       /* bytes, theirs */
    struct buf rest;                      /* read, not looked at */
    _Atomic uint64_t rate;                /* messages_per_second */
    uint8_t suspended;                    /* handlers */
    bool in_message : 1, text : 1, compressed : 1;
    bool answering : 1; /* one of those that are suspended handles a message */
    bool paused : 1;    /* the connection is */
    bool throttled : 1; /* over messages_per_second */
    uint8_t control_len;
    uint8_t control[125]; /* a control frame that is not whole yet */
};

/* conn_ops.on_data of a WebSocket. */
size_t inbound_on_data(struct conn *c, uint8_t *data, size_t len);

/* For an on_message that has a turn: the next message, when that is one frame of the same input and nothing
 * else comes before it. To be handled like one that on_message is called with, but before_message is not
 * called: that nothing is to be done there is for the caller to know. False: return. Does not re-enter the
 * handler. */
bool inbound_next(struct inbound_turn *turn, bool *text, const char **data, size_t *len);

/* conn_ops.on_room: the rest of a large frame goes where its message is gathered. */
size_t inbound_on_room(struct conn *c, uint8_t **to);

/* A handler has been suspended. 0; -1 when memory runs out; -2 when INBOUND_SUSPENDED_MAX are already. */
int inbound_hold(struct session *s);
/* It is that of a message. */
void inbound_hold_for_message(struct session *s);
/* It is over. */
void inbound_release(struct session *s);

/* Whether a message is being handled by a handler that waits, or is about to be, for it waited for such a
 * one. What waits for a route's function that is not through does not count: that may never be. */
bool inbound_is_answering(const struct session *s);

/* Nobody waits for messages any more: forgets those that wait, so that the peer's Close can be read. Not the
 * message that is being read. */
void inbound_forget_waiting(struct session *s);

/* While the connection is paused: the wheel's deadline has come. */
void inbound_on_timeout(struct session *s);

/* Seconds to the next such deadline. */
double inbound_patience(const struct session *s);

/* Releases everything. Not from within inbound_on_data. */
void inbound_drop(struct session *s);

bool inbound_is_idle(const struct inbound *in);

#endif
