/* SPDX-License-Identifier: MIT
 * What a WebSocket receives. */
#include "ws/inbound.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rate.h"
#include "ws/closecode.h"
#include "ws/session.h"

/* How long one connection's messages are handled before the others get their turn. */
#define INBOUND_TURN_MS 5

#define INBOUND_RSV1 4

/* First bytes of frames that are whole messages, not compressed. */
#define INBOUND_WHOLE_TEXT   (0x80 | WSLAY_TEXT_FRAME)
#define INBOUND_WHOLE_BINARY (0x80 | WSLAY_BINARY_FRAME)

/* A fault like CLOSECODE_INVALID_DATA, with words of its own. */
#define INBOUND_BAD_DEFLATE (CLOSECODE_INVALID_DATA | 1u << 16)
#define INBOUND_CODE        0xffffu

/* Room that is made for what is inflated, at least. */
#define INBOUND_INFLATE_MIN 1024

/* For what each fragment may add to a compressed message. */
#define INBOUND_PACKED_MORE 65536

/* What a worker keeps of the memory for messages that are inflated in one go. */
#define INBOUND_INFLATED_KEEP (1 << 18)

/* A message's memory is never more than so many times what has arrived of it. */
#define INBOUND_GROWTH 16

/* Fewer bytes are not worth a recv of their own. */
#define INBOUND_DIRECT_MIN 65536

/* Between two looks whether a peer that is not being read is still there. */
#define INBOUND_PROBE_S 1.0

struct inbound_message {
    struct inbound_message *next;
    size_t len;
    bool text;
    char data[];
};

/* What has been read, and how far it has been dealt with: by the loop below, or, while that is in the handler
 * of a message, by inbound_next. */
struct inbound_turn {
    struct session *session;
    uint8_t *data;
    size_t at, len;
    uint64_t end_ms; /* not asked for until there is a second frame */
    /* what the frame that was read last has brought, when that is a message of its own; or NULL */
    const char *message;
    size_t message_len;
    bool text;
};

static size_t inbound_cost(const struct inbound_message *m)
{
    return sizeof *m + m->len;
}

bool inbound_is_idle(const struct inbound *in)
{
    return in->body.cap == 0 && in->first == NULL && in->rest.cap == 0 && in->suspended == 0 &&
           !in->in_message && !in->paused && in->control_len == 0 && atomic_load(&in->rate) == 0;
}

/* ---- messages_per_second ---- */

static uint64_t inbound_now_us(void)
{
    return clock_coarse_ms() * 1000;
}

static double inbound_burst(double per_second)
{
    return per_second > 1 ? per_second : 1;
}

/* When there is no room for another one, it is the last for a while. */
static void inbound_count_one(struct session *s, double limit)
{
    double burst = inbound_burst(limit);
    struct session_more *more = session_need_more(s);
    if (more == NULL)
        return;
    uint64_t now_us = inbound_now_us();
    rate_take(&more->in.rate, now_us, limit, burst);
    more->in.throttled = rate_wait_us(&more->in.rate, now_us, limit, burst) > 0;
}

/* A message or control frame counts. */
static inline void inbound_count(struct session *s)
{
    double limit = s->limits->messages_per_second;
    if (limit > 0)
        inbound_count_one(s, limit);
}

/* ---- messages that wait ---- */

static bool inbound_must_wait(const struct session *s)
{
    return s->more != NULL && (s->more->in.suspended > 0 || s->more->in.first != NULL);
}

static unsigned inbound_enqueue(struct session *s, bool text, const char *data, size_t len)
{
    struct inbound *in = &s->more->in;
    struct inbound_message *m = malloc(sizeof *m + len);
    if (m == NULL)
        return CLOSECODE_INTERNAL_ERROR;
    m->next = NULL;
    m->len = len;
    m->text = text;
    memcpy(m->data, data, len);
    if (in->first == NULL)
        in->first = m;
    else
        in->last->next = m;
    in->last = m;
    in->waiting += inbound_cost(m);
    metrics_add(session_metrics(s), METRIC_REASSEMBLY_BYTES, inbound_cost(m));
    return 0;
}

