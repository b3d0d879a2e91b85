/* SPDX-License-Identifier: MIT
 * Listening sockets. */
#include "net/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "net/unixsock.h"
#include "net/worker.h"

#define LISTENER_BACKLOG 4096
#define LISTENER_BATCH   64  /* connections accepted in one go, so that the others are served too */
#define LISTENER_PAUSE_S 0.5 /* rest when the process is out of descriptors */

/* What stands before an address whose connections begin with the PROXY protocol. */
#define LISTENER_PROXY "proxy:"

struct listener {
    bool proxied;
    ev_io io;
    ev_timer pause;
    struct worker *worker;
    struct list link;
};

/* ---- addresses ---- */

struct listener_address {
    struct sockaddr_storage sa;
    socklen_t len;
};

static int listener_parse_unix(const char *path, struct listener_address *a, struct err *e)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;
    if (path[0] != '/')
        return err_set(e, "listen \"unix:%s\": the path must be absolute", path);
    if (strlen(path) >= sizeof un->sun_path)
        return err_set(e, "listen \"unix:%s\": the path is longer than %zu bytes", path,
                       sizeof un->sun_path - 1);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, strlen(path) + 1);
    a->len = sizeof *un;
    return 0;
}

static const char *listener_skip_proxy(const char *spec, bool *proxied)
{
    size_t n = strlen(LISTENER_PROXY);
    *proxied = strncmp(spec, LISTENER_PROXY, n) == 0;
    return *proxied ? spec + n : spec;
}

static int listener_parse(const char *spec, struct listener_address *a, struct err *e)
{
    memset(a, 0, sizeof *a);
    if (strncmp(spec, "unix:", 5) == 0)
        return listener_parse_unix(spec + 5, a, e);
    const char *colon = strrchr(spec, ':');
    char host[256];
    size_t host_len = colon != NULL ? (size_t)(colon - spec) : 0;
    if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strtoul(colon + 1, NULL, 10) > 65535 || strlen(colon + 1) > 5 || host_len >= sizeof host)
        return err_set(
            e, "listen \"%s\": expected ADDRESS:PORT (such as 127.0.0.1:8080 or [::1]:8080) or unix:/path",
            spec);
    memcpy(host, spec, host_len);
    host[host_len] = '\0';
    char *name = host;
    if (host[0] == '[' && host[host_len - 1] == ']') {
        host[host_len - 1] = '\0';
        name = host + 1;
    } else if (strchr(host, ':') != NULL)
        return err_set(e, "listen \"%s\": write an IPv6 address in brackets, as [%s]%s", spec, host, colon);
    if (strcmp(name, "*") == 0)
        name[0] = '\0';
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    if (name[0] == '\0')
        hints.ai_family = AF_INET;
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(name[0] != '\0' ? name : NULL, colon + 1, &hints, &found);
    if (rc != 0)
        return err_set(e, "listen \"%s\": %s", spec, gai_strerror(rc));
    memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
    a->len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int listener_check(const char *spec, struct err *e)
{
    struct listener_address a;
    bool proxied;
    return listener_parse(listener_skip_proxy(spec, &proxied), &a, e);
}

static void listener_name(struct listener_set *set, const struct listener_address *a)
{
    char host[INET6_ADDRSTRLEN], port[8];
    if (a->sa.ss_family == AF_UNIX)
        snprintf(set->text, sizeof set->text, "unix:%s", ((const struct sockaddr_un *)&a->sa)->sun_path);
    else {
        getnameinfo((const struct sockaddr *)&a->sa, a->len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
        snprintf(set->text, sizeof set->text, a->sa.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    }
}

/* ---- binding ---- */

/* The kernel notices that a peer has gone also while nothing is read and nothing is written: after a minute.
 * Inherited by accepted sockets too. */
static bool listener_set_keepalive(int fd)
{
    static const int on = 1, idle_s = 30, interval_s = 10, count = 3;
    return setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
           setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s) == 0 &&
           setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s) == 0 &&
           setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count) == 0;
}

