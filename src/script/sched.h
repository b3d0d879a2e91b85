/* SPDX-License-Identifier: MIT
 * The one door into Lua: every call from C to a script goes through here (lint checks it), which gives it the
 * time budget, a traceback, metrics and one error policy. Handlers run in coroutines from a pool. */
#ifndef TIDEWIRE_SCRIPT_SCHED_H
#define TIDEWIRE_SCRIPT_SCHED_H

#include <stdbool.h>

#include <lua.h>

#include "base/err.h"
#include "base/log.h"

struct vm;
struct task;
struct task_owner;
struct tally;

#define SCHED_POOL 8

struct sched_thread {
    lua_State *co;
    int ref; /* anchors it in the registry */
};

/* What to run, and for whom. */
struct sched_entry {
    lua_CFunction body; /* gets `arg` through sched_take_arg and calls the script from there */
    /* Or, where there is nothing to do after the call, which saves one: pushes a function and its arguments,
     * and returns how many of these; -1 when there is nothing to call. May raise when memory runs out. */
    int (*push)(lua_State *L, const void *arg);
    /* With `push`; or NULL. After a call that went well and did not wait: puts the next call's argument in
     * place of `arg`, and the entry goes on with it as if it were a new one. False: the entry ends. Must not
     * raise. */
    bool (*next)(void *arg);
    void *arg;
    const struct log_context *about; /* for the log */
    const struct task_owner *kind;   /* NULL: the VM's own business */
    void *owner;                     /* for the functions of `kind` */
    struct tally *tally;             /* where its route is counted; NULL: it is for none, so vm->tally */
};

/* The spare coroutines of a VM, and what is running. */
struct sched {
    struct sched_thread spare[SCHED_POOL];
    unsigned count;
    bool busy;           /* entries do not nest */
    bool suspending;     /* the coroutine that yields does so for task_suspend */
    bool out_of_memory;  /* the last entry ended so */
    struct tally *timed; /* where the time of the call that runs is to be noted; NULL: nowhere */
    uint64_t began_ns;   /* then */
    unsigned pinned;     /* calls that cannot be suspended, but cannot be seen from the coroutine that runs */
    struct {
        const struct sched_entry *entry;
        struct sched_thread thread;
        struct task *task; /* once it has been, or is about to be, suspended */
    } running;
    lua_CFunction body; /* on its way to the trampoline */
    int (*push)(lua_State *L, const void *arg);
    void *arg;            /* on its way to the body, or to `push` */
    const char *received; /* the text that the entry is about, which is UTF-8 and anchored; NULL when left */
};

/* The argument of the entry that is beginning, for its body; once. Raises when there is none: scripts can get
 * hold of a body (debug.getinfo) and call it. */
void *sched_take_arg(lua_State *L);

enum sched_result {
    SCHED_OK,
    SCHED_FAILED,    /* an error, memory included; logged and counted */
    SCHED_CUT,       /* over the time budget; logged and counted */
    SCHED_SUSPENDED, /* a task now; its owner hears of the end */
    SCHED_CANCELLED, /* only told to a task's owner */
};

/* Runs an entry in a coroutine, until it ends or is suspended. Never raises. */
enum sched_result sched_run(struct vm *vm, const struct sched_entry *entry);

/* For task.c: goes on with a suspended entry; may free the task. */
void sched_resume(struct task *t);
/* For task.c: closes its coroutine, and those of the script that it was waiting in, innermost first. */
void sched_abandon(struct task *t);

/* Runs `body` on the main state under the budget, for loading. 0, or -1 with message and traceback in `e`.
 */
int sched_load(struct vm *vm, lua_CFunction body, void *arg, struct err *e);

/* Runs `body` on the main state without budget: setting up, where no script runs. 0, or -1 with `e`
 * filled. */
int sched_setup(lua_State *L, lua_CFunction body, void *arg, struct err *e);

/* The continuation of a call whose results nobody wants, and after which there is nothing to do. */
int sched_call_done(lua_State *L, int status, lua_KContext context);

/* Whether a Lua thread is one that the scheduler resumes, which scripts may not. Never raises. */
bool sched_owns(lua_State *L);

#endif
