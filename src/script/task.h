/* SPDX-License-Identifier: MIT
 * A task: an entry into Lua that was suspended (app.sleep, promise:await) and goes on later, or is cancelled.
 * The thread that has the VM.
 *
 *   running --task_suspend--> waiting --task_wake--> posted --end of the iteration--> running --> over
 *                                |                      |
 *                                +---- task_cancel -----+--> over
 */
#ifndef TIDEWIRE_SCRIPT_TASK_H
#define TIDEWIRE_SCRIPT_TASK_H

#include <ev.h>

#include "base/list.h"
#include "base/log.h"
#include "script/job.h"
#include "script/sched.h"

struct task;

/* Whom an entry is for, when it is not the VM's own business. */
struct task_owner {
    /* The entry is about to be suspended for the first time: keep t->link in a list. 0; -1 when memory runs
     * out, -2 when the owner has too many already. Inside Lua. */
    int (*on_suspend)(void *owner, struct task *t);
    /* An entry that had been suspended is over. Outside of Lua. `t` is freed after the call. */
    void (*on_end)(void *owner, struct task *t, enum sched_result result);
};

struct task {
    struct job job;
    struct list link; /* where its owner keeps it, or in vm->tasks */
    struct sched_thread thread;
    const struct task_owner *kind; /* NULL: the VM's own */
    void *owner;
    struct log_context about;
    struct tally *tally;              /* where its route is counted; or NULL */
    struct list wait;                 /* in a list of what it waits for */
    ev_timer timer;                   /* or this is running */
    void (*give_up)(void *waits_for); /* or this is to be told if it is cancelled meanwhile; may be NULL */
    void *waits_for;
};

/* Raises, beginning with `what`, where nothing can wait. */
void task_check(lua_State *L, const char *what);

/* For C functions that suspend the handler that calls them, when nothing can go wrong any more: the task that
 * is running. Raises like task_check, and when memory runs out. */
struct task *task_here(lua_State *L, const char *what);

/* As the last statement of such a function, when somebody is going to call task_wake: suspends. `k` is its
 * continuation. */
int task_suspend(lua_State *L, lua_KContext context, lua_KFunction k);

/* Goes on at the end of the loop iteration; give_up will not be called. Ignored when it is posted already.
 * Anywhere. */
void task_wake(struct task *t);

/* Wakes it after that time. Before task_suspend. */
void task_wake_after(struct task *t, double seconds);

/* Ends it where it waits: pending to-be-closed variables run, nothing else. Outside of Lua. */
void task_cancel(struct task *t);
void task_cancel_all(struct list *tasks);

/* For sched.c: it is over. Frees it. */
void task_end(struct task *t, enum sched_result result);

#endif
