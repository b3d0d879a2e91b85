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

#define SCHED_POOL 8

/* The spare coroutines of a VM; each is anchored in the registry. */
struct sched {
    struct sched_thread {
        lua_State *co;
        int ref;
    } spare[SCHED_POOL];
    unsigned count;
    bool busy;          /* entries do not nest */
    bool out_of_memory; /* the last entry ended so */
    lua_CFunction body; /* on its way to the trampoline */
    void *arg;          /* on its way to the body */
};

/* The argument of the entry that is beginning, for its body; once. Raises when there is none: scripts can get
 * hold of a body (debug.getinfo) and call it. */
void *sched_take_arg(lua_State *L);

enum sched_result {
    SCHED_OK,
    SCHED_FAILED, /* an error, memory included; logged and counted */
    SCHED_CUT,    /* over the time budget; logged and counted */
};

/* Runs `body`, a C function that gets `arg` through sched_take_arg and calls the script from there, in a
 * coroutine, as an entry of its own. Never raises. `about` is for the log. */
enum sched_result sched_run(struct vm *vm, lua_CFunction body, void *arg, const struct log_context *about);

/* Runs `body` on the main state under the budget, for loading. 0, or -1 with message and traceback in `e`.
 */
int sched_load(struct vm *vm, lua_CFunction body, void *arg, struct err *e);

/* Runs `body` on the main state without budget: setting up, where no script runs. 0, or -1 with `e`
 * filled. */
int sched_setup(lua_State *L, lua_CFunction body, void *arg, struct err *e);

/* Whether a Lua thread is one that the scheduler resumes, which scripts may not. Never raises. */
bool sched_owns(lua_State *L);

#endif
