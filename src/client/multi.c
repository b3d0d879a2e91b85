/* SPDX-License-Identifier: MIT
 * Transfers of libcurl on a worker's loop. */
#include "client/multi.h"

#include <assert.h>
#include <stdlib.h>

struct multi {
    CURLM *handle;
    struct worker *worker;
    struct list transfers;
    ev_timer timer; /* when libcurl wants to be called next */
    bool inside;    /* libcurl is running */
    bool ending;
};

struct multi_transfer {
    struct list link;
    CURL *easy;
    void (*on_done)(void *to, CURLcode result);
    void *to;
};

/* ---- what ends ---- */

static struct multi_transfer *multi_transfer_of(CURL *easy)
{
    char *t = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
    return (struct multi_transfer *)(void *)t;
}

static void multi_tell(struct multi_transfer *t, CURLcode result)
{
    t->on_done(t->to, result); /* t is gone */
}

/* Lets libcurl work, and tells what has ended: one at a time, for that may remove others, with their
 * messages. */
static void multi_act(struct multi *m, curl_socket_t socket, int events)
{
    int running, left;
    CURLMsg *message;
    m->inside = true;
    curl_multi_socket_action(m->handle, socket, events, &running);
    m->inside = false;
    while ((message = curl_multi_info_read(m->handle, &left)) != NULL)
        if (message->msg == CURLMSG_DONE)
            multi_tell(multi_transfer_of(message->easy_handle), message->data.result);
}

/* ---- libcurl's callbacks ---- */

static void multi_on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    multi_act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int multi_set_timer(CURLM *handle, long ms, void *to)
{
    struct multi *m = to;
    (void)handle;
    ev_timer_stop(m->worker->loop, &m->timer);
    if (ms < 0)
        return 0;
    ev_now_update(m->worker->loop); /* what called libcurl may have run for long */
    ev_timer_set(&m->timer, (double)ms / 1000, 0);
    ev_timer_start(m->worker->loop, &m->timer);
    return 0;
}

static void multi_on_io(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    int events = (revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0);
    multi_act(io->data, io->fd, events); /* may free io */
}

/* `watcher` is what was assigned to this socket; NULL when it is new. */
static int multi_watch(CURL *easy, curl_socket_t socket, int what, void *to, void *watcher)
{
    struct multi *m = to;
    ev_io *io = watcher;
    (void)easy;
    if (io != NULL)
        ev_io_stop(m->worker->loop, io);
    if (what == CURL_POLL_REMOVE) {
        curl_multi_assign(m->handle, socket, NULL);
        free(io);
        return 0;
    }
    if (io == NULL) {
        if ((io = calloc(1, sizeof *io)) == NULL)
            return 0; /* the transfer will take too long; an error here would end every one for good */
        ev_init(io, multi_on_io);
        io->data = m;
        curl_multi_assign(m->handle, socket, io);
    }
    ev_io_set(io, socket, (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
    ev_io_start(m->worker->loop, io);
    return 0;
}

/* ---- beginning and ending ---- */

static struct multi *multi_create(struct worker *w)
{
    struct multi *m = calloc(1, sizeof *m);
    if (m == NULL || (m->handle = curl_multi_init()) == NULL) {
        free(m);
        return NULL;
    }
    m->worker = w;
    list_init(&m->transfers);
    ev_timer_init(&m->timer, multi_on_timer, 0, 0);
    m->timer.data = m;
    curl_multi_setopt(m->handle, CURLMOPT_SOCKETFUNCTION, multi_watch);
    curl_multi_setopt(m->handle, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->handle, CURLMOPT_TIMERFUNCTION, multi_set_timer);
    curl_multi_setopt(m->handle, CURLMOPT_TIMERDATA, m);
    w->layer[WORKER_CLIENT] = m;
    return m;
}

/* In the place of a multi that has ended. */
static char multi_ended;

int multi_add(struct worker *w, CURL *easy, void (*on_done)(void *to, CURLcode result), void *to)
{
    struct multi *m = w->layer[WORKER_CLIENT];
    if (m == (void *)&multi_ended || (m == NULL && (m = multi_create(w)) == NULL) || m->ending)
        return -1;
    struct multi_transfer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -1;
    *t = (struct multi_transfer){.easy = easy, .on_done = on_done, .to = to};
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    if (curl_multi_add_handle(m->handle, easy) != CURLM_OK) {
        curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
        free(t);
        return -1;
    }
    list_append(&m->transfers, &t->link);
    return 0;
}

void multi_remove(struct worker *w, CURL *easy)
{
    struct multi *m = w->layer[WORKER_CLIENT];
    struct multi_transfer *t = multi_transfer_of(easy);
    assert(!m->inside);
    list_remove(&t->link);
    curl_multi_remove_handle(m->handle, easy);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
    free(t);
}

void multi_fini(struct worker *w)
{
    struct multi *m = w->layer[WORKER_CLIENT];
    if (m == NULL || m == (void *)&multi_ended)
        return;
    m->ending = true;
    while (!list_empty(&m->transfers))
        multi_tell(LIST_ENTRY(m->transfers.next, struct multi_transfer, link), CURLE_ABORTED_BY_CALLBACK);
    curl_multi_cleanup(m->handle);
    ev_timer_stop(w->loop, &m->timer);
    free(m);
    w->layer[WORKER_CLIENT] = &multi_ended;
}
