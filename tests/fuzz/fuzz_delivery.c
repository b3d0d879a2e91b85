/* SPDX-License-Identifier: MIT
 * Topics and messages between WebSockets of two workers, which the input runs step by step. What each client
 * receives has to be what a plain model says, which puts each message at once behind what its receivers are
 * to get: so nothing is lost, doubled, out of order or sent to its publisher. Slow clients may lose whole
 * messages, or be closed with 1013, and nothing else. Some clients may speak permessage-deflate, each in its
 * way: what they inflate has to be the same.
 *
 * The input: a byte for how slow clients are, what becomes of them and whether some compress; then steps of
 * three bytes: what, who, and how much or which topic. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/log.h"
#include "bus/courier.h"
#include "bus/delivery.h"
#include "bus/letter.h"
#include "bus/topic.h"
#include "http/http1.h"
#include "ws/session.h"
#include "ws/upgrade.h"

#include "check.h"

enum { WORKERS = 2, PEERS = 6, TOPICS = 5, OF_ONE = 4 /* subscriptions */, STEPS = 400, SMALL_LIMIT = 3000 };

/* What the step says besides its kind. */
struct step {
    uint8_t kind, who, what;
};

/* A client, its WebSocket, and the model of both. */
struct peer {
    struct session *session; /* NULL once it is over */
    uint64_t id;
    int fd;
    unsigned worker; /* from 0 */
    bool subscribed[TOPICS];
    bool leaving;             /* the server's Close is in `want` */
    struct buf in, got, want; /* what has come; frames: of that, inflated; and the model's */
    size_t read;              /* of `in` */
    const struct speech *speech;
    z_stream inflate;
};

/* How a client speaks permessage-deflate. */
struct speech {
    unsigned bits; /* of the window; 0: not at all */
    bool takeover;
    uint64_t min; /* its route's compression_min */
};

/* Begun alternately on the two workers. */
static const struct speech speeches[PEERS] = {
    {15, true, 0}, {12, true, 0}, {15, false, 0}, {12, true, 0}, {9, true, 200}, {0},
};
static const struct speech silence;
static bool some_compress;

/* A message or a subscription's worth of it on its way to the other worker. */
struct parcel {
    int topic;   /* -1: a letter */
    uint64_t id; /* of its receiver */
    struct buf frame;
};

/* What one worker has told the other: gathered, and posted from `posted` on before. */
struct road {
    struct parcel parcel[2 * STEPS];
    size_t first, posted, count;
};

static struct config config;
static struct worker *workers[WORKERS];
static struct peer peers[PEERS];
static struct peer *opening;
static struct road roads[WORKERS]; /* by sender */
static struct session_limits limits[PEERS];
static enum { NEVER_SLOW, SLOW_DROP, SLOW_CLOSE } slowness;
static unsigned messages;

static void put(struct buf *b, const void *data, size_t len)
{
    CHECK(buf_append(b, data, len) == 0);
}

/* ---- the layer above ---- */

static struct peer *peer_of(const struct session *s)
{
    for (size_t i = 0; i < PEERS; i++)
        if (peers[i].session == s)
            return &peers[i];
    CHECK(false && "a session of nobody");
    return NULL;
}

static void on_message(struct session *s, bool text, const char *data, size_t len, struct inbound_turn *turn)
{
    (void)s, (void)text, (void)data, (void)len, (void)turn;
    CHECK(false && "no client sends messages");
}

static void on_control(struct session *s, bool ping, const char *data, size_t len)
{
    (void)s, (void)ping, (void)data, (void)len;
    CHECK(false && "no client sends pings");
}

static void on_drain(struct session *s)
{
    CHECK(session_is_open(s) && s->conn->out.bytes == 0);
}

static void on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    struct peer *p = peer_of(s);
    (void)reason, (void)reason_len;
    CHECK(code == 1006 || code == 1000 || (code == 1013 && slowness == SLOW_CLOSE));
    topic_unsubscribe_all(s);
    memset(p->subscribed, 0, sizeof p->subscribed);
    p->session = NULL;
}

static void before_message(struct session *s)
{
    (void)s;
}

static const struct session_handler handler = {.before_message = before_message,
                                               .on_message = on_message,
                                               .on_control = on_control,
                                               .on_drain = on_drain,
                                               .catch_up = delivery_catch_up,
                                               .on_close = on_close};

