/* SPDX-License-Identifier: MIT
 * A worker: one thread with its own loop, listeners, connections, timers, pools and counters, so that nothing
 * on a message's way takes a lock. Everything here belongs to that thread; what other threads may call says
 * so.
 *
 *   RUNNING --worker_stop--> STOPPING --last connection gone, or the drain deadline--> the thread ends */
#ifndef TIDEWIRE_NET_WORKER_H
#define TIDEWIRE_NET_WORKER_H

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/config.h"
#include "base/list.h"
#include "base/metrics.h"
#include "net/conn.h"
#include "net/mailbox.h"
#include "net/outq.h"
#include "net/setup.h"
#include "net/spread.h"
#include "net/wheel.h"

#define WORKER_INPUT   (256 * 1024) /* bytes read at once; one buffer for all connections */
#define WORKER_FRESH   (32 * 1024)  /* bytes that wait for the end of an iteration */
#define WORKER_LATE_MS 100          /* in one iteration of the loop; then others do its accepting */
#define WORKER_SETS_MAX                                                                                      \
    (2 * CONFIG_LIST_MAX) /* addresses that a reload adds, before it takes others away                       \
                           */

struct worker;
struct listener_set;

/* What the layers above do with a worker; the only way `net` reaches upward. All on the worker's thread. */
struct worker_hooks {
    void (*on_start)(struct worker *w); /* the thread has begun */
    /* Takes fd over, and the reference in `how`. */
    void (*on_accept)(struct worker *w, int fd, const struct sockaddr *peer, struct spread_how how);
    void (*on_due)(struct worker *w);  /* worker->due was set: at the end of the loop iteration */
    void (*on_tick)(struct worker *w); /* every WHEEL_TICK_MS; may be NULL */
    void (*on_exit)(struct worker *w); /* the loop is over: release what the layers hold */
};

/* Room for what the layers above keep per worker. */
enum worker_layer {
    WORKER_HTTP,
    WORKER_WS,
    WORKER_COURIER,
    WORKER_BUS,
    WORKER_SHARED,
    WORKER_CLIENT,
    WORKER_SCRIPT,
    WORKER_LAYERS
};

struct worker {
    struct ev_loop *loop;
    uint8_t *input;
    struct conn *dirty; /* connections with something to flush or to free at the end of this iteration */
    struct conn *kept;  /* the first of those that worker_send_fresh has left there; NULL: none */
    size_t fresh;       /* bytes that were added to send queues in this iteration */
    struct list ready;  /* held input that waits for its turn (conn.c) */
    struct metrics *metrics;
    struct outq_pool chunks;
    struct tls_worker *tls; /* tls.c's; NULL before the first connection with TLS */
    uint64_t conn_seq, request_seq;
    unsigned index;              /* from 1 */
    unsigned count;              /* of workers */
    struct worker *const *peers; /* all workers, this one too, by index - 1 */
    unsigned nconns;
    bool stopping;
    bool due; /* the layers above want on_due */
    /* The configuration in force (worker_configure); replaced between two iterations of the loop. */
    const struct config *config;
    const struct cidr_list *trusted_proxies; /* NULL: none */
    struct setup *setup;                     /* what the two are part of, referenced; NULL: of nothing */
    const struct worker_hooks *hooks;
    void *layer[WORKER_LAYERS];
    struct wheel wheel;
    ev_timer tick;
    uint64_t tick_due_ns; /* when it should come next */
    ev_timer drain;
    ev_prepare iteration_end;
    ev_check turn; /* feeds the ready list */
    ev_idle spin;  /* active while that is not empty or something is due: then the loop only polls */
    struct listener_set *sets[WORKER_SETS_MAX]; /* what the process listens on */
    size_t nsets;
    struct list listeners; /* the sockets it accepts from now */
    struct spread spread;  /* connections that others hand over */
    int cpu;               /* to be pinned to; -1: none */
    struct mailbox mailbox;
    pthread_t thread;
    struct mail stop;
    struct mailbox *on_finished; /* gets the mail below when the thread is about to end */
    struct mail *finished;
    _Atomic uint64_t beat; /* rises with every tick; the watchdog reads it */
    /* When this iteration of the loop began; 0 while it waits for events. That is two plain stores and a look
     * at the coarse clock for each iteration. The time of the loop itself (ev_now) would not do: those of two
     * loops differ for a while after one was interrupted when it read them. */
    _Atomic uint64_t since_ms;
};

/* Prepares a worker; its thread does not run yet. NULL when memory runs out or the kernel refuses. */
struct worker *worker_create(unsigned index, const struct config *config, const struct worker_hooks *hooks);
/* From now on `s` is in force, of which it takes a reference. The worker's thread, or before it runs. */
void worker_configure(struct worker *w, struct setup *s);
/* Sends what is in the queues already, while it is still in the processor's cache. What else is due at the
 * end of the iteration stays so. Not while `due`: an answer leaves behind what was published before it. */
void worker_send_fresh(struct worker *w);
/* Starts the thread. It posts `finished` to `to` just before it ends. 0 or an errno. */
int worker_start(struct worker *w, struct mailbox *to, struct mail *finished);
/* Waits for the thread, if it was started. */
void worker_join(struct worker *w);
/* Frees; the thread has been joined or never started. */
void worker_destroy(struct worker *w);

/* Any thread: what runs on the worker next. */
static inline void worker_post(struct worker *w, struct mail *m)
{
    mailbox_post(&w->mailbox, m);
}

/* Stops accepting, lets every connection take leave, ends the loop when all are gone or at the drain
 * deadline. */
void worker_stop(struct worker *w);

/* Whether a counter's sum over all workers, and `extra`, is over a limit of the process: about, for a worker
 * looks at the others only beyond its own share. */
bool worker_over_limit(const struct worker *w, enum metric id, int64_t limit, uint64_t extra);

/* Whether it has been in one iteration of its loop for over WORKER_LATE_MS, most likely in a script: what is
 * handed to it now would wait. Any thread. */
bool worker_is_late(const struct worker *w);

/* Flushes what is ready and frees what has ended, as at the end of the iteration. For on_due, before work
 * that would hold it back. */
void worker_settle(struct worker *w);

/* The loop does not wait for events this time: one was made up. */
void worker_poll(struct worker *w);

/* For conn.c and listener.c. */
void worker_conn_opened(struct worker *w);
void worker_conn_closed(struct worker *w);
/* Connections of all workers. Any thread. */
uint64_t worker_total_conns(void);

#endif
