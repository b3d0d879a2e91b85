/* SPDX-License-Identifier: MIT
 * Measures how many connections a second a server takes. Keeps --parallel attempts under way: when one has
 * ended, the next begins (a closed loop). One thread owns everything; anything wrong ends the process with
 * exit code 1.
 *
 *   upgrade  CONNECTING -> READING (the request is sent) -> over: the whole 101 has been read
 *   tcp      CONNECTING -> READING (our side is ended)   -> over: the server has ended its side
 *
 * A connection that has been upgraded is reset: the server has least to do with that, and no port stays
 * taken. With --hold connections are kept instead, until the standard input is closed. */
#include "client.h"
#include "hist.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS      256
#define PATIENCE_MS 10000 /* without any progress */

/* Each pair of addresses has its own ports: where ports stay taken, connections come from 127.0.0.2 and so
 * on. */
#define FIRST_SOURCE 2
#define SOURCES      250

static struct {
    struct client_target target;
    unsigned parallel, hold;
    const char *cpu_of;
    double seconds, warm_up;
    bool tcp, tls, resume, json;
} opt = {.parallel = 64, .seconds = 5, .warm_up = 1};

struct attempt {
    struct wire wire;
    bool ready; /* the request has been sent, or our side has been ended */
    uint64_t begun_ns;
    size_t len;
    char head[CLIENT_ANSWER_MAX]; /* of the answer, as much as has come */
};

static struct {
    enum { WARM_UP, MEASURE, DRAIN } phase;
    int epoll;
    struct attempt *attempts;
    struct wire *held;
    char request[CLIENT_REQUEST_MAX];
    size_t request_len;
    uint64_t begun, over;
    bool sources;         /* to spread connections over */
    SSL_SESSION *session; /* that all resume; or NULL */
    struct hist hist;
} all;

/* ---- connections that are held ---- */

/* What stands in epoll for a connection that is held; for others it is the address of their attempt. */
static epoll_data_t held_mark(const struct wire *held)
{
    return (epoll_data_t){.u64 = (uint64_t)(uintptr_t)held | 1};
}

/* Something has come on a connection that is held: a ping, which it answers, or it is an error. */
static void held_read(struct wire *held)
{
    uint8_t ping[CLIENT_CONTROL_MAX], pong[CLIENT_CONTROL_MAX];
    ssize_t n = wire_recv(held, ping, sizeof ping, 0);
    if (n < 0 && errno == EAGAIN) /* there was more of TLS than of WebSocket */
        return;
    if (n <= 0)
        errx(CLIENT_FAILED, "a connection is lost: %s", n < 0 ? strerror(errno) : "the server closed it");
    if (n < 2 || ping[0] != (FINAL | OP_PING) || ping[1] != n - 2)
        errx(CLIENT_FAILED, "a connection got something else than a ping: %02x", ping[0]);
    size_t len = client_make_pong(ping, ping[1], pong);
    if (wire_send(held, pong, len, MSG_NOSIGNAL) != (ssize_t)len)
        err(CLIENT_FAILED, "a connection is lost");
}

/* ---- attempts ---- */

/* The kernel is to choose the port when it knows where to: then only both ends together must be unique. */
static void bind_source(int fd)
{
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr =
        htonl((INADDR_LOOPBACK & ~0xffU) + FIRST_SOURCE + (uint32_t)(all.begun % SOURCES));
    int on = 1;
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        err(CLIENT_FAILED, "cannot bind to another address of the loopback");
}

/* Does what is ours to do, once, unless it is not connected yet. */
static void attempt_go_on(struct attempt *a)
{
    if (opt.tcp)
        a->ready = shutdown(a->wire.fd, SHUT_WR) == 0;
    else
        a->ready =
            wire_send(&a->wire, all.request, all.request_len, MSG_NOSIGNAL) == (ssize_t)all.request_len;
    if (!a->ready && errno != EAGAIN)
        err(CLIENT_FAILED, "cannot connect to %s:%s", opt.target.host, opt.target.port);
}

