/* SPDX-License-Identifier: MIT
 * The life cycle of one connection. */
#include "net/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/worker.h"

#define CONN_IOV 64

/* The allowed moves of the diagram in conn.h. */
static const bool conn_moves[4][4] = {
    [CONN_OPEN] = {[CONN_FLUSHING] = true, [CONN_DEAD] = true},
    [CONN_FLUSHING] = {[CONN_LINGERING] = true, [CONN_DEAD] = true},
    [CONN_LINGERING] = {[CONN_DEAD] = true},
};

static void conn_move(struct conn *c, enum conn_state to)
{
    assert(conn_moves[c->state][to]);
    c->state = (uint8_t)to;
}

static void conn_watch(struct conn *c, int events)
{
    if (c->io.events == events && ev_is_active(&c->io))
        return;
    ev_io_stop(c->worker->loop, &c->io);
    ev_io_set(&c->io, c->io.fd, events);
    ev_io_start(c->worker->loop, &c->io);
}

static void conn_read(struct conn *c)
{
    struct worker *w = c->worker;
    ssize_t n = recv(c->io.fd, w->input, WORKER_INPUT, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        metrics_add(w->metrics, METRIC_BYTES_IN, (uint64_t)n);
        if (c->state == CONN_OPEN)
            c->ops->on_data(c, w->input, (size_t)n);
        if (c->state != CONN_DEAD && (c->io.events & EV_WRITE) && c->out.bytes > CONN_READ_STOP)
            conn_watch(c, EV_WRITE);
    } else if (c->state == CONN_OPEN && n == 0) {
        c->ops->on_eof(c);
        assert(c->state != CONN_OPEN);
    } else if (c->state == CONN_FLUSHING && n == 0)
        /* Half-closed by the peer, which may still read: go on writing, the deadline bounds it. */
        conn_watch(c, EV_WRITE);
    else if (c->state == CONN_OPEN) {
        c->ops->on_eof(c);
        conn_close(c);
    } else
        conn_close(c);
}

static void conn_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    struct conn *c = LIST_ENTRY(io, struct conn, io);
    if (revents & EV_WRITE)
        conn_flush(c);
    if ((revents & EV_READ) && c->state != CONN_DEAD)
        conn_read(c);
}

struct conn *conn_create(struct worker *w, int fd, const struct conn_ops *ops, void *session)
{
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL) {
        close(fd);
        return NULL;
    }
    c->worker = w;
    c->id = ++w->conn_seq * w->count + (w->index - 1);
    wheel_item_init(&c->timer);
    ev_io_init(&c->io, conn_on_io, fd, EV_READ);
    conn_set_session(c, ops, session);
    ev_io_start(w->loop, &c->io);
    worker_conn_opened(w);
    return c;
}

static void conn_mark_dirty(struct conn *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    c->next = c->worker->dirty;
    c->worker->dirty = c;
}

int conn_send(struct conn *c, const void *data, size_t len)
{
    if (c->state != CONN_OPEN)
        return 0;
    if (outq_append(&c->out, &c->worker->chunks, data, len) < 0) {
        conn_close(c);
        return -1;
    }
    metrics_add(c->worker->metrics, METRIC_QUEUED_BYTES, len);
    if (!(c->io.events & EV_WRITE))
        conn_mark_dirty(c);
    return 0;
}

/* The queue is empty and nothing more will be sent. */
static void conn_linger(struct conn *c)
{
    conn_move(c, CONN_LINGERING);
    shutdown(c->io.fd, SHUT_WR);
    conn_watch(c, EV_READ);
}

void conn_flush(struct conn *c)
{
    struct worker *w = c->worker;
    while (c->out.bytes > 0) {
        struct iovec iov[CONN_IOV];
        int count = outq_peek(&c->out, iov, CONN_IOV);
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)count};
        ssize_t n = sendmsg(c->io.fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            conn_watch(c, c->out.bytes > CONN_READ_STOP ? EV_WRITE : EV_READ | EV_WRITE);
            return;
        }
        if (n < 0) {
            if (c->state == CONN_OPEN)
                c->ops->on_eof(c);
            conn_close(c);
            return;
        }
        metrics_add(w->metrics, METRIC_BYTES_OUT, (uint64_t)n);
        metrics_sub(w->metrics, METRIC_QUEUED_BYTES, (uint64_t)n);
        outq_consume(&c->out, &w->chunks, (size_t)n);
    }
    if (c->state == CONN_FLUSHING)
        conn_linger(c);
    else if (c->io.events & EV_WRITE)
        conn_watch(c, EV_READ);
}

void conn_finish(struct conn *c, double linger)
{
    if (c->state != CONN_OPEN)
        return;
    conn_move(c, CONN_FLUSHING);
    conn_set_deadline(c, linger);
    conn_mark_dirty(c);
}

void conn_close(struct conn *c)
{
    struct worker *w = c->worker;
    if (c->state == CONN_DEAD)
        return;
    conn_move(c, CONN_DEAD);
    wheel_remove(&c->timer);
    ev_io_stop(w->loop, &c->io);
    close(c->io.fd);
    metrics_sub(w->metrics, METRIC_QUEUED_BYTES, c->out.bytes);
    outq_clear(&c->out, &w->chunks);
    conn_mark_dirty(c);
}

void conn_set_deadline(struct conn *c, double seconds)
{
    if (c->state != CONN_DEAD)
        wheel_set(&c->worker->wheel, &c->timer, seconds);
}

void conn_on_deadline(struct wheel_item *item, void *arg)
{
    (void)arg;
    struct conn *c = LIST_ENTRY(item, struct conn, timer);
    if (c->state == CONN_LINGERING)
        conn_close(c);
    else
        c->ops->on_timeout(c);
}

void conn_later(struct conn *c)
{
    c->later = true;
    conn_mark_dirty(c);
}

void conn_settle(struct conn *c)
{
    c->dirty = false;
    if (c->later) {
        c->later = false;
        c->ops->on_later(c);
    }
    if (c->state != CONN_DEAD)
        conn_flush(c);
    else if (!c->dirty) {
        c->ops->on_dead(c);
        worker_conn_closed(c->worker);
        free(c);
    }
}
