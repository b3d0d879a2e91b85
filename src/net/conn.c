/* SPDX-License-Identifier: MIT
 * The life cycle of one connection. */
#include "net/conn.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net/peers.h"
#include "net/tls.h"
#include "net/worker.h"

#define CONN_IOV 64

/* More is not copied to wait for the end of the iteration, but written at once. */
#define CONN_COPY_MAX (32 * 1024)

/* Fewer bytes of a block are cheaper to copy than to share. And a share keeps the whole block in memory: only
 * what is a good part of it may. */
#define CONN_SHARE_MIN  1024
#define CONN_SHARE_PART 4

/* The allowed moves of the diagram in conn.h. */
static const bool conn_moves[4][4] = {
    [CONN_OPEN] = {[CONN_FLUSHING] = true, [CONN_DEAD] = true},
    [CONN_FLUSHING] = {[CONN_LINGERING] = true, [CONN_DEAD] = true},
    [CONN_LINGERING] = {[CONN_DEAD] = true},
};

static void conn_move(struct conn *c, enum conn_state to)
{
    assert(conn_moves[c->state][to]);
    metrics_add_kind(c->worker->metrics, METRIC_CONNECTIONS, c->state, (uint64_t)-1);
    metrics_add_kind(c->worker->metrics, METRIC_CONNECTIONS, to, 1);
    c->state = (uint8_t)to;
}

struct conn_held {
    struct list link; /* in the worker's ready list */
    struct conn *conn;
    size_t start, len;
    uint8_t data[];
};

static void conn_watch(struct conn *c, int events)
{
    if (c->io.events == events && ev_is_active(&c->io) == (events != 0))
        return;
    ev_io_stop(c->worker->loop, &c->io);
    ev_io_set(&c->io, c->io.fd, events);
    if (events != 0)
        ev_io_start(c->worker->loop, &c->io);
}

/* Watches for what the connection is waiting for now. */
static void conn_rewatch(struct conn *c, bool blocked)
{
    bool read = !c->holds && !c->paused && !(blocked && c->out.bytes > CONN_READ_STOP);
    conn_watch(c, (read ? EV_READ : 0) | (blocked ? EV_WRITE : 0));
    if (read && c->secure && c->state == CONN_OPEN && tls_is_over(c->tls[0])) {
        ev_feed_event(c->worker->loop, &c->io, EV_READ); /* the socket may have no more to say */
        worker_poll(c->worker);
    }
}

static bool conn_is_blocked(const struct conn *c)
{
    return (c->io.events & EV_WRITE) != 0;
}

/* Keeps input for the next turn. */
static void conn_hold(struct conn *c, const void *data, size_t len)
{
    struct conn_held *h = malloc(sizeof *h + len);
    if (h == NULL) {
        conn_close(c);
        return;
    }
    h->conn = c;
    h->start = 0;
    h->len = len;
    if (len > 0)
        memcpy(h->data, data, len);
    c->holds = true;
    list_append(&c->worker->ready, &h->link);
    conn_rewatch(c, conn_is_blocked(c));
}

/* Gives input to the protocol. Returns how much was dealt with; -1 when it is all over with it. */
static ssize_t conn_give(struct conn *c, uint8_t *data, size_t len)
{
    c->again = false;
    c->holds = true;
    size_t used = c->ops->on_data(c, data, len);
    return c->state == CONN_OPEN && (used < len || c->again) ? (ssize_t)used : -1;
}

static void conn_given(struct conn *c)
{
    c->holds = false;
    if (c->state != CONN_DEAD)
        conn_rewatch(c, conn_is_blocked(c));
}

static void conn_feed_held(struct conn_held *h)
{
    struct conn *c = h->conn;
    ssize_t used = c->state == CONN_OPEN ? conn_give(c, h->data + h->start, h->len - h->start) : -1;
    if (used >= 0) {
        h->start += (size_t)used;
        list_append(&c->worker->ready, &h->link);
        return;
    }
    free(h);
    conn_given(c);
}

/* Throws away what a dying connection holds; rare enough for a search. */
static void conn_drop_held(struct conn *c)
{
    struct list *ready = &c->worker->ready;
    for (struct list *l = ready->next; l != ready; l = l->next) {
        struct conn_held *h = LIST_ENTRY(l, struct conn_held, link);
        if (h->conn == c) {
            list_remove(&h->link);
            free(h);
            return;
        }
    }
}

void conn_feed_ready(struct worker *w)
{
    struct list now;
    list_take(&now, &w->ready);
    while (!list_empty(&now)) {
        struct conn_held *h = LIST_ENTRY(now.next, struct conn_held, link);
        list_remove(&h->link);
        conn_feed_held(h);
    }
}

