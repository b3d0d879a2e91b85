/* SPDX-License-Identifier: MIT
 * Watching files: what counts as a change, which files are looked at, and when it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ev.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ops/watch.h"

#define WRITE_EVERY_S 0.01

static char folder[] = "/tmp/test_watch.XXXXXX";
static struct ev_loop *loop;
static struct watch *watch;
static struct snapshot *snapshot;
static int told;
static size_t told_others;
static char told_path[128];
static bool take = true; /* whether the handler asks for a load */

static const char *path(const char *name)
{
    static char text[128];
    snprintf(text, sizeof text, "%s/%s", folder, name);
    return text;
}

/* In place and in one write: no moment in between shows less. */
static void put(const char *name, const char *contents)
{
    int fd = open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, contents, strlen(contents)), strlen(contents));
    close(fd);
}

static void on_change(void *user, const char *changed, size_t others)
{
    assert_ptr_equal(user, &told);
    told++;
    told_others = others;
    snprintf(told_path, sizeof told_path, "%s", changed);
    if (take)
        watch_taken(watch);
    ev_break(loop, EVBREAK_ALL);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_watch.XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    told = 0;
    take = true;
    loop = ev_loop_new(EVFLAG_NOENV);
    snapshot = snapshot_create();
    watch = watch_create(loop, NULL, on_change, &told);
    return loop != NULL && snapshot != NULL && watch != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    watch_destroy(watch);
    snapshot_unref(snapshot);
    ev_loop_destroy(loop);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void read_file(struct snapshot *s, const char *name)
{
    struct snapshot_file f;
    snapshot_read(s, path(name), &f);
}

/* Runs until the handler was called once more. */
static void wait_told(const char *name)
{
    int before = told;
    while (told == before)
        ev_run(loop, EVRUN_ONCE);
    assert_int_equal(told, before + 1);
    if (name != NULL)
        assert_string_equal(told_path, path(name));
}

static void on_mark(struct ev_loop *l, ev_timer *timer, int revents)
{
    (void)timer;
    (void)revents;
    ev_break(l, EVBREAK_ALL);
}

/* Runs for longer than the wait for quiet and one look at all files: what was to be told has been told. */
static void wait_long_enough(void)
{
    ev_timer timer;
    ev_timer_init(&timer, on_mark, WATCH_LOOK_S + 3 * WATCH_QUIET_S, 0);
    ev_now_update(loop);
    ev_timer_start(loop, &timer);
    while (ev_is_active(&timer))
        ev_run(loop, EVRUN_ONCE);
}

static void a_change_since_it_was_read_counts_at_once(void **state)
{
    (void)state;
    put("a", "one");
    read_file(snapshot, "a");
    put("a", "two");
    watch_follow(watch, snapshot, true);
    wait_told("a");
    assert_int_equal(told_others, 0);
}

static void files_that_come_and_go(void **state)
{
    (void)state;
    read_file(snapshot, "late");
    watch_follow(watch, snapshot, true);
    put("late", "here");
    wait_told("late");
    assert_int_equal(unlink(path("late")), 0);
    wait_told("late");
}

static void what_did_not_change_is_not_told(void **state)
{
    (void)state;
    put("a", "one");
    put("b", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    put("b", "two"); /* nobody read it */
    int fd = open(path("a"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
    wait_long_enough();
    assert_int_equal(told, 0);
}

static void a_change_that_is_taken_back_is_not_told(void **state)
{
    (void)state;
    char other[128];
    put("a", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    snprintf(other, sizeof other, "%s", path("other"));
    assert_int_equal(rename(path("a"), other), 0);
    ev_run(loop, EVRUN_NOWAIT);
    assert_int_equal(rename(other, path("a")), 0);
    wait_long_enough();
    assert_int_equal(told, 0);
}

static void what_a_load_will_read_is_not_told(void **state)
{
    (void)state;
    put("a", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    put("a", "two");
    ev_run(loop, EVRUN_NOWAIT);
    watch_taken(watch);
    wait_long_enough();
    assert_int_equal(told, 0);
    put("a", "three");
    wait_told("a");
}

/* ---- bursts ---- */

static int writes_left;

static void on_write(struct ev_loop *l, ev_timer *timer, int revents)
{
    (void)revents;
    char text[16];
    snprintf(text, sizeof text, "%d", writes_left);
    put("a", text);
    if (--writes_left == 0)
        ev_timer_stop(l, timer);
}

/* Writes `n` times, so quickly that it is never quiet; a loop that is late runs the writer first. */
static void write_often(ev_timer *timer, int n)
{
    writes_left = n;
    ev_timer_init(timer, on_write, WRITE_EVERY_S, WRITE_EVERY_S);
    ev_now_update(loop);
    ev_timer_start(loop, timer);
}

static void a_burst_is_told_once_and_when_it_is_over(void **state)
{
    (void)state;
    ev_timer timer;
    put("a", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    write_often(&timer, 40);
    wait_told("a");
    assert_int_equal(writes_left, 0);
    wait_long_enough();
    assert_int_equal(told, 1);
}

static void a_burst_without_an_end_is_told_all_the_same(void **state)
{
    (void)state;
    ev_timer timer;
    put("a", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    write_often(&timer, 1000000);
    wait_told("a");
    assert_true(writes_left > 0);
    ev_timer_stop(loop, &timer);
}

static void many_files_are_told_once(void **state)
{
    (void)state;
    char name[16];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "%d", i);
        put(name, "one");
        read_file(snapshot, name);
    }
    watch_follow(watch, snapshot, true);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "%d", i);
        put(name, "other");
    }
    wait_told(NULL);
    assert_int_equal(told_others, 199);
    wait_long_enough();
    assert_int_equal(told, 1);
}

static void what_nobody_took_is_told_again(void **state)
{
    (void)state;
    put("a", "one");
    read_file(snapshot, "a");
    watch_follow(watch, snapshot, true);
    take = false;
    put("a", "two");
    wait_told("a");
    wait_told("a");
}

/* ---- which files ---- */

static void an_accepted_load_replaces_the_files(void **state)
{
    (void)state;
    put("old", "one");
    put("both", "one");
    read_file(snapshot, "old");
    read_file(snapshot, "both");
    watch_follow(watch, snapshot, true);
    struct snapshot *next = snapshot_create();
    put("both", "other");
    read_file(next, "both");
    read_file(next, "new");
    watch_follow(watch, next, true);
    put("old", "other");
    wait_long_enough();
    assert_int_equal(told, 0);
    put("new", "one");
    wait_told("new");
    put("both", "one");
    wait_told("both");
    snapshot_unref(next);
}

static void a_refused_load_adds_its_files_until_the_next(void **state)
{
    (void)state;
    put("serving", "one");
    read_file(snapshot, "serving");
    watch_follow(watch, snapshot, true);
    struct snapshot *first = snapshot_create(), *second = snapshot_create();
    read_file(first, "first");
    watch_follow(watch, first, false);
    put("first", "x");
    wait_told("first");
    put("serving", "two");
    wait_told("serving");
    read_file(second, "second");
    watch_follow(watch, second, false);
    put("first", "other");
    wait_long_enough();
    assert_int_equal(told, 2);
    put("second", "x");
    wait_told("second");
    put("serving", "three");
    wait_told("serving");
    snapshot_unref(first);
    snapshot_unref(second);
}

static void files_that_the_code_reads_later_are_watched_too(void **state)
{
    (void)state;
    read_file(snapshot, "first");
    watch_follow(watch, snapshot, true);
    put("module", "one");
    read_file(snapshot, "module");
    wait_long_enough();
    put("module", "two");
    wait_told("module");
}

static void the_configuration_file_stays_watched(void **state)
{
    (void)state;
    char config[128];
    watch_destroy(watch);
    put("conf", "one");
    snprintf(config, sizeof config, "%s", path("conf"));
    watch = watch_create(loop, config, on_change, &told);
    for (int i = 0; i < 2; i++) {
        struct snapshot *s = snapshot_create();
        read_file(s, i == 0 ? "x" : "y");
        watch_follow(watch, s, i == 0);
        snapshot_unref(s);
        put("conf", i == 0 ? "two" : "other");
        wait_told("conf");
    }
}

static void there_may_be_no_watch(void **state)
{
    (void)state;
    watch_follow(NULL, snapshot, true);
    watch_follow(watch, NULL, false);
    watch_taken(NULL);
    watch_destroy(NULL);
    assert_int_equal(told, 0);
}

static void as_many_files_as_a_snapshot_has(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < SNAPSHOT_FILES - 1; i++) {
        snprintf(name, sizeof name, "none-%d", i * 7 % SNAPSHOT_FILES);
        read_file(snapshot, name);
    }
    read_file(snapshot, "last");
    watch_follow(watch, snapshot, true);
    struct snapshot *more = snapshot_create();
    read_file(more, "one more"); /* it has no room, and the others stay */
    watch_follow(watch, more, false);
    put("last", "here");
    wait_told("last");
    snapshot_unref(more);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_change_since_it_was_read_counts_at_once),
        TEST(files_that_come_and_go),
        TEST(what_did_not_change_is_not_told),
        TEST(a_change_that_is_taken_back_is_not_told),
        TEST(what_a_load_will_read_is_not_told),
        TEST(a_burst_is_told_once_and_when_it_is_over),
        TEST(a_burst_without_an_end_is_told_all_the_same),
        TEST(many_files_are_told_once),
        TEST(what_nobody_took_is_told_again),
        TEST(an_accepted_load_replaces_the_files),
        TEST(a_refused_load_adds_its_files_until_the_next),
        TEST(files_that_the_code_reads_later_are_watched_too),
        TEST(the_configuration_file_stays_watched),
        TEST(there_may_be_no_watch),
        TEST(as_many_files_as_a_snapshot_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
