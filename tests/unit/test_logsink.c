/* SPDX-License-Identifier: MIT
 * The ring and its writer: order, what is lost and told, files that are opened anew, and an end within
 * bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/logsink.h"
#include "base/metrics.h"

#define SIZE 65536

static char folder[] = "/tmp/test_logsink.XXXXXX";
static char path[64], other[64];
static _Atomic int reopened, reopen_failed;
static struct err e;

static void on_loss(enum logsink_id id, uint64_t lost, struct buf *line)
{
    if (id == LOGSINK_LOG)
        buf_printf(line, "LOST %llu\n", (unsigned long long)lost);
}

static int on_tick(void)
{
    return -1;
}

static void on_reopened(const char *which, const char *why)
{
    (void)why;
    atomic_fetch_add(which == NULL ? &reopened : &reopen_failed, 1);
}

static const struct logsink_hooks hooks = {
    .on_loss = on_loss, .on_tick = on_tick, .on_reopened = on_reopened};

static int set_up(void **state)
{
    (void)state;
    logsink_init(&hooks);
    snprintf(folder, sizeof folder, "/tmp/test_logsink.XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/log", folder);
    snprintf(other, sizeof other, "%s/old", folder);
    atomic_store(&reopened, 0);
    atomic_store(&reopen_failed, 0);
    return logsink_start(SIZE, &e);
}

static int tear_down(void **state)
{
    (void)state;
    logsink_stop();
    unlink(path);
    unlink(other);
    return rmdir(folder);
}

static void use_file(void)
{
    struct logsink_target to;
    assert_int_equal(logsink_open(&to, path, &e), 0);
    logsink_use(LOGSINK_LOG, &to);
    assert_int_equal(to.fd, -1);
}

/* A pipe whose reading end stays with the test. */
static int use_pipe(void)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct logsink_target to = {fds[1], strdup("pipe")}; /* so that it is closed */
    logsink_use(LOGSINK_LOG, &to);
    return fds[0];
}

static void put(const char *text)
{
    logsink_put(LOGSINK_LOG, text, strlen(text), false);
}

static char *content(const char *name)
{
    static char text[1 << 20];
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    assert_true(n >= 0);
    text[n] = '\0';
    return text;
}

/* Reads from a pipe until `mark` has come. */
static char *read_until(int fd, const char *mark)
{
    static char text[1 << 20];
    size_t len = 0;
    for (text[0] = '\0'; strstr(text, mark) == NULL; text[len] = '\0') {
        assert_true(len < sizeof text - 1);
        ssize_t n = read(fd, text + len, sizeof text - 1 - len);
        assert_true(n > 0);
        len += (size_t)n;
    }
    return text;
}

static void a_file_gets_all_in_order(void **state)
{
    (void)state;
    struct stat st;
    char line[32];
    use_file();
    for (int i = 0; i < 3000; i++) {
        snprintf(line, sizeof line, "line %d\n", i);
        put(line);
        if (i % 1000 == 0)
            logsink_flush(60000);
    }
    logsink_flush(60000);
    const char *at = content(path);
    for (int i = 0; i < 3000; i++) {
        snprintf(line, sizeof line, "line %d\n", i);
        assert_memory_equal(at, line, strlen(line));
        at += strlen(line);
    }
    assert_int_equal(*at, '\0');
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0137, 0);
}

static void files_are_appended_to(void **state)
{
    (void)state;
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "before\n", 7), 7);
    close(fd);
    use_file();
    put("after\n");
    logsink_flush(60000);
    assert_string_equal(content(path), "before\nafter\n");
}

static void a_file_that_cannot_be_opened(void **state)
{
    (void)state;
    struct logsink_target to;
    char bad[80];
    snprintf(bad, sizeof bad, "%s/no/log", folder);
    assert_int_equal(logsink_open(&to, bad, &e), -1);
    assert_non_null(strstr(e.text, bad));
    assert_non_null(strstr(e.text, "No such file or directory"));
    /* nor does a pipe that nobody reads hold up the start */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(logsink_open(&to, path, &e), -1);
}

static void await(_Atomic int *count, int value)
{
    while (atomic_load(count) != value)
        poll(NULL, 0, 1);
}

static void reopening_loses_no_line(void **state)
{
    (void)state;
    use_file();
    put("one\n");
    logsink_flush(60000);
    assert_int_equal(rename(path, other), 0);
    put("two\n");
    logsink_flush(60000);
    logsink_reopen();
    await(&reopened, 1);
    put("three\n");
    logsink_flush(60000);
    assert_string_equal(content(other), "one\ntwo\n");
    assert_string_equal(content(path), "three\n");
}

static void a_failed_reopening_keeps_the_file(void **state)
{
    (void)state;
    use_file();
    put("one\n");
    logsink_flush(60000);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    logsink_reopen();
    await(&reopen_failed, 1);
    put("two\n");
    logsink_flush(60000);
    assert_int_equal(atomic_load(&reopened), 0);
    assert_string_equal(content(other), "one\ntwo\n");
    assert_int_equal(rmdir(path), 0);
}

