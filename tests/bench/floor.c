/* SPDX-License-Identifier: MIT
 * The floor to compare a server with: a bare libev loop that sends back the bytes it reads. No frames, no
 * masks, no scripts, one thread. So that a WebSocket client can talk to it, it answers the head of a request
 * (up to the blank line, whatever it says) with a fixed 101; from then on the connection is a pipe.
 *
 *   HEAD -> ECHOING <-> BLOCKED (reads nothing until the kernel has taken the rest) */
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/list.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

#define READ_SIZE    (256 * 1024)
#define BACKLOG      4096
#define ACCEPT_BATCH 64

/* The accept value is the answer to the key dGhlIHNhbXBsZSBub25jZQ== (RFC 6455, 1.3). */
static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\n"
                             "Upgrade: websocket\r\n"
                             "Connection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                             "\r\n";
static const char BLANK_LINE[] = "\r\n\r\n";

struct conn {
    ev_io io;
    struct list link;
    uint8_t matched; /* bytes of BLANK_LINE seen; all of them: the head is over */
    uint8_t *rest;   /* what the kernel did not take: rest[rest_at .. rest_len); made when first needed */
    size_t rest_at, rest_len;
};

static struct list conns;
static uint8_t input[READ_SIZE];

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILED);
}

/* ---- connections ---- */

static void conn_close(struct ev_loop *loop, struct conn *c)
{
    ev_io_stop(loop, &c->io);
    close(c->io.fd);
    list_remove(&c->link);
    free(c->rest);
    free(c);
}

static void conn_watch(struct ev_loop *loop, struct conn *c, int events)
{
    ev_io_stop(loop, &c->io);
    ev_io_modify(&c->io, events);
    ev_io_start(loop, &c->io);
}

/* Sends what the kernel takes. Returns how much that was, or -1 when the connection is gone. */
static ssize_t conn_send(struct conn *c, const uint8_t *data, size_t len)
{
    ssize_t n = send(c->io.fd, data, len, MSG_NOSIGNAL);
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : n;
}

/* Sends, and keeps what the kernel does not take: less than READ_SIZE, as nothing is read meanwhile. */
static int conn_write(struct ev_loop *loop, struct conn *c, const uint8_t *data, size_t len)
{
    ssize_t n = conn_send(c, data, len);
    if (n < 0)
        return -1;
    if ((size_t)n == len)
        return 0;
    if (c->rest == NULL && (c->rest = malloc(READ_SIZE)) == NULL)
        return -1;
    c->rest_at = 0;
    c->rest_len = len - (size_t)n;
    memcpy(c->rest, data + n, c->rest_len);
    conn_watch(loop, c, EV_WRITE);
    return 0;
}

static int conn_write_rest(struct ev_loop *loop, struct conn *c)
{
    ssize_t n = conn_send(c, c->rest + c->rest_at, c->rest_len - c->rest_at);
    if (n < 0)
        return -1;
    c->rest_at += (size_t)n;
    if (c->rest_at == c->rest_len)
        conn_watch(loop, c, EV_READ);
    return 0;
}

/* Looks for the end of the head; answers when it is there. Returns how many bytes belong to the head, or -1.
 */
static ssize_t conn_read_head(struct conn *c, const uint8_t *data, size_t len)
{
    size_t n = 0;
    while (n < len && BLANK_LINE[c->matched] != '\0') {
        uint8_t byte = data[n++];
        if (byte == BLANK_LINE[c->matched])
            c->matched++;
        else
            c->matched = byte == '\r';
    }
    /* A new socket takes an answer of this size whole. */
    if (BLANK_LINE[c->matched] == '\0' &&
        conn_send(c, (const uint8_t *)ANSWER, sizeof ANSWER - 1) != sizeof ANSWER - 1)
        return -1;
    return (ssize_t)n;
}

static int conn_read(struct ev_loop *loop, struct conn *c)
{
    ssize_t n = recv(c->io.fd, input, sizeof input, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0)
        return -1;
    ssize_t head = BLANK_LINE[c->matched] != '\0' ? conn_read_head(c, input, (size_t)n) : 0;
    if (head < 0)
        return -1;
    return head < n ? conn_write(loop, c, input + head, (size_t)(n - head)) : 0;
}

static void conn_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    struct conn *c = io->data;
    if ((revents & EV_WRITE ? conn_write_rest(loop, c) : conn_read(loop, c)) < 0)
        conn_close(loop, c);
}

/* ---- the server ---- */

static void on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)revents;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            return;
        struct conn *c = fd >= 0 ? calloc(1, sizeof *c) : NULL;
        if (c == NULL)
            fail("cannot accept");
        ev_io_init(&c->io, conn_on_io, fd, EV_READ);
        c->io.data = c;
        list_append(&conns, &c->link);
        ev_io_start(loop, &c->io);
    }
}

static void on_signal(struct ev_loop *loop, ev_signal *signal, int revents)
{
    (void)signal;
    (void)revents;
    ev_break(loop, EVBREAK_ALL);
}

/* Listens on 127.0.0.1 and says on which port. Accepted sockets inherit TCP_NODELAY. */
static int listen_on(uint16_t port)
{
    int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        fail("cannot listen");
    fprintf(stderr, "listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static uint16_t parse_command_line(int argc, char **argv)
{
    static const struct option options[] = {{"port", required_argument, NULL, 'p'}, {0}};
    unsigned long port = 0;
    char *end = NULL;
    bool good = true;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        good = good && option == 'p' && (port = strtoul(optarg, &end, 10)) <= UINT16_MAX && *optarg != '\0' &&
               *end == '\0';
    }
    if (!good || optind < argc) {
        fprintf(stderr, "usage: floor [--port N]    0, the default, picks one\n");
        exit(EXIT_USAGE);
    }
    return (uint16_t)port;
}

int main(int argc, char **argv)
{
    uint16_t port = parse_command_line(argc, argv);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct ev_loop *loop = ev_default_loop(EVBACKEND_EPOLL);
    if (loop == NULL)
        fail("no epoll");
    list_init(&conns);

    ev_io listener;
    ev_signal on_int, on_term;
    ev_signal_init(&on_int, on_signal, SIGINT);
    ev_signal_init(&on_term, on_signal, SIGTERM);
    ev_signal_start(loop, &on_int);
    ev_signal_start(loop, &on_term);
    ev_io_init(&listener, on_accept, listen_on(port), EV_READ);
    ev_io_start(loop, &listener);
    ev_run(loop, 0);

    while (!list_empty(&conns))
        conn_close(loop, LIST_ENTRY(conns.next, struct conn, link));
    ev_io_stop(loop, &listener);
    close(listener.fd);
    ev_loop_destroy(loop);
    return 0;
}
