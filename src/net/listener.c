/* SPDX-License-Identifier: MIT
 * Listening sockets. */
#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
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
#include "net/listenspec.h"
#include "net/tlscontext.h"
#include "net/unixsock.h"
#include "net/worker.h"

#define LISTENER_BACKLOG 4096
#define LISTENER_BATCH   64  /* connections accepted in one go, so that the others are served too */
#define LISTENER_PAUSE_S 0.5 /* rest when the process is out of descriptors */

#define LISTENER_FD "fd:"

/* One socket that a worker accepts from. */
struct listener {
    const struct listener_set *set;
    ev_io io;
    ev_timer pause;
    struct worker *worker;
    struct worker *owner; /* the worker itself, or the one it stands in for */
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

/* The number in "fd:3"; -1 when it is none. */
static int listener_parse_fd(const char *spec)
{
    const char *number = spec + strlen(LISTENER_FD);
    size_t len = strlen(number);
    if (len == 0 || len > 7 || strspn(number, "0123456789") != len)
        return -1;
    return (int)strtol(number, NULL, 10);
}

static int listener_parse(const char *spec, struct listener_address *a, struct err *e)
{
    memset(a, 0, sizeof *a);
    if (strncmp(spec, "unix:", 5) == 0)
        return listener_parse_unix(spec + 5, a, e);
    if (strncmp(spec, LISTENER_FD, strlen(LISTENER_FD)) == 0)
        return listener_parse_fd(spec) >= 0
                   ? 0
                   : err_set(e, "listen \"%s\": expected the number of a descriptor, as fd:3", spec);
    const char *colon = strrchr(spec, ':');
    char host[256];
    size_t host_len = colon != NULL ? (size_t)(colon - spec) : 0;
    if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strtoul(colon + 1, NULL, 10) > 65535 || strlen(colon + 1) > 5 || host_len >= sizeof host)
        return err_set(
            e,
            "listen \"%s\": expected ADDRESS:PORT (such as 127.0.0.1:8080 or [::1]:8080), unix:/path or "
            "fd:N",
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

static int listener_make_tls(const char *text, const struct listenspec *spec, struct tlscontext **out,
                             struct err *e)
{
    *out = spec->secure ? tlscontext_create_server(&spec->tls, e) : NULL;
    return spec->secure && *out == NULL ? err_prefix(e, "listen \"%s\": ", text) : 0;
}

int listener_load_tls(const char *text, struct tlscontext **out, struct err *e)
{
    struct listenspec spec;
    if (listenspec_parse(&spec, text, e) < 0)
        return -1;
    int rc = listener_make_tls(text, &spec, out, e);
    listenspec_fini(&spec);
    return rc;
}

void listener_renew_tls(struct listener_set *set, struct tlscontext *tls)
{
    tlscontext_slot_set(set->tls, tls);
}

int listener_check(const char *text, struct err *e)
{
    struct listenspec spec;
    struct listener_address a;
    struct tlscontext *tls;
    if (listenspec_parse(&spec, text, e) < 0)
        return -1;
    int rc = listener_parse(spec.address, &a, e) < 0 ? -1 : listener_make_tls(text, &spec, &tls, e);
    listenspec_fini(&spec);
    if (rc == 0)
        tlscontext_unref(tls);
    return rc;
}

static void listener_name(struct listener_set *set, const struct listener_address *a)
{
    char host[INET6_ADDRSTRLEN], port[8];
    if (a->sa.ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
        size_t prefix = offsetof(struct sockaddr_un, sun_path);
        int len = a->len > prefix ? (int)(a->len - prefix) : 0;
        bool abstract = len > 0 && un->sun_path[0] == '\0';
        snprintf(set->text, sizeof set->text, "unix:%s%.*s", abstract ? "@" : "", abstract ? len - 1 : len,
                 un->sun_path + abstract);
    } else {
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

/* What every descriptor of the server's own has, and none that has come through exec. */
static bool listener_is_ours(int fd)
{
    return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

/* Takes an inherited socket over. The options are those of a socket of our own. */
static int listener_adopt(struct listener_set *set, const char *spec, struct err *e)
{
    struct listener_address a = {.len = sizeof a.sa};
    int fd = listener_parse_fd(spec), listening = 0, type = 0;
    int flags = fcntl(fd, F_GETFL);
    static const int on = 1;
    socklen_t len = sizeof listening, type_len = sizeof type;
    if (flags < 0 || listener_is_ours(fd))
        return err_set(e, "cannot listen on %s: the parent process has passed no such descriptor%s", spec,
                       flags < 0 ? "" : ", or it is named twice");
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 || type != SOCK_STREAM ||
        getsockname(fd, (struct sockaddr *)&a.sa, &a.len) < 0)
        return err_set(e, "cannot listen on %s: it is not a stream socket that listens", spec);
    bool tcp = a.sa.ss_family == AF_INET || a.sa.ss_family == AF_INET6;
    if (!tcp && a.sa.ss_family != AF_UNIX)
        return err_set(e, "cannot listen on %s: it is neither a TCP nor a unix socket", spec);
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        (tcp &&
         (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 || !listener_set_keepalive(fd))))
        return err_set(e, "cannot listen on %s: %s", spec, strerror(errno));
    set->fds = malloc(sizeof set->fds[0]);
    if (set->fds == NULL)
        return err_set(e, "out of memory");
    set->fds[set->nfds++] = fd;
    set->inherited = true;
    listener_name(set, &a);
    size_t used = strlen(set->text);
    snprintf(set->text + used, sizeof set->text - used, " (%s)", spec);
    return 0;
}

static int listener_bind_address(struct listener_set *set, const char *spec, size_t count, struct err *e)
{
    struct listener_address a;
    if (listener_parse(spec, &a, e) < 0)
        return -1;
    if (strncmp(spec, LISTENER_FD, strlen(LISTENER_FD)) == 0)
        return listener_adopt(set, spec, e);
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
            return -1;
        }
        set->fds[set->nfds++] = fd;
        a.len = sizeof a.sa;
        if (i == 0 && getsockname(fd, (struct sockaddr *)&a.sa, &a.len) < 0)
            return err_set(e, "cannot listen on %s: %s", spec, strerror(errno));
    }
    listener_name(set, &a);
    if (a.sa.ss_family == AF_UNIX)
        set->unix_path = strdup(spec + 5);
    return 0;
}

/* Reads the certificates. */
static int listener_secure(struct listener_set *set, const char *text, const struct listenspec *spec,
                           struct err *e)
{
    struct tlscontext *tls;
    if (!spec->secure)
        return 0;
    if (listener_make_tls(text, spec, &tls, e) < 0)
        return -1;
    set->tls = malloc(sizeof *set->tls);
    if (set->tls == NULL) {
        tlscontext_unref(tls);
        return err_set(e, "out of memory");
    }
    tlscontext_slot_init(set->tls);
    tlscontext_slot_set(set->tls, tls);
    return 0;
}

int listener_bind(struct listener_set *set, const char *text, size_t count, struct err *e)
{
    struct listenspec spec;
    memset(set, 0, sizeof *set);
    if (listenspec_parse(&spec, text, e) < 0)
        return -1;
    set->proxied = spec.proxied;
    spec.tls.quiet = true; /* listener_check has been here */
    int rc =
        listener_secure(set, text, &spec, e) < 0 ? -1 : listener_bind_address(set, spec.address, count, e);
    if (rc < 0)
        listener_release(set);
    else if (spec.secure) {
        size_t used = strlen(set->text);
        snprintf(set->text + used, sizeof set->text - used, " (TLS)");
    }
    listenspec_fini(&spec);
    return rc;
}

void listener_unlink(struct listener_set *set)
{
    if (set->unix_path != NULL)
        unlink(set->unix_path);
    free(set->unix_path);
    set->unix_path = NULL;
}

void listener_release(struct listener_set *set)
{
    listener_unlink(set);
    for (size_t i = 0; i < set->nfds; i++)
        close(set->fds[i]);
    free(set->fds);
    if (set->tls != NULL)
        tlscontext_slot_fini(set->tls);
    free(set->tls);
    memset(set, 0, sizeof *set);
}

/* ---- accepting ---- */

static void listener_on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct listener *l = timer->data;
    ev_io_start(loop, &l->io);
}

