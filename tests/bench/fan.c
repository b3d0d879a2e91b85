/* SPDX-License-Identifier: MIT
 * A load generator for servers that publish each message to the other clients. One thread holds all
 * connections, owns all memory, counts what each client receives and checks that nothing is lost, doubled or
 * out of order: what is ends the process with exit code 1.
 *
 * A closed loop. N to N: each client starts with --in-flight messages and sends another whenever it has
 * received a round, which is as many messages as there are clients that it hears. So sends are spread over
 * the time in which the clients are read, and with one in flight none of them gets further than a round ahead
 * of the slowest. 1 to N: a message is back when every receiver has read it, and --in-flight of them are
 * outstanding.
 *
 *   WARM_UP -> MEASURE -> DRAIN (nothing more becomes due; what is outstanding must still arrive) */
#include "client.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE     (256 * 1024)
#define EVENTS        1024
#define CHECK_EVERY   1000  /* one message in so many, the first of each client too, is compared whole */
#define PATIENCE_MS   10000 /* without any input while something is outstanding */
#define SENDER_CHARS  3     /* a message begins with its sender and its number, six bits in each character */
#define NUMBER_CHARS  6
#define LABEL         (SENDER_CHARS + NUMBER_CHARS)
#define MAX_IN_FLIGHT 65536

static struct {
    struct client_target target;
    unsigned clients, in_flight;
    const char *cpu_of;
    size_t size;
    double seconds, warm_up;
    bool one, all, json;
} opt = {.clients = 100, .in_flight = 1, .size = 20, .seconds = 5, .warm_up = 1};

struct conn {
    int fd;
    bool blocked; /* waits until it can send */
    uint8_t mask[4];
    unsigned due;       /* messages that may be sent */
    uint32_t published; /* how many have been made, which is the number of the next */
    uint32_t in_round;  /* messages received of this round */
    uint64_t received;
    uint8_t *rest; /* of the input: the beginning of a frame */
    size_t rest_len;
    uint8_t *out; /* what the kernel has not taken, from out_at to out_len; empty unless blocked */
    size_t out_at, out_len;
};

static struct {
    enum { WARM_UP, MEASURE, DRAIN } phase;
    int epoll;
    unsigned connections, publishers, receivers; /* the first are the publishers; receivers of each message */
    struct conn *conns;
    uint32_t *expected; /* [receiver][publisher]: the number of the message that comes next */
    uint32_t *missing;  /* 1 to N, [number % in_flight]: how many receivers have yet to read it */
    uint8_t *frame;     /* head, room for a mask, payload: messages differ in mask and label */
    size_t head_len, frame_len;
    uint8_t head[CLIENT_HEAD_MAX]; /* as the server has to send it */
    size_t expected_len;           /* of the whole frame from the server */
    uint64_t published, delivered, reads;
    uint8_t *input; /* space for a rest, then READ_SIZE */
    size_t rest_max;
} fan;

/* ---- messages ---- */

static void put_label(uint8_t *at, uint32_t value, unsigned chars)
{
    for (; chars > 0; chars--, value >>= 6)
        at[chars - 1] = (uint8_t)('0' + value % 64);
}

static uint32_t get_label(const uint8_t *at, unsigned chars)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < chars; i++)
        value = value << 6 | (uint8_t)(at[i] - '0');
    return value;
}

static void on_message(struct conn *c, const uint8_t *payload)
{
    uint32_t from = get_label(payload, SENDER_CHARS),
             number = get_label(payload + SENDER_CHARS, NUMBER_CHARS);
    unsigned to = (unsigned)(c - fan.conns);
    const uint8_t *filler = fan.frame + fan.head_len + 4 + LABEL;
    if (from >= fan.publishers ||
        (c->received++ % CHECK_EVERY == 0 && memcmp(payload + LABEL, filler, opt.size - LABEL) != 0))
        errx(CLIENT_FAILED, "client %u: a message is not what was sent", to);
    if (from == to && !opt.all)
        errx(CLIENT_FAILED, "client %u: got its own message", to);
    uint32_t *expected = &fan.expected[(size_t)to * fan.publishers + from];
    if (number != *expected)
        errx(CLIENT_FAILED,
             "client %u: message %u of client %u came where %u was expected: %s or out of order", to, number,
             from, *expected, number < *expected ? "doubled" : "some are lost");
    ++*expected;
    fan.delivered++;
    if (opt.one)
        fan.conns[0].due += --fan.missing[number % opt.in_flight] == 0;
    else if (++c->in_round == fan.receivers) {
        c->in_round = 0;
        c->due++;
    }
}

