/* SPDX-License-Identifier: MIT
 * Messages from any thread to the thread of one loop: a queue and an ev_async, one wake-up per batch. */
#ifndef TIDEWIRE_NET_MAILBOX_H
#define TIDEWIRE_NET_MAILBOX_H

#include <ev.h>
#include <pthread.h>

/* Embed it first in a message of your own. `deliver` runs on the receiving thread and owns the mail from then
 * on. */
struct mail {
    struct mail *next;
    void (*deliver)(struct mail *m, void *receiver);
};

struct mailbox {
    struct ev_loop *loop;
    void *receiver; /* handed to deliver */
    ev_async wake;
    pthread_mutex_t lock;
    struct mail *head, **tail;
};

/* On the thread that runs `loop`, or before it runs. The mailbox does not keep the loop alive. */
void mailbox_init(struct mailbox *b, struct ev_loop *loop, void *receiver);

/* Delivers what is there now, and what comes of it. On the thread that runs `loop`, or when none does. */
void mailbox_flush(struct mailbox *b);

/* Delivers what is left, then ends. No other thread may post any more. */
void mailbox_fini(struct mailbox *b);

/* Any thread. Takes the mail over. */
void mailbox_post(struct mailbox *b, struct mail *m);

#endif