static void attempt_begin(struct attempt *a)
{
    const struct addrinfo *address = opt.target.address;
    struct linger reset = {.l_onoff = 1};
    a->len = 0;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (!opt.tcp && setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0))
        err(CLIENT_FAILED, "socket");
    if (all.sources)
        bind_source(fd);
    a->begun_ns = client_clock_ns(CLOCK_MONOTONIC);
    wire_init(&a->wire, fd, opt.target.tls, all.session);
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS)
        err(CLIENT_FAILED, "cannot connect to %s:%s", opt.target.host, opt.target.port);
    all.begun++;
    a->ready = false;
    if (!opt.tcp) /* over the loopback it is connected by now; to shut it down before would cancel it */
        attempt_go_on(a);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = a};
    if (!a->ready)
        event.events |= EPOLLOUT;
    if (epoll_ctl(all.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        err(CLIENT_FAILED, "epoll_ctl");
}

/* Reads what has come. Returns whether the attempt is over. */
static bool attempt_read(struct attempt *a)
{
    ssize_t n = wire_recv(&a->wire, a->head + a->len, sizeof a->head - 1 - a->len, 0);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (opt.tcp && n == 0)
        return true;
    if (n <= 0)
        errx(CLIENT_FAILED, "no answer: %s", n < 0 ? strerror(errno) : "the server closed the connection");
    if (opt.tcp)
        errx(CLIENT_FAILED, "the server sends something before it is asked");
    a->len += (size_t)n;
    const char *end = memmem(a->head, a->len, "\r\n\r\n", 4);
    if (end == NULL && a->len == sizeof a->head - 1)
        errx(CLIENT_FAILED, "the head of the answer is too long");
    if (end == NULL)
        return false;
    a->head[a->len] = '\0';
    client_check_answer(a->head);
    if (opt.hold > 0 && end + 4 != a->head + a->len)
        errx(CLIENT_FAILED, "the server sends something behind its answer");
    if (all.session != NULL && !SSL_session_reused(a->wire.ssl))
        errx(CLIENT_FAILED, "the server did not resume the session");
    return true;
}

static void attempt_end(struct attempt *a)
{
    if (all.phase == MEASURE)
        hist_record(&all.hist, client_clock_ns(CLOCK_MONOTONIC) - a->begun_ns);
    all.over++;
    if (opt.hold == 0)
        wire_fini(&a->wire);
    else {
        struct wire *held = &all.held[all.over - 1];
        struct epoll_event event = {.events = EPOLLIN, .data = held_mark(held)};
        *held = a->wire;
        if (epoll_ctl(all.epoll, EPOLL_CTL_MOD, held->fd, &event) < 0)
            err(CLIENT_FAILED, "epoll_ctl");
    }
    if (all.phase != DRAIN && (opt.hold == 0 || all.begun < opt.hold))
        attempt_begin(a);
}

/* ---- the loop ---- */

static void prepare(void)
{
    const struct addrinfo *address = opt.target.address;
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address->ai_addr;
    bool loopback =
        address->ai_family == AF_INET && ntohl(in->sin_addr.s_addr) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET;
    all.sources = loopback && (opt.tcp || opt.hold > 0);
    all.request_len = client_make_request(&opt.target, all.request);
    all.epoll = epoll_create1(EPOLL_CLOEXEC);
    all.attempts = client_allocate(opt.parallel, sizeof all.attempts[0]);
    all.held = client_allocate(opt.hold, sizeof all.held[0]);
    if (!opt.tls)
        return;
    opt.target.tls = wire_make_context();
    SSL_CTX_set_mode(opt.target.tls, SSL_MODE_RELEASE_BUFFERS);
    if (opt.resume) {
        struct wire first = client_connect(&opt.target);
        all.session = wire_take_session(&first);
        wire_fini(&first);
    }
}

/* Handles what has happened; waits for it if nothing has. */
static void turn(void)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(all.epoll, events, EVENTS, PATIENCE_MS);
    if (n == 0)
        errx(CLIENT_FAILED, "%ju attempts stay without an answer", (uintmax_t)(all.begun - all.over));
    for (int i = 0; i < n; i++) {
        struct attempt *a = events[i].data.ptr;
        if (events[i].data.u64 & 1) {
            held_read((struct wire *)(uintptr_t)(events[i].data.u64 & ~UINT64_C(1)));
            continue;
        }
        if (!a->ready)
            attempt_go_on(a);
        if (a->ready && attempt_read(a))
            attempt_end(a);
    }
}

/* Runs until this much time has passed. */
static struct client_reading run_for(double seconds)
{
    uint64_t end = client_clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    while (client_clock_ns(CLOCK_MONOTONIC) < end)
        turn();
    return client_take_reading(opt.cpu_of);
}

