/* SPDX-License-Identifier: MIT
 * A load generator for WebSocket echo servers. Each connection keeps --in-flight messages outstanding: when
 * one is back whole, the next is sent (a closed loop). Anything wrong ends the process with exit code 1.
 *
 * Threads share nothing but the options, read-only by then, and the phase, which the main thread moves:
 *
 *   WARM_UP -> MEASURE -> DRAIN (no more become due; what is outstanding must still come back) */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PONG = 10 };
enum { FINAL = 0x80, RESERVED = 0x70, OPCODE = 0x0f, MASKED = 0x80, LENGTH = 0x7f };

#define READ_SIZE   (256 * 1024)
#define BATCH_BYTES (16 * 1024) /* small frames lie side by side, so that one call sends several */
#define HEAD_MAX    14          /* of a frame: two bytes, eight of length, four of mask */
#define EVENTS      256
#define CHECK_EVERY 1000  /* one message in so many, the first of each connection among them, is compared */
#define CONNECT_S   10    /* for each step of a handshake */
#define DRAIN_MS    10000 /* without any message, at the end */
#define POLL_MS     50    /* until a thread notices the next phase when it has nothing else to do */

/* The example of RFC 6455, 1.3: with another key each time the server would do the same work. */
#define KEY    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define ACCEPT "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

static struct {
    char host[256], port[8], path[1024];
    unsigned connections, in_flight, threads, cpu_of;
    size_t size;
    double seconds, warm_up;
    bool binary, floor, json;
} opt = {.connections = 50, .in_flight = 1, .threads = 1, .size = 20, .seconds = 5, .warm_up = 1};

static _Atomic enum phase { WARM_UP, MEASURE, DRAIN } phase;
static pthread_barrier_t all_connected;
static struct addrinfo *server;

