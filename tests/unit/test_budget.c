/* SPDX-License-Identifier: MIT
 * The time budget, with a clock of the test's own: what is cut, what is spared, and that nothing is left
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <semaphore.h>
#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "base/thread.h"
#include "script/budget.h"

static struct budget budget;
static lua_State *L;

static int set_up(void **state)
{
    (void)state;
    L = luaL_newstate();
    if (L == NULL)
        return -1;
    luaL_openlibs(L);
    budget_init(&budget, "handler_budget", 5);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lua_close(L);
    return 0;
}

static int group_set_up(void **state)
{
    (void)state;
    return budget_install();
}

/* ---- a thread that runs one script as one entry ---- */

struct runner {
    pthread_t thread;
    const char *script;
    sem_t started, go; /* begun() posts the first, wait() waits for the second */
    int status;        /* of the call */
    bool cut, hook_left, ran_after;
    const char *message;
};

static struct runner runner;

static int lua_begun(lua_State *state)
{
    (void)state;
    sem_post(&runner.started);
    return 0;
}

static int lua_wait(lua_State *state)
{
    (void)state;
    while (sem_wait(&runner.go) < 0)
        ; /* the signal interrupts it */
    return 0;
}

static void *run(void *arg)
{
    struct runner *r = arg;
    budget_adopt(&budget);
    budget_enter(&budget, L);
    r->status = luaL_dostring(L, r->script);
    r->cut = budget_leave(&budget, L);
    r->message = lua_tostring(L, -1);
    r->hook_left = lua_gethook(L) != NULL;

    budget_enter(&budget, L);
    r->ran_after =
        luaL_dostring(L, "local n = 0; for i = 1, 1000 do n = n + 1 end; assert(n == 1000)") == LUA_OK;
    r->ran_after &= !budget_leave(&budget, L);
    return NULL;
}

/* Returns when the script has called begun(). */
static void runner_start(const char *script)
{
    memset(&runner, 0, sizeof runner);
    runner.script = script;
    sem_init(&runner.started, 0, 0);
    sem_init(&runner.go, 0, 0);
    lua_register(L, "begun", lua_begun);
    lua_register(L, "wait", lua_wait);
    assert_int_equal(thread_start(&runner.thread, run, &runner), 0);
    while (sem_wait(&runner.started) < 0)
        ;
}

static void runner_end(void)
{
    pthread_join(runner.thread, NULL);
    sem_destroy(&runner.started);
    sem_destroy(&runner.go);
    assert_false(runner.hook_left);
    assert_true(runner.ran_after);
}

static void assert_cut(void)
{
    runner_end();
    assert_true(runner.cut);
    assert_int_not_equal(runner.status, LUA_OK);
    assert_non_null(strstr(runner.message, "cut: it ran longer than 5.0 s (handler_budget)"));
}

static void endless_loops(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "begun() while true do end",
        "begun() local function f() return f() end f()",
        "begun() while true do pcall(function() while true do end end) end",
        "begun() while true do pcall(error) end",
        "begun() local t = setmetatable({}, {__index = function() while true do end end}) return t.x",
    };
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        runner_start(scripts[i]);
        assert_int_equal(budget_watch(&budget, 1000), BUDGET_FINE); /* seen for the first time */
        assert_int_equal(budget_watch(&budget, 5999), BUDGET_FINE);
        assert_int_equal(budget_watch(&budget, 6000), BUDGET_CUT);
        assert_cut();
        tear_down(NULL);
        set_up(NULL);
    }
}

static void message_says_where(void **state)
{
    (void)state;
    runner_start("begun()\n\nwhile true do end");
    budget_watch(&budget, 0);
    assert_int_equal(budget_watch(&budget, 5000), BUDGET_CUT);
    assert_cut();
    assert_non_null(strstr(runner.message, ":3: cut"));
}

static void cut_whatever_its_time(void **state)
{
    (void)state;
    runner_start("begun() while true do end");
    budget_cut(&budget);
    assert_cut();
}

static void within_the_limit(void **state)
{
    (void)state;
    runner_start("begun() wait()");
    for (uint64_t now = 0; now < 5000; now += 100)
        assert_int_equal(budget_watch(&budget, now), BUDGET_FINE);
    assert_false(budget_is_stuck(&budget));
    sem_post(&runner.go);
    runner_end();
    assert_int_equal(runner.status, LUA_OK);
    assert_false(runner.cut);
}

