/* SPDX-License-Identifier: MIT
 * The one door into Lua. */
#include "script/sched.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include <lauxlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/tally.h"
#include "script/budget.h"
#include "script/coro.h"
#include "script/pace.h"
#include "script/task.h"
#include "script/vm.h"

#define SCHED_TRACE_LEVELS 20

bool sched_owns(lua_State *L)
{
    return vm_has_mark(L, VM_MARK_SCHED);
}

int sched_call_done(lua_State *L, int status, lua_KContext context)
{
    (void)L;
    (void)status;
    (void)context;
    return 0;
}

/* ---- messages ---- */

/* The text of the error object at `index`. May call its __tostring, hence may raise. Leaves values on the
 * stack. */
static const char *sched_error_text(lua_State *L, int index)
{
    if (lua_type(L, index) == LUA_TSTRING || lua_type(L, index) == LUA_TNUMBER)
        return lua_tostring(L, index);
    if (!budget_is_cut(vm_of(L)->budget) && luaL_callmeta(L, index, "__tostring") &&
        lua_type(L, -1) == LUA_TSTRING)
        return lua_tostring(L, -1);
    return lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, index));
}

/* Pushes "file:line: in function 'name'" of a level, or nothing for a C function without a name. Returns how
 * many values. */
static int sched_push_level(lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "Sln", ar);
    if (*ar->namewhat == '\0' && *ar->what == 'C')
        return 0;
    lua_pushfstring(L, "\n\t%s:", ar->short_src);
    if (ar->currentline > 0)
        lua_pushfstring(L, "%d:", ar->currentline);
    else
        lua_pushliteral(L, "");
    if (*ar->namewhat != '\0')
        lua_pushfstring(L, " in %s '%s'", ar->namewhat, ar->name);
    else if (*ar->what == 'm')
        lua_pushliteral(L, " in main chunk");
    else
        lua_pushfstring(L, " in function <%s:%d>", ar->short_src, ar->linedefined);
    return 3;
}

/* Replaces the values from `message` (an index) on by that text and its traceback. Lua's own luaL_traceback
 * looks for the bottom of the stack first, which takes seconds after a runaway recursion; the top tells
 * enough. */
static void sched_add_traceback(lua_State *L, int message)
{
    lua_Debug ar;
    int level = 1;
    lua_settop(L, message);
    luaL_checkstack(L, 4 * SCHED_TRACE_LEVELS, NULL);
    lua_pushliteral(L, "\nstack traceback:");
    for (; level <= SCHED_TRACE_LEVELS && lua_getstack(L, level, &ar); level++)
        sched_push_level(L, &ar);
    if (level > SCHED_TRACE_LEVELS && lua_getstack(L, level, &ar))
        lua_pushliteral(L, "\n\t...");
    if (lua_gettop(L) == message + 1) /* nothing but our own frames */
        lua_settop(L, message);
    lua_concat(L, lua_gettop(L) - message + 1);
}

static int sched_message_handler(lua_State *L)
{
    lua_pushstring(L, sched_error_text(L, 1));
    lua_replace(L, 1);
    sched_add_traceback(L, 1);
    return 1;
}

/* ---- what an entry begins with ---- */

void *sched_take_arg(lua_State *L)
{
    struct sched *s = &vm_of(L)->sched;
    void *arg = s->arg;
    s->arg = NULL;
    if (arg == NULL)
        luaL_error(L, "this function is the server's own");
    return arg;
}

/* ---- the main state ---- */

static int sched_call_main(lua_State *L, lua_CFunction body, void *arg, struct err *e)
{
    lua_pushcfunction(L, sched_message_handler);
    int handler = lua_gettop(L);
    vm_of(L)->sched.arg = arg;
    lua_pushcfunction(L, body);
    int status = lua_pcall(L, 0, 0, handler);
    if (status == LUA_ERRMEM)
        err_set(e, "not enough memory: the script needs more than vm_memory (%zu bytes)",
                vm_of(L)->memory_limit);
    else if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        err_set(e, "%s", message != NULL ? message : "out of memory");
    }
    lua_settop(L, handler - 1);
    return status == LUA_OK ? 0 : -1;
}

int sched_setup(lua_State *L, lua_CFunction body, void *arg, struct err *e)
{
    return sched_call_main(L, body, arg, e);
}

int sched_load(struct vm *vm, lua_CFunction body, void *arg, struct err *e)
{
    budget_enter(vm->budget, vm->L);
    int rc = sched_call_main(vm->L, body, arg, e);
    budget_leave(vm->budget, vm->L);
    return rc;
}

/* ---- counting ---- */

static struct tally *sched_tally(const struct vm *vm, const struct sched_entry *entry)
{
    return entry->tally != NULL ? entry->tally : vm->tally;
}

/* Returns where its time is to be noted; or NULL. */
static inline struct tally *sched_count_call(const struct vm *vm, const struct sched_entry *entry)
{
    struct tally *tally = sched_tally(vm, entry);
    return tally_call(tally) ? tally : NULL;
}

