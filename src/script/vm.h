/* SPDX-License-Identifier: MIT
 * One Lua state with its limits, its routes and its place among the workers. Built on the builder thread,
 * then used by one worker only, then closed on the reaper thread; never by two threads at once. */
#ifndef TIDEWIRE_SCRIPT_VM_H
#define TIDEWIRE_SCRIPT_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/metrics.h"
#include "http/router.h"
#include "script/budget.h"
#include "script/sched.h"
#include "script/snapshot.h"

/* What the bindings (src/lua) bring: how the C side opens the API and enters Lua. The bodies run inside
 * sched_run and take what dispatch.h describes from sched_take_arg. */
struct session;
struct worker;

struct vm_bindings {
    lua_CFunction open;       /* installs the globals */
    lua_CFunction ws_open;    /* runs a route's function with a new ws */
    lua_CFunction ws_message; /* calls on_text or on_binary */
    lua_CFunction ws_control; /* calls on_ping or on_pong */
    lua_CFunction ws_drain;   /* calls on_drain */
    lua_CFunction ws_close;   /* calls on_close */
    /* These two run outside of an entry, and never raise: */
    bool (*ws_wants_control)(lua_State *L, const struct session *s, bool ping); /* is there a handler? */
    void (*ws_forget)(lua_State *L, struct session *s);                         /* the connection is gone */
};

struct vm {
    lua_State *L;
    struct budget *budget;    /* of the thread that has the VM now */
    struct metrics *metrics;  /* of the worker; NULL while loading */
    struct log_context about; /* what the running entry is about, for log.* */
    struct sched sched;
    const struct vm_bindings *bindings;
    struct router *router;
    int *handlers;               /* registry references, by route number */
    size_t memory, memory_limit; /* bytes */
    unsigned worker, workers;    /* this worker's number, how many there are */
    struct worker *home;         /* the worker that has the VM now; NULL while loading */
    unsigned sessions;           /* connections whose handlers live here */
    uint64_t generation;
    struct snapshot *snapshot; /* referenced */
    bool loading;
    struct vm *next; /* in a list of its owner: the dispatcher's retired VMs, the reaper's queue */
};

#define VM_ROUTES 65535

struct vm_options {
    const struct config *config;
    const struct vm_bindings *bindings;
    struct snapshot *snapshot; /* the VM takes a reference */
    struct budget *budget;
    unsigned worker, workers;
    struct worker *home; /* the worker that has the VM now; NULL while loading */
    uint64_t generation;
};

/* Makes a VM and runs the script `path` in it, under the budget. NULL with `e` filled: the message, with
 * file, line and traceback. */
struct vm *vm_load(const struct vm_options *o, const char *path, struct err *e);

/* Closes the Lua state; may take long for a large heap. */
void vm_destroy(struct vm *vm);

/* The VM of any of its Lua threads. Never raises. */
struct vm *vm_of(lua_State *L);

/* Marks of one Lua thread. Never raise. */
enum vm_mark {
    VM_MARK_SCHED = 1, /* the scheduler resumes it; scripts may not */
    VM_MARK_CUT =
        2, /* it died of the time budget, with hooks off for good: none of its code may run any more */
};
void vm_set_mark(lua_State *L, enum vm_mark mark);
bool vm_has_mark(lua_State *L, enum vm_mark mark);

/* Registers the function at `index` as a route. Raises with the place of the caller (level 1) in the message.
 */
void vm_add_route(lua_State *L, enum router_method method, int pattern_index, int function_index);

#endif
