/* SPDX-License-Identifier: MIT
 * An open-loop client for servers that are reloaded meanwhile. Message i is due at a fixed time, whatever the
 * server does, and goes out on connection i modulo --connections; its delay counts from when it was due. The
 * measured time is cut into phases, so that the driver (reload.py) can do something in every other one: it
 * reads "connected" and "phase P" from the standard output when they begin.
 *
 * A message is its number on the connection, from 0, in decimal and padded with zeros to --size. The server's
 * answer is its generation, how many messages it has counted on that connection, and the message, with blanks
 * between. What is wrong about an answer ends the process; connections that are cut are counted. */
#include "client.h"
#include "hist.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND    UINT64_C(1000000000)
#define EVENTS    256
#define READ_SIZE 65536
#define LARGEST   80            /* of a message: answers have the short form of length */
#define DRAIN_NS  (10 * SECOND) /* at the end, without any answer */
#define LONGEST   (2 + 125)     /* a frame */

static struct {
    struct client_target target;
    unsigned connections, phases;
    size_t size;
    double rate, seconds, settle;
} opt = {.connections = 1000, .phases = 2, .size = 20, .rate = 1000, .seconds = 5, .settle = 1};

struct conn {
    int fd;                      /* -1: cut */
    uint8_t have, part[LONGEST]; /* a frame that has come in part */
    uint32_t sent, back;         /* messages */
    uint64_t generation;
};

static struct {
    struct conn *conns;
    int epoll;
    uint64_t start_ns, total, next; /* messages in all, and the next to send */
    struct hist *delays;            /* of each phase, without the time in which it settles */
    uint64_t back, unsent, last_ns; /* how many are back, were due on cut connections; when the last came */
    uint64_t newest;                /* generation */
    unsigned cut;
} all;

static uint64_t message_due_ns(uint64_t i)
{
    return client_due_ns(all.start_ns, i, opt.rate);
}

static void message_record(uint64_t i, uint64_t delay_ns)
{
    double due = (double)i / opt.rate;
    unsigned phase = MIN((unsigned)(due / opt.seconds), opt.phases - 1);
    if (due - phase * opt.seconds >= opt.settle)
        hist_record(&all.delays[phase], delay_ns);
}

static void conn_cut(struct conn *c)
{
    close(c->fd);
    c->fd = -1;
    all.cut++;
}

static void conn_send(struct conn *c)
{
    uint8_t frame[CLIENT_HEAD_MAX + LARGEST + 1];
    size_t at = client_frame_head(frame, OP_TEXT, opt.size, true);
    const uint8_t *mask = frame + at;
    arc4random_buf(frame + at, 4);
    at += 4;
    snprintf((char *)frame + at, opt.size + 1, "%0*" PRIu32, (int)opt.size, c->sent);
    for (size_t i = 0; i < opt.size; i++)
        frame[at + i] ^= mask[i % 4];
    ssize_t n = send(c->fd, frame, at + opt.size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) {
        conn_cut(c);
        all.unsent++;
        return;
    }
    if (n != (ssize_t)(at + opt.size))
        errx(CLIENT_FAILED, "the server does not read");
    c->sent++;
}

static void conn_on_answer(struct conn *c, const uint8_t *data, size_t len, uint64_t now_ns)
{
    char text[LONGEST + 1];
    uint64_t generation;
    uint32_t count, number;
    memcpy(text, data, len);
    text[len] = '\0';
    if (sscanf(text, "%" SCNu64 " %" SCNu32 " %" SCNu32, &generation, &count, &number) != 3)
        errx(CLIENT_FAILED, "wrong answer: %s", text);
    if (number != c->back || count != number + 1 || number >= c->sent || generation < c->generation)
        errx(CLIENT_FAILED, "answer %s instead of number %" PRIu32 ", after generation %" PRIu64, text,
             c->back, c->generation);
    uint64_t i = (uint64_t)(c - all.conns) + (uint64_t)c->back++ * opt.connections;
    message_record(i, now_ns - message_due_ns(i));
    c->generation = generation;
    all.newest = MAX(all.newest, generation);
    all.back++;
}

/* Takes whole frames; returns how many bytes they are. False when the server closes. */
static bool conn_take(struct conn *c, const uint8_t *data, size_t len, size_t *taken, uint64_t now_ns)
{
    *taken = 0;
    while (len - *taken >= 2) {
        const uint8_t *frame = data + *taken;
        size_t size = frame[1];
        if (size > 125 || !(frame[0] & FINAL))
            errx(CLIENT_FAILED, "wrong frame: %02x %02x", frame[0], frame[1]);
        if (len - *taken < 2 + size)
            break;
        if ((frame[0] & OPCODE) == OP_CLOSE)
            return false;
        if ((frame[0] & OPCODE) == OP_TEXT) /* pings go unanswered: the messages say that we live */
            conn_on_answer(c, frame + 2, size, now_ns);
        *taken += 2 + size;
    }
    return true;
}