static struct inbound_message *inbound_dequeue(struct session *s)
{
    struct inbound *in = &s->more->in;
    struct inbound_message *m = in->first;
    in->first = m->next;
    in->waiting -= inbound_cost(m);
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, inbound_cost(m));
    return m;
}

/* The handler gets a message. */
static inline void inbound_count_told(struct session *s, bool text, size_t len)
{
    struct metrics *m = session_metrics(s);
    metrics_add_kind(m, METRIC_MESSAGES_IN_BINARY, text, 1);
    metrics_add_kind(m, METRIC_MESSAGE_BYTES_IN_BINARY, text, len);
    if (s->counted)
        session_counts(s)->messages_in++;
}

static void inbound_tell(struct session *s, bool text, const char *data, size_t len,
                         struct inbound_turn *turn)
{
    inbound_count_told(s, text, len);
    session_layer(s)->handler->on_message(s, text, data, len, turn);
}

static unsigned inbound_deliver(struct session *s, bool text, const char *data, size_t len,
                                struct inbound_turn *turn)
{
    if (!session_is_open(s)) /* after our Close nobody waits for messages */
        return 0;
    inbound_count(s);
    if (!inbound_must_wait(s))
        session_layer(s)->handler->before_message(s);
    if (inbound_must_wait(s))
        return inbound_enqueue(s, text, data, len);
    if (session_is_open(s))
        inbound_tell(s, text, data, len, turn);
    return 0;
}

/* ---- frames ---- */

/* Bytes that a compressed message may have. How long it is inflated is another matter; but blocks that make
 * nothing would never end, and cost much time. No sensible compressor makes a message longer by half. */
static uint64_t inbound_packed_limit(const struct session *s)
{
    return 2 * s->limits->max_message + INBOUND_PACKED_MORE;
}

/* Sequence, sizes and bits (RFC 6455, 5.2 to 5.5), before any payload is taken in. */
static unsigned inbound_on_header(void *to, const struct framer_header *h)
{
    struct session *s = ((struct inbound_turn *)to)->session;
    bool data = h->opcode == WSLAY_TEXT_FRAME || h->opcode == WSLAY_BINARY_FRAME;
    if (h->rsv != 0 && (h->rsv != INBOUND_RSV1 || s->deflate == NULL || !data)) /* RFC 7692, 6 */
        return CLOSECODE_PROTOCOL_ERROR;
    const struct inbound *in = s->more != NULL ? &s->more->in : NULL;
    bool in_message = in != NULL && in->in_message;
    switch (h->opcode) {
    case WSLAY_CONTINUATION_FRAME:
        if (!in_message)
            return CLOSECODE_PROTOCOL_ERROR;
        break;
    case WSLAY_TEXT_FRAME:
    case WSLAY_BINARY_FRAME:
        if (in_message)
            return CLOSECODE_PROTOCOL_ERROR;
        break;
    case WSLAY_CONNECTION_CLOSE:
    case WSLAY_PING:
    case WSLAY_PONG: return h->fin && h->length <= 125 ? 0 : CLOSECODE_PROTOCOL_ERROR;
    default: return CLOSECODE_PROTOCOL_ERROR;
    }
    bool compressed = in_message ? in->compressed : h->rsv != 0;
    uint64_t limit = compressed ? inbound_packed_limit(s) : s->limits->max_message;
    uint64_t have = !in_message ? 0 : compressed ? in->packed : in->body.len; /* perhaps under older limits */
    bool too_big = h->length > s->limits->max_frame || have > limit || h->length > limit - have;
    return too_big ? CLOSECODE_TOO_BIG : 0;
}

/* Whether `extra` more bytes of input have no room in the process. */
static bool inbound_has_no_room(const struct session *s, size_t extra)
{
    const struct worker *w = s->conn->worker;
    return worker_over_limit(w, METRIC_REASSEMBLY_BYTES, w->config->reassembly_limit, extra);
}