static bool on_head(struct conn *c, struct head *head, size_t *max_body)
{
    (void)max_body;
    opening->session = session_open(
        c, head_ref(head),
        &(struct session_accept){.limits = &limits[opening - peers], .protocol = -1, .fields = ""});
    opening->id = c->id;
    return false;
}

static struct http1_handler http_handler = {.on_head = on_head};

static void on_due(struct worker *w)
{
    courier_flush(w);
    delivery_flush(w);
}

static const struct worker_hooks hooks = {.on_due = on_due};

static void world_init(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    CHECK(upgrade_init() == 0 && config_init(&config) == 0 && topics_init(WORKERS) == 0);
    config.max_subscriptions_per_connection = OF_ONE;
    config.compression_window = 15;
    for (unsigned i = 0; i < WORKERS; i++) {
        struct worker *w = workers[i] = worker_create(i + 1, &config, &hooks);
        CHECK(w != NULL);
        ev_timer_stop(w->loop, &w->tick); /* no time passes */
        w->count = WORKERS;
        w->peers = workers;
        w->layer[WORKER_HTTP] = &http_handler;
        CHECK(session_worker_init(w, &handler) == 0 && courier_init(w) == 0 && topic_worker_init(w) == 0);
    }
}

/* ---- the model ---- */

static bool is_open(const struct peer *p)
{
    return p->session != NULL && session_is_open(p->session);
}

/* Only while nobody is slow does the model know who is open. */
static void check_open(const struct peer *p, bool open)
{
    CHECK(slowness != NEVER_SLOW || is_open(p) == open);
}

static void model_deliver(const struct parcel *c, unsigned worker, const struct peer *except)
{
    for (size_t i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];
        bool wanted = c->topic < 0 ? p->id == c->id : p->worker == worker && p->subscribed[c->topic];
        if (wanted && p != except && is_open(p))
            put(&p->want, c->frame.data, c->frame.len);
    }
}

static unsigned model_count(int topic, unsigned worker)
{
    unsigned n = 0;
    for (size_t i = 0; i < PEERS; i++)
        n += peers[i].worker == worker && peers[i].subscribed[topic];
    return n;
}

static void model_set_out(unsigned from, int topic, uint64_t id, const struct buf *frame)
{
    struct road *r = &roads[from];
    CHECK(r->count < sizeof r->parcel / sizeof r->parcel[0]);
    struct parcel *c = &r->parcel[r->count++];
    *c = (struct parcel){.topic = topic, .id = id};
    put(&c->frame, frame->data, frame->len);
}

/* ---- what a worker does ---- */

static void road_post(unsigned from)
{
    courier_flush(workers[from]);
    roads[from].posted = roads[from].count;
}

/* The model first: what a slow client does not take may end it. */
static void road_arrive(unsigned from)
{
    struct road *r = &roads[from];
    unsigned to = 1 - from;
    for (; r->first < r->posted; r->first++) {
        model_deliver(&r->parcel[r->first], to, NULL);
        buf_fini(&r->parcel[r->first].frame);
    }
    mailbox_flush(&workers[to]->mailbox);
}

/* One iteration, and another for what comes of it. */
static void run(unsigned i)
{
    for (int round = 0; round < 2; round++) {
        road_post(i);
        delivery_flush(workers[i]);
        road_arrive(1 - i);
        ev_run(workers[i]->loop, EVRUN_NOWAIT);
    }
}

/* ---- clients ---- */

/* A compressed message, which the client's one stream has to inflate (RFC 7692, 7.2.2). */
static void peer_inflate(struct peer *p, const uint8_t *data, size_t len, struct buf *out)
{
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
    if (!p->speech->takeover)
        CHECK(inflateReset(&p->inflate) == Z_OK);
    for (int part = 0; part < 2; part++) {
        p->inflate.next_in = (z_const Bytef *)(uintptr_t)(part == 0 ? data : tail);
        p->inflate.avail_in = (uInt)(part == 0 ? len : sizeof tail);
        do { /* little at a time, so that only the window is left of the rest */
            CHECK(buf_reserve(out, 64) == 0);
            p->inflate.next_out = (Bytef *)out->data + out->len;
            p->inflate.avail_out = 64;
            int rc = inflate(&p->inflate, Z_SYNC_FLUSH);
            CHECK(rc == Z_OK || rc == Z_BUF_ERROR);
            out->len += 64 - p->inflate.avail_out;
        } while (p->inflate.avail_out == 0);
        CHECK(p->inflate.avail_in == 0);
    }
}

