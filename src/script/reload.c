/* SPDX-License-Identifier: MIT
 * The builder thread. */
#include "script/reload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/thread.h"

#define RELOAD_JOIN_TRIES 40 /* of 50 ms */

struct reload {
    struct reload_options o;
    struct budget budget;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    uint64_t asked, begun;  /* tickets: the newest that was given, the newest that a build covers */
    bool back;              /* there is something to go back to: */
    struct snapshot *files; /* these, and before the first generation those that it begins with; or NULL */
    struct setup *setup;    /* the configuration that goes with them */
    uint64_t condemned;     /* from which generation */
    uint64_t number;        /* of the newest generation built or tried */
};

/* What one build is to be made of; consumed. */
struct reload_job {
    struct snapshot *files; /* NULL: those on the disk now */
    struct setup *setup;    /* NULL: as it is read now */
    bool back;
    uint64_t ticket;
};

static struct gen *reload_make(struct reload *r, struct reload_job *job, struct err *e)
{
    if (job->setup == NULL && (job->setup = r->o.read(r->o.user, job->files, e)) == NULL)
        return NULL;
    budget_set_limit(&r->budget, job->setup->config.load_budget);
    const struct gen_options gen = {
        .setup = job->setup,
        .files = job->files,
        .script = r->o.script,
        .workers = r->o.workers,
        .number = r->number + 1,
        .back = job->back,
        .bindings = r->o.bindings,
        .budget = &r->budget,
    };
    return gen_build(&gen, e);
}

static void reload_build(struct reload *r, struct reload_job *job)
{
    struct reload_outcome *out = calloc(1, sizeof *out);
    if (job->files == NULL)
        job->files = snapshot_create();
    if (out == NULL || job->files == NULL) {
        free(out);
        snapshot_unref(job->files);
        setup_unref(job->setup);
        log_error("out of memory: nothing was loaded");
        return;
    }
    out->mail.deliver = r->o.deliver;
    out->ticket = job->ticket;
    out->back = job->back;
    out->gen = reload_make(r, job, &out->error);
    out->snapshot = job->files;
    setup_unref(job->setup);
    if (out->gen != NULL)
        r->number++;
    mailbox_post(r->o.to, &out->mail);
}

static void reload_forget(struct reload *r)
{
    snapshot_unref(r->files);
    setup_unref(r->setup);
    r->files = NULL;
    r->setup = NULL;
    r->back = false;
}

static void *reload_main(void *arg)
{
    struct reload *r = arg;
    pthread_setname_np(pthread_self(), "tidewire/build");
    budget_adopt(&r->budget);
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        if (r->back && r->number > r->condemned) /* newer code was taken: nothing to go back from */
            reload_forget(r);
        if (r->begun == r->asked && !r->back) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        struct reload_job job = {.ticket = 0};
        bool asked = r->begun != r->asked; /* goes before */
        if (asked)
            job.ticket = r->begun = r->asked;
        if (!asked || !r->back) {
            job.files = r->files;
            job.setup = r->setup;
            job.back = r->back;
            r->files = NULL;
            r->setup = NULL;
            r->back = false;
        }
        pthread_mutex_unlock(&r->lock);
        reload_build(r, &job);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct reload *reload_create(const struct reload_options *o, struct err *e)
{
    struct reload *r = calloc(1, sizeof *r);
    if (r == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    r->o = *o;
    r->setup = setup_ref(o->setup);
    r->files = snapshot_ref(o->files);
    budget_init(&r->budget, "load_budget", o->setup->config.load_budget);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    int rc = thread_start(&r->thread, reload_main, r);
    if (rc != 0) {
        err_set(e, "cannot start the builder thread: %s", strerror(rc));
        reload_forget(r);
        free(r);
        return NULL;
    }
    return r;
}

uint64_t reload_request(struct reload *r)
{
    pthread_mutex_lock(&r->lock);
    uint64_t ticket = ++r->asked;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return ticket;
}

bool reload_is_newer(struct reload *r, uint64_t ticket)
{
    pthread_mutex_lock(&r->lock);
    bool newer = r->asked > ticket;
    pthread_mutex_unlock(&r->lock);
    return newer;
}

void reload_restore(struct reload *r, struct snapshot *files, struct setup *setup, uint64_t condemned)
{
    pthread_mutex_lock(&r->lock);
    reload_forget(r);
    r->back = true;
    r->files = snapshot_ref(files);
    r->setup = setup_ref(setup);
    r->condemned = condemned;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

struct budget *reload_budget(struct reload *r)
{
    return &r->budget;
}

static int reload_join_soon(struct reload *r)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50 * 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return pthread_timedjoin_np(r->thread, NULL, &until);
}

bool reload_destroy(struct reload *r)
{
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (int tries = 0; reload_join_soon(r) == ETIMEDOUT; tries++) {
        if (tries == RELOAD_JOIN_TRIES)
            return false;
        budget_cut(&r->budget);
    }
    reload_forget(r);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r);
    return true;
}
