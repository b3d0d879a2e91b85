/* SPDX-License-Identifier: MIT
 * From the feeds of topics into the send queues of their subscribers. */
#include "bus/delivery.h"

#include <stdlib.h>

#include "bus/encoding.h"
#include "bus/topic.h"

/* ---- one topic ---- */

/* The range of `f`, which is `plain` or one of its encodings, that begins with the record `from`. */
static enum session_sent delivery_send_range(struct session *s, const struct feed *f,
                                             const struct feed *plain, uint32_t from,
                                             const struct feed_range *r)
{
    struct feed_sum sum = feed_sum(plain, from, from + r->count);
    struct session_batch batch = {r->count, sum.binary, sum.bytes, sum.binary_bytes};
    enum session_sent sent = session_send_block(s, r->block, r->at, r->len, &batch);
    if (sent != SESSION_SENT)
        return sent;
    metrics_add(s->conn->worker->metrics, METRIC_DELIVERED, r->count);
    if (f->compressed)
        deflate_forget(s->deflate);
    return sent;
}

/* The records from .. to, which are too many for a slow peer to take together: the newest go without. */
static void delivery_send_singly(struct session *s, const struct feed *f, const struct feed *plain,
                                 uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        struct feed_range one = feed_range(f, i, i + 1);
        enum session_sent sent = delivery_send_range(s, f, plain, i, &one);
        if (sent == SESSION_QUEUE_FULL)
            session_drop(s, to - i - 1);
        if (sent != SESSION_SENT)
            return;
    }
}

/* The records from .. to. */
static void delivery_send(struct session *s, struct feed *plain, uint32_t from, uint32_t to)
{
    const struct feed *f = s->deflate == NULL ? plain : encoding_for(s, plain);
    while (from < to) {
        struct feed_range r = feed_range(f, from, to);
        enum session_sent sent = delivery_send_range(s, f, plain, from, &r);
        if (sent == SESSION_NOT_OPEN)
            return;
        if (sent == SESSION_QUEUE_FULL && r.count > 1)
            delivery_send_singly(s, f, plain, from, from + r.count);
        from += r.count;
    }
}

/* The same without those that the session has published itself. */
static void delivery_send_others(struct session *s, struct feed *f, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (f->record[i].except == s) {
            delivery_send(s, f, from, i);
            from = i + 1;
        }
    delivery_send(s, f, from, to);
}

static uint32_t delivery_from(const struct topic_worker *t, const struct subscription *sub)
{
    return sub->epoch == t->epoch ? sub->from : 0;
}

/* Sends the records up to `to`, from where the subscription stands. */
static void delivery_advance(const struct topic_worker *t, struct subscription *sub, uint32_t to)
{
    struct feed *f = sub->topic->feed;
    uint32_t from = delivery_from(t, sub);
    if (sub->epoch != t->epoch) {
        sub->epoch = t->epoch;
        sub->own = 0;
    }
    sub->from = to & 0x7fffffff;
    if (sub->own)
        delivery_send_others(sub->session, f, from, to);
    else
        delivery_send(sub->session, f, from, to);
}

/* ---- several topics ---- */

/* Subscriptions by the number of their next message, the least first (a binary heap). */
struct delivery_merge {
    struct subscription **heap;
    uint32_t count;
    const struct topic_worker *topics;
};

static uint32_t delivery_next_seq(const struct delivery_merge *m, uint32_t i)
{
    const struct subscription *sub = m->heap[i];
    return sub->topic->feed->record[delivery_from(m->topics, sub)].seq;
}

static void delivery_sink(struct delivery_merge *m, uint32_t i)
{
    for (;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < m->count; child++)
            if (delivery_next_seq(m, child) < delivery_next_seq(m, least))
                least = child;
        if (least == i)
            return;
        struct subscription *moved = m->heap[i];
        m->heap[i] = m->heap[least];
        m->heap[least] = moved;
        i = least;
    }
}

/* Sends from the first subscription what comes before the others' next. */
static void delivery_merge_run(struct delivery_merge *m)
{
    struct subscription *sub = m->heap[0];
    const struct feed *f = sub->topic->feed;
    uint32_t until = UINT32_MAX, to = delivery_from(m->topics, sub);
    for (uint32_t i = 1; i <= 2 && i < m->count; i++)
        if (delivery_next_seq(m, i) < until)
            until = delivery_next_seq(m, i);
    while (to < f->nrecords && f->record[to].seq < until)
        to++;
    delivery_advance(m->topics, sub, to);
    if (to == f->nrecords)
        m->heap[0] = m->heap[--m->count];
    delivery_sink(m, 0);
}

static bool delivery_is_due(const struct topic_worker *t, const struct subscription *sub)
{
    return sub->topic->feed != NULL && delivery_from(t, sub) < sub->topic->feed->nrecords;
}

/* The session's subscriptions with something to send: by way of what is fewer, its own or the active feeds.
 */
static uint32_t delivery_collect(const struct topic_worker *t, const struct subscriber *r,
                                 struct subscription **out)
{
    uint32_t n = 0;
    if (r->count <= t->nactive) {
        for (uint32_t i = 0; i < r->count; i++)
            if (delivery_is_due(t, r->subscription[i]))
                out[n++] = r->subscription[i];
        return n;
    }
    for (uint32_t i = 0; i < t->nactive; i++) {
        struct subscription *sub = topic_find_subscription(r, t->active[i]->topic);
        if (sub != NULL && delivery_is_due(t, sub))
            out[n++] = sub;
    }
    return n;
}

static void delivery_merged(const struct topic_worker *t, struct subscriber *r)
{
    struct delivery_merge m = {.topics = t, .heap = t->scratch};
    m.count = delivery_collect(t, r, m.heap);
    for (uint32_t i = m.count / 2; i-- > 0;)
        delivery_sink(&m, i);
    while (m.count > 0)
        delivery_merge_run(&m);
}

void delivery_catch_up(struct session *s)
{
    const struct topic_worker *t = topic_worker_of(s->conn->worker);
    struct subscriber *r = s->subscriber;
    if (t->seq == 0 || (r->epoch == t->epoch && r->seen == t->seq))
        return;
    r->epoch = t->epoch;
    r->seen = t->seq; /* before the rest: sending may ask again */
    struct subscription *only = r->count == 1 ? r->subscription[0] : NULL;
    if (only == NULL)
        delivery_merged(t, r);
    else if (delivery_is_due(t, only))
        delivery_advance(t, only, only->topic->feed->nrecords);
}

/* ---- all subscribers ---- */

static void delivery_flush_feed(const struct topic_worker *t, const struct feed *f)
{
    const struct topic *topic = f->topic;
    for (uint32_t i = 0; i < topic->count; i++) {
        struct subscription *sub = topic->subscriptions[i];
        if (t->nactive > 1)
            delivery_catch_up(sub->session);
        else if (delivery_is_due(t, sub))
            delivery_advance(t, sub, f->nrecords);
    }
}

void delivery_flush(struct worker *w)
{
    struct topic_worker *t = topic_worker_of(w);
    if (t->nactive == 0)
        return;
    for (uint32_t i = 0; i < t->nactive; i++)
        delivery_flush_feed(t, t->active[i]);
    for (uint32_t i = 0; i < t->nactive; i++) {
        struct topic *topic = t->active[i]->topic;
        feed_put(&t->feeds, t->active[i]);
        topic->feed = NULL;
        topic_tidy(w, topic);
    }
    t->nactive = 0;
    t->seq = 0;
    t->waiting = 0;
    t->epoch++;
}
