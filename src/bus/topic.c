/* SPDX-License-Identifier: MIT
 * Topics as one worker has them. */
#include "bus/topic.h"

#include <stdlib.h>
#include <string.h>

#include "bus/courier.h"
#include "bus/delivery.h"

#define TOPIC_FIRST       64        /* buckets */
#define TOPIC_SHARE_MIN   4096      /* a frame of that many bytes is shared between workers, not copied */
#define TOPIC_WAITING_MAX (1 << 20) /* bytes in feeds that do not wait for the end of the iteration */

/* ---- the table ---- */

static struct topic **topic_bucket(const struct topic_worker *t, uint64_t hash)
{
    return &t->bucket[hash & (t->nbuckets - 1)];
}

static struct topic *topic_find(const struct topic_worker *t, const char *name, size_t len, uint64_t hash)
{
    struct topic *topic = *topic_bucket(t, hash);
    while (topic != NULL && (topic->name->hash != hash || topic->name->len != len ||
                             memcmp(topic->name->text, name, len) != 0))
        topic = topic->next;
    return topic;
}

/* More buckets, when there is memory for them. */
static void topic_grow(struct topic_worker *t)
{
    struct topic_worker grown = {.nbuckets = t->nbuckets * 2};
    grown.bucket = calloc(grown.nbuckets, sizeof(struct topic *));
    if (grown.bucket == NULL)
        return;
    for (size_t i = 0; i < t->nbuckets; i++)
        for (struct topic *topic = t->bucket[i], *next; topic != NULL; topic = next) {
            struct topic **to = topic_bucket(&grown, topic->name->hash);
            next = topic->next;
            topic->next = *to;
            *to = topic;
        }
    free(t->bucket);
    t->bucket = grown.bucket;
    t->nbuckets = grown.nbuckets;
}

static struct topics_place *topic_place(const struct worker *w, struct topics_name *name)
{
    return &name->place[w->index - 1];
}

static struct topic *topic_make(struct worker *w, const char *text, size_t len, uint64_t hash)
{
    struct topic_worker *t = topic_worker_of(w);
    struct topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL || (topic->name = topics_get(text, len, hash, true)) == NULL) {
        free(topic);
        return NULL;
    }
    if (t->ntopics >= t->nbuckets)
        topic_grow(t);
    struct topic **to = topic_bucket(t, hash);
    topic->next = *to;
    *to = topic;
    t->ntopics++;
    topic_place(w, topic->name)->topic = topic;
    metrics_add(w->metrics, METRIC_TOPICS, 1);
    return topic;
}

void topic_tidy(struct worker *w, struct topic *topic)
{
    struct topic_worker *t = topic_worker_of(w);
    if (topic->count > 0 || topic->feed != NULL)
        return;
    struct topic **at = topic_bucket(t, topic->name->hash);
    while (*at != topic)
        at = &(*at)->next;
    *at = topic->next;
    t->ntopics--;
    topic_place(w, topic->name)->topic = NULL;
    topics_unref(topic->name);
    free(topic->subscriptions);
    free(topic);
    metrics_sub(w->metrics, METRIC_TOPICS, 1);
}

int topic_worker_init(struct worker *w)
{
    struct topic_worker *t = calloc(1, sizeof *t);
    if (t == NULL || (t->bucket = calloc(TOPIC_FIRST, sizeof(struct topic *))) == NULL) {
        free(t);
        return -1;
    }
    t->nbuckets = TOPIC_FIRST;
    t->epoch = 1;
    w->layer[WORKER_BUS] = t;
    return 0;
}

void topic_worker_fini(struct worker *w)
{
    struct topic_worker *t = topic_worker_of(w);
    if (t == NULL)
        return;
    delivery_flush(w);
    feed_pool_fini(&t->feeds);
    free(t->active);
    free(t->scratch);
    free(t->bucket);
    free(t);
    w->layer[WORKER_BUS] = NULL;
}

/* ---- subscribing ---- */

/* Where the topic is, or belongs, among the subscriptions. */
static uint32_t topic_search(const struct subscriber *r, const struct topic *topic)
{
    uint32_t low = 0, high = r->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uintptr_t)r->subscription[middle]->topic < (uintptr_t)topic)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct subscription *topic_find_subscription(const struct subscriber *r, const struct topic *topic)
{
    uint32_t i = r != NULL ? topic_search(r, topic) : 0;
    return r != NULL && i < r->count && r->subscription[i]->topic == topic ? r->subscription[i] : NULL;
}

