/* SPDX-License-Identifier: MIT
 * Tells the service manager how the server is. */
#include "ops/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "ops/watchdog.h"

#define NOTIFY_LINES 1024 /* bytes of one message */

/* 0, or -1 when it is no path and no abstract name. */
static int notify_parse(struct notify *n, const char *address)
{
    size_t len = strlen(address);
    if ((address[0] != '/' && address[0] != '@') || len < 2 || len >= sizeof n->to.sun_path)
        return -1;
    n->to = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(n->to.sun_path, address, len);
    n->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (address[0] == '@')
        n->to.sun_path[0] = '\0';
    else
        n->len++; /* a path's NUL counts */
    return 0;
}

/* Seconds, 0 when there is nothing to do. */
static double notify_watchdog(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (usec == NULL || (pid != NULL && strtol(pid, NULL, 10) != (long)getpid()))
        return 0;
    double seconds = strtod(usec, NULL) / 1e6;
    return seconds > 0 && seconds < 1e9 ? seconds : 0;
}

void notify_open(struct notify *n)
{
    const char *address = getenv("NOTIFY_SOCKET");
    const struct timeval patience = {.tv_sec = 1};
    *n = (struct notify){.fd = -1, .watchdog_s = notify_watchdog()};
    if (address != NULL && notify_parse(n, address) < 0)
        log_warn("NOTIFY_SOCKET=%s is neither a path nor an @name: the service manager is told nothing",
                 address);
    else if (address != NULL) {
        n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (n->fd < 0 || setsockopt(n->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
            log_warn("cannot tell the service manager anything: %s", strerror(errno));
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_close(struct notify *n, struct ev_loop *loop)
{
    if (n->watchdog != NULL) {
        ev_ref(loop);
        ev_timer_stop(loop, &n->timer);
        n->watchdog = NULL;
    }
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

static void notify_send(struct notify *n, const char *lines, int flags)
{
    if (n->fd < 0)
        return;
    /* each by its address: the manager may have opened its socket anew */
    if (sendto(n->fd, lines, strlen(lines), MSG_NOSIGNAL | flags, (const struct sockaddr *)&n->to, n->len) <
        0)
        log_debug("cannot tell the service manager \"%.20s\": %s", lines, strerror(errno));
}

void notify_tell(struct notify *n, const char *state, const char *fmt, ...)
{
    char lines[NOTIFY_LINES];
    va_list args;
    int at = snprintf(lines, sizeof lines, "%s\nSTATUS=", state);
    va_start(args, fmt);
    vsnprintf(lines + at, sizeof lines - (size_t)at, fmt, args);
    va_end(args);
    lines[(size_t)at + strcspn(lines + at, "\n")] = '\0';
    if (strstr(state, "READY=1") != NULL)
        n->reloading = false;
    notify_send(n, lines, 0);
}

void notify_reloading(struct notify *n)
{
    struct timespec now;
    char state[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    notify_tell(n, state, "loading the script");
    n->reloading = true;
}

static void notify_on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct notify *n = timer->data;
    /* The next one does as well: a manager that does not listen is not waited for. */
    if (watchdog_unhealthy(n->watchdog) == 0)
        notify_send(n, "WATCHDOG=1", MSG_DONTWAIT);
}

void notify_watch(struct notify *n, struct ev_loop *loop, const struct watchdog *watchdog)
{
    if (n->fd < 0 || n->watchdog_s <= 0)
        return;
    n->watchdog = watchdog;
    ev_timer_init(&n->timer, notify_on_timer, 0, n->watchdog_s / 2); /* as sd_watchdog_enabled(3) advises */
    n->timer.data = n;
    ev_timer_start(loop, &n->timer);
    ev_unref(loop);
}
