/* SPDX-License-Identifier: MIT
 * A load generator for WebSockets that speak permessage-deflate: sends frames that were compressed before it
 * starts, and counts what comes back without inflating it, so that its own work does not hide the server's.
 * One thread. The file of frames: each with four bytes of length, most significant first, before it.
 *
 * Echo: each connection has one message outstanding. Broadcast (--publish): the first connection sends one
 * and the next when all connections have it. Anything wrong ends the process with exit code 1. */
#include "client.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE   (256 * 1024)
#define EVENTS      256
#define FRAMES_MAX  4096
#define COMPRESSED  0x40
#define PATIENCE_MS 10000

static struct {
    struct client_target target;
    unsigned connections;
    const char *cpu_of;
    double seconds, warm_up;
    const char *frames;
    bool publish, json;
} opt = {.connections = 50, .seconds = 5, .warm_up = 1};

struct frame {
    const uint8_t *data;
    size_t len;
};

struct connection {
    int fd;
    unsigned next;     /* frame to send */
    const uint8_t *at; /* what the kernel has not taken of one */
    size_t left;
    uint8_t head[CLIENT_HEAD_MAX];
    size_t have;   /* of the head */
    uint64_t todo; /* of the payload */
};

static struct frame frames[FRAMES_MAX];
static unsigned nframes;
static struct connection *connections;
static uint64_t total, messages, compressed, bytes_in; /* read; the last three of what is measured */

static void load_frames(void)
{
    static uint8_t file[64 << 20];
    FILE *f = fopen(opt.frames, "r");
    if (f == NULL)
        err(CLIENT_FAILED, "%s", opt.frames);
    size_t size = fread(file, 1, sizeof file, f);
    fclose(f);
    for (size_t at = 0; at + 4 <= size && nframes < FRAMES_MAX; at += frames[nframes++].len) {
        size_t len = (size_t)file[at] << 24 | file[at + 1] << 16 | file[at + 2] << 8 | file[at + 3];
        at += 4;
        if (len > size - at)
            errx(CLIENT_FAILED, "%s is cut short", opt.frames);
        frames[nframes] = (struct frame){file + at, len};
    }
    if (nframes == 0)
        errx(CLIENT_FAILED, "%s has no frames", opt.frames);
}

static void flush(int epoll, struct connection *c)
{
    while (c->left > 0) {
        ssize_t n = send(c->fd, c->at, c->left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            err(CLIENT_FAILED, "send");
        if (n < 0)
            break;
        c->at += n;
        c->left -= (size_t)n;
    }
    struct epoll_event e = {.events = EPOLLIN | (c->left > 0 ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e) < 0)
        err(CLIENT_FAILED, "epoll_ctl");
}

static void send_next(int epoll, struct connection *c)
{
    const struct frame *f = &frames[c->next++ % nframes];
    c->at = f->data;
    c->left = f->len;
    flush(epoll, c);
}

/* A message is whole. */
static void on_message(int epoll, struct connection *c)
{
    total++;
    messages++;
    compressed += (c->head[0] & COMPRESSED) != 0;
    if (!opt.publish)
        send_next(epoll, c);
    else if (total % opt.connections == 0)
        send_next(epoll, connections);
}

/* The payload's length once the head is whole. */
static bool head_is_whole(struct connection *c)
{
    size_t width = (c->head[1] & LENGTH) == 126 ? 2 : (c->head[1] & LENGTH) == 127 ? 8 : 0;
    if (c->have < 2 || c->have < 2 + width)
        return false;
    if (c->head[0] != (FINAL | OP_TEXT) && c->head[0] != (FINAL | COMPRESSED | OP_TEXT))
        errx(CLIENT_FAILED, "a frame begins with %02x", c->head[0]);
    c->todo = width == 0 ? c->head[1] & LENGTH : 0;
    for (size_t i = 0; i < width; i++)
        c->todo = c->todo << 8 | c->head[2 + i];
    return true;
}

static void on_readable(int epoll, struct connection *c)
{
    static uint8_t data[READ_SIZE];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n <= 0)
        errx(CLIENT_FAILED, "a connection is lost");
    bytes_in += (uint64_t)n;
    for (size_t at = 0, len = (size_t)n; at < len || c->todo > 0;) {
        if (c->todo == 0) {
            c->head[c->have++] = data[at++];
            if (!head_is_whole(c))
                continue;
        }
        size_t part = len - at < c->todo ? len - at : (size_t)c->todo;
        at += part;
        c->todo -= part;
        if (c->todo > 0)
            return;
        c->have = 0;
        on_message(epoll, c);
    }
}

