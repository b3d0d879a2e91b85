/* SPDX-License-Identifier: MIT
 * Live WebSockets and the script: their events are entries into Lua, and at a reload they move to the new
 * code. The thread of their worker. */
#ifndef TIDEWIRE_SCRIPT_LIVE_H
#define TIDEWIRE_SCRIPT_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "client/connector.h"
#include "script/vm.h"
#include "ws/session.h"

/* What the bodies of struct vm_bindings get from sched_take_arg. */
struct live_open {
    struct session *session;
    int handler;  /* registry references: the route's function, */
    int *request; /* and the request that should_upgrade had, to be taken over; LUA_NOREF is none */
};

struct live_message {
    struct session *session;
    bool text;
    const char *data;
    size_t len;
    struct inbound_turn *turn; /* of session_handler.on_message */
};
struct live_control {
    struct session *session;
    bool ping;
    const char *data;
    size_t len;
};
struct live_drain {
    struct session *session;
};
struct live_closed {
    struct session *session;
    unsigned code;
    const char *reason;
    size_t reason_len;
};

/* Accepts a checked handshake: opens the session and runs the route's function. Takes `head` over, and the
 * registry reference *request, unless it is LUA_NOREF. `fields` are more header lines for the answer. */
void live_accept(struct conn *c, struct head *head, struct vm *vm, int route, const char *fields,
                 int *request);

/* What the body that live_connect runs gets from sched_take_arg. */
struct live_connected {
    struct session *session;
    void *arg;
};

/* A WebSocket that the script has opened: runs `body`, which makes its ws, before anything is received. NULL,
 * or what went wrong: the connection is closed then. */
const char *live_connect(struct vm *vm, const struct connector_result *r, const struct session_limits *limits,
                         lua_CFunction body, void *arg);

/* What a session takes along to newer code: flat copies (base/value.h) of ws.state and req.context; empty
 * when there is none. */
struct live_luggage {
    struct session *session;
    struct buf state, context;
};

/* What the body that runs a route's function for a session which has moved gets from sched_take_arg. */
struct live_arrival {
    struct live_luggage *luggage;
    int handler; /* registry reference */
};

enum live_followed {
    LIVE_STAYS,    /* it runs the newest code, or cannot move now, or not at all */
    LIVE_MOVED,    /* it runs the newest code now */
    LIVE_HOMELESS, /* it is closing: the newest code has no route for it */
    LIVE_ARRIVES,  /* the new code's function waits: dispatch_on_moved says later how it ends */
    LIVE_FAILED,   /* the new code raised an error: it stays with its own */
};

/* Moves the session to the newest code, when it is not there and nothing of it is waiting. Outside of Lua. */
enum live_followed live_follow(struct session *s);

/* WebSockets that run the code of that generation, one of the LIVE_GENERATIONS newest. Any thread. */
#define LIVE_GENERATIONS 64
int64_t live_sockets(uint64_t generation);

/* A worker has got a state of Lua, or is done with it. */
void live_count_state(const struct vm *vm, int by);
/* Whether some worker has one of that generation, which is one of the LIVE_GENERATIONS newest. Any thread. */
bool live_is_alive(uint64_t generation);

/* Whether the newest code has failed to take it over. */
bool live_is_refused(const struct session *s);

/* Ends the time in which a route's function that waits can still fail the move, when it is over. */
void live_settle(struct session *s);

/* Whether it has still to move to the newest code, or to arrive there. */
bool live_is_behind(const struct session *s);

/* If the time of the session's code is over (vm.drained): cancels what its handlers wait for; and one that
 * the code has opened itself is closed. */
void live_end_waiting(struct session *s);

/* What the log says an event of the session is about. */
struct log_context live_about(const struct session *s);

/* What sessions tell. */
extern const struct session_handler live_sessions;

#endif
