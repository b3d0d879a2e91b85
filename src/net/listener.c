/* SPDX-License-Identifier: MIT
 * Listening sockets. */
#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
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
#define LISTENER_LEAVE_S 1.0 /* for what was connecting when an address is left */

#define LISTENER_FD "fd:"

/* One socket that a worker accepts from. */
struct listener {
    struct listener_set *set;
    ev_io io;
    ev_timer pause, leave;
    struct listener_order *leaving; /* sent back when it has left; NULL: it stays */
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
    spec.tls.quiet = true; /* listener_check has been here */
    int rc = listener_make_tls(text, &spec, out, e);
    listenspec_fini(&spec);
    return rc;
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

bool listener_is_local(const char *spec)
{
    struct listener_address a;
    struct err e;
    if (listener_parse(spec, &a, &e) < 0)
        return false;
    if (strncmp(spec, LISTENER_FD, strlen(LISTENER_FD)) == 0) {
        a.len = sizeof a.sa;
        if (getsockname(listener_parse_fd(spec), (struct sockaddr *)&a.sa, &a.len) < 0)
            return false;
    }
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&a.sa)->sin6_addr;
    if (a.sa.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
    if (a.sa.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)&a.sa)->sin_addr.s_addr) >> 24 == 127;
    return a.sa.ss_family == AF_UNIX;
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