/* Room for one more on the session's side; 0 or -1. */
static int topic_reserve_subscriber(struct session *s)
{
    struct subscriber *r = s->subscriber;
    if (r != NULL && r->count < r->cap)
        return 0;
    uint32_t cap = r == NULL ? 1 : r->cap < 4 ? 4 : r->cap * 2;
    struct subscriber *grown = realloc(r, sizeof *r + cap * sizeof r->subscription[0]);
    if (grown == NULL)
        return -1;
    if (r == NULL)
        memset(grown, 0, sizeof *grown);
    grown->cap = cap;
    s->subscriber = grown;
    return 0;
}

/* The same on the topic's. */
static int topic_reserve(struct topic *topic)
{
    if (topic->count < topic->cap)
        return 0;
    uint32_t cap = topic->cap == 0 ? 1 : topic->cap < 4 ? 4 : topic->cap + topic->cap / 2;
    struct subscription **grown = realloc(topic->subscriptions, cap * sizeof(struct subscription *));
    if (grown == NULL)
        return -1;
    topic->subscriptions = grown;
    topic->cap = cap;
    return 0;
}

/* Links a new subscription on both sides; 0 or -1. */
static int topic_link(struct session *s, struct topic *topic)
{
    struct worker *w = s->conn->worker;
    const struct topic_worker *t = topic_worker_of(w);
    struct subscription *sub = NULL;
    if (topic_reserve_subscriber(s) < 0 || topic_reserve(topic) < 0 || (sub = malloc(sizeof *sub)) == NULL)
        return -1;
    *sub = (struct subscription){.topic = topic, .session = s, .epoch = t->epoch, .at = topic->count};
    sub->from = (topic->feed != NULL ? topic->feed->nrecords : 0) & 0x7fffffff;
    topic->subscriptions[topic->count++] = sub;
    struct subscriber *r = s->subscriber;
    uint32_t i = topic_search(r, topic);
    memmove(r->subscription + i + 1, r->subscription + i, (r->count - i) * sizeof r->subscription[0]);
    r->subscription[i] = sub;
    r->count++;
    atomic_store_explicit(&topic_place(w, topic->name)->subscribers, topic->count, memory_order_release);
    metrics_add(w->metrics, METRIC_SUBSCRIPTIONS, 1);
    return 0;
}

/* A subscriber without subscriptions is none. */
static void topic_tidy_subscriber(struct session *s)
{
    if (s->subscriber == NULL || s->subscriber->count > 0)
        return;
    free(s->subscriber);
    s->subscriber = NULL;
}

static bool topic_is_too_many(const struct session *s)
{
    const struct worker *w = s->conn->worker;
    return (s->subscriber != NULL &&
            s->subscriber->count >= (uint64_t)w->config->max_subscriptions_per_connection) ||
           worker_over_limit(w, METRIC_SUBSCRIPTIONS, w->config->max_subscriptions, 1);
}

enum topic_subscribed topic_subscribe(struct session *s, const char *name, size_t len)
{
    struct worker *w = s->conn->worker;
    uint64_t hash = topics_hash(name, len);
    struct topic *topic = topic_find(topic_worker_of(w), name, len, hash);
    if (topic != NULL && topic_find_subscription(s->subscriber, topic) != NULL)
        return TOPIC_SUBSCRIBED;
    if (topic_is_too_many(s))
        return TOPIC_TOO_MANY;
    if (topic == NULL && (topic = topic_make(w, name, len, hash)) == NULL)
        return TOPIC_NO_MEMORY;
    if (topic_link(s, topic) == 0)
        return TOPIC_SUBSCRIBED;
    topic_tidy(w, topic);
    topic_tidy_subscriber(s);
    return TOPIC_NO_MEMORY;
}

/* Unlinks on the topic's side, and frees. */
static void topic_drop(struct worker *w, struct subscription *sub)
{
    struct topic *topic = sub->topic;
    struct subscription *last = topic->subscriptions[--topic->count];
    topic->subscriptions[sub->at] = last;
    last->at = sub->at;
    atomic_store_explicit(&topic_place(w, topic->name)->subscribers, topic->count, memory_order_release);
    metrics_sub(w->metrics, METRIC_SUBSCRIPTIONS, 1);
    free(sub);
    topic_tidy(w, topic);
}