static void put_frame(struct buf *b, uint8_t first, const void *payload, size_t len)
{
    uint8_t header[10] = {first, (uint8_t)len};
    size_t n = 2, bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;
    if (bytes > 0)
        header[1] = bytes == 2 ? 126 : 127;
    for (size_t i = 0; i < bytes; i++)
        header[n++] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    put(b, header, n);
    put(b, payload, len);
}

/* Whole frames of what has come, as if they had not been compressed. */
static void peer_take_frames(struct peer *p)
{
    for (size_t size, len; p->in.len - p->read >= 4;) { /* no frame here is shorter */
        const uint8_t *frame = (const uint8_t *)p->in.data + p->read;
        if ((frame[1] == 127 && p->in.len - p->read < FRAMER_HEADER_MAX) ||
            (size = framer_whole_size(frame)) > p->in.len - p->read)
            return;
        const uint8_t *payload = framer_payload(frame, &len);
        p->read += size;
        if (frame[0] & FRAMER_RSV1) {
            struct buf text = BUF_INIT;
            CHECK(p->speech->bits > 0 && (frame[0] & 15) < 8);
            peer_inflate(p, payload, len, &text);
            CHECK(text.len > len && text.len >= p->speech->min);
            put_frame(&p->got, frame[0] & 0xbf, text.data, text.len);
            buf_fini(&text);
        } else
            put(&p->got, frame, size);
    }
}

static void peer_receive(struct peer *p)
{
    char data[4096];
    for (ssize_t n; p->fd >= 0 && (n = recv(p->fd, data, sizeof data, MSG_DONTWAIT)) > 0;)
        put(&p->in, data, (size_t)n);
}

static void peer_read(struct peer *p)
{
    peer_receive(p);
    peer_take_frames(p);
}

/* Reads until the server has nothing more for it. */
static void peer_read_all(struct peer *p)
{
    size_t before;
    do {
        before = p->in.len;
        run(p->worker);
        peer_receive(p);
    } while (p->in.len > before);
}

