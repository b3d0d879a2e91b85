/* SPDX-License-Identifier: MIT
 * A load generator for WebSocket echo servers. A closed loop: each connection keeps --in-flight messages
 * outstanding; when one is back whole, the next is sent. Or, with --rate, an open loop: message i is due at a
 * fixed time, whatever the server does, on connection i modulo --connections, and its latency counts from
 * then. Anything wrong ends the process with exit code 1.
 *
 * Threads share nothing but the options, read-only by then, and the phase, which the main thread moves:
 *
 *   WARM_UP -> MEASURE -> DRAIN (no more become due; what is outstanding must still come back)
 *
 * The open loop takes the phases from its clock, so that what became due while it was measured counts,
 * however late it comes back. */
#include "client.h"
#include "hist.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE   (256 * 1024)
#define BATCH_BYTES (16 * 1024) /* small frames lie side by side, so that one call sends several */
#define EVENTS      256
#define CHECK_EVERY 1000  /* one message in so many, the first of each connection among them, is compared */
#define DRAIN_MS    10000 /* without any message, at the end */
#define POLL_MS     50    /* until a thread notices the next phase when it has nothing else to do */

/* Of the open loop. */
#define MAX_OUTSTANDING 1024              /* messages on a connection; those due beyond it wait */
#define SIDE_BY_SIDE    16                /* frames, for sending what has waited */
#define SEND_TURN       256               /* messages sent in a row, when late, before reading goes on */
#define LATE_NS         UINT64_C(1000000) /* a message sent later than this after it was due counts as late */
#define PATIENCE_NS                                                                                          \
    UINT64_C(10000000000) /* for all messages to come back, from the end of the measured time */

static struct {
    struct client_target target;
    unsigned connections, in_flight, threads;
    const char *cpu_of;
    size_t size;
    double seconds, warm_up, rate; /* no rate: a closed loop */
    bool binary, floor, tls, json;
} opt = {.connections = 50, .in_flight = 1, .threads = 1, .size = 20, .seconds = 5, .warm_up = 1};

static _Atomic enum phase { WARM_UP, MEASURE, DRAIN } phase;
static pthread_barrier_t all_connected, started;

/* Of the open loop, set when all are connected: when message 0 is due, and from when until when they count.
 */
static struct {
    uint64_t start_ns, from_ns, end_ns;
} schedule;

/* ---- connections ---- */

struct conn {
    struct wire wire;
    bool blocked;    /* waits until it can send */
    uint8_t *frames; /* the masked frame, `copies` times side by side */
    size_t frame_len, copies;
    const uint8_t *expected; /* the payload as it should come back */
    size_t owed;             /* bytes that are due to be sent */
    size_t next;             /* where in the frame the first of them is */

    uint8_t head[CLIENT_HEAD_MAX]; /* of the frame that is arriving */
    uint8_t head_len;
    bool in_message; /* more fragments are to come */
    size_t left;     /* of the frame's payload */
    size_t taken;    /* of the message's */

    uint64_t messages; /* that are back */
    uint64_t *due;     /* when each outstanding one was due to be sent: a ring, as they come back in order */

    /* Of the open loop, where the due times follow from the number. Those that wait are due, but more than
     * MAX_OUTSTANDING are outstanding. */
    uint64_t index, made, waiting; /* of all connections; messages that became due; how many of these wait */
};

struct thread {
    pthread_t id;
    int epoll;
    struct conn *conns;
    size_t first, nconns; /* the first one's place among all connections */
    uint8_t *payloads;    /* each connection's is a stretch of it, which starts a byte after the one before */
    uint64_t now_ns;      /* when the last input was read */
    enum phase phase;     /* then */
    uint64_t outstanding;
    struct hist hist;

    /* Of the open loop: the connection whose message is next, when that is due; what is counted while
     * measuring. */
    size_t turn;
    uint64_t next_due_ns, back, late, held;
    uint8_t input[READ_SIZE];
};

/* Makes the frame that this connection sends over and over. */
static void conn_make_frame(struct conn *c, const uint8_t *payload)
{
    uint8_t head[CLIENT_HEAD_MAX];
    size_t at = client_frame_head(head, opt.binary ? OP_BINARY : OP_TEXT, opt.size, true);
    uint8_t *mask = head + at;
    arc4random_buf(mask, 4);
    at += 4;

    c->frame_len = at + opt.size;
    c->copies = MAX(1, MIN(opt.rate > 0 ? SIDE_BY_SIDE : opt.in_flight, BATCH_BYTES / c->frame_len));
    c->frames = client_allocate(c->copies, c->frame_len);
    memcpy(c->frames, head, at);
    for (size_t i = 0; i < opt.size; i++)
        c->frames[at + i] = payload[i] ^ mask[i % 4];
    for (size_t i = 1; i < c->copies; i++)
        memcpy(c->frames + i * c->frame_len, c->frames, c->frame_len);
    c->expected = opt.floor ? c->frames + at : payload;
}