/* Apart, like what follows, so that calls that are not timed do not pay for it. */
__attribute__((noinline)) static void sched_begin_time(struct sched *s, struct tally *timed)
{
    s->timed = timed;
    s->began_ns = clock_now_ns();
}

__attribute__((noinline)) static void sched_note_time(struct sched *s)
{
    metrics_observe(&s->timed->time, clock_now_ns() - s->began_ns);
    s->timed = NULL;
}

/* A call begins; `timed` may be NULL. */
static inline void sched_time(struct sched *s, struct tally *timed)
{
    if (__builtin_expect(timed != NULL, 0))
        sched_begin_time(s, timed);
}

/* It has ended, or waits. */
static inline void sched_time_over(struct sched *s)
{
    if (__builtin_expect(s->timed != NULL, 0))
        sched_note_time(s);
}

/* ---- handlers ---- */

static int sched_new_thread_body(lua_State *L)
{
    struct sched_thread *t = sched_take_arg(L);
    t->co = lua_newthread(L);
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static bool sched_thread_get(struct vm *vm, struct sched_thread *t)
{
    struct sched *s = &vm->sched;
    if (s->count > 0) {
        *t = s->spare[--s->count];
        return true;
    }
    if (sched_setup(vm->L, sched_new_thread_body, t, NULL) < 0)
        return false;
    vm_set_mark(t->co, VM_MARK_SCHED);
    return true;
}

static void sched_thread_put(struct vm *vm, const struct sched_thread *t)
{
    struct sched *s = &vm->sched;
    if (s->count < SCHED_POOL)
        s->spare[s->count++] = *t;
    else
        luaL_unref(vm->L, LUA_REGISTRYINDEX, t->ref);
}

/* A handler fails within a pcall of our own, not at the top of its coroutine: an error that a hook raised
 * there would leave the coroutine with hooks off, and with them off its pending __close methods would run.
 * Returns nothing, or the message with its traceback. */
static int sched_trampoline_done(lua_State *co, int status, lua_KContext context)
{
    (void)context;
    vm_of(co)->sched.out_of_memory = status == LUA_ERRMEM;
    return status == LUA_OK || status == LUA_YIELD ? 0 : 1;
}

/* Between two calls of an entry all is as between two entries: each has a time budget of its own, counts, and
 * finds nothing that the one before has left. */
static bool sched_next(struct vm *vm, lua_State *co)
{
    struct sched *s = &vm->sched;
    const struct sched_entry *entry = s->running.entry;
    sched_time_over(s);
    if (s->running.task != NULL || vm->alive > 0) /* there is something to do at the entry's end */
        return false;
    s->suspending = false;
    s->received = NULL;
    budget_leave(vm->budget, co);
    bool more = entry->next(entry->arg);
    budget_enter(vm->budget, co);
    if (more)
        sched_time(s, sched_count_call(vm, entry));
    return more;
}

/* Goes on with the entry after a call that went well. Returns the status of its last call. */
static int sched_call_next(lua_State *co)
{
    struct vm *vm = vm_of(co);
    const struct sched_entry *entry = vm->sched.running.entry;
    int status = LUA_OK, nargs;
    while (status == LUA_OK && sched_next(vm, co)) {
        lua_settop(co, 1);
        if ((nargs = entry->push(co, entry->arg)) < 0)
            break;
        status = lua_pcallk(co, nargs, 0, 1, 0, sched_trampoline_done);
    }
    return status;
}

static int sched_trampoline(lua_State *co)
{
    struct sched *s = &vm_of(co)->sched;
    lua_CFunction body = s->body;
    int (*push)(lua_State *, const void *) = s->push;
    const void *arg = s->arg;
    int nargs = 0;
    s->body = NULL;
    s->push = NULL;
    if (body == NULL && push == NULL)
        return luaL_error(co, "this function is the server's own");
    lua_pushcfunction(co, sched_message_handler);
    if (body != NULL)
        lua_pushcfunction(co, body);
    else {
        s->arg = NULL; /* or a body that a script got hold of would find it (sched_take_arg) */
        if ((nargs = push(co, arg)) < 0)
            return 0;
    }
    int status = lua_pcallk(co, nargs, 0, 1, 0, sched_trampoline_done);
    if (status == LUA_OK && s->running.entry->next != NULL)
        status = sched_call_next(co);
    return sched_trampoline_done(co, status, 0);
}

static void sched_count_failure(struct vm *vm, bool cut)
{
    tally_fail(sched_tally(vm, vm->sched.running.entry), cut ? TALLY_BUDGET : TALLY_ERROR);
}

/* Counts and logs a failed entry; its message, when there is one, is on top of `co`. */
static void sched_report(struct vm *vm, lua_State *co, int status, bool cut, const struct log_context *about)
{
    size_t len;
    const char *why = lua_type(co, -1) == LUA_TSTRING ? lua_tolstring(co, -1, &len) : NULL;
    sched_count_failure(vm, cut);
    if (status == LUA_ERRMEM || vm->sched.out_of_memory)
        log_write(LOG_ERROR, about, "not enough memory: the script needs more than vm_memory (%zu bytes)",
                  vm->memory_limit);
    else if (why != NULL)
        log_text(LOG_ERROR, about, why, len);
    else
        log_write(LOG_ERROR, about, "(error object is a %s value)", luaL_typename(co, -1));
}

/* The coroutine has come to its end; on success, with an empty stack, it is as good as new. */
static void sched_thread_done(struct vm *vm, struct sched_thread *t, bool reusable)
{
    if (reusable)
        sched_thread_put(vm, t);
    else
        luaL_unref(vm->L, LUA_REGISTRYINDEX, t->ref);
}

static void sched_begin(struct vm *vm, const struct sched_entry *entry, struct sched_thread *t,
                        struct task *task)
{
    struct sched *s = &vm->sched;
    assert(!s->busy);
    s->busy = true;
    s->suspending = false;
    s->out_of_memory = false;
    s->running.entry = entry;
    s->running.thread = *t;
    s->running.task = task;
    vm->about = *entry->about;
}

static void sched_leave(struct vm *vm)
{
    if (vm->alive > 0)
        pace_credit(vm);
    vm->sched.body = NULL; /* not taken when there was no memory to begin */
    vm->sched.push = NULL;
    vm->sched.arg = NULL;
    vm->sched.received = NULL;
    vm->about = (struct log_context){.worker = vm->worker};
    vm->sched.busy = false;
}

/* Runs the coroutine until it ends or is suspended. `timed` is where its time is noted; or NULL. */
static enum sched_result sched_step(struct vm *vm, const struct sched_entry *entry, struct sched_thread *t,
                                    struct task *task, struct tally *timed)
{
    int results = 0;
    sched_begin(vm, entry, t, task);
    budget_enter(vm->budget, t->co);
    sched_time(&vm->sched, timed);
    int status = lua_resume(t->co, vm->L, 0, &results);
    sched_time_over(&vm->sched);
    bool cut = budget_leave(vm->budget, t->co);
    bool failed = (status != LUA_OK && status != LUA_YIELD) || results > 0;
    if (failed)
        sched_report(vm, t->co, status, cut, entry->about);
    task = vm->sched.running.task;
    sched_leave(vm);
    if (status == LUA_YIELD)
        return SCHED_SUSPENDED;
    /* String buffers ask the allocator past the collector. */
    if ((status == LUA_ERRMEM || vm->sched.out_of_memory) && vm->memory > vm->memory_limit / 2)
        lua_gc(vm->L, LUA_GCCOLLECT);
    if (status == LUA_OK && results > 0)
        lua_settop(t->co, 0);
    /* When the trampoline itself failed there is nothing to reuse. */
    sched_thread_done(vm, t, status == LUA_OK);
    enum sched_result result = !failed ? SCHED_OK : cut ? SCHED_CUT : SCHED_FAILED;
    if (task != NULL)
        task_end(task, result);
    return result;
}

enum sched_result sched_run(struct vm *vm, const struct sched_entry *entry)
{
    struct sched_thread t;
    if (!sched_thread_get(vm, &t)) {
        sched_count_call(vm, entry);
        vm->sched.running.entry = entry;
        sched_count_failure(vm, false);
        log_write(LOG_ERROR, entry->about, "not enough memory to run a handler (vm_memory)");
        return SCHED_FAILED;
    }
    vm->sched.body = entry->body;
    vm->sched.push = entry->push;
    vm->sched.arg = entry->arg;
    lua_pushcfunction(t.co, sched_trampoline);
    return sched_step(vm, entry, &t, NULL, sched_count_call(vm, entry));
}

/* ---- suspended handlers ---- */

static struct sched_entry sched_entry_of(const struct task *t)
{
    return (struct sched_entry){.about = &t->about, .kind = t->kind, .owner = t->owner, .tally = t->tally};
}

void sched_resume(struct task *t)
{
    struct sched_entry entry = sched_entry_of(t);
    struct sched_thread thread = t->thread;
    struct log_context about = t->about; /* the task may be freed while they are in use */
    entry.about = &about;
    struct tally *tally = sched_tally(t->job.vm, &entry);
    sched_step(t->job.vm, &entry, &thread, t, tally_resume(tally) ? tally : NULL);
}

/* Each has a budget of its own. False when it ended badly. */
static bool sched_close_thread(struct vm *vm, lua_State *co, const struct log_context *about)
{
    lua_State *inner = coro_waited_for(co);
    if (inner != NULL)
        sched_close_thread(vm, inner, about);
    vm_clear_mark(co, VM_MARK_WAITING);
    vm->sched.pinned++;
    budget_enter(vm->budget, co);
    int status = lua_resetthread(co);
    bool cut = budget_leave(vm->budget, co);
    vm->sched.pinned--;
    if (status != LUA_OK)
        sched_report(vm, co, status, cut, about);
    return status == LUA_OK;
}

void sched_abandon(struct task *t)
{
    struct vm *vm = t->job.vm;
    struct sched_entry entry = sched_entry_of(t);
    sched_begin(vm, &entry, &t->thread, t);
    bool fine = sched_close_thread(vm, t->thread.co, &t->about);
    sched_leave(vm);
    sched_thread_done(vm, &t->thread, fine);
}
