/* SPDX-License-Identifier: MIT
 * Watches the files of the script. What counts is always a comparison of stamps: `known` is what the newest
 * load has read or will read, `seen` what was there at the last look. */
#include "ops/watch.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define WATCH_FILES      SNAPSHOT_FILES
#define WATCH_INTERVAL_S 60. /* of ev_stat without inotify; watch_on_look is faster */

struct watch_file {
    ev_stat stat;
    char *path;
    struct snapshot_stamp known, seen;
    bool wanted;
};

struct watch {
    struct ev_loop *loop;
    watch_handler *handler;
    void *user;
    struct watch_file **files; /* sorted by path */
    size_t n;
    struct watch_file *config_file; /* one of them, or NULL */
    struct snapshot *serving;       /* it grows while handlers require modules */
    size_t nserving;                /* files of it that were taken over */
    ev_timer look, quiet;
    double since_s; /* when the first change was seen; while `quiet` runs */
    bool changed;   /* something did, since `quiet` was started */
};

/* ---- changes ---- */

/* The number of files that differ from what the newest load read or will read; *first is one of them. */
static size_t watch_count(const struct watch *w, const struct watch_file **first)
{
    size_t count = 0;
    for (size_t i = 0; i < w->n; i++)
        if (!snapshot_same(&w->files[i]->known, &w->files[i]->seen) && count++ == 0)
            *first = w->files[i];
    return count;
}

static void watch_look(struct watch *w)
{
    for (size_t i = 0; i < w->n; i++) {
        struct watch_file *f = w->files[i];
        struct snapshot_stamp now;
        snapshot_look(f->path, &now);
        if (snapshot_same(&now, &f->seen))
            continue;
        f->seen = now;
        w->changed = true;
        ev_stat_stop(w->loop, &f->stat); /* it may be another file by now: inotify is to follow that one */
        ev_stat_start(w->loop, &f->stat);
    }
}

static void watch_wait_for_quiet(struct watch *w)
{
    w->changed = false;
    ev_timer_stop(w->loop, &w->quiet);
    ev_timer_set(&w->quiet, WATCH_QUIET_S, 0);
    ev_timer_start(w->loop, &w->quiet);
}

/* Looks, and starts or ends the wait for quiet. */
static void watch_check(struct watch *w)
{
    const struct watch_file *first;
    watch_look(w);
    if (watch_count(w, &first) == 0)
        ev_timer_stop(w->loop, &w->quiet);
    else if (!ev_is_active(&w->quiet)) {
        w->since_s = ev_now(w->loop);
        watch_wait_for_quiet(w);
    }
}

static void watch_on_quiet(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct watch *w = timer->data;
    const struct watch_file *first;
    watch_look(w);
    size_t count = watch_count(w, &first);
    if (count == 0)
        return;
    if (w->changed && ev_now(loop) - w->since_s < WATCH_LATE_S)
        watch_wait_for_quiet(w);
    else
        w->handler(w->user, first->path, count - 1);
}

static void watch_on_stat(struct ev_loop *loop, ev_stat *stat, int revents)
{
    (void)loop;
    (void)revents;
    watch_check(stat->data);
}

void watch_taken(struct watch *w)
{
    if (w == NULL)
        return;
    watch_look(w);
    for (size_t i = 0; i < w->n; i++)
        w->files[i]->known = w->files[i]->seen;
    ev_timer_stop(w->loop, &w->quiet);
}

/* ---- which files ---- */

static int watch_compare(const void *a, const void *b)
{
    const struct watch_file *const *left = a, *const *right = b;
    return strcmp((*left)->path, (*right)->path);
}