static void run(int epoll, double seconds)
{
    uint64_t end = client_clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    struct epoll_event events[EVENTS];
    while (client_clock_ns(CLOCK_MONOTONIC) < end) {
        int n = epoll_wait(epoll, events, EVENTS, PATIENCE_MS);
        if (n == 0)
            errx(CLIENT_FAILED, "nothing comes back");
        for (int i = 0; i < n; i++) {
            if (events[i].events & EPOLLOUT)
                flush(epoll, events[i].data.ptr);
            if (events[i].events & ~(unsigned)EPOLLOUT)
                on_readable(epoll, events[i].data.ptr);
        }
    }
}

static void report(struct client_reading from, struct client_reading to)
{
    double seconds = (to.at - from.at) / 1e6, n = (double)messages;
    if (messages == 0)
        errx(CLIENT_FAILED, "no message came back");
    printf(opt.json ? "{\"connections\": %u" : "connections %u\n", opt.connections);
    client_print_number(opt.json, "messages_per_second", n / seconds);
    client_print_number(opt.json, "server_us_per_message",
                        (to.user - from.user + to.system - from.system) / n);
    client_print_number(opt.json, "server_cpu_percent",
                        (to.user - from.user + to.system - from.system) / 1e4 / seconds);
    client_print_number(opt.json, "load_cpu_percent", (to.own - from.own) / 1e4 / seconds);
    client_print_number(opt.json, "bytes_per_message", (double)bytes_in / n);
    client_print_number(opt.json, "compressed_percent", 100 * (double)compressed / n);
    if (opt.json)
        puts("}");
}

static void parse_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"url", required_argument, NULL, 'u'},    {"connections", required_argument, NULL, 'c'},
        {"frames", required_argument, NULL, 'f'}, {"offer", required_argument, NULL, 'o'},
        {"publish", no_argument, NULL, 'p'},      {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'w'}, {"cpu-of", required_argument, NULL, 'C'},
        {"json", no_argument, NULL, 'j'},         {NULL, 0, NULL, 0},
    };
    static char fields[512];
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'u':
            if (!client_parse_url(&opt.target, optarg))
                errx(CLIENT_USAGE, "--url %s: expected HOST:PORT/PATH", optarg);
            break;
        case 'c': opt.connections = (unsigned)client_parse_number("connections", optarg, 1, 1e6); break;
        case 'f': opt.frames = optarg; break;
        case 'o':
            snprintf(fields, sizeof fields, "Sec-WebSocket-Extensions: %s\r\n", optarg);
            opt.target.fields = fields;
            break;
        case 'p': opt.publish = true; break;
        case 's': opt.seconds = client_parse_number("seconds", optarg, 0.01, 1e6); break;
        case 'w': opt.warm_up = client_parse_number("warmup", optarg, 0, 1e6); break;
        case 'C': opt.cpu_of = optarg; break;
        case 'j': opt.json = true; break;
        default: exit(CLIENT_USAGE);
        }
    if (opt.target.host[0] == '\0' || opt.frames == NULL || optind < argc)
        errx(CLIENT_USAGE, "usage: packed --url HOST:PORT/PATH --frames FILE [--offer TEXT] [--publish] ...");
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    load_frames();
    client_resolve(&opt.target);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = client_allocate(opt.connections, sizeof *connections);
    for (unsigned i = 0; i < opt.connections; i++) {
        struct connection *c = &connections[i];
        *c = (struct connection){.fd = client_connect(&opt.target).fd, .next = i};
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e) < 0)
            err(CLIENT_FAILED, "epoll");
    }
    for (unsigned i = 0; i < (opt.publish ? 1 : opt.connections); i++)
        send_next(epoll, &connections[i]);
    run(epoll, opt.warm_up);
    messages = compressed = bytes_in = 0;
    struct client_reading from = client_take_reading(opt.cpu_of);
    run(epoll, opt.seconds);
    struct client_reading to = client_take_reading(opt.cpu_of);
    report(from, to);
    freeaddrinfo(opt.target.address);
    return 0;
}