/* ---- connections ---- */

static void conn_watch(struct conn *c, int operation, bool blocked)
{
    struct epoll_event event = {.events = blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->blocked = blocked;
    if (epoll_ctl(fan.epoll, operation, c->fd, &event) < 0)
        err(CLIENT_FAILED, "epoll_ctl");
}

static void conn_write(struct conn *c)
{
    ssize_t n = 0;
    while (c->out_at < c->out_len && n >= 0) {
        n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            err(CLIENT_FAILED, "connection lost");
        c->out_at += (size_t)MAX(n, 0);
    }
    if (n >= 0)
        c->out_at = c->out_len = 0;
    if (c->blocked != (n < 0))
        conn_watch(c, EPOLL_CTL_MOD, n < 0);
}

/* Writes the connection's next message behind its output. */
static void conn_add_message(struct conn *c)
{
    uint8_t *at = c->out + c->out_len, *payload = at + fan.head_len + 4;
    memcpy(at, fan.frame, fan.frame_len);
    memcpy(payload - 4, c->mask, 4);
    put_label(payload, (uint32_t)(c - fan.conns), SENDER_CHARS);
    put_label(payload + SENDER_CHARS, c->published, NUMBER_CHARS);
    for (size_t i = 0; i < opt.size; i++)
        payload[i] ^= c->mask[i % 4];
    if (opt.one)
        fan.missing[c->published % opt.in_flight] = fan.receivers;
    c->published++;
    fan.published++;
    c->out_len += fan.frame_len;
}

/* Sends what is due, as much of it as the kernel takes. */
static void conn_publish(struct conn *c)
{
    while (c->due > 0 && !c->blocked && fan.phase != DRAIN) {
        for (unsigned room = opt.in_flight; c->due > 0 && room > 0; room--, c->due--)
            conn_add_message(c);
        conn_write(c);
    }
}

/* Answers a ping, unless the connection is blocked: what arrives later says that we live. */
static void conn_on_control(struct conn *c, const uint8_t *frame, size_t size)
{
    unsigned op = frame[0] & OPCODE;
    if (op == OP_CLOSE)
        errx(CLIENT_FAILED, "connection lost: Close %d", size >= 2 ? frame[2] << 8 | frame[3] : 1005);
    if (op != OP_PING || c->blocked)
        return;
    c->out_len = client_make_pong(frame, size, c->out);
    conn_write(c);
}

/* Takes a frame other than a whole message: returns the length of a control frame, 0 when more bytes are
 * needed. */
static size_t conn_take_other(struct conn *c, const uint8_t *frame, size_t len)
{
    if (memcmp(frame, fan.head, MIN(len, fan.head_len)) == 0 || len < 2)
        return 0;
    size_t size = frame[1];
    if ((frame[0] & ~OPCODE) != FINAL || (frame[0] & OPCODE) < OP_CLOSE || (frame[0] & OPCODE) > OP_PONG ||
        size > 125)
        errx(CLIENT_FAILED, "client %td: wrong frame: head %02x %02x where %02x %02x was expected",
             c - fan.conns, frame[0], frame[1], fan.head[0], fan.head[1]);
    if (len < 2 + size)
        return 0;
    conn_on_control(c, frame, size);
    return 2 + size;
}

static void conn_read(struct conn *c)
{
    uint8_t *start = fan.input + fan.rest_max;
    ssize_t n = recv(c->fd, start, READ_SIZE, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        errx(CLIENT_FAILED, "connection lost: %s", n < 0 ? strerror(errno) : "the server closed it");
    if (n < 0)
        return;
    fan.reads++;
    const uint8_t *at = start - c->rest_len, *end = start + n;
    memcpy(start - c->rest_len, c->rest, c->rest_len);
    for (size_t taken = 1; taken > 0; at += taken)
        if ((size_t)(end - at) >= fan.expected_len && memcmp(at, fan.head, fan.head_len) == 0) {
            on_message(c, at + fan.head_len);
            taken = fan.expected_len;
        } else
            taken = conn_take_other(c, at, (size_t)(end - at));
    c->rest_len = (size_t)(end - at);
    memcpy(c->rest, at, c->rest_len);
}

/* ---- the loop ---- */

static void prepare(void)
{
    fan.publishers = opt.one ? 1 : opt.clients;
    fan.connections = opt.clients + opt.one;
    fan.receivers = fan.connections - !opt.all;
    fan.expected = client_allocate((size_t)fan.connections * fan.publishers, sizeof fan.expected[0]);
    fan.missing = client_allocate(opt.in_flight, sizeof fan.missing[0]);

    fan.frame = client_allocate(CLIENT_HEAD_MAX + opt.size, 1);
    fan.head_len = client_frame_head(fan.frame, OP_TEXT, opt.size, true);
    fan.frame_len = fan.head_len + 4 + opt.size;
    arc4random_buf(fan.frame + fan.head_len + 4, opt.size);
    for (size_t i = 0; i < opt.size; i++)
        fan.frame[fan.head_len + 4 + i] = (uint8_t)('0' + fan.frame[fan.head_len + 4 + i] % 64);
    fan.expected_len = client_frame_head(fan.head, OP_TEXT, opt.size, false) + opt.size;

    fan.rest_max = MAX(fan.expected_len, CLIENT_CONTROL_MAX);
    fan.input = client_allocate(fan.rest_max + READ_SIZE, 1);
    fan.epoll = epoll_create1(EPOLL_CLOEXEC);
    fan.conns = client_allocate(fan.connections, sizeof fan.conns[0]);
    for (unsigned i = 0; i < fan.connections; i++) {
        struct conn *c = &fan.conns[i];
        arc4random_buf(c->mask, sizeof c->mask);
        c->rest = client_allocate(fan.rest_max, 1);
        c->out =
            client_allocate((i < fan.publishers ? opt.in_flight * fan.frame_len : 0) + CLIENT_CONTROL_MAX, 1);
        c->fd = client_connect(&opt.target).fd;
        conn_watch(c, EPOLL_CTL_ADD, false);
    }
}

static uint64_t outstanding(void)
{
    return fan.published * fan.receivers - fan.delivered;
}

/* One round of input, and the messages that became due by it. */
static void turn(void)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(fan.epoll, events, EVENTS, PATIENCE_MS);
    if (n == 0)
        errx(CLIENT_FAILED, "%ju deliveries are missing", (uintmax_t)outstanding());
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            conn_read(c);
        if (events[i].events & EPOLLOUT)
            conn_write(c);
        conn_publish(opt.one ? &fan.conns[0] : c);
    }
}

