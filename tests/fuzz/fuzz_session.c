/* SPDX-License-Identifier: MIT
 * A whole WebSocket is fed a client's bytes in pieces. What its handler gets, what the client gets back and
 * how it ends have to be what a plain reading of RFC 6455 says, written down here once more, over all the
 * bytes at once.
 *
 * The input: a byte for the largest message, one for what the handler does and how the stream ends, one for
 * the message at which it does it (or after how many pieces a suspended handler goes on); eight bytes that
 * say how to cut the rest into pieces, over and over; then the client's bytes. All of it happens twice: the
 * second time, the handler asks for the next message itself. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "http/http1.h"
#include "ws/session.h"
#include "ws/upgrade.h"

#include "check.h"

enum { CUTS = 8, PREFIX = 3 + CUTS };
enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { NO_CODE = 1005, NO_CLOSE = 1006, OUR_CODE = 4567, OUR_FAULT = 1011 };

/* What the input asks for besides the client's bytes. */
struct plan {
    size_t max_message;
    bool echo;       /* the handler sends each message back */
    bool half_close; /* the stream ends with the client's side, not with its socket */
    enum { JUST_LISTEN, CLOSE_AT, FAIL_AT } action;
    unsigned at;       /* which message, from 1 */
    unsigned suspends; /* the handler, at each so-manieth message; 0 is never. Then it only listens */
    const uint8_t *cuts;
};

static struct plan plan_read(const uint8_t *data)
{
    static const size_t limits[] = {1, 10, 125, 126, 5000, 70000, 1 << 20, 1 << 30};
    unsigned suspends = data[1] >> 5;
    return (struct plan){
        .max_message = limits[data[0] % 8],
        .echo = suspends == 0 && (data[1] & 1),
        .half_close = data[1] & 2,
        .action = suspends == 0 ? (data[1] >> 2 & 7) % 3u : JUST_LISTEN,
        .at = data[2] % 16 + 1u,
        .suspends = suspends,
        .cuts = data + 3,
    };
}

/* What happens at either end: messages as text flag, length and data, and at last the close code and reason;
 * and the server's frames, up to its Close's code. */
struct record {
    struct buf heard, sent;
    unsigned messages;
    bool over;
    size_t end; /* where in `heard` the end stands */
};

static void put(struct buf *b, const void *data, size_t len)
{
    CHECK(buf_append(b, data, len) == 0);
}

static void record_message(struct record *r, bool text, const void *data, size_t len)
{
    CHECK(!r->over);
    r->messages++;
    CHECK(buf_printf(&r->heard, "%d %zu ", text, len) == 0);
    put(&r->heard, data, len);
}

static void record_end(struct record *r, unsigned code, const void *reason, size_t len)
{
    CHECK(!r->over);
    r->over = true;
    r->end = r->heard.len;
    CHECK(buf_printf(&r->heard, "end %u ", code) == 0);
    put(&r->heard, reason, len);
}

/* Messages that wait for a suspended handler when the end comes are not heard any more (`may_miss`). */
static void record_compare(const struct record *a, const struct record *b, bool may_miss)
{
    CHECK(a->end == b->end || (may_miss && a->end < b->end));
    CHECK(a->end == 0 || memcmp(a->heard.data, b->heard.data, a->end) == 0);
    CHECK(a->heard.len - a->end == b->heard.len - b->end);
    CHECK(memcmp(a->heard.data + a->end, b->heard.data + b->end, a->heard.len - a->end) == 0);
    CHECK(a->sent.len == b->sent.len);
    CHECK(a->sent.len == 0 || memcmp(a->sent.data, b->sent.data, a->sent.len) == 0);
}

static void record_fini(struct record *r)
{
    buf_fini(&r->heard);
    buf_fini(&r->sent);
}

/* ---- UTF-8 once more (RFC 3629), by decoding ---- */

enum utf8_verdict { GOOD, CUT_SHORT, BAD };

/* The character at s[0 .. len), which is not empty: its length, 0 when more bytes could make it one, or -1.
 */