/* Among the first `sorted` files. */
static struct watch_file *watch_find(const struct watch *w, size_t sorted, const char *path)
{
    size_t low = 0, high = sorted;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(path, w->files[middle]->path);
        if (order == 0)
            return w->files[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Adds a file at the end; NULL when there is no room. */
static struct watch_file *watch_add(struct watch *w, const char *path, const struct snapshot_stamp *known)
{
    struct watch_file *f = w->n < WATCH_FILES ? calloc(1, sizeof *f) : NULL;
    if (f == NULL || (f->path = strdup(path)) == NULL) {
        free(f);
        return NULL;
    }
    f->known = f->seen = *known;
    ev_stat_init(&f->stat, watch_on_stat, f->path, WATCH_INTERVAL_S);
    f->stat.data = w;
    ev_stat_start(w->loop, &f->stat);
    w->files[w->n++] = f;
    return f;
}

static void watch_drop(struct watch *w, struct watch_file *f)
{
    ev_stat_stop(w->loop, &f->stat);
    free(f->path);
    free(f);
}

/* The files of `s` are wanted. `renew`: what it has read counts for those that are watched already too.
 * Returns how many files it has. */
static size_t watch_want(struct watch *w, struct snapshot *s, bool renew)
{
    size_t n = 0, sorted = w->n;
    bool full = false;
    struct snapshot_path *list = snapshot_list(s, &n);
    for (size_t i = 0; i < n; i++) {
        struct watch_file *f = watch_find(w, sorted, list[i].path);
        if (f != NULL && renew)
            f->known = list[i].stamp;
        if (f == NULL)
            f = watch_add(w, list[i].path, &list[i].stamp);
        if (f != NULL)
            f->wanted = true;
        full = full || f == NULL;
    }
    if (list == NULL || full)
        log_warn("watch: too many files, or out of memory: not every one is watched");
    qsort(w->files, w->n, sizeof w->files[0], watch_compare);
    free(list);
    return n;
}

static void watch_drop_unwanted(struct watch *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->n; i++)
        if (w->files[i]->wanted)
            w->files[kept++] = w->files[i];
        else
            watch_drop(w, w->files[i]);
    w->n = kept;
}

void watch_follow(struct watch *w, struct snapshot *s, bool accepted)
{
    if (w == NULL || s == NULL)
        return;
    for (size_t i = 0; i < w->n; i++)
        w->files[i]->wanted = w->files[i] == w->config_file;
    size_t n = watch_want(w, s, true);
    if (accepted) {
        snapshot_unref(w->serving);
        w->serving = snapshot_ref(s);
        w->nserving = n;
    } else if (w->serving != NULL)
        w->nserving = watch_want(w, w->serving, false);
    watch_drop_unwanted(w);
    watch_check(w);
}

static void watch_on_look(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct watch *w = timer->data;
    if (w->serving != NULL && snapshot_count(w->serving) != w->nserving)
        w->nserving = watch_want(w, w->serving, false);
    watch_check(w);
}

/* ---- life ---- */

struct watch *watch_create(struct ev_loop *loop, const char *config_file, watch_handler *handler, void *user)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL || (w->files = calloc(WATCH_FILES, sizeof w->files[0])) == NULL) {
        free(w);
        return NULL;
    }
    w->loop = loop;
    w->handler = handler;
    w->user = user;
    ev_timer_init(&w->look, watch_on_look, WATCH_LOOK_S, WATCH_LOOK_S);
    ev_timer_init(&w->quiet, watch_on_quiet, WATCH_QUIET_S, 0);
    w->look.data = w->quiet.data = w;
    ev_timer_start(loop, &w->look);
    if (config_file != NULL) {
        struct snapshot_stamp now;
        snapshot_look(config_file, &now);
        w->config_file = watch_add(w, config_file, &now);
    }
    return w;
}

void watch_destroy(struct watch *w)
{
    if (w == NULL)
        return;
    ev_timer_stop(w->loop, &w->look);
    ev_timer_stop(w->loop, &w->quiet);
    for (size_t i = 0; i < w->n; i++)
        watch_drop(w, w->files[i]);
    snapshot_unref(w->serving);
    free(w->files);
    free(w);
}