/* Room for `len` more bytes of a message, and for nothing beyond them when these are its rest. */
static unsigned inbound_reserve(struct session *s, size_t len, bool rest)
{
    struct inbound *in = &s->more->in;
    size_t before = in->body.cap, growth = rest ? in->body.len + len - before : before > len ? before : len;
    /* One whose handler is suspended is going to be paused instead. */
    if (in->suspended == 0 && inbound_has_no_room(s, growth)) {
        metrics_add(session_metrics(s), METRIC_REASSEMBLY_REFUSED, 1);
        return CLOSECODE_TRY_AGAIN_LATER;
    }
    if ((rest ? buf_reserve_exact(&in->body, len) : buf_reserve(&in->body, len)) < 0)
        return CLOSECODE_INTERNAL_ERROR;
    metrics_add(session_metrics(s), METRIC_REASSEMBLY_BYTES, in->body.cap - before);
    return 0;
}

/* A compressed message begins. */
static unsigned inbound_begin_inflating(struct session *s, bool whole)
{
    int rc = deflate_begin(&session_layer(s)->deflate, s->deflate, whole);
    if (rc == DEFLATE_OVER_LIMIT)
        metrics_add(session_metrics(s), METRIC_REASSEMBLY_REFUSED, 1);
    return rc == 0 ? 0 : rc == DEFLATE_OVER_LIMIT ? CLOSECODE_TRY_AGAIN_LATER : CLOSECODE_INTERNAL_ERROR;
}

/* Room for more of what is inflated: one byte over the limit, by which it is seen that there is more. */
static unsigned inbound_reserve_inflated(struct session *s, struct buf *body, size_t input)
{
    size_t most = (size_t)s->limits->max_message + 1 - body->len;
    size_t want = input * 4 > INBOUND_INFLATE_MIN ? input * 4 : INBOUND_INFLATE_MIN;
    want = want < most ? want : most;
    if (s->more != NULL && body == &s->more->in.body)
        return inbound_reserve(s, want, false);
    return buf_reserve(body, want) < 0 ? CLOSECODE_INTERNAL_ERROR : 0;
}

/* Inflates to the end of `body`. */
static unsigned inbound_inflate_into(struct session *s, struct buf *body, const uint8_t *data, size_t len)
{
    size_t limit = (size_t)s->limits->max_message, room;
    ssize_t made;
    do {
        if (body->len > limit)
            return CLOSECODE_TOO_BIG;
        unsigned fault = body->cap == body->len ? inbound_reserve_inflated(s, body, len) : 0;
        if (fault != 0)
            return fault;
        room = body->cap - body->len < limit + 1 - body->len ? body->cap - body->len : limit + 1 - body->len;
        made = deflate_inflate(s->deflate, &data, &len, (uint8_t *)body->data + body->len, room);
        if (made < 0)
            return made == DEFLATE_INVALID ? INBOUND_BAD_DEFLATE : CLOSECODE_INTERNAL_ERROR;
        body->len += (size_t)made;
    } while ((size_t)made == room);
    return 0;
}

/* A piece of a compressed message. */
static unsigned inbound_inflate(struct session *s, struct buf *body, const uint8_t *data, size_t len,
                                bool last)
{
    unsigned fault = inbound_inflate_into(s, body, data, len);
    if (fault == 0 && last)
        fault = inbound_inflate_into(s, body, deflate_tail, DEFLATE_TAIL_LEN);
    if (fault == 0 && last && !deflate_end(&session_layer(s)->deflate, s->deflate))
        fault = INBOUND_BAD_DEFLATE;
    return fault;
}