/* Rests when there are no descriptors. Any failure but these is about that one connection, which is gone. */
static bool listener_failed(struct listener *l)
{
    struct worker *w = l->worker;
    if (errno == EINVAL) { /* shut down: by its owner, or, an inherited one, by another process */
        ev_io_stop(w->loop, &l->io);
        return true;
    }
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
        return false;
    struct log_context about = {.worker = w->index};
    log_write(LOG_ERROR, &about,
              "cannot accept: %s; waiting %.1f s (lower max_connections or raise `ulimit -n`)",
              strerror(errno), LISTENER_PAUSE_S);
    ev_io_stop(w->loop, &l->io);
    ev_timer_set(&l->pause, LISTENER_PAUSE_S, 0);
    ev_timer_start(w->loop, &l->pause);
    return true;
}

/* Accepts up to `limit` connections. */
static void listener_accept(struct listener *l, unsigned limit)
{
    struct spread_batch batch;
    spread_begin(&batch, l->worker);
    for (unsigned i = 0; i < limit; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd = accept4(l->io.fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            metrics_add(l->worker->metrics, METRIC_ACCEPTED, 1);
            spread_place(
                &batch, fd, &peer,
                (struct spread_how){.proxied = l->set->proxied, .tls = tlscontext_slot_get(l->set->tls)});
        } else if (errno == EAGAIN || listener_failed(l))
            break;
    }
    spread_end(&batch);
}