/* Nobody waits; what has no room is counted; that is told once there is room, behind what was kept. */
static void a_pipe_that_nobody_reads(void **state)
{
    (void)state;
    char line[1000];
    uint64_t before = metrics_sum(METRIC_LOG_LOST);
    int reader = use_pipe();
    memset(line, '.', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 1000; i++)
        logsink_put(LOGSINK_LOG, line, sizeof line, false);
    uint64_t lost = metrics_sum(METRIC_LOG_LOST) - before;
    assert_true(lost > 500 && lost < 1000);
    logsink_put(LOGSINK_LOG, "must\n", 5, true); /* finds room still */
    assert_int_equal(metrics_sum(METRIC_LOG_LOST) - before, lost);
    const char *text = read_until(reader, "LOST ");
    assert_non_null(strstr(text, "must\n"));
    assert_true(strstr(text, "must\n") < strstr(text, "LOST "));
    assert_int_equal(strtoull(strstr(text, "LOST ") + 5, NULL, 10), lost);
    size_t whole = 0;
    for (const char *at = text; (at = strstr(at, "....\n")) != NULL; at += 5)
        whole++;
    assert_int_equal(whole + lost, 1000);
    put("again\n");
    read_until(reader, "again\n");
    close(reader);
}

static void a_line_longer_than_the_ring_is_lost_and_told(void **state)
{
    (void)state;
    int reader = use_pipe();
    char *line = malloc(SIZE + 1);
    memset(line, '.', SIZE + 1);
    line[SIZE] = '\n';
    logsink_put(LOGSINK_LOG, line, SIZE + 1, false);
    free(line);
    assert_string_equal(read_until(reader, "\n"), "LOST 1\n");
    put("next\n");
    assert_string_equal(read_until(reader, "\n"), "next\n");
    close(reader);
}

/* A reader that has gone is no end of the process, and no end of waiting either. */
static void a_pipe_whose_reader_has_gone(void **state)
{
    (void)state;
    int reader = use_pipe();
    close(reader);
    put("x\n");
    logsink_flush(60000);
    use_file();
    put("y\n");
    logsink_flush(60000);
    while (strstr(content(path), "y\n") == NULL)
        poll(NULL, 0, 1);
    assert_string_equal(content(path), "x\ny\n");
}

#define THREADS 4
#define EACH    5000

static void *log_much(void *arg)
{
    char line[64];
    for (int i = 0; i < EACH; i++) {
        snprintf(line, sizeof line, "thread %d line %d\n", *(int *)arg, i);
        put(line);
    }
    return NULL;
}

static void *change_much(void *stop)
{
    struct err why;
    while (!atomic_load((_Atomic bool *)stop)) {
        struct logsink_target to;
        if (logsink_open(&to, path, &why) == 0)
            logsink_use(LOGSINK_LOG, &to);
        logsink_reopen();
    }
    return NULL;
}

/* Whatever becomes of the file meanwhile: lines are whole, those of a thread in order, none twice. */
static void threads_log_while_files_change(void **state)
{
    (void)state;
    pthread_t threads[THREADS], changer;
    int number[THREADS], next[THREADS] = {0};
    _Atomic bool stop = false;
    uint64_t before = metrics_sum(METRIC_LOG_LOST), seen = 0;
    use_file();
    pthread_create(&changer, NULL, change_much, &stop);
    for (int i = 0; i < THREADS; i++) {
        number[i] = i;
        pthread_create(&threads[i], NULL, log_much, &number[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&stop, true);
    pthread_join(changer, NULL);
    logsink_flush(60000);
    uint64_t told = 0;
    for (char *save, *line = strtok_r(content(path), "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        int thread, i;
        unsigned long long lost;
        if (sscanf(line, "LOST %llu", &lost) == 1) {
            told += lost;
            continue;
        }
        assert_int_equal(sscanf(line, "thread %d line %d", &thread, &i), 2);
        assert_true(thread >= 0 && thread < THREADS && i >= next[thread]);
        next[thread] = i + 1;
        seen++;
    }
    assert_int_equal(seen + (metrics_sum(METRIC_LOG_LOST) - before), THREADS * EACH);
    assert_int_equal(told, metrics_sum(METRIC_LOG_LOST) - before);
}

static void the_end_writes_what_is_left(void **state)
{
    (void)state;
    use_file();
    for (int i = 0; i < 1000; i++)
        put("0123456789\n");
    logsink_stop();
    assert_int_equal(strlen(content(path)), 11000);
    assert_int_equal(logsink_start(SIZE, &e), 0);
}

/* A pipe that nobody reads does not keep the process from ending. */
static void the_end_is_within_bounds(void **state)
{
    (void)state;
    char fill[SIZE];
    int reader = use_pipe();
    memset(fill, '\n', sizeof fill);
    for (int i = 0; i < 100; i++)
        logsink_put(LOGSINK_LOG, fill, 4000, false);
    logsink_stop();
    assert_int_equal(logsink_start(SIZE, &e), 0);
    close(reader);
}

/* A sink that is off takes nothing and holds up nothing. */
static void a_sink_that_is_off(void **state)
{
    (void)state;
    logsink_put(LOGSINK_ACCESS, "x\n", 2, false);
    logsink_flush(60000);
    use_file();
    put("y\n");
    logsink_flush(60000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_file_gets_all_in_order),
        TEST(files_are_appended_to),
        TEST(a_file_that_cannot_be_opened),
        TEST(reopening_loses_no_line),
        TEST(a_failed_reopening_keeps_the_file),
        TEST(a_pipe_that_nobody_reads),
        TEST(a_line_longer_than_the_ring_is_lost_and_told),
        TEST(a_pipe_whose_reader_has_gone),
        TEST(threads_log_while_files_change),
        TEST(the_end_writes_what_is_left),
        TEST(the_end_is_within_bounds),
        TEST(a_sink_that_is_off),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