/* A piece of a message as it was sent. It may be where it belongs already (inbound_on_room). */
static unsigned inbound_append(struct session *s, const struct framer_header *h, const uint8_t *data,
                               size_t len)
{
    struct buf *body = &s->more->in.body;
    size_t have = body->len + len, room = body->cap - body->len;
    /* Memory grows with what has arrived: the rest of a message gets its place when a good part is here. */
    bool rest = h->opcode != WSLAY_CONTINUATION_FRAME && h->length / INBOUND_GROWTH <= have;
    size_t want = rest ? (size_t)h->length - body->len : len;
    unsigned fault = room < len ? inbound_reserve(s, want, rest) : 0;
    if (fault != 0)
        return fault;
    if (len > 0 && data != (const uint8_t *)body->data + body->len)
        memcpy(body->data + body->len, data, len);
    body->len = have;
    return 0;
}

size_t inbound_on_room(struct conn *c, uint8_t **to)
{
    const struct session *s = conn_session(c);
    const struct inbound *in = s->more != NULL ? &s->more->in : NULL;
    if (in == NULL || !in->in_message || in->compressed || s->more->rx == NULL || c->sips)
        return 0;
    uint64_t left = framer_left(s->more->rx), room = in->body.cap - in->body.len;
    if (left < INBOUND_DIRECT_MIN || room < INBOUND_DIRECT_MIN)
        return 0;
    *to = (uint8_t *)in->body.data + in->body.len;
    return left < room ? left : room;
}

/* A message begins that is not whole in one piece. */
static unsigned inbound_begin(struct session *s, const struct framer_header *h)
{
    struct inbound *in = &s->more->in;
    in->in_message = true;
    in->text = h->opcode == WSLAY_TEXT_FRAME;
    in->compressed = h->rsv != 0;
    in->packed = 0;
    memset(&in->utf8, 0, sizeof in->utf8);
    return in->compressed ? inbound_begin_inflating(s, false) : 0;
}

/* The whole message, which `body` has: it is released. */
static unsigned inbound_finish(struct session *s)
{
    struct inbound *in = &s->more->in;
    struct buf body = in->body; /* the handler may end the session */
    in->body = (struct buf)BUF_INIT;
    in->in_message = false;
    unsigned fault = inbound_deliver(s, in->text, body.data != NULL ? body.data : "", body.len, NULL);
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, body.cap);
    buf_fini(&body);
    return fault;
}

/* A piece of a message that is not whole in one piece. */
static unsigned inbound_gather(struct session *s, const struct framer_header *h, const uint8_t *data,
                               size_t len, bool last)
{
    struct session_more *more = session_need_more(s);
    if (more == NULL)
        return CLOSECODE_INTERNAL_ERROR;
    struct inbound *in = &more->in;
    unsigned fault = in->in_message ? 0 : inbound_begin(s, h);
    if (fault != 0)
        return fault;
    size_t before = in->body.len;
    bool whole = last && h->fin;
    in->packed += len;
    if (in->compressed)
        fault = inbound_inflate(s, &in->body, data, len, whole);
    else if (in->text && !utf8_feed(&in->utf8, data, len)) /* before it costs memory */
        fault = CLOSECODE_INVALID_DATA;
    else
        fault = inbound_append(s, h, data, len);
    if (fault == 0 && in->compressed && in->text &&
        !utf8_feed(&in->utf8, (const uint8_t *)in->body.data + before, in->body.len - before))
        fault = CLOSECODE_INVALID_DATA;
    if (fault != 0 || !whole)
        return fault;
    return in->text && !utf8_complete(&in->utf8) ? CLOSECODE_INVALID_DATA : inbound_finish(s);
}

/* A compressed message that is whole in one piece, in memory that the worker keeps for that. */
static unsigned inbound_on_packed(struct session *s, bool text, const uint8_t *data, size_t len)
{
    struct buf *body = &session_layer(s)->inflated;
    body->len = 0;
    unsigned fault = inbound_begin_inflating(s, true);
    if (fault == 0)
        fault = inbound_inflate(s, body, data, len, true);
    if (fault == 0 && text && !utf8_valid(body->data, body->len))
        fault = CLOSECODE_INVALID_DATA;
    if (fault == 0)
        fault = inbound_deliver(s, text, body->data, body->len, NULL);
    if (body->cap > INBOUND_INFLATED_KEEP)
        buf_fini(body);
    return fault;
}

