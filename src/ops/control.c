/* SPDX-License-Identifier: MIT
 * The control socket. */
#include "ops/control.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "net/unixsock.h"

#define CONTROL_CLIENTS   32
#define CONTROL_WAITING   24 /* of them at most; the others are for `tidewire health` */
#define CONTROL_LINE      256
#define CONTROL_TIMEOUT_S 5

struct control_client {
    ev_io io;
    ev_timer timer;
    struct control *control;
    char line[CONTROL_LINE];
    size_t len;
    struct buf answer;
    size_t sent;
    uint64_t ticket; /* it waits for this one's outcome; 0: it does not wait */
};

struct control {
    ev_io io;
    struct ev_loop *loop;
    control_handler *handler;
    void *user;
    char *path; /* to unlink; NULL for an abstract name */
    struct control_client *clients[CONTROL_CLIENTS];
};

/* ---- the address ---- */

/* Where the socket is; whether the user named it. */
static bool control_name(const struct config *config, char *out, size_t size)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (config->control != NULL) {
        snprintf(out, size, "%s", config->control);
        return true;
    }
    if (config->pid_file != NULL)
        snprintf(out, size, "%s.sock", config->pid_file);
    else if (runtime != NULL && runtime[0] == '/')
        snprintf(out, size, "%s/tidewire.sock", runtime);
    else
        snprintf(out, size, "@tidewire-%u", (unsigned)geteuid());
    return false;
}

static int control_address(const char *name, struct sockaddr_un *un, socklen_t *len, struct err *e)
{
    size_t n = strlen(name);
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    if (n == 0 || n >= sizeof un->sun_path)
        return err_set(e, "control socket \"%s\": a path of 1 to %zu bytes, or @name", name,
                       sizeof un->sun_path - 1);
    memcpy(un->sun_path, name, n);
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    if (name[0] == '@') { /* an abstract name has no file and starts with a zero byte */
        un->sun_path[0] = '\0';
        *len -= 1;
    }
    return 0;
}

/* An abstract name has no file permissions, so the peer's user decides for both kinds. */
static bool control_may(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == 0 || peer.uid == geteuid());
}

/* ---- the server's side ---- */

static void control_drop(struct control_client *k)
{
    struct control *c = k->control;
    for (int i = 0; i < CONTROL_CLIENTS; i++)
        if (c->clients[i] == k)
            c->clients[i] = NULL;
    ev_io_stop(c->loop, &k->io);
    ev_timer_stop(c->loop, &k->timer);
    close(k->io.fd);
    buf_fini(&k->answer);
    free(k);
}

static void control_await(struct control_client *k, int events)
{
    ev_io_stop(k->control->loop, &k->io);
    ev_io_set(&k->io, k->io.fd, events);
    ev_io_start(k->control->loop, &k->io);
}

/* Sends what there is; may free `k`. */
static void control_write(struct control_client *k)
{
    ssize_t n = send(k->io.fd, k->answer.data + k->sent, k->answer.len - k->sent, MSG_NOSIGNAL);
    if (n > 0)
        k->sent += (size_t)n;
    bool all = k->sent == k->answer.len;
    if ((n < 0 && errno != EAGAIN && errno != EINTR) || (all && k->ticket == 0))
        control_drop(k);
    else
        control_await(k, all ? EV_READ : EV_WRITE);
}

static void control_patience(struct control_client *k, double seconds)
{
    ev_timer_stop(k->control->loop, &k->timer);
    ev_timer_set(&k->timer, seconds, 0);
    ev_timer_start(k->control->loop, &k->timer);
}

/* The answer of a client that waited; may free it. */
static void control_finish(struct control_client *k, const char *text)
{
    k->ticket = 0;
    control_patience(k, CONTROL_TIMEOUT_S);
    if (buf_puts(&k->answer, text) < 0)
        control_drop(k);
    else
        control_write(k);
}

void control_answer(struct control *c, uint64_t ticket, const char *text)
{
    for (int i = 0; c != NULL && i < CONTROL_CLIENTS; i++)
        if (c->clients[i] != NULL && c->clients[i]->ticket != 0 && c->clients[i]->ticket <= ticket)
            control_finish(c->clients[i], text);
}

/* Whether one client more may wait. */
static bool control_has_room(const struct control *c)
{
    int waiting = 0;
    for (int i = 0; i < CONTROL_CLIENTS; i++)
        waiting += c->clients[i] != NULL && c->clients[i]->ticket != 0;
    return waiting < CONTROL_WAITING;
}

static void control_handle(struct control_client *k)
{
    struct control_request request = {.line = k->line, .answer = &k->answer};
    k->control->handler(k->control->user, &request);
    if (request.ticket == 0)
        return;
    if (!control_has_room(k->control)) {
        buf_puts(&k->answer, "error too many wait already\n");
        return;
    }
    k->ticket = request.ticket;
    control_patience(k, request.patience_s);
    buf_printf(&k->answer, "wait %.0f\n", request.patience_s);
}

/* Something came from a client that waits: more than was asked for, the end of what it sends, or its end. */
static void control_skip(struct control_client *k)
{
    struct pollfd at = {.fd = k->io.fd};
    ssize_t n = recv(k->io.fd, k->line, sizeof k->line, 0);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    if (n < 0 || (poll(&at, 1, 0) == 1 && (at.revents & (POLLHUP | POLLERR)) != 0))
        control_drop(k);
    else
        ev_io_stop(k->control->loop, &k->io); /* it may still read */
}