static size_t write_upgrade(const struct speech *speech, char *out, size_t room)
{
    int len = snprintf(out, room,
                       "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    if (speech->bits > 0)
        len += snprintf(out + len, room - (size_t)len,
                        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=%u%s\r\n",
                        speech->bits, speech->takeover ? "" : "; server_no_context_takeover");
    len += snprintf(out + len, room - (size_t)len, "\r\n");
    return (size_t)len;
}

static void peer_open(struct peer *p, unsigned worker)
{
    int fds[2], least = 1;
    const struct sockaddr address = {.sa_family = AF_UNIX};
    char upgrade[400];
    *p = (struct peer){.worker = worker, .speech = some_compress ? &speeches[p - peers] : &silence};
    if (p->speech->bits > 0)
        CHECK(inflateInit2(&p->inflate, -(int)p->speech->bits) == Z_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    if (slowness != NEVER_SLOW)
        CHECK(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof least) == 0);
    p->fd = fds[1];
    opening = p;
    size_t len = write_upgrade(p->speech, upgrade, sizeof upgrade);
    CHECK(write(p->fd, upgrade, len) == (ssize_t)len);
    http1_on_accept(workers[worker], fds[0], &address, (struct spread_how){0});
    while (p->session == NULL)
        run(worker);
    peer_read_all(p);
    CHECK(p->in.len > 13 && memcmp(p->in.data, "HTTP/1.1 101 ", 13) == 0);
    CHECK((p->session->deflate != NULL) == (p->speech->bits > 0));
    p->in.len = 0;
}

/* It is over. */
static void peer_forget(struct peer *p)
{
    close(p->fd);
    p->fd = -1;
    while (p->session != NULL)
        run(p->worker);
    if (p->speech->bits > 0)
        inflateEnd(&p->inflate);
    buf_fini(&p->in);
    buf_fini(&p->got);
    buf_fini(&p->want);
}

static size_t frame_size(const struct buf *b, size_t at)
{
    size_t size = framer_whole_size((const uint8_t *)b->data + at);
    CHECK(size <= b->len - at);
    return size;
}

/* What has come is the beginning of what was to come, or all of it. */
static void peer_compare(const struct peer *p, bool all)
{
    CHECK(p->got.len <= p->want.len && (!all || p->got.len == p->want.len));
    CHECK(p->got.len == 0 || memcmp(p->got.data, p->want.data, p->got.len) == 0);
}

/* What has come is whole frames of what was to come, in that order; where slow clients are closed, without
 * gaps up to a Close. */
static void peer_compare_slow(const struct peer *p)
{
    size_t want = 0;
    for (size_t at = 0, size; at < p->got.len; at += size) {
        size = frame_size(&p->got, at);
        const char *frame = p->got.data + at;
        if (slowness == SLOW_CLOSE && memcmp(frame + 2, "\x03\xf5", 2) == 0 && frame[0] == (char)0x88) {
            CHECK(at + size == p->got.len);
            return;
        }
        for (size_t skip; want < p->want.len; want += skip) {
            skip = frame_size(&p->want, want);
            if (skip == size && memcmp(p->want.data + want, frame, size) == 0)
                break;
            CHECK(slowness == SLOW_DROP);
        }
        CHECK(want < p->want.len);
        want += size;
    }
    CHECK(slowness == SLOW_DROP || want == p->want.len);
}

/* It takes what there is for it; when the server is not closing, there is nothing left of anything then. */
static void peer_close(struct peer *p)
{
    peer_read_all(p);
    peer_take_frames(p);
    CHECK(p->read == p->in.len);
    if (slowness == NEVER_SLOW)
        peer_compare(p, true);
    else
        peer_compare_slow(p);
    peer_forget(p);
}

/* It goes as it is. */
static void peer_cut(struct peer *p)
{
    peer_read(p);
    if (slowness == NEVER_SLOW)
        peer_compare(p, false);
    peer_forget(p);
}

/* ---- steps ---- */

static const char *const topic_name[TOPICS] = {"a", "room:1", "room:2", "b", "\xff"};

static void check_counts(int topic)
{
    const char *name = topic_name[topic];
    CHECK(topic_subscribers(name, strlen(name)) == model_count(topic, 0) + model_count(topic, 1));
}

/* A message that is like no other, of a size that the step says, as a frame too. */
static size_t make_message(uint8_t what, char *text, struct buf *frame)
{
    static const size_t sizes[] = {8, 20, 125, 126, 300, 1000, 4089, 4093, 5000, 20000, 65535, 66000};
    size_t len = sizes[what / 8 % (sizeof sizes / sizeof sizes[0])];
    uint32_t random = messages % 5; /* so that it repeats what was sent before, if not just before */
    for (size_t i = 0; i < len; i++) {
        random = random * 1103515245 + 12345;
        text[i] = (char)('a' + (random >> 16) % 26);
    }
    snprintf(text, 8, "%07u", messages++ % 10000000);
    text[7] = ':';
    put_frame(frame, 0x81, text, len);
    return len;
}

static void subscribe(struct peer *p, int topic)
{
    unsigned have = 0;
    for (int i = 0; i < TOPICS; i++)
        have += p->subscribed[i];
    enum topic_subscribed want = !p->subscribed[topic] && have == OF_ONE ? TOPIC_TOO_MANY : TOPIC_SUBSCRIBED;
    if (!is_open(p))
        return;
    CHECK(topic_subscribe(p->session, topic_name[topic], strlen(topic_name[topic])) == want);
    p->subscribed[topic] = p->subscribed[topic] || want == TOPIC_SUBSCRIBED;
}

static void unsubscribe(struct peer *p, int topic)
{
    if (p->session == NULL)
        return;
    CHECK(topic_unsubscribe(p->session, topic_name[topic], strlen(topic_name[topic])) ==
          p->subscribed[topic]);
    p->subscribed[topic] = false;
}

/* By a WebSocket, or by the program (`by` is NULL). */
static void publish(unsigned worker, struct peer *by, int topic, uint8_t what)
{
    static char text[70000];
    struct parcel c = {.topic = topic};
    if (by != NULL && !is_open(by))
        return;
    size_t len = make_message(what, text, &c.frame);
    model_deliver(&c, worker, by);
    if (model_count(topic, 1 - worker) > 0)
        model_set_out(worker, topic, 0, &c.frame);
    CHECK(topic_publish(workers[worker], topic_name[topic], strlen(topic_name[topic]), true, text, len,
                        by != NULL ? by->session : NULL));
    buf_fini(&c.frame);
}

/* From a worker to one client, by its id. */
static void send_letter(unsigned worker, const struct peer *to, uint8_t what)
{
    static char text[70000];
    struct parcel c = {.topic = -1, .id = to->id};
    size_t len = make_message(what, text, &c.frame);
    bool open = is_open(to);
    if (to->worker == worker)
        model_deliver(&c, worker, NULL);
    else
        model_set_out(worker, -1, to->id, &c.frame);
    enum session_sent sent = letter_send(workers[worker], to->id, true, text, len);
    if (to->worker != worker)
        CHECK(sent == SESSION_SENT);
    else if (slowness == NEVER_SLOW || !open)
        CHECK(sent == (open ? SESSION_SENT : SESSION_NOT_OPEN));
    buf_fini(&c.frame);
}

static void server_closes(struct peer *p)
{
    if (!is_open(p))
        return;
    put(&p->want, "\x88\x02\x03\xe8", 4);
    session_close(p->session, 1000, "", 0);
    CHECK(!is_open(p));
    p->leaving = true;
}

static void take_step(const struct step *s)
{
    struct peer *p = &peers[s->who % PEERS];
    unsigned worker = s->who / 8 % WORKERS;
    int topic = s->what % 8 % TOPICS;
    check_open(p, !p->leaving);
    switch (s->kind % 16) {
    case 0:
    case 1:
    case 2: subscribe(p, topic); break;
    case 3: unsubscribe(p, topic); break;
    case 4:
    case 5:
    case 6: publish(p->worker, p, topic, s->what); break;
    case 7:
    case 8: publish(worker, NULL, topic, s->what); break;
    case 9: send_letter(worker, p, s->what); break;
    case 10: run(worker); break;
    case 11: road_post(worker); break;
    case 12: road_arrive(worker); break;
    case 13: peer_read(p); break;
    case 14:
        if (p->session != NULL)
            CHECK(session_buffered(p->session) <= p->want.len + 200 || slowness != NEVER_SLOW);
        break;
    default:
        if (s->what % 4 == 0)
            server_closes(p);
        else {
            (s->what % 4 == 1 ? peer_cut : peer_close)(p);
            peer_open(p, worker);
        }
    }
    check_counts(topic);
}

static void check_nothing_is_left(void)
{
    for (unsigned i = 0; i < WORKERS; i++) {
        const struct worker *w = workers[i];
        CHECK(w->nconns == 0 && w->dirty == NULL && w->mailbox.head == NULL);
    }
    static const enum metric gauges[] = {METRIC_CONNECTIONS,   METRIC_WEBSOCKETS,   METRIC_TOPICS,
                                         METRIC_SUBSCRIPTIONS, METRIC_QUEUED_BYTES, METRIC_COMPRESSED};
    for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++)
        CHECK(metrics_sum(gauges[i]) == 0);
    CHECK(topics_count() == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 + STEPS * sizeof(struct step))
        return 0;
    if (workers[0] == NULL)
        world_init();
    slowness = data[0] % 4 == 3 ? SLOW_CLOSE : data[0] % 4 == 2 ? SLOW_DROP : NEVER_SLOW;
    some_compress = data[0] & 4;
    for (size_t i = 0; i < PEERS; i++) {
        session_limits_init(&limits[i], &config);
        limits[i].send_limit = slowness == NEVER_SLOW ? 1 << 30 : SMALL_LIMIT;
        limits[i].drop = slowness == SLOW_DROP;
        limits[i].compression = true;
        limits[i].compression_min = speeches[i].min;
    }
    memset(roads, 0, sizeof roads);
    messages = 0;

    for (unsigned i = 0; i < PEERS; i++)
        peer_open(&peers[i], i % WORKERS);
    for (size_t at = 1; at + sizeof(struct step) <= size; at += sizeof(struct step))
        take_step((const struct step *)(data + at));
    for (int round = 0; round < 3; round++)
        for (unsigned i = 0; i < WORKERS; i++)
            run(i);
    for (size_t i = 0; i < PEERS; i++)
        peer_close(&peers[i]);
    for (unsigned i = 0; i < WORKERS; i++)
        run(i);
    check_nothing_is_left();
    return 0;
}