static unsigned inbound_on_control(struct session *s, const struct framer_header *h, const uint8_t *data,
                                   size_t len, bool last)
{
    if (len == h->length)
        return session_on_control_frame(s, h->opcode, data, len);
    struct session_more *more = session_need_more(s);
    if (more == NULL)
        return CLOSECODE_INTERNAL_ERROR;
    struct inbound *in = &more->in;
    memcpy(in->control + in->control_len, data, len);
    in->control_len = (uint8_t)(in->control_len + len);
    if (!last)
        return 0;
    uint8_t control[125], whole = in->control_len;
    memcpy(control, in->control, whole);
    in->control_len = 0;
    return session_on_control_frame(s, h->opcode, control, whole);
}

static unsigned inbound_on_payload(void *to, const struct framer_header *h, const uint8_t *data, size_t len,
                                   bool last)
{
    struct inbound_turn *turn = to;
    struct session *s = turn->session;
    if (wslay_is_ctrl_frame(h->opcode) && last)
        inbound_count(s);
    if (wslay_is_ctrl_frame(h->opcode))
        return inbound_on_control(s, h, data, len, last);
    bool whole = h->fin && h->opcode != WSLAY_CONTINUATION_FRAME && len == h->length;
    if (!whole)
        return inbound_gather(s, h, data, len, last);
    bool text = h->opcode == WSLAY_TEXT_FRAME;
    if (h->rsv != 0)
        return inbound_on_packed(s, text, data, len);
    if (text && !utf8_valid(data, len))
        return CLOSECODE_INVALID_DATA;
    turn->message = (const char *)data; /* for when the frame's context has been given back */
    turn->message_len = len;
    turn->text = text;
    return 0;
}

static const struct framer_events inbound_events = {
    .on_header = inbound_on_header,
    .on_payload = inbound_on_payload,
};

static const char *inbound_fault_text(unsigned code)
{
    switch (code) {
    case CLOSECODE_INVALID_DATA: return "invalid UTF-8";
    case INBOUND_BAD_DEFLATE: return "invalid compressed data";
    case CLOSECODE_TOO_BIG: return "message too big";
    case CLOSECODE_INTERNAL_ERROR: return "out of memory";
    case CLOSECODE_TRY_AGAIN_LATER: return "too much is being received";
    default: return "protocol error";
    }
}

/* ---- when to stop ---- */

static bool inbound_is_full(const struct session *s)
{
    if (s->more == NULL || !session_is_open(s))
        return false;
    const struct inbound *in = &s->more->in;
    if (in->throttled)
        return true;
    if (in->suspended == 0)
        return false;
    return in->waiting + in->body.len >= s->limits->read_ahead || inbound_has_no_room(s, 0);
}

/* Stops reading; what has been read stays for later. */
static void inbound_pause(struct session *s, const uint8_t *data, size_t len)
{
    struct inbound *in = &s->more->in;
    if (len > 0 && buf_append(&in->rest, data, len) < 0) {
        session_fail(s, CLOSECODE_INTERNAL_ERROR, inbound_fault_text(CLOSECODE_INTERNAL_ERROR));
        return;
    }
    metrics_add(session_metrics(s), METRIC_REASSEMBLY_BYTES, in->rest.cap);
    in->paused = true;
    conn_pause(s->conn);
    conn_set_deadline(s->conn, inbound_patience(s));
}

static void inbound_take_rest(struct session *s, struct buf *rest)
{
    struct inbound *in = &s->more->in;
    *rest = in->rest;
    in->rest = (struct buf)BUF_INIT;
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, rest->cap);
}

/* What stopped is over: messages go on at the connection's next turn. */
static void inbound_go_on(struct session *s)
{
    struct inbound *in = &s->more->in;
    struct buf rest;
    bool paused = in->paused;
    if (!paused && in->first == NULL)
        return;
    inbound_take_rest(s, &rest);
    in->paused = false;
    conn_resume(s->conn, rest.data, rest.len);
    buf_fini(&rest);
    if (paused && session_is_open(s))
        session_restart_clock(s);
}