static int listener_socket(const struct listener_address *a, bool first)
{
    int on = 1;
    bool tcp = a->sa.ss_family != AF_UNIX;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* TCP_NODELAY is inherited by accepted sockets, which saves a call for each. */
    bool ok =
        !tcp || (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                 setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 && listener_set_keepalive(fd));
    if (ok && !first)
        ok = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0;
    ok = ok && bind(fd, (const struct sockaddr *)&a->sa, a->len) == 0;
    if (ok && first && tcp)
        ok = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0;
    if (ok && listen(fd, LISTENER_BACKLOG) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int listener_refused(const char *spec, struct err *e)
{
    if (errno == EADDRINUSE)
        return err_set(e,
                       "cannot listen on %s: address already in use; stop what serves it or choose another "
                       "with --listen",
                       spec);
    if (errno == EACCES)
        return err_set(e, "cannot listen on %s: permission denied; a port from 1024 on needs no privilege",
                       spec);
    if (errno == EADDRNOTAVAIL)
        return err_set(e, "cannot listen on %s: this machine has no such address", spec);
    return err_set(e, "cannot listen on %s: %s", spec, strerror(errno));
}

int listener_bind(struct listener_set *set, const char *spec, size_t count, struct err *e)
{
    struct listener_address a;
    memset(set, 0, sizeof *set);
    spec = listener_skip_proxy(spec, &set->proxied);
    if (listener_parse(spec, &a, e) < 0)
        return -1;
    if (a.sa.ss_family == AF_UNIX) {
        count = 1;
        unixsock_remove_stale(spec + 5);
    }
    set->fds = malloc(count * sizeof set->fds[0]);
    if (set->fds == NULL)
        return err_set(e, "out of memory");
    for (size_t i = 0; i < count; i++) {
        int fd = listener_socket(&a, i == 0);
        if (fd < 0) {
            listener_refused(spec, e);
            listener_release(set);
            return -1;
        }
        set->fds[set->nfds++] = fd;
        a.len = sizeof a.sa;
        if (i == 0 && getsockname(fd, (struct sockaddr *)&a.sa, &a.len) < 0) {
            listener_release(set);
            return err_set(e, "cannot listen on %s: %s", spec, strerror(errno));
        }
    }
    listener_name(set, &a);
    if (a.sa.ss_family == AF_UNIX)
        set->unix_path = strdup(spec + 5);
    return 0;
}

void listener_release(struct listener_set *set)
{
    for (size_t i = 0; i < set->nfds; i++)
        if (set->fds[i] >= 0)
            close(set->fds[i]);
    if (set->unix_path != NULL)
        unlink(set->unix_path);
    free(set->unix_path);
    free(set->fds);
    memset(set, 0, sizeof *set);
}

/* ---- accepting ---- */

static void listener_on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct listener *l = timer->data;
    ev_io_start(loop, &l->io);
}

/* Accepts up to `limit` connections. */
static void listener_accept(struct listener *l, unsigned limit)
{
    struct worker *w = l->worker;
    for (unsigned i = 0; i < limit; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd = accept4(l->io.fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            metrics_add(w->metrics, METRIC_ACCEPTED, 1);
            w->hooks->on_accept(w, fd, (const struct sockaddr *)&peer, l->proxied);
        } else if (errno == EAGAIN)
            return;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            struct log_context about = {.worker = w->index};
            log_write(LOG_ERROR, &about,
                      "cannot accept: %s; waiting %.1f s (lower max_connections or raise `ulimit -n`)",
                      strerror(errno), LISTENER_PAUSE_S);
            ev_io_stop(w->loop, &l->io);
            ev_timer_set(&l->pause, LISTENER_PAUSE_S, 0);
            ev_timer_start(w->loop, &l->pause);
            return;
        }
        /* Anything else is about that one connection, which is gone. */
    }
}

static void listener_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    (void)revents;
    listener_accept(io->data, LISTENER_BATCH);
}

int listener_add(struct worker *w, struct listener_set *set, size_t number)
{
    struct listener *l = calloc(1, sizeof *l);
    if (l == NULL)
        return -1;
    l->worker = w;
    l->proxied = set->proxied;
    ev_io_init(&l->io, listener_on_io, set->fds[number], EV_READ);
    l->io.data = l;
    ev_timer_init(&l->pause, listener_on_pause_over, 0, 0);
    l->pause.data = l;
    ev_io_start(w->loop, &l->io);
    list_append(&w->listeners, &l->link);
    set->fds[number] = -1;
    return 0;
}

void listener_close_all(struct worker *w)
{
    while (!list_empty(&w->listeners)) {
        struct listener *l = LIST_ENTRY(w->listeners.next, struct listener, link);
        list_remove(&l->link);
        if (!w->stopping)
            listener_accept(l, LISTENER_BACKLOG);
        ev_io_stop(w->loop, &l->io);
        ev_timer_stop(w->loop, &l->pause);
        close(l->io.fd);
        free(l);
    }
}