static void *allocate(size_t count, size_t size)
{
    void *block = calloc(count, size);
    if (block == NULL)
        errx(EXIT_FAILED, "out of memory");
    return block;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- histogram ----
 * Log-linear, as HdrHistogram: each power of two is cut into HIST_HALF equal parts, so that a value is known
 * to within 1 in HIST_HALF however large it is. Values under 2 * HIST_HALF have a bucket each. */

#define HIST_BITS    7
#define HIST_HALF    (1u << HIST_BITS)
#define HIST_BUCKETS ((65 - HIST_BITS) * HIST_HALF)

struct hist {
    uint64_t count, max_ns;
    uint64_t buckets[HIST_BUCKETS];
};

static void hist_record(struct hist *h, uint64_t ns)
{
    unsigned shift = ns < 2 * HIST_HALF ? 0 : 63 - (unsigned)__builtin_clzll(ns) - HIST_BITS;
    h->buckets[shift * HIST_HALF + (ns >> shift)]++;
    h->count++;
    h->max_ns = MAX(h->max_ns, ns);
}

static void hist_add(struct hist *to, const struct hist *from)
{
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
    to->count += from->count;
    to->max_ns = MAX(to->max_ns, from->max_ns);
}

/* What this share of the values, of which there is one at least, does not exceed, in microseconds. */
static double hist_percentile(const struct hist *h, double percent)
{
    size_t i = 0;
    for (uint64_t seen = h->buckets[0]; seen == 0 || (double)seen < percent / 100 * (double)h->count;)
        seen += h->buckets[++i];
    uint64_t highest = i; /* that falls into this bucket */
    if (i >= 2 * HIST_HALF)
        highest = ((i % HIST_HALF + HIST_HALF + 1) << (i / HIST_HALF - 1)) - 1;
    return (double)MIN(highest, h->max_ns) / 1e3;
}

/* ---- connections ---- */

struct conn {
    int fd;
    bool blocked;    /* waits until it can send */
    uint8_t *frames; /* the masked frame, `copies` times side by side */
    size_t frame_len, copies;
    const uint8_t *expected; /* the payload as it should come back */
    size_t owed;             /* bytes that are due to be sent */
    size_t next;             /* where in the frame the first of them is */

    uint8_t head[HEAD_MAX]; /* of the frame that is arriving */
    uint8_t head_len;
    bool in_message; /* more fragments are to come */
    size_t left;     /* of the frame's payload */
    size_t taken;    /* of the message's */

    uint64_t messages; /* that are back */
    uint64_t *due;     /* when each outstanding one was due to be sent: a ring, as they come back in order */
};

struct thread {
    pthread_t id;
    int epoll;
    struct conn *conns;
    size_t nconns;
    uint8_t *payloads; /* each connection's is a stretch of it, which starts a byte after the one before */
    uint64_t now_ns;   /* when the last input was read */
    enum phase phase;  /* then */
    uint64_t outstanding;
    struct hist hist;
    uint8_t input[READ_SIZE];
};

/* Makes the frame that this connection sends over and over. */
static void conn_make_frame(struct conn *c, const uint8_t *payload)
{
    size_t at = 2, width = opt.size < 126 ? 0 : opt.size < 65536 ? 2 : 8;
    size_t length = width == 0 ? opt.size : width == 2 ? 126 : 127;
    uint8_t head[HEAD_MAX] = {FINAL | (opt.binary ? OP_BINARY : OP_TEXT), (uint8_t)(MASKED | length)};
    for (size_t i = width; i > 0; i--)
        head[at++] = (uint8_t)(opt.size >> (8 * (i - 1)));
    uint8_t *mask = head + at;
    arc4random_buf(mask, 4);
    at += 4;

    c->frame_len = at + opt.size;
    c->copies = MAX(1, MIN(opt.in_flight, BATCH_BYTES / c->frame_len));
    c->frames = allocate(c->copies, c->frame_len);
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
    if (epoll_ctl(t->epoll, operation, c->fd, &event) < 0)
        err(EXIT_FAILED, "epoll_ctl");
}

/* Sends what is owed, as much of it as the kernel takes. */
static void conn_write(struct thread *t, struct conn *c)
{
    if (t->phase == DRAIN) { /* messages of which nothing has been sent are withdrawn */
        t->outstanding -= c->owed / c->frame_len;
        c->owed %= c->frame_len;
    }
    ssize_t n = 0;
    while (c->owed > 0 && n >= 0) {
        size_t len = MIN(c->owed, c->copies * c->frame_len - c->next);
        n = send(c->fd, c->frames + c->next, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            err(EXIT_FAILED, "connection lost");
        c->owed -= (size_t)MAX(n, 0);
        c->next = (c->next + (size_t)MAX(n, 0)) % c->frame_len;
    }
    if (c->blocked != (n < 0))
        conn_watch(t, c, EPOLL_CTL_MOD, n < 0);
}

/* A message is back whole: counts it, and the next is due. */
static void conn_on_message(struct thread *t, struct conn *c)
{
    uint64_t *due = &c->due[c->messages++ % opt.in_flight];
    if (t->phase == MEASURE)
        hist_record(&t->hist, t->now_ns - *due);
    if (t->phase != DRAIN) {
        *due = t->now_ns;
        c->owed += c->frame_len;
    } else if (t->outstanding-- == 0)
        errx(EXIT_FAILED, "more messages came back than were sent");
    c->taken = 0;
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
        errx(EXIT_FAILED, "wrong frame: head %02x %02x, %ju bytes, after %zu of %zu", c->head[0], c->head[1],
             (uintmax_t)size, c->taken, opt.size);
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
            errx(EXIT_FAILED, "connection lost: Close %d", n >= 2 ? data[0] << 8 | data[1] : 1005);
        if (!control && c->messages % CHECK_EVERY == 0 && memcmp(c->expected + c->taken, data, n) != 0)
            errx(EXIT_FAILED, "message %ju of a connection is not what was sent", (uintmax_t)c->messages + 1);
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
    ssize_t n = recv(c->fd, t->input, sizeof t->input, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        errx(EXIT_FAILED, "connection lost: %s", n < 0 ? strerror(errno) : "the server closed it");
    t->now_ns = clock_ns(CLOCK_MONOTONIC);
    conn_take(t, c, t->input, n > 0 ? (size_t)n : 0);
}

/* Connects and upgrades, waiting for each step. */
static void conn_open(struct conn *c)
{
    int on = 1, fd = socket(server->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = CONNECT_S};
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, server->ai_addr, server->ai_addrlen) < 0)
        err(EXIT_FAILED, "cannot connect to %s:%s", opt.host, opt.port);
    if (dprintf(fd,
                "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\n" KEY "\r\n",
                opt.path, opt.host, opt.port) < 0)
        err(EXIT_FAILED, "cannot send the handshake");
    char text[8192];
    size_t len = 0; /* byte by byte, so that frames which follow at once stay in the socket */
    while (len < 4 || memcmp(text + len - 4, "\r\n\r\n", 4) != 0)
        if (len == sizeof text - 1 || recv(fd, text + len++, 1, 0) != 1)
            errx(EXIT_FAILED, "no answer to the handshake");
    text[len] = '\0';
    if (strncmp(text, "HTTP/1.1 101 ", 13) != 0 || strcasestr(text, ACCEPT) == NULL)
        errx(EXIT_FAILED, "the handshake failed: %.*s", (int)strcspn(text, "\r\n"), text);
    c->fd = fd;
}

/* ---- threads ---- */

static void thread_prepare(struct thread *t)
{
    size_t room = opt.size + t->nconns;
    t->payloads = allocate(room, 1);
    arc4random_buf(t->payloads, room);
    for (size_t i = 0; i < room && !opt.binary; i++)
        t->payloads[i] = (uint8_t)('0' + t->payloads[i] % 64);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->conns = allocate(t->nconns, sizeof t->conns[0]);
    for (size_t i = 0; i < t->nconns; i++) {
        conn_make_frame(&t->conns[i], t->payloads + i);
        t->conns[i].due = allocate(opt.in_flight, sizeof(uint64_t));
        conn_open(&t->conns[i]);
    }
}

static void *thread_run(void *arg)
{
    struct thread *t = arg;
    thread_prepare(t);
    pthread_barrier_wait(&all_connected);
    for (size_t i = 0; i < t->nconns; i++) { /* the first messages go when epoll says that there is room */
        struct conn *c = &t->conns[i];
        for (unsigned k = 0; k < opt.in_flight; k++)
            c->due[k] = clock_ns(CLOCK_MONOTONIC);
        c->owed = opt.in_flight * c->frame_len;
        conn_watch(t, c, EPOLL_CTL_ADD, true);
    }
    t->outstanding = t->nconns * opt.in_flight; /* always, until DRAIN */
    while (t->outstanding > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(t->epoll, events, EVENTS, t->phase == DRAIN ? DRAIN_MS : POLL_MS);
        if (n == 0 && t->phase == DRAIN)
            errx(EXIT_FAILED, "%ju messages did not come back", (uintmax_t)t->outstanding);
        t->phase = atomic_load_explicit(&phase, memory_order_relaxed);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                conn_read(t, c);
            if (!c->blocked || events[i].events & EPOLLOUT)
                conn_write(t, c);
        }
    }
    return NULL;
}