/* ---- the loop ---- */

static bool inbound_turn_is_over(struct inbound_turn *turn)
{
    uint64_t now = clock_coarse_ms();
    if (turn->end_ms == 0)
        turn->end_ms = now + INBOUND_TURN_MS;
    return now > turn->end_ms;
}

/* True when none waits any more. */
static bool inbound_deliver_waiting(struct session *s, struct inbound_turn *turn)
{
    while (s->more != NULL && s->more->in.first != NULL) {
        if (s->more->in.suspended > 0 || !session_is_open(s) || inbound_turn_is_over(turn))
            return false;
        session_layer(s)->handler->before_message(s);
        if (s->more->in.suspended > 0 || !session_is_open(s))
            return false;
        struct inbound_message *m = inbound_dequeue(s);
        inbound_tell(s, m->text, m->data, m->len, NULL);
        free(m);
    }
    return true;
}

static void inbound_fail(struct session *s, unsigned fault)
{
    if (fault != CLOSECODE_INTERNAL_ERROR && fault != CLOSECODE_TRY_AGAIN_LATER)
        metrics_add(session_metrics(s), METRIC_PROTOCOL_ERRORS, 1);
    session_fail(s, fault & INBOUND_CODE, inbound_fault_text(fault));
}

/* One frame at most. True when it is a message of its own. */
static bool inbound_read_frame(struct inbound_turn *turn)
{
    struct session *s = turn->session;
    size_t used = 0;
    struct framer *rx = s->more != NULL ? s->more->rx : NULL;
    if (rx != NULL)
        s->more->rx = NULL;
    turn->message = NULL;
    unsigned fault = framer_read(session_framers(s), &rx, turn->data + turn->at, turn->len - turn->at, &used,
                                 &inbound_events, turn);
    turn->at += used;
    if (s->counted)
        session_counts(s)->bytes_in += used;
    if (rx != NULL && session_need_more(s) != NULL)
        s->more->rx = rx;
    else if (rx != NULL) {
        framer_abandon(session_framers(s), &rx);
        fault = CLOSECODE_INTERNAL_ERROR;
    }
    if (fault != 0)
        inbound_fail(s, fault);
    return turn->message != NULL;
}

static bool inbound_can_read(const struct inbound_turn *turn)
{
    const struct session *s = turn->session;
    return turn->at < turn->len && s->conn->state == CONN_OPEN && !inbound_is_full(s);
}

bool inbound_next(struct inbound_turn *turn, bool *text, const char **data, size_t *len)
{
    struct session *s = turn->session;
    if (!inbound_can_read(turn) || !session_is_open(s) || inbound_must_wait(s))
        return false;
    uint8_t first = turn->data[turn->at]; /* of a frame, as the one before it was whole */
    if ((first != INBOUND_WHOLE_TEXT && first != INBOUND_WHOLE_BINARY) || inbound_turn_is_over(turn))
        return false; /* other frames may end in a call to the handler */
    if (!inbound_read_frame(turn))
        return false;
    inbound_count(s);
    inbound_count_told(s, turn->text, turn->message_len);
    *text = turn->text;
    *data = turn->message;
    *len = turn->message_len;
    return true;
}

/* The message that has just been read. */
static void inbound_deliver_read(struct inbound_turn *turn)
{
    struct session *s = turn->session;
    unsigned fault =
        inbound_deliver(s, turn->text, turn->message, turn->message_len, turn->at < turn->len ? turn : NULL);
    if (fault != 0)
        inbound_fail(s, fault);
}

/* Until the input, or the turn, is over. */
static void inbound_read(struct inbound_turn *turn)
{
    while (inbound_can_read(turn)) {
        if (inbound_read_frame(turn))
            inbound_deliver_read(turn);
        if (turn->at == turn->len || inbound_turn_is_over(turn))
            return;
    }
}