static void control_read(struct control_client *k)
{
    ssize_t n = recv(k->io.fd, k->line + k->len, sizeof k->line - 1 - k->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        control_drop(k);
        return;
    }
    k->len += (size_t)n;
    k->line[k->len] = '\0';
    char *end = strchr(k->line, '\n');
    if (end == NULL && k->len < sizeof k->line - 1)
        return;
    if (end != NULL) {
        *end = '\0';
        control_handle(k);
    } else
        buf_puts(&k->answer, "error the request is too long\n");
    if (k->answer.len == 0) {
        control_drop(k);
        return;
    }
    control_await(k, EV_WRITE);
}

static void control_on_client(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    struct control_client *k = io->data;
    if (revents & EV_WRITE)
        control_write(k);
    else if (k->ticket != 0)
        control_skip(k);
    else
        control_read(k);
}

static void control_on_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct control_client *k = timer->data;
    if (k->ticket != 0)
        control_finish(k, "error there is no outcome yet\n");
    else
        control_drop(k);
}

static void control_on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)revents;
    struct control *c = io->data;
    int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int slot = 0;
    while (slot < CONTROL_CLIENTS && c->clients[slot] != NULL)
        slot++;
    struct control_client *k =
        fd >= 0 && slot < CONTROL_CLIENTS && control_may(fd) ? calloc(1, sizeof *k) : NULL;
    if (k == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    k->control = c;
    c->clients[slot] = k;
    ev_io_init(&k->io, control_on_client, fd, EV_READ);
    k->io.data = k;
    ev_io_start(loop, &k->io);
    ev_timer_init(&k->timer, control_on_timeout, CONTROL_TIMEOUT_S, 0);
    k->timer.data = k;
    ev_timer_start(loop, &k->timer);
}

static int control_bind(const struct sockaddr_un *un, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (un->sun_path[0] != '\0')
        unixsock_remove_stale(un->sun_path);
    mode_t mask = umask(077);
    int rc = bind(fd, (const struct sockaddr *)un, len);
    int why = errno;
    umask(mask);
    if (rc == 0 && listen(fd, CONTROL_CLIENTS) == 0)
        return fd;
    close(fd);
    errno = why;
    return -1;
}

int control_open(struct control **out, struct ev_loop *loop, const struct config *config,
                 control_handler *handler, void *user, struct err *e)
{
    char name[256];
    struct sockaddr_un un;
    socklen_t len;
    *out = NULL;
    bool named = control_name(config, name, sizeof name);
    if (control_address(name, &un, &len, e) < 0)
        return -1;
    int fd = control_bind(&un, len);
    if (fd < 0 && named)
        return err_set(e, "cannot open the control socket %s: %s", name, strerror(errno));
    if (fd < 0) {
        log_warn("no control socket, `tidewire health` will not reach this server: %s: %s; name one with "
                 "--control",
                 name, strerror(errno));
        return 0;
    }
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL || (name[0] != '@' && (c->path = strdup(name)) == NULL)) {
        free(c);
        close(fd);
        return err_set(e, "out of memory");
    }
    c->loop = loop;
    c->handler = handler;
    c->user = user;
    ev_io_init(&c->io, control_on_accept, fd, EV_READ);
    c->io.data = c;
    ev_io_start(loop, &c->io);
    *out = c;
    return 0;
}

const char *control_path(const struct control *c)
{
    return c != NULL ? c->path : NULL;
}

void control_close(struct control *c)
{
    if (c == NULL)
        return;
    for (int i = 0; i < CONTROL_CLIENTS; i++)
        if (c->clients[i] != NULL)
            control_drop(c->clients[i]);
    ev_io_stop(c->loop, &c->io);
    close(c->io.fd);
    if (c->path != NULL)
        unlink(c->path);
    free(c->path);
    free(c);
}

/* ---- the client's side ---- */

/* Takes the line "wait N" off the answer once it is there, and waits for so long from now on. */
static void control_take_wait(int fd, struct buf *answer)
{
    const char *end = answer->len > 5 ? memchr(answer->data, '\n', answer->len) : NULL;
    if (end == NULL || memcmp(answer->data, "wait ", 5) != 0)
        return;
    struct timeval patience = {.tv_sec = strtol(answer->data + 5, NULL, 10) + CONTROL_TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    size_t line = (size_t)(end - answer->data) + 1;
    memmove(answer->data, answer->data + line, answer->len - line);
    answer->len -= line;
}

int control_ask(const struct config *config, const char *request, struct buf *answer, struct err *e)
{
    char name[256], line[CONTROL_LINE];
    struct sockaddr_un un;
    socklen_t len;
    struct timeval patience = {.tv_sec = CONTROL_TIMEOUT_S};
    control_name(config, name, sizeof name);
    if (control_address(name, &un, &len, e) < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
        connect(fd, (const struct sockaddr *)&un, len) < 0) {
        err_set(e, "no server answers on the control socket %s: %s", name, strerror(errno));
        goto fail;
    }
    if (!control_may(fd)) { /* anyone could have taken the name */
        err_set(e, "the control socket %s belongs to another user", name);
        goto fail;
    }
    int n = snprintf(line, sizeof line, "%s\n", request);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n) {
        err_set(e, "the server on the control socket %s does not listen: %s", name, strerror(errno));
        goto fail;
    }
    for (;;) {
        char piece[4096];
        ssize_t got = recv(fd, piece, sizeof piece, 0);
        if (got == 0)
            break;
        if (got < 0 || buf_append(answer, piece, (size_t)got) < 0) {
            err_set(e, "the server on the control socket %s does not answer: %s", name, strerror(errno));
            goto fail;
        }
        control_take_wait(fd, answer);
    }
    close(fd);
    return answer->len > 0 ? 0 : err_set(e, "the server on the control socket %s refused to answer", name);
fail:
    if (fd >= 0)
        close(fd);
    return -1;
}