static void thread_free(struct thread *t)
{
    for (size_t i = 0; i < t->nconns; i++) {
        close(t->conns[i].fd);
        free(t->conns[i].frames);
        free(t->conns[i].due);
    }
    close(t->epoll);
    free(t->conns);
    free(t->payloads);
}

/* ---- measuring ---- */

/* A moment, and the CPU time used until then by this process and by the server, in microseconds. */
struct reading {
    double at, own, user, system;
};

static struct reading take_reading(void)
{
    struct reading r = {.at = (double)clock_ns(CLOCK_MONOTONIC) / 1e3,
                        .own = (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e3};
    if (opt.cpu_of == 0)
        return r;
    char text[1024];
    snprintf(text, sizeof text, "/proc/%u/stat", opt.cpu_of);
    FILE *file = fopen(text, "r");
    if (file == NULL)
        err(EXIT_FAILED, "%s", text);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *name_end = strrchr(text, ')'); /* the name may hold anything */
    if (name_end == NULL ||
        sscanf(name_end + 1, "%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%lf%lf", &r.user, &r.system) != 2)
        errx(EXIT_FAILED, "process %u has gone", opt.cpu_of);
    r.user *= 1e6 / (double)sysconf(_SC_CLK_TCK);
    r.system *= 1e6 / (double)sysconf(_SC_CLK_TCK);
    return r;
}

static void print_number(const char *name, double value)
{
    printf(opt.json ? ", \"%s\": %.3f" : "%-30s%14.3f\n", name, value);
}

static void report(const struct hist *h, const struct reading *from, const struct reading *to)
{
    double elapsed = to->at - from->at, count = (double)h->count;
    double user = to->user - from->user, system = to->system - from->system;
    printf(opt.json
               ? "{\"loop\": \"closed\", \"type\": \"%s\", \"size\": %zu, \"connections\": %u, "
                 "\"in_flight\": %u, \"threads\": %u"
               : "closed loop, %s messages of %zu bytes, %u connections, %u in flight on each, threads %u\n",
           opt.binary ? "binary" : "text", opt.size, opt.connections, opt.in_flight, opt.threads);
    print_number("seconds", elapsed / 1e6);
    print_number("messages_per_second", count / elapsed * 1e6);
    print_number("megabytes_per_second", count / elapsed * (double)opt.size);
    print_number("latency_p50_us", hist_percentile(h, 50));
    print_number("latency_p90_us", hist_percentile(h, 90));
    print_number("latency_p99_us", hist_percentile(h, 99));
    print_number("latency_p99.9_us", hist_percentile(h, 99.9));
    print_number("latency_max_us", (double)h->max_ns / 1e3);
    print_number("load_cpu_percent", 100 * (to->own - from->own) / elapsed);
    if (opt.cpu_of != 0) {
        print_number("server_cpu_percent", 100 * (user + system) / elapsed);
        print_number("server_user_us_per_message", user / count);
        print_number("server_system_us_per_message", system / count);
    }
    printf(opt.json ? "}\n" : "");
}

/* ---- the command line ---- */

static double parse_number(const char *name, double min, double max)
{
    char *end;
    double n = strtod(optarg, &end);
    if (end == optarg || *end != '\0' || !(n >= min && n <= max))
        errx(EXIT_USAGE, "--%s %s: expected a number from %g to %g", name, optarg, min, max);
    return n;
}

static void parse_command_line(int argc, char **argv)
{
    static const struct option known[] = {
        {"url", 1, NULL, 'u'},    {"connections", 1, NULL, 'c'}, {"size", 1, NULL, 's'},
        {"type", 1, NULL, 't'},   {"in-flight", 1, NULL, 'i'},   {"seconds", 1, NULL, 'T'},
        {"warmup", 1, NULL, 'w'}, {"threads", 1, NULL, 'p'},     {"floor", 0, NULL, 'f'},
        {"json", 0, NULL, 'j'},   {"cpu-of", 1, NULL, 'C'},      {0}};
    bool good = true;
    for (int option, i = 0; (option = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = known[i].name;
        switch (option) {
        case 'u': good &= sscanf(optarg, "%255[^:/]:%7[0-9]%1023s", opt.host, opt.port, opt.path) == 3; break;
        case 'c': opt.connections = (unsigned)parse_number(name, 1, 1e6); break;
        case 's': opt.size = (size_t)parse_number(name, 0, 1 << 30); break;
        case 't': good &= (opt.binary = strcmp(optarg, "binary") == 0) || strcmp(optarg, "text") == 0; break;
        case 'i': opt.in_flight = (unsigned)parse_number(name, 1, 65536); break;
        case 'T': opt.seconds = parse_number(name, 0.01, 3600); break;
        case 'w': opt.warm_up = parse_number(name, 0, 3600); break;
        case 'p': opt.threads = (unsigned)parse_number(name, 1, 256); break;
        case 'C': opt.cpu_of = (unsigned)parse_number(name, 1, INT32_MAX); break;
        case 'f': opt.floor = true; break;
        case 'j': opt.json = true; break;
        default: good = false;
        }
    }
    if (!good || optind < argc || opt.path[0] != '/' || opt.threads > opt.connections)
        errx(EXIT_USAGE, "usage: --url HOST:PORT/PATH [--connections C] [--size BYTES] [--type text|binary]\n"
                         "  [--in-flight K] [--seconds T] [--warmup W] [--threads N <= C] [--floor] [--json] "
                         "[--cpu-of PID]");
}

int main(int argc, char **argv)
{
    parse_command_line(argc, argv);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(opt.host, opt.port, &hints, &server);
    if (rc != 0)
        errx(EXIT_FAILED, "%s: %s", opt.host, gai_strerror(rc));

    struct thread *threads = allocate(opt.threads, sizeof threads[0]);
    pthread_barrier_init(&all_connected, NULL, opt.threads + 1);
    for (unsigned i = 0; i < opt.threads; i++) {
        threads[i].nconns = opt.connections / opt.threads + (i < opt.connections % opt.threads);
        if (pthread_create(&threads[i].id, NULL, thread_run, &threads[i]) != 0)
            errx(EXIT_FAILED, "cannot start a thread");
    }
    pthread_barrier_wait(&all_connected);
    usleep((useconds_t)(opt.warm_up * 1e6));
    phase = MEASURE;
    struct reading from = take_reading();
    usleep((useconds_t)(opt.seconds * 1e6));
    struct reading to = take_reading();
    phase = DRAIN;

    for (unsigned i = 0; i < opt.threads; i++) {
        pthread_join(threads[i].id, NULL);
        thread_free(&threads[i]);
        if (i > 0)
            hist_add(&threads[0].hist, &threads[i].hist);
    }
    if (threads[0].hist.count == 0)
        errx(EXIT_FAILED, "no message came back within the measured time");
    report(&threads[0].hist, &from, &to);
    freeaddrinfo(server);
    free(threads);
    return 0;
}
