/* SPDX-License-Identifier: MIT
 * The time budget of a thread that runs Lua. It costs two stores per entry while all is well: no hook is set.
 *
 * The watchdog (main thread) sees that a thread has been inside the same entry, told by its epoch, for too
 * long, and sends the thread a signal. The handler, on that thread, sets a count hook on the Lua state that
 * is running; the hook raises at every instruction until the entry is over, so no pcall can hold on to it.
 * The epoch guards the next, innocent entry: a signal that comes late finds another epoch and does nothing.
 * What runs inside a C function cannot be cut; the watchdog reports it as stuck. */
#ifndef TIDEWIRE_SCRIPT_BUDGET_H
#define TIDEWIRE_SCRIPT_BUDGET_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

struct budget {
    /* the thread that runs Lua */
    _Atomic uint64_t epoch;      /* odd inside an entry */
    lua_State *volatile running; /* the state whose code runs now */
    volatile sig_atomic_t cut;   /* this entry is being cut */
    pthread_t thread;
    const char *key; /* "handler_budget" or "load_budget", for the message */
    _Atomic double limit_s;
    /* the watchdog */
    _Atomic uint64_t cut_epoch; /* the entry to cut; 0 is none */
    uint64_t seen_epoch, seen_since_ms;
    bool reported; /* as stuck, for this entry */
};

/* Once per process, before any thread is watched. 0 or an errno. */
int budget_install(void);

void budget_init(struct budget *b, const char *key, double limit_s);

/* Another limit from now on, also for an entry that has begun. Any thread. */
void budget_set_limit(struct budget *b, double limit_s);
static inline double budget_limit(const struct budget *b)
{
    return atomic_load_explicit(&b->limit_s, memory_order_relaxed);
}

/* The calling thread runs Lua under `b` from now on. */
void budget_adopt(struct budget *b);

/* Around each entry, by sched.c, and between the calls of one. They do not nest. budget_leave tells whether
 * the entry was cut. */
void budget_enter(struct budget *b, lua_State *L);
bool budget_leave(struct budget *b, lua_State *L);

/* Another state's code runs from now on, within the entry; it is cut too when the entry is. */
void budget_switch(struct budget *b, lua_State *L);

static inline bool budget_is_cut(const struct budget *b)
{
    return b->cut != 0;
}

/* For the watchdog, regularly: BUDGET_CUT when it has just signalled the thread, BUDGET_STUCK, once per
 * entry, when twice the limit has passed all the same. */
enum budget_state { BUDGET_FINE, BUDGET_CUT, BUDGET_STUCK };
enum budget_state budget_watch(struct budget *b, uint64_t now_ms);

/* Cuts the entry that is running, if any, whatever its time. The watchdog's thread. */
void budget_cut(struct budget *b);

/* Whether the entry the watchdog saw last was stuck and is still running. The watchdog's thread. */
bool budget_is_stuck(const struct budget *b);

#endif