static void report(const struct client_reading *from, const struct client_reading *to)
{
    double elapsed = to->at - from->at, count = (double)all.hist.count;
    double user = to->user - from->user, system = to->system - from->system;
    printf(opt.json ? "{\"mode\": \"%s\", \"parallel\": %u, \"held\": %u"
                    : "mode %s, %u attempts under way, %u connections held\n",
           opt.tcp ? "tcp" : "upgrade", opt.parallel, opt.hold);
    client_print_number(opt.json, "seconds", elapsed / 1e6);
    client_print_number(opt.json, "connects_per_second", count / elapsed * 1e6);
    hist_print(opt.json, &all.hist);
    client_print_number(opt.json, "load_cpu_percent", 100 * (to->own - from->own) / elapsed);
    if (opt.cpu_of != NULL) {
        client_print_number(opt.json, "server_cpu_percent", 100 * (user + system) / elapsed);
        client_print_number(opt.json, "server_user_us_per_connect", user / count);
        client_print_number(opt.json, "server_system_us_per_connect", system / count);
    }
    printf(opt.json ? "}\n" : "");
    fflush(stdout);
}

/* Connections come and go for a time. */
static void measure(void)
{
    for (unsigned i = 0; i < opt.parallel; i++)
        attempt_begin(&all.attempts[i]);
    struct client_reading from = run_for(opt.warm_up);
    all.phase = MEASURE;
    struct client_reading to = run_for(opt.seconds);
    all.phase = DRAIN;
    while (all.over < all.begun)
        turn();
    if (all.hist.count == 0)
        errx(CLIENT_FAILED, "no attempt was over within the measured time");
    report(&from, &to);
}

/* Opens connections, and keeps them until the standard input is closed. */
static void hold(void)
{
    struct client_reading from = client_take_reading(opt.cpu_of);
    all.phase = MEASURE;
    for (unsigned i = 0; i < MIN(opt.parallel, opt.hold); i++)
        attempt_begin(&all.attempts[i]);
    while (all.over < opt.hold)
        turn();
    struct client_reading to = client_take_reading(opt.cpu_of);
    report(&from, &to);
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = all.epoll, .events = POLLIN}};
    while (poll(fds, 2, -1) > 0) {
        char text[64];
        if (fds[0].revents != 0 && read(STDIN_FILENO, text, sizeof text) <= 0)
            return;
        if (fds[1].revents != 0)
            turn();
    }
}

static void parse_command_line(int argc, char **argv)
{
    static const struct option known[] = {{"url", 1, NULL, 'u'},
                                          {"parallel", 1, NULL, 'p'},
                                          {"mode", 1, NULL, 'm'},
                                          {"seconds", 1, NULL, 'T'},
                                          {"warmup", 1, NULL, 'w'},
                                          {"hold", 1, NULL, 'h'},
                                          {"json", 0, NULL, 'j'},
                                          {"cpu-of", 1, NULL, 'C'},
                                          {"tls", 0, NULL, 'S'},
                                          {"resume", 0, NULL, 'r'},
                                          {0}};
    bool good = true, timed = false;
    for (int option, i = 0; (option = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = known[i].name;
        switch (option) {
        case 'u': good &= client_parse_url(&opt.target, optarg); break;
        case 'p': opt.parallel = (unsigned)client_parse_number(name, optarg, 1, 1e5); break;
        case 'm': good &= (opt.tcp = strcmp(optarg, "tcp") == 0) || strcmp(optarg, "upgrade") == 0; break;
        case 'T':
            opt.seconds = client_parse_number(name, optarg, 0.01, 3600);
            timed = true;
            break;
        case 'w':
            opt.warm_up = client_parse_number(name, optarg, 0, 3600);
            timed = true;
            break;
        case 'h': opt.hold = (unsigned)client_parse_number(name, optarg, 1, 1e6); break;
        case 'C': opt.cpu_of = optarg; break;
        case 'j': opt.json = true; break;
        case 'S': opt.tls = true; break;
        case 'r': opt.resume = true; break;
        default: good = false;
        }
    }
    if (!good || optind < argc || opt.target.path[0] != '/' || (opt.hold > 0 && (timed || opt.tcp)) ||
        (opt.tls && opt.tcp) || (opt.resume && !opt.tls))
        errx(CLIENT_USAGE, "usage: --url HOST:PORT/PATH [--parallel K] [--mode upgrade|tcp] [--seconds T] "
                           "[--warmup W] [--json]\n"
                           "  [--tls [--resume]] [--cpu-of PID,PID]\n"
                           "or with --hold N instead of --mode, --seconds and --warmup");
}

int main(int argc, char **argv)
{
    parse_command_line(argc, argv);
    client_allow_files();
    client_resolve(&opt.target);
    prepare();
    if (opt.hold > 0)
        hold();
    else
        measure();
    for (unsigned i = 0; i < opt.hold; i++)
        wire_fini(&all.held[i]);
    close(all.epoll);
    free(all.held);
    free(all.attempts);
    SSL_SESSION_free(all.session);
    SSL_CTX_free(opt.target.tls);
    freeaddrinfo(opt.target.address);
    return 0;
}
