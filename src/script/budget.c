/* SPDX-License-Identifier: MIT
 * The time budget of a thread that runs Lua. */
#include "script/budget.h"

#include <errno.h>
#include <setjmp.h>
#include <string.h>

#include <lauxlib.h>

#if defined(__SANITIZE_THREAD__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define BUDGET_SIGNAL SIGURG /* ignored by default, so that a stray one is harmless */

static _Thread_local struct budget *budget_mine;

static void budget_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    const struct budget *b = budget_mine;
    luaL_where(L, 0);
    lua_pushfstring(L, "cut: it ran longer than %f s (%s)", budget_limit(b), b->key);
    lua_concat(L, 2);
    lua_error(L);
}

/* ThreadSanitizer's own state is not to be touched by a handler that interrupts it (see budget_install_raw).
 */
#if defined(__SANITIZE_THREAD__)
#define BUDGET_UNSEEN __attribute__((no_sanitize_thread))
#else
#define BUDGET_UNSEEN
#endif

BUDGET_UNSEEN static void budget_arm(lua_State *L)
{
    lua_sethook(L, budget_hook, LUA_MASKCOUNT, 1);
}

BUDGET_UNSEEN static void budget_on_signal(int number)
{
    (void)number;
    struct budget *b = budget_mine;
    if (b == NULL)
        return;
    uint64_t epoch = atomic_load(&b->epoch);
    if (epoch % 2 == 0 || epoch != atomic_load(&b->cut_epoch))
        return;
    b->cut = 1;
    if (b->running != NULL)
        budget_arm(b->running);
}

#if defined(__SANITIZE_THREAD__)
/* ThreadSanitizer follows longjmp but not __longjmp_chk, which Lua raises its errors with: frames that an
 * error leaves would stay on its own stack until that overflows. This is the one that Lua's library finds. */
void budget_longjmp(jmp_buf env, int value) __asm__("__longjmp_chk");

BUDGET_UNSEEN void budget_longjmp(jmp_buf env, int value)
{
    longjmp(env, value);
}

/* ThreadSanitizer delays handlers until the next system call, which a tight Lua loop never makes. Past its
 * wrapper, the kernel's own call installs the handler as it is; the rest of the structure, with the C
 * library's trampoline, is taken from what the wrapper installed. */
static int budget_install_raw(void)
{
    unsigned long kernel_sigaction[8];
    const size_t mask_size = 8;
    if (syscall(SYS_rt_sigaction, BUDGET_SIGNAL, NULL, kernel_sigaction, mask_size) < 0)
        return errno;
    kernel_sigaction[0] = (unsigned long)budget_on_signal;
    kernel_sigaction[1] &= ~(unsigned long)SA_SIGINFO;
    return syscall(SYS_rt_sigaction, BUDGET_SIGNAL, kernel_sigaction, NULL, mask_size) < 0 ? errno : 0;
}
#endif

int budget_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = budget_on_signal;
    action.sa_flags = SA_RESTART;
    if (sigaction(BUDGET_SIGNAL, &action, NULL) < 0)
        return errno;
#if defined(__SANITIZE_THREAD__)
    return budget_install_raw();
#else
    return 0;
#endif
}

void budget_init(struct budget *b, const char *key, double limit_s)
{
    memset(b, 0, sizeof *b);
    b->key = key;
    budget_set_limit(b, limit_s);
}

void budget_set_limit(struct budget *b, double limit_s)
{
    atomic_store_explicit(&b->limit_s, limit_s, memory_order_relaxed);
}

void budget_adopt(struct budget *b)
{
    sigset_t set;
    b->thread = pthread_self();
    budget_mine = b;
    sigemptyset(&set);
    sigaddset(&set, BUDGET_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void budget_enter(struct budget *b, lua_State *L)
{
    b->running = L;
    uint64_t epoch = atomic_load_explicit(&b->epoch, memory_order_relaxed);
    atomic_store_explicit(&b->epoch, epoch + 1, memory_order_release);
}

bool budget_leave(struct budget *b, lua_State *L)
{
    uint64_t epoch = atomic_load_explicit(&b->epoch, memory_order_relaxed);
    atomic_store_explicit(&b->epoch, epoch + 1, memory_order_release);
    /* From here on a signal finds another epoch. */
    atomic_signal_fence(memory_order_seq_cst);
    b->running = NULL;
    if (!b->cut)
        return false;
    lua_sethook(L, NULL, 0, 0);
    b->cut = 0;
    return true;
}

void budget_switch(struct budget *b, lua_State *L)
{
    b->running = L;
    atomic_signal_fence(memory_order_seq_cst);
    if (b->cut)
        budget_arm(L);
    else if (lua_gethook(L) != NULL) { /* left from an entry that was cut while this coroutine ran */
        lua_sethook(L, NULL, 0, 0);
        if (b->cut) /* the signal came in between */
            budget_arm(L);
    }
}

void budget_cut(struct budget *b)
{
    uint64_t epoch = atomic_load_explicit(&b->epoch, memory_order_acquire);
    if (epoch % 2 == 0)
        return;
    atomic_store(&b->cut_epoch, epoch);
    pthread_kill(b->thread, BUDGET_SIGNAL);
}

enum budget_state budget_watch(struct budget *b, uint64_t now_ms)
{
    uint64_t epoch = atomic_load_explicit(&b->epoch, memory_order_acquire);
    if (epoch != b->seen_epoch) {
        b->seen_epoch = epoch;
        b->seen_since_ms = now_ms;
        b->reported = false;
        return BUDGET_FINE;
    }
    if (epoch % 2 == 0)
        return BUDGET_FINE;
    double ran_s = (double)(now_ms - b->seen_since_ms) / 1000, limit_s = budget_limit(b);
    if (ran_s < limit_s)
        return BUDGET_FINE;
    if (atomic_load(&b->cut_epoch) != epoch) {
        budget_cut(b);
        return BUDGET_CUT;
    }
    budget_cut(b); /* once more: costs nothing, and no cut is ever lost */
    if (b->reported || ran_s < 2 * limit_s)
        return BUDGET_FINE;
    b->reported = true;
    return BUDGET_STUCK;
}

bool budget_is_stuck(const struct budget *b)
{
    return b->reported && atomic_load_explicit(&b->epoch, memory_order_relaxed) == b->seen_epoch;
}
