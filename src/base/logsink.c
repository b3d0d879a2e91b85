/* SPDX-License-Identifier: MIT
 * Rings of lines, and the thread that writes them. */
#include "base/logsink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/thread.h"

#define LOGSINK_GATHER_MS 5    /* after a batch the writer waits so long for more */
#define LOGSINK_REST_MS   1000 /* after a failure, until it tries again */
#define LOGSINK_PIECES    64   /* written to one sink before the others get their turn */
#define LOGSINK_RESERVE   8    /* this part of the ring is for lines that must be written */

struct logsink {
    pthread_mutex_t lock;
    /* Under the lock. The ring's first `len` bytes from `head` on are the writer's to read. */
    char *ring; /* NULL: lines are written directly */
    size_t size, head, len;
    uint64_t lost; /* lines that nobody has been told of */
    bool torn;     /* written directly: the last thing was the beginning of a line */
    bool changed;
    struct logsink_target next;
    /* Under the lock, or, when there is a ring, the writer's. */
    struct logsink_target to;
    /* Any thread. */
    _Atomic size_t pending;          /* len */
    _Atomic uint64_t rests_until_ms; /* after a failure; else 0 */
};

static struct logsink logsinks[LOGSINKS] = {
    [LOGSINK_LOG] = {.lock = PTHREAD_MUTEX_INITIALIZER, .to = {STDERR_FILENO, NULL}},
    [LOGSINK_ACCESS] = {.lock = PTHREAD_MUTEX_INITIALIZER, .to = {-1, NULL}},
    [LOGSINK_CONSOLE] = {.lock = PTHREAD_MUTEX_INITIALIZER, .to = {STDERR_FILENO, NULL}},
};

static struct metrics logsink_metrics;
static const struct logsink_hooks *_Atomic logsink_set_hooks;
static int logsink_event = -1; /* wakes the writer; stays open once it is */
static pthread_t logsink_thread;
static size_t logsink_size;
static _Atomic bool logsink_parked;   /* the writer sleeps until it is woken */
static _Atomic bool logsink_stopping; /* it is to end */
static _Atomic bool logsink_reopening;

void logsink_init(const struct logsink_hooks *hooks)
{
    atomic_store(&logsink_set_hooks, hooks);
}

static const struct logsink_hooks *logsink_hooks(void)
{
    return atomic_load_explicit(&logsink_set_hooks, memory_order_acquire);
}

/* Under the sink's lock, which makes it the only one that counts. */
static void logsink_lose(struct logsink *s)
{
    s->lost++;
    if (s != &logsinks[LOGSINK_CONSOLE])
        metrics_add(&logsink_metrics, s == &logsinks[LOGSINK_LOG] ? METRIC_LOG_LOST : METRIC_ACCESS_LOST, 1);
}

/* ---- written directly ---- */