bool topic_unsubscribe(struct session *s, const char *name, size_t len)
{
    struct worker *w = s->conn->worker;
    struct topic *topic = topic_find(topic_worker_of(w), name, len, topics_hash(name, len));
    struct subscription *sub = topic != NULL ? topic_find_subscription(s->subscriber, topic) : NULL;
    if (sub == NULL)
        return false;
    delivery_catch_up(s);
    struct subscriber *r = s->subscriber;
    uint32_t i = topic_search(r, topic);
    r->count--;
    memmove(r->subscription + i, r->subscription + i + 1, (r->count - i) * sizeof r->subscription[0]);
    topic_drop(w, sub);
    topic_tidy_subscriber(s);
    return true;
}

void topic_unsubscribe_all(struct session *s)
{
    struct subscriber *r = s->subscriber;
    s->subscriber = NULL;
    for (uint32_t i = 0; r != NULL && i < r->count; i++)
        topic_drop(s->conn->worker, r->subscription[i]);
    free(r);
}

/* ---- publishing ---- */

/* The topic's feed, which is active from now on; NULL when memory runs out. */
static struct feed *topic_feed(struct worker *w, struct topic *topic)
{
    struct topic_worker *t = topic_worker_of(w);
    if (topic->feed != NULL)
        return topic->feed;
    if (t->nactive == t->active_cap) {
        uint32_t cap = t->active_cap == 0 ? 16 : t->active_cap * 2;
        struct feed **active = realloc(t->active, cap * sizeof(struct feed *));
        if (active == NULL)
            return NULL;
        t->active = active;
        struct subscription **scratch = realloc(t->scratch, cap * sizeof(struct subscription *));
        if (scratch == NULL)
            return NULL;
        t->scratch = scratch;
        t->active_cap = cap;
    }
    topic->feed = feed_get(&t->feeds, topic);
    if (topic->feed != NULL)
        t->active[t->nactive++] = topic->feed;
    w->due = true;
    return topic->feed;
}

/* Notes that the feed has a message which its publisher does not get. */
static void topic_note_own(const struct topic_worker *t, const struct topic *topic, struct session *except)
{
    struct subscription *sub = topic_find_subscription(except->subscriber, topic);
    if (sub == NULL)
        return;
    if (sub->epoch != t->epoch) {
        sub->epoch = t->epoch;
        sub->from = 0;
    }
    sub->own = 1;
}

/* One message for the subscribers in this worker: a frame, in a block of its own when that is not NULL. */
static bool topic_add(struct worker *w, struct topic *topic, const uint8_t *frame, size_t len,
                      struct block *b, struct session *except)
{
    struct topic_worker *t = topic_worker_of(w);
    struct feed *f = topic_feed(w, topic);
    if (f == NULL ||
        (b != NULL ? feed_add_block(f, b, t->seq, except) : feed_add(f, frame, len, t->seq, except)) < 0)
        return false;
    size_t payload_len;
    const uint8_t *first = b != NULL ? b->data : frame;
    framer_payload(first, &payload_len);
    feed_describe(f, (first[0] & 15) == WSLAY_TEXT_FRAME, payload_len);
    t->seq++;
    t->waiting += len;
    if (except != NULL)
        topic_note_own(t, topic, except);
    return true;
}

static void topic_flush_if_much(struct worker *w)
{
    if (topic_worker_of(w)->waiting > TOPIC_WAITING_MAX)
        delivery_flush(w);
}

/* What another worker has published: the topic, and one frame in a block, or several one behind the other. */
struct topic_parcel {
    struct topics_name *name;
    struct block *block; /* NULL: the frames follow */
    uint8_t frames[];
};

static void topic_on_parcel(struct worker *w, const uint8_t *data, size_t len)
{
    const struct topic_parcel *p = (const struct topic_parcel *)data;
    struct topic *topic = topic_worker_of(w) != NULL ? topic_place(w, p->name)->topic : NULL;
    bool wanted = topic != NULL && topic->count > 0;
    if (wanted && p->block != NULL)
        topic_add(w, topic, NULL, p->block->len, p->block, NULL);
    for (size_t at = 0, n; wanted && at < len - sizeof *p; at += n) {
        n = framer_whole_size(p->frames + at);
        topic_add(w, topic, p->frames + at, n, NULL, NULL);
    }
    if (wanted)
        topic_flush_if_much(w);
    if (p->block != NULL)
        block_unref(p->block);
    topics_unref(p->name);
}

