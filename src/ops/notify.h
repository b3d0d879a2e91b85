/* SPDX-License-Identifier: MIT
 * Tells the service manager how the server is: systemd's protocol for services of Type=notify, lines of
 * NAME=VALUE in a datagram to the unix socket that NOTIFY_SOCKET names (sd_notify(3)). Without that variable
 * nothing is told. The main thread. */
#ifndef TIDEWIRE_OPS_NOTIFY_H
#define TIDEWIRE_OPS_NOTIFY_H

#include <ev.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

struct watchdog;

struct notify {
    int fd; /* -1: nobody wants to know */
    struct sockaddr_un to;
    socklen_t len;
    double watchdog_s; /* without a sign of life for so long it is killed; 0: it is not */
    ev_timer timer;
    const struct watchdog *watchdog;
    bool reloading; /* told, and not yet that it is over */
};

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which are for this process alone, out of the
 * environment. Before there are other threads. An address that cannot be used is logged and forgotten. */
void notify_open(struct notify *n);
void notify_close(struct notify *n, struct ev_loop *loop);

/* Tells `state`, such as "READY=1", and for people a line of text; its first line counts. Waits a second at
 * most; whether it arrives nobody says. */
void notify_tell(struct notify *n, const char *state, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A reload begins. What is told with READY=1 ends it. */
void notify_reloading(struct notify *n);

/* From now on gives signs of life, as often as is asked for, while `watchdog` finds all workers well. */
void notify_watch(struct notify *n, struct ev_loop *loop, const struct watchdog *watchdog);

#endif