static void conn_got(struct conn *c, uint8_t *data, size_t n)
{
    metrics_add(c->worker->metrics, METRIC_BYTES_IN, n);
    if (c->state != CONN_OPEN)
        return;
    ssize_t used = conn_give(c, data, n);
    if (used >= 0)
        conn_hold(c, data + used, n - (size_t)used);
    else
        conn_given(c);
}

/* Whether bytes are sealed on their way out, and opened on their way in. */
static bool conn_is_sealing(const struct conn *c)
{
    return c->secure && tls_is_started(c->tls[0]);
}

bool conn_is_shaking_hands(const struct conn *c)
{
    return conn_is_sealing(c) && !tls_is_ready(c->tls[0]);
}

size_t conn_sip(const struct conn *c)
{
    return c->secure ? CONN_SIP + TLS_SLACK : CONN_SIP;
}

bool conn_is_sending(const struct conn *c)
{
    return c->out.bytes > 0 || (c->secure && tls_sealed(c->tls[0]) > 0);
}

/* Input is thrown away once the connection is not OPEN: nobody opens it then. */
static ssize_t conn_recv(const struct conn *c, uint8_t *to, size_t room)
{
    if (conn_is_sealing(c) && (c->state == CONN_OPEN || conn_is_shaking_hands(c)))
        return tls_recv(c->tls[0], c->io.fd, to, room);
    return recv(c->io.fd, to, room, 0);
}

static void conn_log_fault(const struct conn *c)
{
    struct log_context about = {.worker = c->worker->index, .conn = c->id};
    log_write(LOG_DEBUG, &about, "TLS failed: %s", tls_why(c->tls[0]));
}

/* TLS has failed: tries to have the peer hear why. What it has sent is read first, or the end of the socket
 * would be a reset, which overtakes the alert. */
static void conn_tell_alert(const struct conn *c)
{
    tls_send(c->tls[0], c->io.fd, NULL, 0);
    shutdown(c->io.fd, SHUT_WR);
    recv(c->io.fd, c->worker->input, WORKER_INPUT, 0);
}

/* recv has failed (-1) or come to the peer's end (0). */
static void conn_on_end(struct conn *c, ssize_t n)
{
    if (n < 0 && errno == EPROTO && c->secure) {
        conn_log_fault(c);
        conn_tell_alert(c);
    }
    if (c->state == CONN_OPEN && n == 0) {
        c->ops->on_eof(c);
        assert(c->state != CONN_OPEN || c->paused);
    } else if (c->state == CONN_FLUSHING && n == 0)
        /* Half-closed by the peer, which may still read: go on writing, the deadline bounds it. */
        conn_watch(c, EV_WRITE);
    else if (c->state == CONN_OPEN) {
        c->ops->on_eof(c);
        conn_close(c);
    } else
        conn_close(c);
}

/* What comes before TLS stays with the kernel until it is known how much that is. */
static void conn_read_before_tls(struct conn *c)
{
    struct worker *w = c->worker;
    ssize_t n = recv(c->io.fd, w->input, CONN_SIP, MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_on_end(c, n);
        return;
    }
    size_t used = c->ops->on_data(c, w->input, (size_t)n);
    metrics_add(w->metrics, METRIC_BYTES_IN, used);
    if (c->state != CONN_DEAD && used > 0)
        recv(c->io.fd, w->input, used, 0);
}

static void conn_mark_dirty(struct conn *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    c->next = c->worker->dirty;
    c->worker->dirty = c;
}

static void conn_read(struct conn *c)
{
    uint8_t *to = NULL;
    size_t room = c->state == CONN_OPEN && c->ops->on_room != NULL ? c->ops->on_room(c, &to) : 0;
    if (room == 0) {
        to = c->worker->input;
        room = c->sips ? conn_sip(c) : WORKER_INPUT;
    }
    ssize_t n = conn_recv(c, to, room);
    if (c->secure && conn_is_sending(c) && !conn_is_blocked(c))
        conn_mark_dirty(c); /* the handshake goes on, or it is over and what waited for it can leave */
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        conn_got(c, to, (size_t)n);
    else
        conn_on_end(c, n);
}

static void conn_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    struct conn *c = LIST_ENTRY(io, struct conn, io);
    if (revents & EV_WRITE)
        conn_flush(c);
    if ((revents & EV_READ) && c->state != CONN_DEAD) {
        if (c->secure && !conn_is_sealing(c))
            conn_read_before_tls(c);
        else
            conn_read(c);
    }
    if (c->worker->fresh > WORKER_FRESH && !c->worker->due)
        worker_send_fresh(c->worker);
}