struct counts {
    struct client_reading time;
    uint64_t published, delivered, reads;
};

/* Runs until this much time has passed, and says where things stand. */
static struct counts run_for(double seconds)
{
    uint64_t end = client_clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    while (client_clock_ns(CLOCK_MONOTONIC) < end)
        turn();
    return (struct counts){client_take_reading(opt.cpu_of), fan.published, fan.delivered, fan.reads};
}

static void report(const struct counts *from, const struct counts *to)
{
    double elapsed = to->time.at - from->time.at, count = (double)(to->delivered - from->delivered);
    double user = to->time.user - from->time.user, system = to->time.system - from->time.system;
    printf(opt.json ? "{\"mode\": \"%s\", \"to\": \"%s\", \"size\": %zu, \"clients\": %u, \"in_flight\": %u"
                    : "%s, published to %s, text messages of %zu bytes, %u clients, %u in flight for each "
                      "publisher\n",
           opt.one ? "1-to-n" : "n-to-n", opt.all ? "all" : "others", opt.size, opt.clients, opt.in_flight);
    client_print_number(opt.json, "seconds", elapsed / 1e6);
    client_print_number(opt.json, "deliveries_per_second", count / elapsed * 1e6);
    client_print_number(opt.json, "messages_per_second",
                        (double)(to->published - from->published) / elapsed * 1e6);
    client_print_number(opt.json, "megabytes_per_second", count / elapsed * (double)opt.size);
    client_print_number(opt.json, "deliveries_per_read", count / (double)(to->reads - from->reads));
    client_print_number(opt.json, "load_cpu_percent", 100 * (to->time.own - from->time.own) / elapsed);
    if (opt.cpu_of != NULL) {
        client_print_number(opt.json, "server_cpu_percent", 100 * (user + system) / elapsed);
        client_print_number(opt.json, "server_user_ns_per_delivery", 1e3 * user / count);
        client_print_number(opt.json, "server_system_ns_per_delivery", 1e3 * system / count);
    }
    printf(opt.json ? "}\n" : "");
}

