/* SPDX-License-Identifier: MIT
 * A worker's thread and its loop. */
#include "net/worker.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "net/listener.h"
#include "net/tls.h"

static _Atomic uint64_t worker_conns;

uint64_t worker_total_conns(void)
{
    return atomic_load_explicit(&worker_conns, memory_order_relaxed);
}

static void worker_finish_if_idle(struct worker *w)
{
    if (w->stopping && w->nconns == 0)
        ev_break(w->loop, EVBREAK_ALL);
}

void worker_conn_opened(struct worker *w)
{
    w->nconns++;
    atomic_fetch_add_explicit(&worker_conns, 1, memory_order_relaxed);
    metrics_add(w->metrics, METRIC_CONNECTIONS, 1);
}

void worker_conn_closed(struct worker *w)
{
    w->nconns--;
    atomic_fetch_sub_explicit(&worker_conns, 1, memory_order_relaxed);
    metrics_sub(w->metrics, METRIC_CONNECTIONS_CLOSED, 1);
    worker_finish_if_idle(w);
}

/* Flushes and frees. Either may run handlers that make more work: that is for the next iteration, or one that
 * keeps up with what on_drain sends would keep the worker for itself. */
void worker_settle(struct worker *w)
{
    struct conn *c = w->dirty, *next;
    w->dirty = w->kept = NULL;
    w->fresh = 0;
    for (; c != NULL; c = next) {
        next = c->next;
        conn_settle(c);
    }
}

void worker_send_fresh(struct worker *w)
{
    struct conn **at = &w->dirty;
    w->fresh = 0;
    while (*at != NULL && *at != w->kept) {
        struct conn *c = *at;
        if (c->later || c->state == CONN_DEAD) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        c->dirty = false;
        conn_flush(c);
    }
    w->kept = w->dirty;
}

static void worker_on_iteration_end(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
    (void)loop;
    (void)revents;
    struct worker *w = prepare->data;
    if (w->due) {
        w->due = false;
        w->hooks->on_due(w);
    }
    worker_settle(w); /* may make something due: that too is for the next iteration */
    if (w->due || w->dirty != NULL || !list_empty(&w->ready))
        ev_idle_start(w->loop, &w->spin);
    atomic_store_explicit(&w->since_ms, 0, memory_order_relaxed);
}

void worker_poll(struct worker *w)
{
    ev_idle_start(w->loop, &w->spin);
}

bool worker_is_late(const struct worker *w)
{
    uint64_t since = atomic_load_explicit(&w->since_ms, memory_order_relaxed);
    return since != 0 && clock_coarse_ms() > since + WORKER_LATE_MS;
}

static void worker_on_turn(struct ev_loop *loop, ev_check *check, int revents)
{
    (void)revents;
    struct worker *w = check->data;
    atomic_store_explicit(&w->since_ms, clock_coarse_ms(), memory_order_relaxed);
    conn_feed_ready(w);
    if (list_empty(&w->ready) && !w->due && w->dirty == NULL)
        ev_idle_stop(loop, &w->spin);
}

static void worker_on_spin(struct ev_loop *loop, ev_idle *idle, int revents)
{
    (void)loop;
    (void)idle;
    (void)revents;
}

/* How late the tick is, which is what anything else that came at its time has waited too. A stall of longer
 * than a tick is always seen, a shorter one as often as events would meet it. A timer of libev's is never
 * early: one that seems so tells when it is really due. */
static void worker_measure_delay(struct worker *w)
{
    uint64_t now = clock_now_ns(), due = w->tick_due_ns < now ? w->tick_due_ns : now;
    metrics_observe(&w->metrics->loop_delay, now - due);
    due += WHEEL_TICK_MS * UINT64_C(1000000);
    w->tick_due_ns = due > now ? due : now; /* as libev does with one that is late by a whole tick */
}

static void worker_on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct worker *w = timer->data;
    atomic_fetch_add_explicit(&w->beat, 1, memory_order_relaxed);
    worker_measure_delay(w);
    wheel_advance(&w->wheel, conn_on_deadline, w);
    if (w->count > 1 && !w->stopping)
        listener_stand_in(w);
    if (w->hooks->on_tick != NULL)
        w->hooks->on_tick(w);
    (void)loop;
}

/* Every connection has a deadline at all times, so the wheel's slots list them all. */
static void worker_each_conn(struct worker *w, void (*visit)(struct conn *c))
{
    for (int i = 0; i < WHEEL_SLOTS; i++) {
        struct list seen;
        list_take(&seen, &w->wheel.slot[i]);
        while (!list_empty(&seen)) {
            struct conn *c = LIST_ENTRY(seen.next, struct conn, timer.link);
            list_remove(&c->timer.link);
            list_append(&w->wheel.slot[i], &c->timer.link);
            visit(c);
        }
    }
}

static void worker_cut(struct conn *c)
{
    conn_close(c);
}

