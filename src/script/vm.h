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
#include "ws/session.h"

/* What the bindings (src/lua) bring: how the C side opens the API and enters Lua. The bodies run inside
 * sched_run and take what dispatch.h describes from sched_take_arg. */
struct vm_bindings {
    lua_CFunction open;    /* installs the globals */
    lua_CFunction seal;    /* after the script has been loaded */
    lua_CFunction life;    /* calls one of the functions of app.on_start or app.on_stop */
    lua_CFunction request; /* asks a route's chain for the answer to a request */
    lua_CFunction ws_open; /* runs a route's function with a new ws */
    int (*ws_message)(lua_State *L,
                      const void *message); /* pushes on_text or on_binary, with their arguments */
    lua_CFunction ws_control;               /* calls on_ping or on_pong */
    lua_CFunction ws_drain;                 /* calls on_drain */
    lua_CFunction ws_close;                 /* calls on_close */
    lua_CFunction give_up_promises;         /* pending ones are rejected with "reloaded"; on the main state */
    lua_CFunction ws_pack;   /* copies what a ws takes along to newer code (live.h); on the main state */
    lua_CFunction ws_arrive; /* runs a route's function with the ws that has come from older code */
    /* These run outside of an entry, and never raise: */
    void (*give_up_dones)(struct vm *vm); /* pending completions get "reloaded" */
    bool (*ws_wants_control)(lua_State *L, const struct session *s, bool ping); /* is there a handler? */
    void (*stream_forget)(lua_State *L, int ref);         /* the answer that was being streamed is over */
    void (*ws_forget)(lua_State *L, struct session *s);   /* the connection is gone */
    void (*ws_leave)(lua_State *L, int ref, uint64_t id); /* it has gone to newer code; releases `ref` */
};

/* The argument of vm_bindings.life: the i-th function, from 1. */
struct vm_life {
    bool stop;
    unsigned i;
};

struct vm {
    lua_State *L;
    struct budget *budget;    /* of the thread that has the VM now */
    struct metrics *metrics;  /* of the worker; NULL while loading */
    struct log_context about; /* what the running entry is about, for log.* */
    struct sched sched;
    const struct vm_bindings *bindings;
    struct router *router;
    struct vm_route *routes;     /* by route number */
    int fallback;                /* registry reference: middleware around what fits no route; or LUA_NOREF */
    size_t memory, memory_limit; /* bytes */
    size_t alive;   /* of these, when the collector has just been over them; 0: that was seen to (pace.h) */
    size_t outside; /* bytes that objects keep outside of Lua, not told to the collector yet */
    unsigned worker, workers; /* this worker's number, how many there are */
    struct worker *home;      /* the worker that has the VM now; NULL while loading */
    unsigned holds;           /* what needs the VM: connections, tasks, timers, completions */
    unsigned connections;     /* WebSockets and handshakes among them */
    bool drained;             /* reload_drain is over for it */
    bool gave_up;             /* vm_give_up has been called */
    bool started;             /* app.on_start has been told */
    unsigned nstart, nstop;   /* functions of app.on_start and app.on_stop */
    uint64_t ntasks;          /* tasks, timers and functions on their way: what max_tasks limits */
    struct list jobs, timers; /* job.h, timer.h */
    struct list tasks;        /* suspended ones that are the VM's own */
    struct list exchanges;    /* requests that wait for it (exchange.h) */
    struct list dones;        /* completions that are pending (bind_done.h) */
    const struct config *config;
    uint64_t generation;
    struct snapshot *snapshot; /* referenced */
    bool loading;
    struct vm_name *names; /* vm_keep_name's */
    struct list link;      /* in the dispatcher's list */
    ev_timer drain;        /* once a newer one serves: what still runs has until then */
    struct vm *next;       /* in the reaper's queue */
};

/* What the script said about a route. */
struct vm_route {
    int handler; /* registry references; LUA_NOREF is none */
    int should_upgrade;
    int chain;  /* function(req): the handler in its middleware; LUA_NOREF: a handshake that nobody is asked
                   about */
    char *what; /* owned; "GET /chat (main.lua:12)" */
    uint64_t max_body;
    double request_timeout;
    struct session_limits limits;
    struct config_list *protocols, *origins; /* owned; NULL: none, and the configuration's */
};

#define VM_ROUTES 65535
#define VM_NAMES  128

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

/* The worker that the VM of this code serves; raises while the script loads. `what` is "app.send". */
struct worker *vm_serving(lua_State *L, const char *what);

/* Marks of one Lua thread. Never raise. */
enum vm_mark {
    VM_MARK_SCHED = 1, /* the scheduler resumes it; scripts may not */
    VM_MARK_CUT =
        2, /* it died of the time budget, with hooks off for good: none of its code may run any more */
    VM_MARK_WAITING = 4, /* the script's own, in which something waits: scripts may not resume it */
};
void vm_set_mark(lua_State *L, enum vm_mark mark);
void vm_clear_mark(lua_State *L, enum vm_mark mark);
bool vm_has_mark(const lua_State *L, enum vm_mark mark);

/* Registers a route with neither functions nor options yet: those are the caller's to fill. Raises with the
 * place of the caller (level 1) in the message. The result is valid until the next route. */
struct vm_route *vm_add_route(lua_State *L, enum router_method method, int pattern_index);

/* A copy of the name that lives as long as the VM, as what a log_context points to must: timers and tasks
 * keep it. A VM has VM_NAMES different ones at most; for any other, and without memory, it is `otherwise`. */
const char *vm_keep_name(struct vm *vm, const char *name, const char *otherwise);

/* What an event on `c` is about; `route` may be -1. */
struct log_context vm_about(const struct vm *vm, const struct conn *c, int route);

/* One more thing, one less, that needs the VM. */
static inline void vm_hold(struct vm *vm)
{
    vm->holds++;
}
void vm_release(struct vm *vm);

/* The same for a connection. */
static inline void vm_hold_connection(struct vm *vm)
{
    vm->connections++;
    vm_hold(vm);
}
void vm_release_connection(struct vm *vm);

/* The same for what counts as a task; `gauge` is METRIC_TASKS or METRIC_TIMERS. */
void vm_hold_task(struct vm *vm, enum metric gauge);
void vm_release_task(struct vm *vm, enum metric gauge);

/* The worker `home` has the VM from now on, and what the script has set up begins. On the worker's thread, or
 * before it runs. */
void vm_start(struct vm *vm, struct worker *home, struct budget *budget);

/* What waits for something that will not come hears "reloaded": completions and promises. Once. True when it
 * had not been told yet. */
bool vm_give_up(struct vm *vm);

/* Runs what the script has given to app.on_start, on the worker's thread; once. */
void vm_tell_start(struct vm *vm);
/* The same for app.on_stop, when on_start has been told. What waits in there is cut off by vm_stop. */
void vm_tell_stop(struct vm *vm);

/* Ends its timers, and its tasks that are for no connection. */
void vm_cancel(struct vm *vm);
/* The same until the clock says `until_ms`. True when some are left. */
bool vm_cancel_some(struct vm *vm, uint64_t until_ms);
/* The same, and what it has posted is dropped: nothing of it runs any more. When no connection is left. */
void vm_stop(struct vm *vm);

#endif
