/* SPDX-License-Identifier: MIT
 * A suspended entry into Lua. */
#include "script/task.h"

#include <stdlib.h>

#include <lauxlib.h>

#include "net/worker.h"
#include "script/vm.h"

/* ---- suspending ---- */

static void task_stop_waiting(struct task *t)
{
    list_remove(&t->wait);
    ev_timer_stop(t->job.vm->home->loop, &t->timer);
}

static void task_run(struct job *j)
{
    sched_resume(LIST_ENTRY(j, struct task, job));
}

/* A posted task is in its owner's list too, and cancelled from there. */
static void task_drop(struct job *j)
{
    (void)j;
}

static void task_on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    task_wake(LIST_ENTRY(timer, struct task, timer));
}

static int task_adopt(struct vm *vm, struct task *t)
{
    if (t->kind != NULL)
        return t->kind->on_suspend(t->owner, t);
    list_append(&vm->tasks, &t->link);
    return 0;
}

static struct task *task_create(struct vm *vm)
{
    struct task *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    const struct sched *s = &vm->sched;
    job_init(&t->job, vm, task_run, task_drop);
    list_init(&t->link);
    list_init(&t->wait);
    ev_init(&t->timer, task_on_timer);
    t->thread = s->running.thread;
    t->kind = s->running.entry->kind;
    t->owner = s->running.entry->owner;
    t->about = vm->about;
    t->tally = s->running.entry->tally;
    return t;
}

void task_check(lua_State *L, const char *what)
{
    const struct vm *vm = vm_of(L);
    const struct sched *s = &vm->sched;
    if (vm->loading)
        luaL_error(L, "%s: nothing can wait while the script loads; call it in a handler or in app.spawn",
                   what);
    if (!lua_isyieldable(L) || s->pinned > 0 || !s->busy)
        luaL_error(
            L,
            "%s: cannot wait here: it is called through a C function such as table.sort or string.gsub, or "
            "while being cancelled",
            what);
    if (s->running.task == NULL && vm->ntasks >= (uint64_t)vm->config->max_tasks)
        luaL_error(L, "%s: %d tasks and timers are there already (max_tasks)", what, (int)vm->ntasks);
}

struct task *task_here(lua_State *L, const char *what)
{
    struct vm *vm = vm_of(L);
    struct sched *s = &vm->sched;
    task_check(L, what);
    if (s->running.task != NULL)
        return s->running.task;
    struct task *t = task_create(vm);
    if (t == NULL)
        luaL_error(L, "%s: out of memory", what);
    int rc = task_adopt(vm, t);
    if (rc < 0) {
        free(t);
        luaL_error(L,
                   rc == -1 ? "%s: out of memory"
                            : "%s: too many handlers of this connection are waiting already",
                   what);
    }
    vm_hold_task(vm, METRIC_TASKS);
    s->running.task = t;
    return t;
}

int task_suspend(lua_State *L, lua_KContext context, lua_KFunction k)
{
    vm_of(L)->sched.suspending = true;
    return lua_yieldk(L, 0, context, k);
}

/* ---- going on ---- */

void task_wake(struct task *t)
{
    t->give_up = NULL;
    if (!list_empty(&t->job.link))
        return;
    task_stop_waiting(t);
    job_post(&t->job);
}

void task_wake_after(struct task *t, double seconds)
{
    struct ev_loop *loop = t->job.vm->home->loop;
    ev_now_update(loop); /* the script may have run for a while since the loop looked */
    ev_timer_set(&t->timer, seconds, 0);
    ev_timer_start(loop, &t->timer);
}

/* ---- the end ---- */

void task_end(struct task *t, enum sched_result result)
{
    struct vm *vm = t->job.vm;
    task_stop_waiting(t);
    list_remove(&t->job.link);
    list_remove(&t->link);
    vm_release_task(vm, METRIC_TASKS);
    if (t->kind != NULL)
        t->kind->on_end(t->owner, t, result);
    free(t);
}

void task_cancel(struct task *t)
{
    metrics_add(t->job.vm->metrics, METRIC_TASKS_CANCELLED, 1);
    task_stop_waiting(t);
    if (t->give_up != NULL)
        t->give_up(t->waits_for);
    sched_abandon(t);
    task_end(t, SCHED_CANCELLED);
}

void task_cancel_all(struct list *tasks)
{
    while (!list_empty(tasks))
        task_cancel(LIST_ENTRY(tasks->next, struct task, link));
}