static void conn_read(struct conn *c)
{
    static uint8_t input[LONGEST + READ_SIZE];
    memcpy(input, c->part, c->have);
    ssize_t n = recv(c->fd, input + c->have, READ_SIZE, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    uint64_t now_ns = client_clock_ns(CLOCK_MONOTONIC);
    size_t len = c->have + (n > 0 ? (size_t)n : 0), taken;
    all.last_ns = now_ns;
    if (n <= 0 || !conn_take(c, input, len, &taken, now_ns)) {
        conn_cut(c);
        return;
    }
    c->have = (uint8_t)(len - taken);
    memcpy(c->part, input + taken, c->have);
}

/* ---- the run ---- */

static void run_prepare(void)
{
    client_allow_files();
    all.total = (uint64_t)(opt.rate * opt.seconds * opt.phases);
    all.delays = client_allocate(opt.phases, sizeof all.delays[0]);
    all.conns = client_allocate(opt.connections, sizeof all.conns[0]);
    all.epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < opt.connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all.conns[i]};
        all.conns[i].fd = client_connect(&opt.target).fd;
        if (epoll_ctl(all.epoll, EPOLL_CTL_ADD, all.conns[i].fd, &event) < 0)
            err(CLIENT_FAILED, "epoll_ctl");
    }
    printf("connected\n");
    fflush(stdout);
}

static void run_send_due(uint64_t now_ns)
{
    for (; all.next < all.total && message_due_ns(all.next) <= now_ns; all.next++) {
        struct conn *c = &all.conns[all.next % opt.connections];
        if (c->fd >= 0)
            conn_send(c);
        else
            all.unsent++;
    }
}

static void run_wait(uint64_t until_ns)
{
    struct epoll_event events[EVENTS];
    int n = client_wait(all.epoll, events, EVENTS, until_ns);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->fd >= 0)
            conn_read(c);
    }
}

static void run(void)
{
    uint64_t now_ns = client_clock_ns(CLOCK_MONOTONIC), phase_ns = (uint64_t)(opt.seconds * 1e9);
    unsigned phase = 0;
    all.start_ns = now_ns + SECOND / 10;
    while (all.next < all.total) {
        if (now_ns >= all.start_ns + phase * phase_ns) {
            printf("phase %u\n", phase++);
            fflush(stdout);
        }
        run_send_due(now_ns);
        run_wait(message_due_ns(all.next));
        now_ns = client_clock_ns(CLOCK_MONOTONIC);
    }
    all.last_ns = now_ns;
    while (all.back + all.unsent < all.total && now_ns < all.last_ns + DRAIN_NS) {
        run_wait(now_ns + SECOND / 100);
        now_ns = client_clock_ns(CLOCK_MONOTONIC);
    }
}

/* ---- the report ---- */

static void report_phase(unsigned phase)
{
    static const double percents[] = {50, 90, 99, 99.9, 100};
    const struct hist *delays = &all.delays[phase];
    printf("{\"phase\": %u", phase);
    client_print_number(true, "messages", (double)delays->count);
    for (size_t i = 0; i < sizeof percents / sizeof percents[0] && delays->count > 0; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%g_ms", percents[i]);
        client_print_number(true, name, hist_percentile_us(delays, percents[i]) / 1e3);
    }
    printf("}\n");
}

static void report(void)
{
    uint64_t oldest = all.newest, sent = 0;
    for (unsigned i = 0; i < opt.connections; i++) {
        sent += all.conns[i].sent;
        if (all.conns[i].fd >= 0)
            oldest = MIN(oldest, all.conns[i].generation);
    }
    for (unsigned phase = 0; phase < opt.phases; phase++)
        report_phase(phase);
    printf("{\"connections\": %u", opt.connections);
    client_print_number(true, "connections_lost", all.cut);
    client_print_number(true, "messages_sent", (double)sent);
    client_print_number(true, "messages_lost", (double)(sent - all.back));
    client_print_number(true, "oldest_generation", (double)oldest);
    client_print_number(true, "newest_generation", (double)all.newest);
    printf("}\n");
}

static void parse_command_line(int argc, char **argv)
{
    static const struct option known[] = {{"url", 1, NULL, 'u'},    {"connections", 1, NULL, 'c'},
                                          {"rate", 1, NULL, 'r'},   {"size", 1, NULL, 's'},
                                          {"phases", 1, NULL, 'p'}, {"seconds", 1, NULL, 'T'},
                                          {"settle", 1, NULL, 'S'}, {0}};
    bool good = true;
    for (int option, i = 0; (option = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = known[i].name;
        switch (option) {
        case 'u': good &= client_parse_url(&opt.target, optarg); break;
        case 'c': opt.connections = (unsigned)client_parse_number(name, optarg, 1, 1e6); break;
        case 'r': opt.rate = client_parse_number(name, optarg, 1, 1e6); break;
        case 's': opt.size = (size_t)client_parse_number(name, optarg, 10, LARGEST); break;
        case 'p': opt.phases = (unsigned)client_parse_number(name, optarg, 1, 1000); break;
        case 'T': opt.seconds = client_parse_number(name, optarg, 0.1, 3600); break;
        case 'S': opt.settle = client_parse_number(name, optarg, 0, 3600); break;
        default: good = false;
        }
    }
    if (!good || optind < argc || opt.target.path[0] != '/' || opt.settle >= opt.seconds)
        errx(CLIENT_USAGE,
             "usage: --url HOST:PORT/PATH [--connections C] [--rate MESSAGES_A_SECOND] [--size BYTES]\n"
             "  [--phases P] [--seconds OF_EACH] [--settle SECONDS_NOT_MEASURED]");
}

int main(int argc, char **argv)
{
    parse_command_line(argc, argv);
    client_resolve(&opt.target);
    run_prepare();
    run();
    report();
    for (unsigned i = 0; i < opt.connections; i++)
        if (all.conns[i].fd >= 0)
            close(all.conns[i].fd);
    freeaddrinfo(opt.target.address);
    free(all.conns);
    free(all.delays);
    return 0;
}