/* A C function cannot be cut: that is said once, and the script is cut as soon as it returns. */
static void stuck_in_c(void **state)
{
    (void)state;
    runner_start("begun() wait() while true do end");
    budget_watch(&budget, 0);
    assert_int_equal(budget_watch(&budget, 5000), BUDGET_CUT);
    assert_int_equal(budget_watch(&budget, 9999), BUDGET_FINE);
    assert_false(budget_is_stuck(&budget));
    assert_int_equal(budget_watch(&budget, 10000), BUDGET_STUCK);
    assert_true(budget_is_stuck(&budget));
    assert_int_equal(budget_watch(&budget, 10100), BUDGET_FINE);
    assert_int_equal(budget_watch(&budget, 99999), BUDGET_FINE);
    assert_true(budget_is_stuck(&budget));
    sem_post(&runner.go);
    assert_cut();
    assert_false(budget_is_stuck(&budget));
    assert_int_equal(budget_watch(&budget, 100000), BUDGET_FINE);
    assert_false(budget_is_stuck(&budget));
}

/* ---- epochs, on the test's own thread ---- */

static void hold_signals(int how)
{
    sigset_t set;
    sigfillset(&set);
    assert_int_equal(pthread_sigmask(how, &set, NULL), 0);
}

static void nothing_outside_an_entry(void **state)
{
    (void)state;
    budget_adopt(&budget);
    budget_cut(&budget);
    for (uint64_t now = 0; now < 100000; now += 5000)
        assert_int_equal(budget_watch(&budget, now), BUDGET_FINE);
    budget_enter(&budget, L);
    assert_false(budget_is_cut(&budget));
    assert_null(lua_gethook(L));
    assert_false(budget_leave(&budget, L));
    budget_cut(&budget);
    assert_false(budget_is_cut(&budget));
}

/* Each entry has the whole limit, however long the thread has been at work. */
static void each_entry_has_its_time(void **state)
{
    (void)state;
    budget_adopt(&budget);
    for (uint64_t now = 0; now < 50000; now += 4000) {
        budget_enter(&budget, L);
        assert_int_equal(budget_watch(&budget, now), BUDGET_FINE);
        assert_int_equal(budget_watch(&budget, now + 3999), BUDGET_FINE);
        assert_false(budget_leave(&budget, L));
    }
}

static void late_signal_spares_the_next_entry(void **state)
{
    (void)state;
    budget_adopt(&budget);
    hold_signals(SIG_BLOCK);
    budget_enter(&budget, L);
    budget_cut(&budget); /* under way */
    assert_false(budget_leave(&budget, L));
    budget_enter(&budget, L);
    hold_signals(SIG_UNBLOCK); /* arrives */
    assert_false(budget_is_cut(&budget));
    assert_null(lua_gethook(L));
    assert_int_equal(luaL_dostring(L, "for i = 1, 1000 do end"), LUA_OK);
    assert_false(budget_leave(&budget, L));
}

static void late_signal_between_entries(void **state)
{
    (void)state;
    budget_adopt(&budget);
    hold_signals(SIG_BLOCK);
    budget_enter(&budget, L);
    budget_cut(&budget);
    assert_false(budget_leave(&budget, L));
    hold_signals(SIG_UNBLOCK);
    assert_false(budget_is_cut(&budget));
    assert_null(lua_gethook(L));
}

/* The other state's code is cut as well, and both run freely afterwards. */
static void cut_follows_the_running_state(void **state)
{
    (void)state;
    lua_State *co = lua_newthread(L);
    budget_adopt(&budget);
    budget_enter(&budget, L);
    budget_switch(&budget, co);
    assert_null(lua_gethook(co));
    budget_cut(&budget); /* the signal is for this thread: it has been handled on return */
    assert_true(budget_is_cut(&budget));
    assert_non_null(lua_gethook(co));
    assert_int_not_equal(luaL_dostring(co, "while true do end"), LUA_OK);
    budget_switch(&budget, L);
    assert_non_null(lua_gethook(L));
    assert_int_not_equal(luaL_dostring(L, "while true do end"), LUA_OK);
    assert_true(budget_leave(&budget, L));
    assert_null(lua_gethook(L));
    assert_false(budget_is_cut(&budget));

    budget_enter(&budget, L);
    budget_switch(&budget, co);
    assert_null(lua_gethook(co));
    assert_int_equal(luaL_dostring(co, "for i = 1, 1000 do end"), LUA_OK);
    budget_switch(&budget, L);
    assert_null(lua_gethook(L));
    assert_false(budget_leave(&budget, L));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(endless_loops),
        TEST(message_says_where),
        TEST(cut_whatever_its_time),
        TEST(within_the_limit),
        TEST(stuck_in_c),
        TEST(nothing_outside_an_entry),
        TEST(each_entry_has_its_time),
        TEST(late_signal_spares_the_next_entry),
        TEST(late_signal_between_entries),
        TEST(cut_follows_the_running_state),
    };
    return cmocka_run_group_tests(tests, group_set_up, NULL);
}