struct conn *conn_create(struct worker *w, int fd, const struct conn_ops *ops, void *session, struct tls *tls)
{
    struct conn *c = calloc(1, sizeof *c + (tls != NULL ? sizeof c->tls[0] : 0));
    if (c == NULL) {
        tls_destroy(tls);
        close(fd);
        return NULL;
    }
    if (tls != NULL) {
        c->secure = true;
        c->tls[0] = tls;
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

/* `len` bytes have been added to the queue, or, when `rc` is not 0, have found no memory. */
static int conn_queued(struct conn *c, int rc, size_t len)
{
    if (rc < 0) {
        conn_close(c);
        return -1;
    }
    metrics_add(c->worker->metrics, METRIC_QUEUED_BYTES, len);
    c->worker->fresh += len;
    if (!conn_is_blocked(c))
        conn_mark_dirty(c);
    return 0;
}

/* The kernel has taken the first `n` bytes: `n - queue` of something that was never in the queue. */
static void conn_taken(struct conn *c, size_t n, size_t queue)
{
    struct worker *w = c->worker;
    c->last_sent = w->wheel.now;
    metrics_add(w->metrics, METRIC_BYTES_OUT, n);
    metrics_sub(w->metrics, METRIC_QUEUED_BYTES, queue);
    outq_consume(&c->out, &w->chunks, queue);
    if (c->tell_sent)
        c->ops->on_sent(c, n);
}

static ssize_t conn_write_sealed(struct conn *c, const struct iovec *iov, int count)
{
    size_t before = tls_sealed(c->tls[0]);
    ssize_t n = tls_send(c->tls[0], c->io.fd, iov, count);
    if (tls_sealed(c->tls[0]) < before)
        c->last_sent = c->worker->wheel.now; /* it takes what was sealed long ago */
    return n;
}

/* As sendmsg(2). One piece is the rule, and cheaper without the vector. */
static ssize_t conn_write(struct conn *c, struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    if (conn_is_sealing(c))
        return conn_write_sealed(c, iov, count);
    return count == 1 ? send(c->io.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                      : sendmsg(c->io.fd, &msg, MSG_NOSIGNAL);
}

/* Writes the queue and what is to go behind it. Returns how much of that the kernel took, or TLS, which takes
 * it bit by bit; what is wrong with the socket is for conn_flush to find out. */
static size_t conn_write_behind(struct conn *c, const void *data, size_t len)
{
    struct iovec iov[CONN_IOV];
    int count = outq_peek(&c->out, iov, CONN_IOV);
    if (conn_is_blocked(c) || count == CONN_IOV)
        return 0;
    iov[count] = (struct iovec){.iov_base = (void *)data, .iov_len = len};
    ssize_t n = conn_write(c, iov, count + 1);
    if (n <= 0)
        return 0;
    size_t queue = (size_t)n < c->out.bytes ? (size_t)n : c->out.bytes;
    conn_taken(c, (size_t)n, queue);
    return (size_t)n - queue;
}

int conn_send(struct conn *c, const void *data, size_t len)
{
    if (c->state != CONN_OPEN)
        return 0;
    return conn_queued(c, outq_append(&c->out, &c->worker->chunks, data, len), len);
}

int conn_send_at_once(struct conn *c, const void *data, size_t len)
{
    size_t taken = 0, n = 1;
    while (len - taken > CONN_COPY_MAX && n > 0 && c->state == CONN_OPEN && (taken == 0 || c->secure)) {
        n = conn_write_behind(c, (const uint8_t *)data + taken, len - taken);
        taken += n;
    }
    if (c->secure && taken > 0)
        conn_mark_dirty(c); /* some of it may be sealed only */
    return taken == len ? 0 : conn_send(c, (const uint8_t *)data + taken, len - taken);
}

int conn_send_block(struct conn *c, struct block *b, size_t at, size_t len)
{
    if (c->state != CONN_OPEN)
        return 0;
    bool share = len >= CONN_SHARE_MIN && len >= b->cap / CONN_SHARE_PART;
    int rc = share ? outq_append_block(&c->out, &c->worker->chunks, b, at, len)
                   : outq_append(&c->out, &c->worker->chunks, b->data + at, len);
    return conn_queued(c, rc, len);
}

/* The queue is empty and nothing more will be sent. */
static void conn_linger(struct conn *c)
{
    conn_move(c, CONN_LINGERING);
    shutdown(c->io.fd, SHUT_WR);
    conn_watch(c, EV_READ);
}

/* Whether there is anything for the socket; at the end of all, TLS's own end. */
static bool conn_has_output(const struct conn *c)
{
    if (c->out.bytes > 0 || !c->secure)
        return c->out.bytes > 0;
    if (c->state == CONN_FLUSHING)
        tls_end(c->tls[0]);
    return tls_sealed(c->tls[0]) > 0;
}

void conn_flush(struct conn *c)
{
    while (conn_has_output(c)) {
        struct iovec iov[CONN_IOV];
        ssize_t n = conn_write(c, iov, outq_peek(&c->out, iov, CONN_IOV));
        if (n < 0 && errno == EINPROGRESS && c->secure) {
            conn_rewatch(c, false); /* the peer's part of the handshake is next */
            return;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            conn_rewatch(c, true);
            return;
        }
        if (n < 0) {
            if (c->state == CONN_OPEN)
                c->ops->on_eof(c);
            conn_close(c);
            return;
        }
        if (n > 0)
            conn_taken(c, (size_t)n, (size_t)n);
    }
    if (c->state == CONN_FLUSHING)
        conn_linger(c);
    else if (conn_is_blocked(c))
        conn_rewatch(c, false);
    if (c->tell_drained) {
        c->tell_drained = false;
        conn_later(c);
    }
}

void conn_finish(struct conn *c, double linger)
{
    if (c->state != CONN_OPEN)
        return;
    conn_move(c, CONN_FLUSHING);
    c->paused = false;
    conn_set_deadline(c, linger);
    conn_mark_dirty(c);
}

/* What has been sent is all there is (RFC 8446, 6.1); as far as the socket takes that at once. */
static void conn_say_end(const struct conn *c)
{
    if (c->out.bytes > 0 || !conn_is_sealing(c) || !tls_is_ready(c->tls[0]))
        return;
    tls_end(c->tls[0]);
    tls_send(c->tls[0], c->io.fd, NULL, 0);
}

void conn_close(struct conn *c)
{
    struct worker *w = c->worker;
    if (c->state == CONN_DEAD)
        return;
    conn_say_end(c);
    conn_move(c, CONN_DEAD);
    wheel_remove(&c->timer);
    ev_io_stop(w->loop, &c->io);
    close(c->io.fd);
    tls_destroy(conn_tls(c));
    c->secure = false;
    peers_leave(c->timer.user);
    if (c->client)
        metrics_sub(w->metrics, METRIC_CLIENTS, 1);
    metrics_sub(w->metrics, METRIC_QUEUED_BYTES, c->out.bytes);
    outq_clear(&c->out, &w->chunks);
    conn_mark_dirty(c); /* its held input goes with it: on_data may be working on it */
}

void conn_set_deadline(struct conn *c, double seconds)
{
    if (c->state != CONN_DEAD)
        wheel_set(&c->worker->wheel, &c->timer, seconds);
}

void conn_pause(struct conn *c)
{
    c->paused = true;
    conn_rewatch(c, conn_is_blocked(c));
}

void conn_resume(struct conn *c, const void *data, size_t len)
{
    c->paused = false;
    if (c->state != CONN_OPEN)
        return;
    assert(len == 0 || !c->holds);
    if (c->holds)
        c->again = true;
    else
        conn_hold(c, data, len);
}

bool conn_peer_gone(const struct conn *c, bool or_half)
{
    struct pollfd p = {.fd = c->io.fd, .events = or_half ? POLLRDHUP : 0};
    if (or_half && c->secure && tls_is_over(c->tls[0]))
        return true;
    return poll(&p, 1, 0) > 0 && p.revents != 0; /* POLLHUP and POLLERR come unasked */
}

bool conn_has_input(const struct conn *c)
{
    struct pollfd p = {.fd = c->io.fd, .events = POLLIN};
    return c->holds || poll(&p, 1, 0) > 0;
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

static void conn_run_later(struct conn *c)
{
    if (!c->later)
        return;
    c->later = false;
    c->ops->on_later(c);
}

void conn_settle(struct conn *c)
{
    c->dirty = false;
    conn_run_later(c);
    if (c->state != CONN_DEAD) {
        conn_flush(c);
        conn_run_later(c); /* the queue has emptied */
    } else if (!c->dirty) {
        if (c->holds)
            conn_drop_held(c);
        c->ops->on_dead(c);
        assert(!c->dirty);
        worker_conn_closed(c->worker);
        free(c);
    }
}
