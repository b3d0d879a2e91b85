/* SPDX-License-Identifier: MIT
 * Messages between threads. */
#include "net/mailbox.h"

#include <stdbool.h>
#include <stddef.h>

static void mailbox_deliver_all(struct mailbox *b)
{
    pthread_mutex_lock(&b->lock);
    struct mail *m = b->head;
    b->head = NULL;
    b->tail = &b->head;
    pthread_mutex_unlock(&b->lock);
    while (m != NULL) {
        struct mail *next = m->next;
        m->deliver(m, b->receiver);
        m = next;
    }
}

static void mailbox_on_wake(struct ev_loop *loop, ev_async *wake, int revents)
{
    (void)loop;
    (void)revents;
    mailbox_deliver_all(wake->data);
}

void mailbox_init(struct mailbox *b, struct ev_loop *loop, void *receiver)
{
    b->loop = loop;
    b->receiver = receiver;
    b->head = NULL;
    b->tail = &b->head;
    pthread_mutex_init(&b->lock, NULL);
    ev_async_init(&b->wake, mailbox_on_wake);
    b->wake.data = b;
    ev_async_start(loop, &b->wake);
    ev_unref(loop);
}

void mailbox_flush(struct mailbox *b)
{
    while (b->head != NULL) /* a delivery may post */
        mailbox_deliver_all(b);
}

void mailbox_fini(struct mailbox *b)
{
    mailbox_flush(b);
    ev_ref(b->loop);
    ev_async_stop(b->loop, &b->wake);
    pthread_mutex_destroy(&b->lock);
}

void mailbox_post(struct mailbox *b, struct mail *m)
{
    m->next = NULL;
    pthread_mutex_lock(&b->lock);
    bool first = b->head == NULL;
    *b->tail = m;
    b->tail = &m->next;
    pthread_mutex_unlock(&b->lock);
    if (first)
        ev_async_send(b->loop, &b->wake);
}
