/* SPDX-License-Identifier: MIT
 * For tests of connections: up to two over socket pairs, with a record of their callbacks, and their peers.
 */
#ifndef TIDEWIRE_TESTS_CONN_FIXTURE_H
#define TIDEWIRE_TESTS_CONN_FIXTURE_H

#include "worker_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/conn.h"

enum { BIG = 3 << 20 };

/* What became of one connection, a letter for each callback: d(ata) e(of) t(imeout) s(top) l(ater) x (dead);
 * and what its callbacks do. */
struct probe {
    struct conn *c; /* NULL once it is dead */
    int peer;
    char trace[64];
    struct buf got;
    void (*on[128])(struct probe *p);
    size_t bite; /* the most that on_data takes at once; 0: all */
    struct probe *other;
};

static struct probe probes[2];
static struct probe *const one = &probes[0], *const two = &probes[1];

static inline void happened(struct probe *p, char what)
{
    size_t n = strlen(p->trace);
    assert_true(n + 1 < sizeof p->trace);
    p->trace[n] = what;
    if (p->on[(int)what] != NULL)
        p->on[(int)what](p);
}

static inline size_t on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct probe *p = conn_session(c);
    assert_int_equal(c->state, CONN_OPEN);
    assert_true(len > 0);
    if (p->bite > 0 && len > p->bite)
        len = p->bite;
    assert_int_equal(buf_append(&p->got, data, len), 0);
    memset(data, 0, len); /* may be changed in place */
    happened(p, 'd');
    return len;
}

static inline void on_eof(struct conn *c)
{
    assert_int_equal(c->state, CONN_OPEN);
    happened(conn_session(c), 'e');
    if (c->state == CONN_OPEN)
        conn_close(c);
}

static inline void on_timeout(struct conn *c)
{
    assert_true(c->state == CONN_OPEN || c->state == CONN_FLUSHING);
    happened(conn_session(c), 't');
}

static inline void on_stop(struct conn *c)
{
    assert_int_equal(c->state, CONN_OPEN);
    happened(conn_session(c), 's');
}

static inline void on_later(struct conn *c)
{
    happened(conn_session(c), 'l');
}

static inline void on_dead(struct conn *c)
{
    struct probe *p = conn_session(c);
    assert_int_equal(c->state, CONN_DEAD);
    happened(p, 'x');
    p->c = NULL;
}

static const struct conn_ops ops = {
    .on_data = on_data,
    .on_eof = on_eof,
    .on_timeout = on_timeout,
    .on_stop = on_stop,
    .on_later = on_later,
    .on_dead = on_dead,
};

/* ---- the world ---- */

static inline void open_probe(struct probe *p)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    memset(p, 0, sizeof *p);
    p->peer = fds[1];
    p->c = conn_create(worker, fds[0], &ops, p, NULL);
    assert_non_null(p->c);
    conn_set_deadline(p->c, 3600);
}

static inline void close_peer(struct probe *p)
{
    if (p->peer >= 0)
        close(p->peer);
    p->peer = -1;
}

static inline int set_up(void **state)
{
    (void)state;
    worker_set_up();
    one->peer = two->peer = -1;
    one->c = two->c = NULL;
    open_probe(one);
    return 0;
}

/* However the test ended it, a connection is dead once, and last. */
static inline int tear_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct probe *p = &probes[i];
        if (p->c != NULL)
            conn_close(p->c);
        run();
        close_peer(p);
        assert_null(p->c);
        size_t n = strlen(p->trace);
        if (n > 0)
            assert_int_equal(strcspn(p->trace, "x"), n - 1);
        buf_fini(&p->got);
        memset(p, 0, sizeof *p);
    }
    worker_tear_down();
    return 0;
}

/* ---- the peer ---- */

static inline void peer_writes(const struct probe *p, const char *text)
{
    assert_int_equal(write(p->peer, text, strlen(text)), strlen(text));
}

enum { NOTHING = -1, END = -2, RESET = -3 };

/* The next byte the peer reads, or one of the above. */
static inline int peer_reads(const struct probe *p)
{
    unsigned char byte;
    ssize_t n = recv(p->peer, &byte, 1, MSG_DONTWAIT);
    if (n == 1)
        return byte;
    if (n == 0)
        return END;
    return errno == EAGAIN ? NOTHING : RESET;
}

static inline void assert_peer_reads(const struct probe *p, const char *text)
{
    for (; *text != '\0'; text++)
        assert_int_equal(peer_reads(p), *text);
}

static inline char pattern_at(size_t i)
{
    return (char)(i * 7 + i / 251);
}

static inline void send_pattern(struct conn *c, size_t len)
{
    char *data = malloc(len);
    assert_non_null(data);
    for (size_t i = 0; i < len; i++)
        data[i] = pattern_at(i);
    assert_int_equal(conn_send(c, data, len), 0);
    free(data);
}

/* Reads up to `max` bytes of the pattern from `at` on; returns where it is then. */
static inline size_t peer_reads_pattern(const struct probe *p, size_t at, size_t max)
{
    char data[4096];
    for (size_t end = at + max; at < end;) {
        ssize_t n = recv(p->peer, data, end - at < sizeof data ? end - at : sizeof data, MSG_DONTWAIT);
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(data[i], pattern_at(at++));
    }
    return at;
}

/* Reads the pattern from `at` to its end; each time it is waited for, something has to be there. */
static inline void peer_reads_the_rest(const struct probe *p, size_t at)
{
    while (at < BIG) {
        size_t next = peer_reads_pattern(p, at, 100000);
        assert_true(next > at);
        at = next;
        run();
    }
}

/* ---- what callbacks do ---- */

static inline void do_finish(struct probe *p)
{
    conn_finish(p->c, 5);
}

static inline void do_say_goodbye(struct probe *p)
{
    assert_int_equal(conn_send(p->c, "bye", 3), 0);
    conn_finish(p->c, 5);
}

#endif