static bool topic_tell(struct worker *w, struct worker *to, struct topics_name *name, const uint8_t *frame,
                       size_t len, struct block *b)
{
    struct topic_parcel *last = (struct topic_parcel *)courier_last(w, to, topic_on_parcel);
    size_t inside = b != NULL ? 0 : len;
    uint8_t *room = NULL;
    if (b == NULL && last != NULL && last->name == name && last->block == NULL)
        room = courier_extend(w, to, len);
    else {
        struct topic_parcel *p = (struct topic_parcel *)courier_add(w, to, topic_on_parcel,
                                                                    sizeof *p + inside, b != NULL ? len : 0);
        if (p != NULL) {
            p->name = topics_ref(name);
            p->block = b != NULL ? block_ref(b) : NULL;
            room = p->frames;
        }
    }
    if (room != NULL && inside > 0)
        memcpy(room, frame, inside);
    if (room == NULL)
        metrics_add(w->metrics, METRIC_INBOX_DROPPED, 1);
    return room != NULL;
}

static bool topic_tell_others(struct worker *w, struct topics_name *name, const uint8_t *frame, size_t len,
                              struct block *b)
{
    bool all = true;
    for (unsigned i = 0; i < w->count; i++)
        if (i != w->index - 1 && atomic_load_explicit(&name->place[i].subscribers, memory_order_acquire) > 0)
            all = topic_tell(w, w->peers[i], name, frame, len, b) && all;
    return all;
}

/* Where framer_write puts a frame. */
static int topic_frame_sink(void *to, const void *data, size_t len)
{
    uint8_t **at = to;
    memcpy(*at, data, len);
    *at += len;
    return 0;
}

static bool topic_frame(struct worker *w, bool text, const void *data, size_t len, uint8_t *to)
{
    struct session_worker *l = w->layer[WORKER_WS];
    uint8_t opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME;
    return framer_write(&l->framers[0], opcode, data, len, topic_frame_sink, &to) == 0;
}

/* To those who subscribe to what has that name, of which `topic` is this worker's part, or NULL. */
static bool topic_publish_to(struct worker *w, struct topics_name *name, struct topic *topic, bool text,
                             const void *data, size_t data_len, struct session *except)
{
    uint8_t small[TOPIC_SHARE_MIN], *frame = small;
    size_t len = framer_size(data_len);
    struct block *b = NULL;
    if (len > sizeof small) {
        b = len < UINT32_MAX ? block_create(len) : NULL;
        if (b == NULL)
            return false;
        b->len = len;
        frame = b->data;
    }
    bool ok = topic_frame(w, text, data, data_len, frame);
    if (ok && topic != NULL && topic->count > 0)
        ok = topic_add(w, topic, frame, len, b, except);
    if (w->count > 1 && ok)
        ok = topic_tell_others(w, name, frame, len, b);
    if (b != NULL)
        block_unref(b);
    topic_flush_if_much(w);
    return ok;
}

bool topic_publish(struct worker *w, const char *text, size_t len, bool is_text, const void *data,
                   size_t data_len, struct session *except)
{
    uint64_t hash = topics_hash(text, len);
    struct topic *topic = topic_find(topic_worker_of(w), text, len, hash);
    struct topics_name *name = topic != NULL  ? topics_ref(topic->name)
                               : w->count > 1 ? topics_get(text, len, hash, false)
                                              : NULL;
    metrics_add(w->metrics, METRIC_PUBLISHED, 1);
    if (name == NULL) /* nobody listens */
        return true;
    bool ok = topic_publish_to(w, name, topic, is_text, data, data_len, except);
    topics_unref(name);
    return ok;
}

uint64_t topic_subscribers(const char *text, size_t len)
{
    struct topics_name *name = topics_get(text, len, topics_hash(text, len), false);
    if (name == NULL)
        return 0;
    uint64_t n = topics_subscribers(name);
    topics_unref(name);
    return n;
}