static bool logsink_may_write(int fd, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int rc;
    do
        rc = poll(&p, 1, wait_ms);
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

/* A pipe that polls as writable takes PIPE_BUF bytes at once. */
static bool logsink_write_through(struct logsink *s, const char *data, size_t len, int wait_ms)
{
    for (size_t at = 0; at < len;) {
        size_t piece = len - at < PIPE_BUF ? len - at : PIPE_BUF;
        bool may = logsink_may_write(s->to.fd, at == 0 ? wait_ms : LOGSINK_PATIENCE_MS);
        ssize_t n = may ? write(s->to.fd, data + at, piece) : -1;
        if (n < 0 && (!may || (errno != EINTR && errno != EAGAIN))) {
            s->torn = s->torn || at > 0;
            return false;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    s->torn = false;
    return true;
}

static void logsink_put_directly(struct logsink *s, const char *lines, size_t len)
{
    int wait_ms = s->lost == 0 ? LOGSINK_PATIENCE_MS : 0;
    struct buf both = BUF_INIT;
    if (s->lost > 0 && logsink_hooks() != NULL)
        logsink_hooks()->on_loss((enum logsink_id)(s - logsinks), s->lost, &both);
    if (both.len > 0 && buf_append(&both, lines, len) == 0) {
        lines = both.data;
        len = both.len;
    }
    if ((!s->torn || logsink_write_through(s, "\n", 1, wait_ms)) &&
        logsink_write_through(s, lines, len, wait_ms))
        s->lost = 0;
    else
        logsink_lose(s);
    buf_fini(&both);
}

/* ---- the ring ---- */

void logsink_wake(void)
{
    int keep_errno = errno;
    uint64_t one = 1;
    if (logsink_event >= 0 && write(logsink_event, &one, sizeof one) < 0) {
        /* it counts enough to wake the writer already */
    }
    errno = keep_errno;
}

static void logsink_append(struct logsink *s, const char *data, size_t len)
{
    size_t at = (s->head + s->len) % s->size;
    size_t first = len < s->size - at ? len : s->size - at;
    memcpy(s->ring + at, data, first);
    memcpy(s->ring, data + first, len - first);
    s->len += len;
    atomic_store(&s->pending, s->len);
}

/* Whether the writer should be told: it sleeps, or the ring is filling up while it gathers. */
static bool logsink_put_in_ring(struct logsink *s, const char *lines, size_t len, bool must)
{
    size_t room = s->size - s->len, kept = must ? 0 : s->size / LOGSINK_RESERVE;
    /* Once something is lost nothing else comes before that is told. */
    if (len > room || room - len < kept || (s->lost > 0 && !must)) {
        logsink_lose(s);
        return s->len <= s->size / 2 &&
               atomic_load(&logsink_parked); /* it was a long one: that can be told */
    }
    bool was_low = s->len <= s->size / 2;
    logsink_append(s, lines, len);
    return must || (was_low && s->len > s->size / 2) || atomic_load(&logsink_parked);
}

void logsink_put(enum logsink_id id, const char *lines, size_t len, bool must)
{
    struct logsink *s = &logsinks[id];
    bool wake = false;
    pthread_mutex_lock(&s->lock);
    if (s->ring != NULL)
        wake = logsink_put_in_ring(s, lines, len, must);
    else if (s->to.fd >= 0)
        logsink_put_directly(s, lines, len);
    pthread_mutex_unlock(&s->lock);
    if (wake) {
        atomic_store(&logsink_parked, false);
        logsink_wake();
    }
}

/* ---- files ---- */

int logsink_open(struct logsink_target *t, const char *path, struct err *e)
{
    /* A pipe without a reader is an error, not a wait. */
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
    char *copy = fd >= 0 ? strdup(path) : NULL;
    if (copy == NULL) {
        err_set(e, "cannot open %s: %s", path, fd >= 0 ? "out of memory" : strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *t = (struct logsink_target){fd, copy};
    return 0;
}

void logsink_close(struct logsink_target *t)
{
    if (t->path != NULL)
        close(t->fd);
    free(t->path);
    *t = (struct logsink_target){-1, NULL};
}

/* Takes up what logsink_use has left. The caller closes what is returned, once it holds the lock no more:
 * that too may take its time. */
static struct logsink_target logsink_change_locked(struct logsink *s)
{
    struct logsink_target old = {-1, NULL};
    if (!s->changed)
        return old;
    old = s->to;
    s->to = s->next;
    s->next = (struct logsink_target){-1, NULL};
    s->changed = false;
    atomic_store(&s->rests_until_ms, 0);
    return old;
}

void logsink_use(enum logsink_id id, struct logsink_target *t)
{
    struct logsink *s = &logsinks[id];
    pthread_mutex_lock(&s->lock);
    struct logsink_target old = s->next; /* which nobody has taken up */
    s->next = *t;
    s->changed = true;
    if (s->ring == NULL)
        old = logsink_change_locked(s);
    pthread_mutex_unlock(&s->lock);
    logsink_close(&old);
    *t = (struct logsink_target){-1, NULL};
    logsink_wake();
}

/* ---- the writer ---- */

static void logsink_reopen_all(void)
{
    bool any = false, failed = false;
    struct err e;
    for (int i = 0; i < LOGSINKS; i++) {
        struct logsink_target *to = &logsinks[i].to, fresh;
        if (to->path == NULL)
            continue;
        any = true;
        if (logsink_open(&fresh, to->path, &e) < 0) {
            failed = true;
            logsink_hooks()->on_reopened(to->path, e.text);
        } else {
            logsink_close(to);
            *to = fresh;
        }
    }
    if (any && !failed)
        logsink_hooks()->on_reopened(NULL, NULL);
}

static void logsink_take_changes(void)
{
    for (int i = 0; i < LOGSINKS; i++) {
        struct logsink *s = &logsinks[i];
        pthread_mutex_lock(&s->lock);
        struct logsink_target old = logsink_change_locked(s);
        pthread_mutex_unlock(&s->lock);
        logsink_close(&old);
    }
    if (atomic_exchange(&logsink_reopening, false))
        logsink_reopen_all();
}

/* What is to be written next: whole lines where they fit. */
static size_t logsink_peek(struct logsink *s, const char **data)
{
    struct stat st;
    pthread_mutex_lock(&s->lock);
    struct logsink_target old = logsink_change_locked(s);
    size_t n = s->len < s->size - s->head ? s->len : s->size - s->head;
    *data = s->ring + s->head;
    pthread_mutex_unlock(&s->lock);
    logsink_close(&old);
    if (n <= PIPE_BUF || (fstat(s->to.fd, &st) == 0 && S_ISREG(st.st_mode)))
        return n;
    const char *end = memrchr(*data, '\n', PIPE_BUF);
    return end != NULL ? (size_t)(end - *data) + 1 : PIPE_BUF;
}

/* The kernel has taken `n` bytes. Tells of what was lost, when there is room again. */
static void logsink_consume(struct logsink *s, size_t n)
{
    pthread_mutex_lock(&s->lock);
    s->head = (s->head + n) % s->size;
    s->len -= n;
    if (s->len == 0)
        s->head = 0; /* so that a ring that is never full stays in the cache */
    atomic_store(&s->pending, s->len);
    if (s->lost > 0 && s->len <= s->size / 2) {
        struct buf line = BUF_INIT;
        logsink_hooks()->on_loss((enum logsink_id)(s - logsinks), s->lost, &line);
        s->lost = 0;
        if (line.len <= s->size - s->len)
            logsink_append(s, line.data, line.len);
        buf_fini(&line);
    }
    pthread_mutex_unlock(&s->lock);
}

/* The sink was turned off. */
static void logsink_discard(struct logsink *s)
{
    pthread_mutex_lock(&s->lock);
    s->head = s->len = 0;
    s->lost = 0;
    atomic_store(&s->pending, 0);
    pthread_mutex_unlock(&s->lock);
}

/* True when something was written. A place that takes nothing, as a full disk does not, is tried again after
 * a rest, and the ring keeps what it can. */
static bool logsink_write_some(struct logsink *s)
{
    bool wrote = false;
    logsink_consume(s, 0);
    for (int i = 0; i < LOGSINK_PIECES && atomic_load(&s->pending) > 0; i++) {
        const char *data;
        size_t len = logsink_peek(s, &data);
        ssize_t n = s->to.fd >= 0 && logsink_may_write(s->to.fd, 0) ? write(s->to.fd, data, len) : 0;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            atomic_store(&s->rests_until_ms, clock_now_ms() + LOGSINK_REST_MS);
        if (n <= 0)
            break;
        logsink_consume(s, (size_t)n);
        wrote = true;
    }
    return wrote;
}

/* *wait_ms becomes shorter when something is to be tried again before. */
static bool logsink_write_all(int *wait_ms)
{
    uint64_t now = clock_now_ms();
    bool wrote = false;
    for (int i = 0; i < LOGSINK_CONSOLE; i++) {
        struct logsink *s = &logsinks[i];
        uint64_t until = atomic_load(&s->rests_until_ms);
        if (now < until) {
            int left = (int)(until - now);
            *wait_ms = *wait_ms < 0 || left < *wait_ms ? left : *wait_ms;
            continue;
        }
        atomic_store(&s->rests_until_ms, 0);
        if (s->to.fd < 0)
            logsink_discard(s);
        else
            wrote = logsink_write_some(s) || wrote;
    }
    return wrote;
}

static bool logsink_wants(struct logsink *s)
{
    return atomic_load(&s->pending) > 0 && atomic_load(&s->rests_until_ms) == 0;
}

static void logsink_wait(int wait_ms, bool park)
{
    struct pollfd p[1 + LOGSINK_CONSOLE] = {{.fd = logsink_event, .events = POLLIN}};
    uint64_t count;
    atomic_store(&logsink_parked, park);
    for (int i = 0; i < LOGSINK_CONSOLE; i++) {
        int fd = logsink_wants(&logsinks[i]) ? logsinks[i].to.fd : -1;
        p[1 + i] = (struct pollfd){.fd = fd, .events = POLLOUT};
    }
    poll(p, 1 + LOGSINK_CONSOLE, wait_ms);
    atomic_store(&logsink_parked, false);
    if (read(logsink_event, &count, sizeof count) < 0) {
        /* nobody has woken it */
    }
}

static void *logsink_main(void *arg)
{
    (void)arg;
    pthread_setname_np(pthread_self(), "tidewire/log");
    while (!atomic_load(&logsink_stopping)) {
        logsink_take_changes();
        int wait_ms = logsink_hooks()->on_tick();
        bool wrote = logsink_write_all(&wait_ms);
        logsink_wait(wrote ? LOGSINK_GATHER_MS : wait_ms, !wrote);
    }
    return NULL;
}

int logsink_start(size_t size, struct err *e)
{
    char *rings[LOGSINK_CONSOLE] = {malloc(size), malloc(size)};
    if (logsink_event < 0 && (logsink_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0)
        metrics_register(&logsink_metrics);
    atomic_store(&logsink_stopping, false);
    if (rings[0] == NULL || rings[1] == NULL || logsink_event < 0) {
        free(rings[0]);
        free(rings[1]);
        return err_set(e, "cannot start the log's thread: out of memory or descriptors");
    }
    logsink_size = size;
    for (int i = 0; i < LOGSINK_CONSOLE; i++) {
        struct logsink *s = &logsinks[i];
        pthread_mutex_lock(&s->lock);
        s->ring = rings[i];
        s->size = size;
        pthread_mutex_unlock(&s->lock);
    }
    int rc = thread_start(&logsink_thread, logsink_main, NULL);
    if (rc == 0)
        return 0;
    logsink_size = 0;
    for (int i = 0; i < LOGSINK_CONSOLE; i++) {
        free(logsinks[i].ring);
        logsinks[i].ring = NULL;
    }
    return err_set(e, "cannot start the log's thread: %s", strerror(rc));
}

/* Lines are written directly again. The writer has ended. */
static void logsink_end(struct logsink *s, int standard)
{
    pthread_mutex_lock(&s->lock);
    free(s->ring);
    s->ring = NULL;
    s->head = s->len = 0;
    s->lost = 0;
    atomic_store(&s->pending, 0);
    logsink_close(&s->next);
    logsink_close(&s->to);
    s->changed = false;
    s->to.fd = standard;
    atomic_store(&s->rests_until_ms, 0);
    pthread_mutex_unlock(&s->lock);
}

void logsink_stop(void)
{
    struct timespec until;
    if (logsink_size == 0)
        return;
    logsink_flush(LOGSINK_LEAVE_MS);
    atomic_store(&logsink_stopping, true);
    logsink_wake();
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOGSINK_LEAVE_MS / 1000;
    if (pthread_timedjoin_np(logsink_thread, NULL, &until) != 0)
        return; /* it is inside a write that does not come back */
    logsink_size = 0;
    logsink_end(&logsinks[LOGSINK_LOG], STDERR_FILENO);
    logsink_end(&logsinks[LOGSINK_ACCESS], -1);
}

void logsink_reopen(void)
{
    atomic_store(&logsink_reopening, true);
    logsink_wake();
}

void logsink_flush(unsigned ms)
{
    uint64_t until = clock_now_ms() + ms;
    logsink_wake();
    while ((logsink_wants(&logsinks[LOGSINK_LOG]) || logsink_wants(&logsinks[LOGSINK_ACCESS])) &&
           clock_now_ms() < until) {
        struct timespec nap = {.tv_nsec = 1000000};
        nanosleep(&nap, NULL);
    }
}