static void worker_on_drain_deadline(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct worker *w = timer->data;
    struct log_context about = {.worker = w->index};
    log_write(LOG_WARN, &about, "%u connections were still open at the end of drain_timeout; cut", w->nconns);
    worker_each_conn(w, worker_cut);
    worker_settle(w);
}

static void worker_say_goodbye(struct conn *c)
{
    if (c->state == CONN_OPEN)
        c->ops->on_stop(c);
}

static void worker_on_stop(struct mail *mail, void *receiver)
{
    (void)mail;
    struct worker *w = receiver;
    spread_close(w);
    listener_close_all(w);
    w->stopping = true;
    worker_each_conn(w, worker_say_goodbye);
    ev_timer_set(&w->drain, w->config->drain_timeout, 0);
    ev_timer_start(w->loop, &w->drain);
    worker_finish_if_idle(w);
}

void worker_stop(struct worker *w)
{
    w->stop.deliver = worker_on_stop;
    worker_post(w, &w->stop);
}

struct worker *worker_create(unsigned index, const struct config *config, const struct worker_hooks *hooks)
{
    struct worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->index = index;
    w->count = 1;
    w->config = config;
    w->hooks = hooks;
    w->input = malloc(WORKER_INPUT);
    w->metrics = aligned_alloc(64, sizeof *w->metrics);
    w->loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (w->input == NULL || w->metrics == NULL || w->loop == NULL) {
        if (w->loop != NULL)
            ev_loop_destroy(w->loop);
        free(w->metrics);
        free(w->input);
        free(w);
        return NULL;
    }
    memset(w->metrics, 0, sizeof *w->metrics);
    w->metrics->worker = index;
    metrics_register(w->metrics);
    wheel_init(&w->wheel);
    list_init(&w->listeners);
    list_init(&w->ready);
    spread_init(&w->spread);
    w->cpu = -1;
    mailbox_init(&w->mailbox, w->loop, w);
    ev_timer_init(&w->tick, worker_on_tick, WHEEL_TICK_MS / 1000.0, WHEEL_TICK_MS / 1000.0);
    w->tick.data = w;
    ev_timer_start(w->loop, &w->tick);
    ev_timer_init(&w->drain, worker_on_drain_deadline, 0, 0);
    w->drain.data = w;
    ev_prepare_init(&w->iteration_end, worker_on_iteration_end);
    w->iteration_end.data = w;
    ev_prepare_start(w->loop, &w->iteration_end);
    ev_check_init(&w->turn, worker_on_turn);
    w->turn.data = w;
    ev_check_start(w->loop, &w->turn);
    ev_idle_init(&w->spin, worker_on_spin);
    return w;
}

void worker_configure(struct worker *w, struct setup *s)
{
    struct setup *before = w->setup;
    w->setup = setup_ref(s);
    w->config = &s->config;
    w->trusted_proxies = &s->trusted_proxies;
    setup_unref(before);
}

static void worker_pin(const struct worker *w)
{
    struct log_context about = {.worker = w->index};
    cpu_set_t set;
    if (w->cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((size_t)w->cpu, &set);
    int rc = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    if (rc != 0)
        log_write(LOG_WARN, &about, "pin_workers: cannot run on CPU %d only: %s", w->cpu, strerror(rc));
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    char name[16];
    snprintf(name, sizeof name, "tidewire/%u", w->index);
    pthread_setname_np(pthread_self(), name);
    worker_pin(w);
    w->tick_due_ns = clock_now_ns() + WHEEL_TICK_MS * UINT64_C(1000000);
    w->hooks->on_start(w);
    ev_run(w->loop, 0);
    while (w->dirty != NULL)
        worker_settle(w);
    w->hooks->on_exit(w);
    mailbox_post(w->on_finished, w->finished);
    return NULL;
}

int worker_start(struct worker *w, struct mailbox *to, struct mail *finished)
{
    w->on_finished = to;
    w->finished = finished;
    spread_open(w);
    int rc = thread_start(&w->thread, worker_main, w);
    if (rc != 0) {
        w->on_finished = NULL;
        spread_abandon(w);
    }
    return rc;
}

void worker_join(struct worker *w)
{
    if (w->on_finished != NULL)
        pthread_join(w->thread, NULL);
}

bool worker_over_limit(const struct worker *w, enum metric id, int64_t limit, uint64_t extra)
{
    uint64_t mine = metrics_get(w->metrics, id) + extra;
    return mine > (uint64_t)limit / w->count && metrics_sum(id) + extra > (uint64_t)limit;
}

void worker_destroy(struct worker *w)
{
    w->stopping = true; /* nothing is accepted any more */
    listener_close_all(w);
    mailbox_fini(&w->mailbox);
    spread_fini(&w->spread);
    outq_pool_fini(&w->chunks);
    tls_worker_fini(w);
    ev_loop_destroy(w->loop);
    setup_unref(w->setup);
    free(w->input);
    /* w->metrics stays: counters of the past still count, and the registry reads them. */
    free(w);
}
