/* SPDX-License-Identifier: MIT
 * Topics as one worker has them: who subscribes, and publishing. The thread of that worker.
 *
 * A message is framed once. It goes into the topic's feed (feed.h) and, for workers that have subscribers
 * too, to the courier (courier.h). Feeds count as the end of each subscriber's send queue: they are put there
 * at the end of the loop iteration, all messages of a topic at once, or before anything else is sent to that
 * subscriber (delivery.h). So what one sender sends and publishes arrives in the order made, while N messages
 * to N subscribers cost N queue entries, not N * N. */
#ifndef TIDEWIRE_BUS_TOPIC_H
#define TIDEWIRE_BUS_TOPIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/feed.h"
#include "bus/topics.h"
#include "net/worker.h"
#include "ws/session.h"

struct topic {
    struct topics_name *name; /* referenced */
    struct topic *next;       /* in its bucket */
    struct feed *feed;        /* NULL: nothing is waiting */
    struct subscription **subscriptions;
    uint32_t count, cap;
};

/* One subscriber of one topic. */
struct subscription {
    struct topic *topic;
    struct session *session;
    /* The records before `from` are not for it, or have been sent; `own`: some of the feed are its own
     * messages. Both hold while `epoch` is the worker's. */
    uint64_t epoch;
    uint32_t from : 31, own : 1;
    uint32_t at; /* in topic->subscriptions */
};

/* What a session is subscribed to, ordered by the address of the topic. */
struct subscriber {
    uint64_t epoch; /* in which it has been sent what was published before the message `seen` */
    uint32_t seen, count, cap;
    struct subscription *subscription[];
};

/* worker->layer[WORKER_BUS] */
struct topic_worker {
    struct topic **bucket;
    size_t nbuckets, ntopics;
    struct feed **active;          /* the feeds that are not empty */
    struct subscription **scratch; /* delivery's; as large as `active` */
    uint32_t nactive, active_cap;
    uint64_t epoch; /* counts how often all subscribers were served */
    uint32_t seq;   /* messages since */
    size_t waiting; /* bytes of them */
    struct feed_pool feeds;
};

/* 0, or -1 when memory runs out. */
int topic_worker_init(struct worker *w);
/* When no session is subscribed any more. */
void topic_worker_fini(struct worker *w);

static inline struct topic_worker *topic_worker_of(const struct worker *w)
{
    return w->layer[WORKER_BUS];
}

enum topic_subscribed { TOPIC_SUBSCRIBED, TOPIC_TOO_MANY, TOPIC_NO_MEMORY };

/* From now on; again changes nothing. The session is open. `len` is from 1 to TOPICS_NAME_MAX. */
enum topic_subscribed topic_subscribe(struct session *s, const char *name, size_t len);

/* What was published before is still sent. False when it was not subscribed. */
bool topic_unsubscribe(struct session *s, const char *name, size_t len);

/* From everything. */
void topic_unsubscribe_all(struct session *s);

/* Sends to every subscriber in every worker but `except` (or NULL). False when some worker's inbox was full,
 * or memory ran out, and its subscribers do not get it. */
bool topic_publish(struct worker *w, const char *name, size_t len, bool text, const void *data,
                   size_t data_len, struct session *except);

/* In all workers. */
uint64_t topic_subscribers(const char *name, size_t len);

/* ---- for delivery.c ---- */

/* The session's subscription, or NULL. */
struct subscription *topic_find_subscription(const struct subscriber *r, const struct topic *t);

/* Forgets a topic that nobody needs. */
void topic_tidy(struct worker *w, struct topic *t);

#endif
