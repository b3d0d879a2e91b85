/* SPDX-License-Identifier: MIT
 * Live WebSockets and the script: their events are entries into Lua, and at a reload they move to the new
 * code. The thread of their worker. */
#ifndef TIDEWIRE_SCRIPT_LIVE_H
#define TIDEWIRE_SCRIPT_LIVE_H

#include <stdbool.h>
#include <stddef.h>

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

/* What sessions tell. */
extern const struct session_handler live_sessions;

#endif