static void listener_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)revents;
    struct listener *l = io->data;
    if (l->owner != l->worker && !spread_is_open(l->owner))
        ev_io_stop(loop, io); /* shut down meanwhile; it would be reported for ever */
    else
        listener_accept(l, LISTENER_BATCH);
}

/* The sockets of `owner`: it serves the one of its number, if there is one. */
static int listener_add_all(struct worker *w, struct worker *owner)
{
    for (size_t i = 0; i < w->nsets; i++) {
        if (owner->index > w->sets[i].nfds)
            continue;
        struct listener *l = calloc(1, sizeof *l);
        if (l == NULL)
            return -1;
        l->set = &w->sets[i];
        l->worker = w;
        l->owner = owner;
        ev_io_init(&l->io, listener_on_io, l->set->fds[owner->index - 1], EV_READ);
        l->io.data = l;
        ev_timer_init(&l->pause, listener_on_pause_over, 0, 0);
        l->pause.data = l;
        ev_io_start(w->loop, &l->io);
        list_append(&w->listeners, &l->link);
    }
    return 0;
}

int listener_open_all(struct worker *w)
{
    return listener_add_all(w, w);
}

static void listener_remove(struct listener *l)
{
    ev_io_stop(l->worker->loop, &l->io);
    ev_timer_stop(l->worker->loop, &l->pause);
    list_remove(&l->link);
    free(l);
}

void listener_close_all(struct worker *w)
{
    while (!list_empty(&w->listeners)) {
        struct listener *l = LIST_ENTRY(w->listeners.next, struct listener, link);
        if (l->owner == w && !w->stopping) {
            listener_accept(l, LISTENER_BACKLOG);
            if (!l->set->inherited)
                shutdown(l->io.fd, SHUT_RD);
        }
        listener_remove(l);
    }
}

/* ---- standing in ---- */

static void listener_remove_those_of(struct worker *w, const struct worker *owner)
{
    for (struct list *at = w->listeners.next, *next; at != &w->listeners; at = next) {
        struct listener *l = LIST_ENTRY(at, struct listener, link);
        next = at->next;
        if (l->owner == owner)
            listener_remove(l);
    }
}

static bool listener_has_those_of(const struct worker *w, const struct worker *owner)
{
    for (const struct list *at = w->listeners.next; at != &w->listeners; at = at->next)
        if (LIST_ENTRY(at, struct listener, link)->owner == owner)
            return true;
    return false;
}

static bool listener_can_accept(const struct worker *w, const struct worker *peer)
{
    return peer == w || (spread_is_open(peer) && !worker_is_late(peer));
}

/* One stands in, for each connection would wake all of them: the first after the late one that can. Workers
 * may see that differently for a moment, which does no harm. */
static bool listener_is_stand_in(const struct worker *w, const struct worker *late)
{
    unsigned i = late->index % w->count; /* numbers begin with 1: this is the next one */
    while (!listener_can_accept(w, w->peers[i]))
        i = (i + 1) % w->count;
    return w->peers[i] == w;
}

void listener_stand_in(struct worker *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        struct worker *peer = w->peers[i];
        if (peer == w)
            continue;
        bool wanted = spread_is_open(peer) && worker_is_late(peer) && listener_is_stand_in(w, peer);
        bool there = listener_has_those_of(w, peer);
        if (wanted)
            spread_take_back(w, peer);
        if (there && !wanted)
            listener_remove_those_of(w, peer);
        else if (wanted && !there && listener_add_all(w, peer) < 0)
            listener_remove_those_of(w, peer); /* no memory: perhaps at the next tick */
    }
}