/* The first one of an address is `alone`: bound without SO_REUSEPORT. */
static int listener_socket(const struct listener_address *a, bool alone)
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
    if (ok && !alone)
        ok = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0;
    ok = ok && bind(fd, (const struct sockaddr *)&a->sa, a->len) == 0;
    if (ok && alone && tcp)
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
        return err_set(
            e, "cannot listen on %s: address already in use; stop what serves it or choose another address",
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

static int listener_bind_address(struct listener_set *set, const char *spec, size_t count, bool beside,
                                 struct err *e)
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
        int fd = listener_socket(&a, i == 0 && !beside);
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

static int listener_bind_as(struct listener_set *set, const char *text, size_t count, bool beside,
                            struct err *e)
{
    struct listenspec spec;
    memset(set, 0, sizeof *set);
    tlscontext_slot_init(&set->tls);
    if (listenspec_parse(&spec, text, e) < 0)
        return -1;
    atomic_init(&set->proxied, spec.proxied);
    int rc = listener_bind_address(set, spec.address, count, beside, e);
    if (rc < 0)
        listener_release(set);
    listenspec_fini(&spec);
    return rc;
}

int listener_bind(struct listener_set *set, const char *text, size_t count, struct err *e)
{
    return listener_bind_as(set, text, count, false, e);
}

int listener_bind_beside(struct listener_set *set, const char *spec, size_t count, struct err *e)
{
    return listener_bind_as(set, spec, count, true, e);
}

/* The port, from the colon on; "" for a unix socket. */
static const char *listener_port(const char *core, size_t len, size_t *port_len)
{
    size_t at = len;
    if (strncmp(core, "unix:", 5) == 0)
        at = 0;
    while (at > 0 && core[at - 1] != ':')
        at--;
    *port_len = at > 0 ? len - at : 0;
    return core + at;
}

bool listener_same_address(const char *spec, const char *other)
{
    size_t len, other_len, port_len;
    const char *core = listenspec_address(spec, &len), *other_core = listenspec_address(other, &other_len);
    const char *port = listener_port(core, len, &port_len);
    bool any_port = port_len > 0 && strspn(port, "0") >= port_len;
    return !any_port && len == other_len && memcmp(core, other_core, len) == 0;
}

bool listener_same_port(const struct listener_set *set, const char *spec)
{
    size_t len, port_len, mine_len;
    const char *core = listenspec_address(spec, &len);
    const char *port = listener_port(core, len, &port_len);
    const char *mine = listener_port(set->text, strlen(set->text), &mine_len);
    return port_len > 0 && mine_len > 0 && strtoul(port, NULL, 10) == strtoul(mine, NULL, 10);
}

bool listener_is_inherited(const char *spec)
{
    size_t len;
    return strncmp(listenspec_address(spec, &len), LISTENER_FD, strlen(LISTENER_FD)) == 0;
}

void listener_update(struct listener_set *set, const char *spec, struct tlscontext *tls)
{
    atomic_store_explicit(&set->proxied, listenspec_is_proxied(spec), memory_order_relaxed);
    tlscontext_slot_set(&set->tls, tls);
}

bool listener_is_secure(struct listener_set *set)
{
    struct tlscontext *tls = tlscontext_slot_get(&set->tls);
    tlscontext_unref(tls);
    return tls != NULL;
}

/* A filter that drops segments which would begin a connection, but lets those through that complete one. */
void listener_turn_away(struct listener_set *set)
{
    static const uint8_t flags_at = 13, syn = 0x02, ack = 0x10; /* in a TCP header: RFC 9293, 3.1 */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, flags_at),   BPF_STMT(BPF_ALU | BPF_AND | BPF_K, syn | ack),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, syn, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    listener_unlink(set);
    for (size_t i = 0; i < set->nfds; i++) /* where filters are not allowed, one may be lost at the end */
        setsockopt(set->fds[i], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void listener_welcome(struct listener_set *set)
{
    static const int none = 0;
    for (size_t i = 0; i < set->nfds; i++)
        setsockopt(set->fds[i], SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none);
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
    tlscontext_slot_fini(&set->tls);
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

static void listener_order_done(struct listener_order *o);
static void listener_on_left(struct ev_loop *loop, ev_timer *timer, int revents);
static void listener_stand_down(struct worker *w);

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
            if (l->leaving != NULL) /* inherited from the socket */
                setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int));
            const struct spread_how how = {
                .proxied = atomic_load_explicit(&l->set->proxied, memory_order_relaxed),
                .tls = tlscontext_slot_get(&l->set->tls),
            };
            spread_place(&batch, fd, &peer, how);
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

static struct listener *listener_create(void)
{
    return calloc(1, sizeof(struct listener));
}

/* `w` is to accept from the socket of `owner`, through `l`, which is taken over. */
static void listener_start(struct listener *l, struct worker *w, struct worker *owner,
                           struct listener_set *set)
{
    l->set = set;
    l->worker = w;
    l->owner = owner;
    ev_io_init(&l->io, listener_on_io, set->fds[owner->index - 1], EV_READ);
    ev_timer_init(&l->pause, listener_on_pause_over, 0, 0);
    ev_timer_init(&l->leave, listener_on_left, 0, 0);
    l->io.data = l->pause.data = l->leave.data = l;
    ev_io_start(w->loop, &l->io);
    list_append(&w->listeners, &l->link);
}

/* Whether there is a socket for this worker: of a unix address there is only one. */
static bool listener_has_one_for(const struct listener_set *set, const struct worker *w)
{
    return w->index <= set->nfds;
}

static int listener_add_all(struct worker *w, struct worker *owner)
{
    for (size_t i = 0; i < w->nsets; i++) {
        if (!listener_has_one_for(w->sets[i], owner))
            continue;
        struct listener *l = listener_create();
        if (l == NULL)
            return -1;
        listener_start(l, w, owner, w->sets[i]);
    }
    return 0;
}

static void listener_remove(struct listener *l)
{
    ev_io_stop(l->worker->loop, &l->io);
    ev_timer_stop(l->worker->loop, &l->pause);
    ev_timer_stop(l->worker->loop, &l->leave);
    list_remove(&l->link);
    if (l->leaving != NULL)
        listener_order_done(l->leaving);
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
    w->nsets = 0;
}

/* ---- coming and going ---- */

static struct listener *listener_own(const struct worker *w, const struct listener_set *set)
{
    for (struct list *at = w->listeners.next; at != &w->listeners; at = at->next) {
        struct listener *l = LIST_ENTRY(at, struct listener, link);
        if (l->set == set && l->owner == w)
            return l;
    }
    return NULL;
}

/* `*fresh` is used, and nulled, if the worker has a socket of it. */
static void listener_begin(struct worker *w, struct listener_set *set, struct listener **fresh)
{
    struct listener *l = listener_own(w, set);
    w->sets[w->nsets++] = set;
    if (l != NULL) { /* it was being left: it stays */
        ev_timer_stop(w->loop, &l->leave);
        listener_order_done(l->leaving);
        l->leaving = NULL;
    } else if (*fresh != NULL) {
        listener_start(*fresh, w, w, set);
        *fresh = NULL;
    }
}

int listener_open(struct worker *w, struct listener_set *set)
{
    struct listener *l = listener_has_one_for(set, w) ? listener_create() : NULL;
    if (l == NULL && listener_has_one_for(set, w))
        return -1;
    listener_begin(w, set, &l);
    return 0;
}

/* Accepts what is left; without descriptors, later. */
static void listener_on_left(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct listener *l = timer->data;
    listener_accept(l, LISTENER_BACKLOG);
    if (ev_is_active(&l->pause)) {
        ev_timer_set(timer, LISTENER_LEAVE_S, 0);
        ev_timer_start(loop, timer);
    } else
        listener_remove(l);
}

/* Goes on accepting for a while: others may be about to complete their handshakes. */
static void listener_leave(struct worker *w, struct listener_order *o)
{
    struct listener *l = listener_own(w, o->set);
    for (size_t i = 0; i < w->nsets; i++)
        if (w->sets[i] == o->set)
            w->sets[i--] = w->sets[--w->nsets];
    if (l == NULL) {
        listener_order_done(o);
        return;
    }
    l->leaving = o;
    ev_timer_set(&l->leave, LISTENER_LEAVE_S, 0);
    ev_timer_start(w->loop, &l->leave);
}

static void listener_on_order(struct mail *m, void *receiver)
{
    struct listener_order *o = (struct listener_order *)m;
    struct worker *w = receiver;
    listener_stand_down(w);
    if (!o->serve && !w->stopping)
        listener_leave(w, o);
    else {
        if (o->serve && !w->stopping)
            listener_begin(w, o->set, &o->listener);
        listener_order_done(o);
    }
}

static void listener_order_done(struct listener_order *o)
{
    o->mail.deliver = o->done;
    mailbox_post(o->back, &o->mail);
}

struct listener_order *listener_order_create(const struct listener_order *what)
{
    struct listener_order *o = malloc(sizeof *o);
    bool needs_one = what->serve && listener_has_one_for(what->set, what->to);
    if (o == NULL)
        return NULL;
    *o = *what;
    o->mail.deliver = listener_on_order;
    o->listener = needs_one ? listener_create() : NULL;
    if (needs_one && o->listener == NULL) {
        free(o);
        return NULL;
    }
    return o;
}

void listener_order_destroy(struct listener_order *o)
{
    free(o->listener);
    free(o);
}

void listener_order_post(struct listener_order *o)
{
    worker_post(o->to, &o->mail);
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

/* For all others: at its next tick it begins anew, with the sockets of then. */
static void listener_stand_down(struct worker *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (w->peers[i] != w)
            listener_remove_those_of(w, w->peers[i]);
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