static void parse_command_line(int argc, char **argv)
{
    static const struct option known[] = {{"url", 1, NULL, 'u'},
                                          {"clients", 1, NULL, 'c'},
                                          {"mode", 1, NULL, 'm'},
                                          {"to", 1, NULL, 'o'},
                                          {"size", 1, NULL, 's'},
                                          {"in-flight", 1, NULL, 'i'},
                                          {"warmup", 1, NULL, 'w'},
                                          {"json", 0, NULL, 'j'},
                                          {"seconds", 1, NULL, 'T'},
                                          {"cpu-of", 1, NULL, 'C'},
                                          {0}};
    bool good = true;
    for (int option, i = 0; (option = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = known[i].name;
        switch (option) {
        case 'u': good &= client_parse_url(&opt.target, optarg); break;
        case 'c': opt.clients = (unsigned)client_parse_number(name, optarg, 2, 1 << 17); break;
        case 'm': good &= (opt.one = strcmp(optarg, "1-to-n") == 0) || strcmp(optarg, "n-to-n") == 0; break;
        case 'o': good &= (opt.all = strcmp(optarg, "all") == 0) || strcmp(optarg, "others") == 0; break;
        case 's': opt.size = (size_t)client_parse_number(name, optarg, LABEL, 1 << 24); break;
        case 'i': opt.in_flight = (unsigned)client_parse_number(name, optarg, 1, MAX_IN_FLIGHT); break;
        case 'T': opt.seconds = client_parse_number(name, optarg, 0.01, 3600); break;
        case 'w': opt.warm_up = client_parse_number(name, optarg, 0, 3600); break;
        case 'C': opt.cpu_of = optarg; break;
        case 'j': opt.json = true; break;
        default: good = false;
        }
    }
    if (!good || optind < argc || opt.target.path[0] != '/')
        errx(CLIENT_USAGE,
             "usage: --url HOST:PORT/PATH [--mode n-to-n|1-to-n] [--clients N] [--to others|all]\n"
             "  [--size BYTES] [--in-flight K] [--seconds T] [--warmup W] [--json] [--cpu-of PID]");
}

int main(int argc, char **argv)
{
    parse_command_line(argc, argv);
    client_resolve(&opt.target);
    prepare();
    for (unsigned i = 0; i < fan.publishers; i++) {
        fan.conns[i].due = opt.in_flight;
        conn_publish(&fan.conns[i]);
    }
    struct counts from = run_for(opt.warm_up);
    fan.phase = MEASURE;
    struct counts to = run_for(opt.seconds);
    fan.phase = DRAIN;
    while (outstanding() > 0)
        turn();
    if (to.delivered == from.delivered)
        errx(CLIENT_FAILED, "nothing arrived within the measured time");
    report(&from, &to);

    for (unsigned i = 0; i < fan.connections; i++) {
        close(fan.conns[i].fd);
        free(fan.conns[i].rest);
        free(fan.conns[i].out);
    }
    close(fan.epoll);
    free(fan.conns);
    free(fan.input);
    free(fan.frame);
    free(fan.missing);
    free(fan.expected);
    freeaddrinfo(opt.target.address);
    return 0;
}