size_t inbound_on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct session *s = conn_session(c);
    struct inbound_turn turn = {.session = s, .data = data, .len = len};
    if (len > 0)
        session_heard(s);
    if (inbound_deliver_waiting(s, &turn) || s->more->in.suspended > 0)
        inbound_read(&turn);
    if (s->state == SESSION_ENDED)
        inbound_drop(s);
    else if (s->more != NULL && c->state == CONN_OPEN) {
        if (inbound_is_full(s)) {
            inbound_pause(s, data + turn.at, len - turn.at);
            return len;
        }
        c->again = s->more->in.first != NULL && s->more->in.suspended == 0;
    }
    if (s->leaving) /* it may be through */
        conn_later(c);
    if (s->more != NULL)
        session_tidy(s);
    return turn.at;
}

/* ---- suspended handlers ---- */

int inbound_hold(struct session *s)
{
    struct session_more *more = session_need_more(s);
    if (more == NULL)
        return -1;
    if (more->in.suspended == INBOUND_SUSPENDED_MAX)
        return -2;
    more->in.suspended++;
    s->conn->sips = true;
    return 0;
}

void inbound_hold_for_message(struct session *s)
{
    s->more->in.answering = true;
}

bool inbound_is_answering(const struct session *s)
{
    const struct inbound *in = s->more != NULL ? &s->more->in : NULL;
    return in != NULL && (in->answering || (in->first != NULL && in->suspended == 0));
}

void inbound_release(struct session *s)
{
    struct inbound *in = &s->more->in;
    assert(in->suspended > 0);
    if (--in->suspended > 0)
        return;
    in->answering = false;
    s->conn->sips = s->limits->messages_per_second > 0;
    if (s->state != SESSION_OPEN)
        return;
    if (!in->throttled)
        inbound_go_on(s);
    conn_later(s->conn); /* to tidy up */
}

void inbound_forget_waiting(struct session *s)
{
    if (s->more == NULL)
        return;
    while (s->more->in.first != NULL)
        free(inbound_dequeue(s));
    s->more->in.throttled = false;
    inbound_go_on(s);
}

double inbound_patience(const struct session *s)
{
    const struct inbound *in = &s->more->in;
    double limit = s->limits->messages_per_second;
    if (!in->throttled)
        return INBOUND_PROBE_S;
    if (limit == 0) /* the limit has gone */
        return 0;
    double wait =
        (double)rate_wait_us(&s->more->in.rate, inbound_now_us(), limit, inbound_burst(limit)) / 1e6;
    return wait < INBOUND_PROBE_S ? wait : INBOUND_PROBE_S;
}

void inbound_on_timeout(struct session *s)
{
    struct inbound *in = &s->more->in;
    double limit = s->limits->messages_per_second;
    if (in->throttled &&
        (limit == 0 || rate_wait_us(&in->rate, inbound_now_us(), limit, inbound_burst(limit)) == 0))
        in->throttled = false;
    if (in->suspended == 0 && !in->throttled)
        inbound_go_on(s);
    else if (conn_peer_gone(s->conn, in->suspended > 0)) /* one that is only throttled is read to its end */
        session_lost(s);
    else
        conn_set_deadline(s->conn, inbound_patience(s));
}

void inbound_drop(struct session *s)
{
    if (s->deflate != NULL)
        deflate_release(&session_layer(s)->deflate, s->deflate);
    if (s->more == NULL)
        return;
    framer_abandon(session_framers(s), &s->more->rx);
    struct inbound *in = &s->more->in;
    struct buf rest;
    while (in->first != NULL)
        free(inbound_dequeue(s));
    inbound_take_rest(s, &rest);
    buf_fini(&rest);
    metrics_sub(session_metrics(s), METRIC_REASSEMBLY_BYTES, in->body.cap);
    buf_fini(&in->body);
    in->in_message = in->paused = in->throttled = false;
    in->control_len = 0;
    atomic_store(&in->rate, 0);
}