static void conn_watch(const struct thread *t, struct conn *c, int operation, bool blocked)
{
    struct epoll_event event = {.events = blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->blocked = blocked;
    if (epoll_ctl(t->epoll, operation, c->wire.fd, &event) < 0)
        err(CLIENT_FAILED, "epoll_ctl");
}

/* Sends what is owed, as much of it as the kernel takes; with TLS, what is sealed goes first. */
static void conn_write(struct thread *t, struct conn *c)
{
    if (t->phase == DRAIN) { /* messages of which nothing has been sent are withdrawn */
        t->outstanding -= c->owed / c->frame_len;
        c->owed %= c->frame_len;
    }
    ssize_t n = 0;
    while ((c->owed > 0 || wire_is_full(&c->wire)) && n >= 0) {
        size_t len = MIN(c->owed, c->copies * c->frame_len - c->next);
        n = wire_send(&c->wire, c->frames + c->next, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            err(CLIENT_FAILED, "connection lost");
        c->owed -= (size_t)MAX(n, 0);
        c->next = (c->next + (size_t)MAX(n, 0)) % c->frame_len;
    }
    if (c->blocked != (n < 0))
        conn_watch(t, c, EPOLL_CTL_MOD, n < 0);
}

static uint64_t conn_due_ns(const struct conn *c, uint64_t number)
{
    return client_due_ns(schedule.start_ns, number * opt.connections + c->index, opt.rate);
}

/* A message of the open loop is back: counts it, and makes room for one that waits. */
static void conn_on_scheduled(struct thread *t, struct conn *c)
{
    uint64_t due_ns = conn_due_ns(c, c->messages++);
    if (t->outstanding-- == 0)
        errx(CLIENT_FAILED, "more messages came back than were sent");
    if (due_ns >= schedule.from_ns)
        hist_record(&t->hist, t->now_ns - due_ns);
    t->back += t->now_ns >= schedule.from_ns && t->now_ns < schedule.end_ns;
    if (c->waiting > 0) {
        c->waiting--;
        c->owed += c->frame_len;
    }
}

/* A message is back whole: counts it, and the next is due. */
static void conn_on_message(struct thread *t, struct conn *c)
{
    c->taken = 0;
    if (opt.rate > 0) {
        conn_on_scheduled(t, c);
        return;
    }
    uint64_t *due = &c->due[c->messages++ % opt.in_flight];
    if (t->phase == MEASURE)
        hist_record(&t->hist, t->now_ns - *due);
    if (t->phase != DRAIN) {
        *due = t->now_ns;
        c->owed += c->frame_len;
    } else if (t->outstanding-- == 0)
        errx(CLIENT_FAILED, "more messages came back than were sent");
}

static bool conn_has_head(const struct conn *c)
{
    unsigned length = c->head[1] & LENGTH, mask = opt.floor ? 4 : 0;
    return c->head_len >= 2 && c->head_len >= mask + (length < 126 ? 2 : length == 126 ? 4 : 10);
}

/* A frame's head is complete: insists that it is one that may come now. */
static void conn_on_head(struct conn *c)
{
    unsigned op = c->head[0] & OPCODE, length = c->head[1] & LENGTH, width = length == 126 ? 2 : 8;
    unsigned expected = c->in_message ? OP_CONTINUATION : opt.binary ? OP_BINARY : OP_TEXT;
    bool final = c->head[0] & FINAL, masked = c->head[1] & MASKED;
    bool good = !(c->head[0] & RESERVED) && masked == opt.floor;
    uint64_t size = length < 126 ? length : 0, missing = opt.size - c->taken;
    for (unsigned i = 0; i < width && length >= 126; i++)
        size = size << 8 | c->head[2 + i];
    if (length >= 126 && size < (width == 2 ? 126 : 65536))
        good = false; /* there is a shorter form */
    if (op >= OP_CLOSE)
        good = good && op <= OP_PONG && final && size < 126;
    else {
        good = good && op == expected && (final ? size == missing : size <= missing);
        c->in_message = !final;
    }
    if (!good)
        errx(CLIENT_FAILED, "wrong frame: head %02x %02x, %ju bytes, after %zu of %zu", c->head[0],
             c->head[1], (uintmax_t)size, c->taken, opt.size);
    c->left = size;
}

static void conn_take(struct thread *t, struct conn *c, const uint8_t *data, size_t len)
{
    while (len > 0) {
        if (!conn_has_head(c)) {
            c->head[c->head_len++] = *data++;
            len--;
            if (!conn_has_head(c))
                continue;
            conn_on_head(c);
        }
        size_t n = MIN(len, c->left);
        bool control = c->head[0] & OP_CLOSE; /* pings go unanswered: the messages say that we live */
        if ((c->head[0] & OPCODE) == OP_CLOSE && (n >= 2 || c->left == 0))
            errx(CLIENT_FAILED, "connection lost: Close %d", n >= 2 ? data[0] << 8 | data[1] : 1005);
        if (!control && c->messages % CHECK_EVERY == 0 && memcmp(c->expected + c->taken, data, n) != 0)
            errx(CLIENT_FAILED, "message %ju of a connection is not what was sent",
                 (uintmax_t)c->messages + 1);
        c->taken += control ? 0 : n;
        c->left -= n;
        data += n;
        len -= n;
        if (c->left == 0) {
            c->head_len = 0;
            if (!control && !c->in_message)
                conn_on_message(t, c);
        }
    }
}

static void conn_read(struct thread *t, struct conn *c)
{
    ssize_t n = wire_recv(&c->wire, t->input, sizeof t->input, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        errx(CLIENT_FAILED, "connection lost: %s", n < 0 ? strerror(errno) : "the server closed it");
    t->now_ns = client_clock_ns(CLOCK_MONOTONIC);
    conn_take(t, c, t->input, n > 0 ? (size_t)n : 0);
}

/* ---- threads ---- */

static void thread_prepare(struct thread *t)
{
    size_t room = opt.size + t->nconns;
    t->payloads = client_allocate(room, 1);
    arc4random_buf(t->payloads, room);
    for (size_t i = 0; i < room && !opt.binary; i++)
        t->payloads[i] = (uint8_t)('0' + t->payloads[i] % 64);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->conns = client_allocate(t->nconns, sizeof t->conns[0]);
    for (size_t i = 0; i < t->nconns; i++) {
        struct conn *c = &t->conns[i];
        conn_make_frame(c, t->payloads + i);
        c->due = client_allocate(opt.in_flight, sizeof(uint64_t));
        c->index = t->first + i;
        c->wire = client_connect(&opt.target);
        if (opt.rate > 0)
            conn_watch(t, c, EPOLL_CTL_ADD, false);
    }
}

static void thread_handle(struct thread *t, const struct epoll_event *event)
{
    struct conn *c = event->data.ptr;
    if (event->events & ~(uint32_t)EPOLLOUT)
        conn_read(t, c);
    if (!c->blocked || event->events & EPOLLOUT)
        conn_write(t, c);
}

static void thread_run_closed(struct thread *t)
{
    for (size_t i = 0; i < t->nconns; i++) { /* the first messages go when epoll says that there is room */
        struct conn *c = &t->conns[i];
        for (unsigned k = 0; k < opt.in_flight; k++)
            c->due[k] = client_clock_ns(CLOCK_MONOTONIC);
        c->owed = opt.in_flight * c->frame_len;
        conn_watch(t, c, EPOLL_CTL_ADD, true);
    }
    t->outstanding = t->nconns * opt.in_flight; /* always, until DRAIN */
    while (t->outstanding > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(t->epoll, events, EVENTS, t->phase == DRAIN ? DRAIN_MS : POLL_MS);
        if (n == 0 && t->phase == DRAIN)
            errx(CLIENT_FAILED, "%ju messages did not come back", (uintmax_t)t->outstanding);
        t->phase = atomic_load_explicit(&phase, memory_order_relaxed);
        for (int i = 0; i < n; i++)
            thread_handle(t, &events[i]);
    }
}

/* A message of the open loop is due, and is sent unless the connection is full. */
static void conn_send_next(struct thread *t, struct conn *c, uint64_t due_ns, uint64_t now_ns)
{
    bool counts = due_ns >= schedule.from_ns;
    t->outstanding++;
    if (c->made++ - c->messages - c->waiting >= MAX_OUTSTANDING)
        c->waiting++;
    else {
        c->owed += c->frame_len;
        if (!c->blocked)
            conn_write(t, c);
    }
    if (c->owed > 0 || c->waiting > 0)
        t->held += counts;
    else if (now_ns - due_ns > LATE_NS)
        t->late += counts;
}

/* Sends what is due by now. One by one, each with the time as it is then. */
static void thread_send_due(struct thread *t)
{
    for (unsigned i = 0; i < SEND_TURN && t->next_due_ns < schedule.end_ns; i++) {
        uint64_t now_ns = client_clock_ns(CLOCK_MONOTONIC);
        if (t->next_due_ns > now_ns)
            break;
        conn_send_next(t, &t->conns[t->turn], t->next_due_ns, now_ns);
        t->turn = (t->turn + 1) % t->nconns;
        t->next_due_ns = conn_due_ns(&t->conns[t->turn], t->conns[t->turn].made);
    }
}

static void thread_run_open(struct thread *t)
{
    prctl(PR_SET_TIMERSLACK, 1); /* nanosecond: wakes when the next is due, instead of up to 50 us later */
    t->next_due_ns = conn_due_ns(&t->conns[0], 0);
    while (t->next_due_ns < schedule.end_ns || t->outstanding > 0) {
        struct epoll_event events[EVENTS];
        uint64_t give_up_ns = schedule.end_ns + PATIENCE_NS;
        int n = client_wait(t->epoll, events, EVENTS,
                            t->next_due_ns < schedule.end_ns ? t->next_due_ns : give_up_ns);
        for (int i = 0; i < n; i++) {
            thread_handle(t, &events[i]);
            thread_send_due(t);
        }
        thread_send_due(t);
        if (client_clock_ns(CLOCK_MONOTONIC) >= give_up_ns)
            errx(CLIENT_FAILED, "%ju messages were not back %ju s after the last was due",
                 (uintmax_t)t->outstanding, (uintmax_t)(PATIENCE_NS / 1000000000));
    }
}

static void *thread_run(void *arg)
{
    struct thread *t = arg;
    thread_prepare(t);
    pthread_barrier_wait(&all_connected);
    pthread_barrier_wait(&started);
    if (opt.rate > 0)
        thread_run_open(t);
    else
        thread_run_closed(t);
    return NULL;
}

static void thread_free(struct thread *t)
{
    for (size_t i = 0; i < t->nconns; i++) {
        wire_fini(&t->conns[i].wire);
        free(t->conns[i].frames);
        free(t->conns[i].due);
    }
    close(t->epoll);
    free(t->conns);
    free(t->payloads);
}

/* ---- measuring ---- */

static void print_what(void)
{
    printf(opt.json
               ? "{\"loop\": \"%s\", \"type\": \"%s\", \"size\": %zu, \"connections\": %u, \"threads\": %u"
               : "%s loop, %s messages of %zu bytes, %u connections, threads %u",
           opt.rate > 0 ? "open" : "closed", opt.binary ? "binary" : "text", opt.size, opt.connections,
           opt.threads);
    if (opt.rate > 0)
        printf(opt.json ? ", \"rate\": %.10g" : ", %.10g messages a second", opt.rate);
    else
        printf(opt.json ? ", \"in_flight\": %u" : ", %u in flight on each", opt.in_flight);
    printf(opt.json ? "" : "\n");
}

/* `all` has the sums of the threads. */
static void report(const struct thread *all, const struct client_reading *from,
                   const struct client_reading *to)
{
    double elapsed = to->at - from->at, count = (double)(opt.rate > 0 ? all->back : all->hist.count);
    double user = to->user - from->user, system = to->system - from->system;
    print_what();
    client_print_number(opt.json, "seconds", elapsed / 1e6);
    client_print_number(opt.json, "messages_per_second", count / elapsed * 1e6);
    client_print_number(opt.json, "megabytes_per_second", count / elapsed * (double)opt.size);
    hist_print(opt.json, &all->hist);
    if (opt.rate > 0) {
        client_print_number(opt.json, "messages_due", (double)all->hist.count);
        client_print_number(opt.json, "messages_sent_late", (double)all->late);
        client_print_number(opt.json, "messages_held_back", (double)all->held);
    }
    client_print_number(opt.json, "load_cpu_percent", 100 * (to->own - from->own) / elapsed);
    if (opt.cpu_of != NULL) {
        client_print_number(opt.json, "server_cpu_percent", 100 * (user + system) / elapsed);
        client_print_number(opt.json, "server_user_us_per_message", user / count);
        client_print_number(opt.json, "server_system_us_per_message", system / count);
    }
    printf(opt.json ? "}\n" : "");
}

/* ---- the command line ---- */

static void parse_command_line(int argc, char **argv)
{
    static const struct option known[] = {{"url", 1, NULL, 'u'},       {"connections", 1, NULL, 'c'},
                                          {"size", 1, NULL, 's'},      {"type", 1, NULL, 't'},
                                          {"in-flight", 1, NULL, 'i'}, {"seconds", 1, NULL, 'T'},
                                          {"warmup", 1, NULL, 'w'},    {"threads", 1, NULL, 'p'},
                                          {"floor", 0, NULL, 'f'},     {"tls", 0, NULL, 'S'},
                                          {"json", 0, NULL, 'j'},      {"cpu-of", 1, NULL, 'C'},
                                          {"rate", 1, NULL, 'r'},      {0}};
    bool good = true, closed = false;
    for (int option, i = 0; (option = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = known[i].name;
        switch (option) {
        case 'u': good &= client_parse_url(&opt.target, optarg); break;
        case 'c': opt.connections = (unsigned)client_parse_number(name, optarg, 1, 1e6); break;
        case 's': opt.size = (size_t)client_parse_number(name, optarg, 0, 1 << 30); break;
        case 't': good &= (opt.binary = strcmp(optarg, "binary") == 0) || strcmp(optarg, "text") == 0; break;
        case 'i':
            opt.in_flight = (unsigned)client_parse_number(name, optarg, 1, 65536);
            closed = true;
            break;
        case 'r': opt.rate = client_parse_number(name, optarg, 0.1, 1e8); break;
        case 'T': opt.seconds = client_parse_number(name, optarg, 0.01, 3600); break;
        case 'w': opt.warm_up = client_parse_number(name, optarg, 0, 3600); break;
        case 'p': opt.threads = (unsigned)client_parse_number(name, optarg, 1, 256); break;
        case 'C': opt.cpu_of = optarg; break;
        case 'f': opt.floor = true; break;
        case 'S': opt.tls = true; break;
        case 'j': opt.json = true; break;
        default: good = false;
        }
    }
    if (!good || optind < argc || opt.target.path[0] != '/' || opt.threads > opt.connections ||
        (closed && opt.rate > 0))
        errx(CLIENT_USAGE,
             "usage: --url HOST:PORT/PATH [--connections C] [--size BYTES] [--type text|binary]\n"
             "  [--in-flight K | --rate R] [--seconds T] [--warmup W] [--threads N <= C] [--floor] [--tls]\n"
             "  [--json] [--cpu-of PID,PID]");
}

static void sleep_until(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

static void threads_start(struct thread *threads)
{
    pthread_barrier_init(&all_connected, NULL, opt.threads + 1);
    pthread_barrier_init(&started, NULL, opt.threads + 1);
    for (unsigned i = 0, first = 0; i < opt.threads; i++) {
        struct thread *t = &threads[i];
        t->first = first;
        t->nconns = opt.connections / opt.threads + (i < opt.connections % opt.threads);
        first += (unsigned)t->nconns;
        if (pthread_create(&t->id, NULL, thread_run, t) != 0)
            errx(CLIENT_FAILED, "cannot start a thread");
    }
    pthread_barrier_wait(&all_connected);
    schedule.start_ns = client_clock_ns(CLOCK_MONOTONIC);
    schedule.from_ns = schedule.start_ns + (uint64_t)(opt.warm_up * 1e9);
    schedule.end_ns = schedule.from_ns + (uint64_t)(opt.seconds * 1e9);
    pthread_barrier_wait(&started);
}

static void threads_join(struct thread *threads)
{
    for (unsigned i = 0; i < opt.threads; i++) {
        pthread_join(threads[i].id, NULL);
        thread_free(&threads[i]);
        if (i == 0)
            continue;
        hist_add(&threads[0].hist, &threads[i].hist);
        threads[0].back += threads[i].back;
        threads[0].late += threads[i].late;
        threads[0].held += threads[i].held;
    }
}

int main(int argc, char **argv)
{
    parse_command_line(argc, argv);
    client_allow_files();
    client_resolve(&opt.target);
    opt.target.tls = opt.tls ? wire_make_context() : NULL;
    struct thread *threads = client_allocate(opt.threads, sizeof threads[0]);
    threads_start(threads);
    sleep_until(schedule.from_ns);
    phase = MEASURE;
    struct client_reading from = client_take_reading(opt.cpu_of);
    sleep_until(schedule.end_ns);
    struct client_reading to = client_take_reading(opt.cpu_of);
    phase = DRAIN;
    threads_join(threads);
    if (threads[0].hist.count == 0 || (opt.rate > 0 && threads[0].back == 0))
        errx(CLIENT_FAILED, "no message came back within the measured time");
    report(&threads[0], &from, &to);
    SSL_CTX_free(opt.target.tls);
    freeaddrinfo(opt.target.address);
    free(threads);
    return 0;
}