static int character(const uint8_t *s, size_t len)
{
    static const struct {
        uint8_t mask, lead;
        uint32_t least;
    } kinds[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (int more = 0; more < 4; more++) {
        if ((s[0] & kinds[more].mask) != kinds[more].lead)
            continue;
        /* The smallest and the largest that it can become. */
        uint32_t low = s[0] & (uint8_t)~kinds[more].mask, high = low;
        for (int i = 1; i <= more; i++) {
            bool have = (size_t)i < len;
            if (have && (s[i] & 0xc0) != 0x80)
                return -1;
            low = low << 6 | (have ? s[i] & 0x3fu : 0);
            high = high << 6 | (have ? s[i] & 0x3fu : 0x3f);
        }
        bool only_surrogates = low >= 0xd800 && high <= 0xdfff;
        if (high < kinds[more].least || low > 0x10ffff || only_surrogates)
            return -1;
        return (size_t)more < len ? more + 1 : 0;
    }
    return -1;
}

static enum utf8_verdict judge_text(const uint8_t *s, size_t len)
{
    for (size_t at = 0; at < len;) {
        int n = character(s + at, len - at);
        if (n <= 0)
            return n == 0 ? CUT_SHORT : BAD;
        at += (size_t)n;
    }
    return GOOD;
}

/* ---- the reference ---- */

struct reference {
    const struct plan *plan;
    struct record record;
    struct buf message;
    bool in_message, text, closing;
};

static void reference_send(struct reference *r, uint8_t opcode, const void *data, size_t len)
{
    uint8_t header[10] = {(uint8_t)(0x80 | opcode), (uint8_t)len};
    size_t n = 2;
    if (len >= 126) {
        size_t bytes = len < 65536 ? 2 : 8;
        header[1] = bytes == 2 ? 126 : 127;
        for (size_t i = 0; i < bytes; i++)
            header[n++] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    }
    put(&r->record.sent, header, n);
    put(&r->record.sent, data, len);
}

/* A Close of ours, in the form to which received() cuts them. */
static void reference_send_close(struct reference *r, unsigned code)
{
    const uint8_t frame[] = {0x80 | CLOSE, (uint8_t)(code >> 8), (uint8_t)code};
    put(&r->record.sent, frame, code == NO_CODE ? 1 : 3);
}

static void reference_fail(struct reference *r, unsigned code)
{
    if (!r->closing)
        reference_send_close(r, code);
    record_end(&r->record, code, "", 0);
}

static void reference_on_message(struct reference *r)
{
    if (r->closing)
        return;
    record_message(&r->record, r->text, r->message.data, r->message.len);
    bool now = r->record.messages == r->plan->at;
    if (now && r->plan->action == CLOSE_AT) {
        reference_send_close(r, OUR_CODE);
        r->closing = true;
    } else if (now && r->plan->action == FAIL_AT)
        reference_fail(r, OUR_FAULT);
    else if (r->plan->echo)
        reference_send(r, r->text ? TEXT : BINARY, r->message.data, r->message.len);
}

static void reference_on_close_frame(struct reference *r, const uint8_t *payload, size_t len)
{
    unsigned code = len >= 2 ? (unsigned)payload[0] << 8 | payload[1] : NO_CODE;
    bool allowed = (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
                   (code >= 3000 && code <= 4999) || len == 0;
    if (!allowed)
        reference_fail(r, 1002);
    else if (len > 2 && judge_text(payload + 2, len - 2) != GOOD)
        reference_fail(r, 1007);
    else {
        if (!r->closing)
            reference_send_close(r, code);
        record_end(&r->record, code, len > 2 ? payload + 2 : payload, len > 2 ? len - 2 : 0);
    }
}

/* What a whole header says (5.2 to 5.5): 0, or the code to fail with. */
static unsigned judge_header(const struct reference *r, const uint8_t *header, uint64_t length)
{
    uint8_t opcode = header[0] & 15;
    bool fin = header[0] & 0x80;
    if (header[0] & 0x70)
        return 1002;
    if (opcode >= 8) {
        if (opcode > PONG || !fin || (header[1] & 127) > 125)
            return 1002;
        return 0;
    }
    if (opcode > BINARY || (opcode == CONTINUATION) != r->in_message)
        return 1002;
    if (length > r->plan->max_message - (r->in_message ? r->message.len : 0))
        return 1009;
    bool short_form =
        ((header[1] & 127) == 126 && length < 126) || ((header[1] & 127) == 127 && length < 65536);
    return short_form ? 1002 : 0;
}

/* A frame whose header is whole, with `have` bytes of its payload. */
static void reference_on_frame(struct reference *r, const uint8_t *header, const uint8_t *payload,
                               size_t have, bool whole)
{
    uint8_t opcode = header[0] & 15;
    bool fin = header[0] & 0x80;
    if (opcode == PING && whole && !r->closing)
        reference_send(r, PONG, payload, have);
    if (opcode == CLOSE && whole)
        reference_on_close_frame(r, payload, have);
    if (opcode >= 8)
        return;
    if (opcode != CONTINUATION) {
        r->message.len = 0;
        r->text = opcode == TEXT;
    }
    r->in_message = true;
    put(&r->message, payload, have);
    enum utf8_verdict text = r->text ? judge_text((const uint8_t *)r->message.data, r->message.len) : GOOD;
    if (text == BAD || (text == CUT_SHORT && fin && whole))
        reference_fail(r, 1007);
    else if (fin && whole) {
        r->in_message = false;
        reference_on_message(r);
    }
}

/* Takes one frame, or what there is of it; returns how many bytes, 0 when that was the last. */
static size_t reference_read_frame(struct reference *r, const uint8_t *in, size_t len)
{
    if (len < 2)
        return 0;
    size_t bytes = (in[1] & 127) == 127 ? 8 : (in[1] & 127) == 126 ? 2 : 0;
    if (!(in[1] & 0x80) || (bytes == 8 && len > 2 && in[2] & 0x80)) {
        reference_fail(r, 1002);
        return 0;
    }
    size_t header = 2 + bytes + 4;
    if (len < header)
        return 0;
    uint64_t length = bytes == 0 ? in[1] & 127u : 0;
    for (size_t i = 0; i < bytes; i++)
        length = length << 8 | in[2 + i];
    unsigned fault = judge_header(r, in, length);
    if (fault != 0) {
        reference_fail(r, fault);
        return 0;
    }
    bool whole = length <= len - header;
    size_t have = whole ? (size_t)length : len - header;
    uint8_t *payload = malloc(have + 1);
    CHECK(payload != NULL);
    for (size_t i = 0; i < have; i++)
        payload[i] = in[header + i] ^ in[header - 4 + i % 4];
    reference_on_frame(r, in, payload, have, whole);
    free(payload);
    return whole ? header + have : 0;
}

static void reference_read(struct reference *r, const uint8_t *in, size_t len)
{
    size_t used;
    for (size_t at = 0; !r->record.over && (used = reference_read_frame(r, in + at, len - at)) > 0;
         at += used)
        ;
}

/* ---- the real one ---- */

static struct config config;
static struct worker *worker;
static const struct plan *plan;
static struct record *record;
static struct session *session; /* NULL once it is over */
static unsigned suspended;      /* of its handlers */
static bool in_message;         /* inside of the handler */
static bool takes_next;         /* the handler asks for the next message itself */

enum { READ_AHEAD = 300 };

static void on_one_message(struct session *s, bool text, const char *data, size_t len)
{
    CHECK(s == session && session_is_open(s) && suspended == 0);
    record_message(record, text, data, len);
    if (plan->suspends > 0 && record->messages % plan->suspends == 0) {
        CHECK(inbound_hold(s) == 0);
        suspended = 1;
    }
    bool now = record->messages == plan->at;
    if (now && plan->action == CLOSE_AT)
        session_close(s, OUR_CODE, "closed by the handler", 21);
    else if (now && plan->action == FAIL_AT)
        session_fail(s, OUR_FAULT, "failed by the handler");
    else if (plan->echo)
        CHECK(session_send(s, text, data, len) == SESSION_SENT);
    bool ended = now && (plan->action == CLOSE_AT || plan->action == FAIL_AT);
    CHECK(session_is_open(s) == !ended);
}

static void on_message(struct session *s, bool text, const char *data, size_t len, struct inbound_turn *turn)
{
    CHECK(!in_message);
    in_message = true;
    do
        on_one_message(s, text, data, len);
    while (takes_next && turn != NULL && inbound_next(turn, &text, &data, &len));
    in_message = false;
}

static void on_close(struct session *s, unsigned code, const char *reason, size_t reason_len)
{
    CHECK(s == session);
    session = NULL;
    suspended = 0;
    CHECK(session_send(s, true, "late", 4) == SESSION_NOT_OPEN);
    session_close(s, 1000, "", 0);
    session_fail(s, 1002, "");
    record_end(record, code, reason, reason_len);
}

static void on_control(struct session *s, bool ping, const char *data, size_t len)
{
    (void)ping;
    CHECK(s == session && session_is_open(s) && !in_message && data != NULL && len <= 125);
}

static void on_drain(struct session *s)
{
    CHECK(s == session && session_is_open(s) && s->conn->out.bytes == 0);
}

static void before_message(struct session *s)
{
    (void)s;
}

static const struct session_handler handler = {.before_message = before_message,
                                               .on_message = on_message,
                                               .on_control = on_control,
                                               .on_drain = on_drain,
                                               .on_close = on_close};

static struct session_limits limits;

static bool on_head(struct conn *c, struct head *head, size_t *max_body)
{
    (void)max_body;
    session_limits_init(&limits, &config);
    limits.read_ahead = READ_AHEAD;
    session = session_open(c, head_ref(head),
                           &(struct session_accept){.limits = &limits, .protocol = -1, .fields = ""});
    return false;
}

static struct http1_handler http_handler = {.on_head = on_head};

static void world_init(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    CHECK(upgrade_init() == 0);
    CHECK(config_init(&config) == 0);
    config.send_limit = 1 << 30;
    worker = worker_create(1, &config, NULL);
    CHECK(worker != NULL);
    ev_timer_stop(worker->loop, &worker->tick); /* no time passes */
    worker->layer[WORKER_HTTP] = &http_handler;
    CHECK(session_worker_init(worker, &handler) == 0);
}

/* The events that are ready, input that waits for its turn, and the end of their iteration. */
static void run(void)
{
    for (int i = 0; i < 2 || !list_empty(&worker->ready); i++)
        ev_run(worker->loop, EVRUN_NOWAIT);
}

static const char upgrade[] =
    "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/* A client whose first piece comes with its handshake. Returns its socket. */
static int client_open(const uint8_t *first, size_t len)
{
    int fds[2];
    const struct sockaddr peer = {.sa_family = AF_UNIX};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    http1_on_accept(worker, fds[0], &peer, (struct spread_how){0});
    struct buf out = BUF_INIT;
    put(&out, upgrade, sizeof upgrade - 1);
    put(&out, first, len);
    CHECK(write(fds[1], out.data, out.len) == (ssize_t)out.len);
    buf_fini(&out);
    return fds[1];
}

static void client_read(int fd, struct buf *in)
{
    ssize_t n;
    do {
        CHECK(buf_reserve(in, 65536) == 0);
        n = recv(fd, in->data + in->len, 65536, 0);
        in->len += n > 0 ? (size_t)n : 0;
        run();
    } while (n > 0);
}

/* A piece goes straight to the connection, in a block of its own, so that AddressSanitizer sees a step
 * beyond. */
static size_t client_send(struct conn *c, const uint8_t *piece, size_t len)
{
    uint8_t *data = malloc(len);
    CHECK(data != NULL);
    memcpy(data, piece, len);
    size_t used = c->ops->on_data(c, data, len);
    CHECK(used <= len && (used > 0 || c->state != CONN_OPEN));
    free(data);
    return used;
}

static size_t piece_size(uint8_t cut, size_t left)
{
    size_t size = cut < 0x80 ? cut + 1u : (size_t)(cut - 0x7f) * 48;
    return size < left ? size : left;
}

/* The handler goes on. */
static void go_on(void)
{
    if (suspended == 0)
        return;
    suspended = 0;
    inbound_release(session);
    run();
}

/* With a handler that is suspended now and then, whether the connection reads is its own business. */
static void feed_suspending(int fd, const uint8_t *stream, size_t at, size_t len)
{
    for (unsigned i = 1; session != NULL && at < len; i++) {
        size_t size = piece_size(plan->cuts[i % CUTS], len - at);
        ssize_t n = write(fd, stream + at, size);
        CHECK(n > 0 || (n < 0 && (errno == EAGAIN || errno == EPIPE)));
        at += n > 0 ? (size_t)n : 0;
        run();
        if (n < 0 || i % plan->at == 0) /* a socket holds less of many small pieces */
            go_on();
    }
    while (suspended > 0)
        go_on();
}

static void feed(const uint8_t *stream, size_t at, size_t len)
{
    struct conn *c = session != NULL ? session->conn : NULL;
    for (unsigned i = 1; c != NULL && session != NULL && c->state == CONN_OPEN && at < len; i++) {
        at += client_send(c, stream + at, piece_size(plan->cuts[i % CUTS], len - at));
        run();
    }
}

static void real_read(const uint8_t *stream, size_t len, struct buf *in)
{
    size_t at = piece_size(plan->cuts[0], len);
    session = NULL;
    suspended = 0;
    int fd = client_open(stream, at);
    run();
    if (plan->suspends > 0)
        feed_suspending(fd, stream, at, len);
    else
        feed(stream, at, len);
    client_read(fd, in);
    if (plan->half_close) {
        shutdown(fd, SHUT_WR);
        run();
        client_read(fd, in);
    }
    close(fd);
    run();
    run();
    CHECK(worker->nconns == 0 && worker->dirty == NULL && !ev_is_active(&worker->spin));
    for (enum metric m = 0; m < METRIC_COUNT; m++) {
        bool of_now = m == METRIC_CONNECTIONS || m == METRIC_WEBSOCKETS || m == METRIC_FRAME_CONTEXTS ||
                      m == METRIC_REASSEMBLY_BYTES || m == METRIC_QUEUED_BYTES;
        CHECK(!of_now || metrics_sum(m) == 0);
    }
}

/* The frames after the handshake; of a Close, which is the last, only its code: the reason is for people. */
static void received(const struct buf *in, struct buf *out)
{
    const char *end = in->len > 0 ? memmem(in->data, in->len, "\r\n\r\n", 4) : NULL;
    CHECK(end != NULL && memcmp(in->data, "HTTP/1.1 101 ", 13) == 0);
    size_t at = (size_t)(end - in->data) + 4;
    while (at < in->len) {
        const uint8_t *frame = (const uint8_t *)in->data + at;
        CHECK(in->len - at >= 2 && !(frame[1] & 0x80));
        size_t bytes = frame[1] == 127 ? 8 : frame[1] == 126 ? 2 : 0;
        uint64_t length = bytes == 0 ? frame[1] : 0;
        for (size_t i = 0; i < bytes; i++)
            length = length << 8 | frame[2 + i];
        CHECK(in->len - at >= 2 + bytes + length);
        if (frame[0] == (0x80 | CLOSE)) {
            CHECK(in->len == at + 2 + length && length != 1);
            put(out, frame, 1);
            put(out, frame + 2, length > 0 ? 2 : 0);
        } else
            put(out, frame, (size_t)(2 + bytes + length));
        at += (size_t)(2 + bytes + length);
    }
}

/* Has to be as the reference says. */
static void check_real(const struct reference *reference, const uint8_t *stream, size_t len)
{
    struct record real = {0};
    struct buf in = BUF_INIT;
    record = &real;
    real_read(stream, len, &in);
    received(&in, &real.sent);
    CHECK(real.over);
    record_compare(&real, &reference->record, plan->suspends > 0);
    buf_fini(&in);
    record_fini(&real);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < PREFIX || size > 100000) /* more would not fit into the socket at once */
        return 0;
    if (worker == NULL)
        world_init();
    const struct plan this_plan = plan_read(data);
    plan = &this_plan;
    config.max_message = (int64_t)plan->max_message;

    struct reference reference = {.plan = plan};
    reference_read(&reference, data + PREFIX, size - PREFIX);
    if (!reference.record.over)
        record_end(&reference.record, NO_CLOSE, "", 0);

    for (int i = 0; i < 2; i++) {
        takes_next = i > 0;
        check_real(&reference, data + PREFIX, size - PREFIX);
    }
    buf_fini(&reference.message);
    record_fini(&reference.record);
    return 0;
}
