/* SPDX-License-Identifier: MIT
 * The files of a generation: each is read once, whatever becomes of it on the disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/thread.h"
#include "script/snapshot.h"

static char folder[] = "/tmp/test_snapshot.XXXXXX";
static struct snapshot *snapshot;

static const char *path(const char *name)
{
    static char text[128];
    snprintf(text, sizeof text, "%s/%s", folder, name);
    return text;
}

static void put(const char *name, const char *contents)
{
    FILE *f = fopen(path(name), "w");
    assert_non_null(f);
    assert_int_equal(fputs(contents, f) < 0, 0);
    assert_int_equal(fclose(f), 0);
}

static int group_set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int group_tear_down(void **state)
{
    (void)state;
    return rmdir(folder);
}

static int set_up(void **state)
{
    (void)state;
    snapshot = snapshot_create();
    return snapshot != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    snapshot_unref(snapshot);
    return 0;
}

static void assert_reads(const char *name, const char *contents)
{
    struct snapshot_file f;
    memset(&f, 0xa5, sizeof f);
    if (snapshot_read(snapshot, path(name), &f) < 0)
        fail_msg("%s: %s", name, f.why);
    assert_null(f.why);
    assert_int_equal(f.len, strlen(contents));
    assert_memory_equal(f.data, contents, f.len);
}

static void assert_refuses(const char *name, const char *why)
{
    struct snapshot_file f;
    memset(&f, 0xa5, sizeof f);
    assert_int_equal(snapshot_read(snapshot, path(name), &f), -1);
    assert_string_equal(f.why, why);
}

static void read_once(void **state)
{
    (void)state;
    put("a", "one");
    put("b", "other");
    assert_reads("a", "one");
    put("a", "changed, and longer than before");
    assert_reads("b", "other");
    assert_reads("a", "one");
    assert_int_equal(unlink(path("a")), 0);
    assert_int_equal(unlink(path("b")), 0);
    assert_reads("a", "one");
    assert_reads("b", "other");
}

static void missing_is_remembered(void **state)
{
    (void)state;
    assert_refuses("late", "No such file or directory");
    put("late", "here now");
    assert_refuses("late", "No such file or directory");

    struct snapshot *next = snapshot_create();
    struct snapshot_file f;
    assert_int_equal(snapshot_read(next, path("late"), &f), 0);
    assert_memory_equal(f.data, "here now", 8);
    snapshot_unref(next);
    assert_int_equal(unlink(path("late")), 0);
}

static void empty_file(void **state)
{
    (void)state;
    struct snapshot_file f;
    put("empty", "");
    assert_reads("empty", "");
    assert_int_equal(snapshot_read(snapshot, path("empty"), &f), 0);
    assert_non_null(f.data);
    assert_int_equal(unlink(path("empty")), 0);
}

static void what_is_no_file(void **state)
{
    (void)state;
    struct snapshot_file f;
    assert_int_equal(mkdir(path("dir"), 0700), 0);
    assert_refuses("dir", "it is a directory");
    assert_int_equal(rmdir(path("dir")), 0);

    assert_int_equal(mkfifo(path("pipe"), 0600), 0);
    assert_refuses("pipe", "it is not a regular file");
    assert_int_equal(unlink(path("pipe")), 0);

    assert_int_equal(snapshot_read(snapshot, "/dev/zero", &f), -1);
    assert_string_equal(f.why, "it is not a regular file");
    assert_int_equal(snapshot_read(snapshot, "", &f), -1);
    assert_string_equal(f.why, "No such file or directory");
    put("file", "x");
    assert_refuses("file/below", "Not a directory");
    assert_int_equal(unlink(path("file")), 0);
}

/* A link is followed, and read as what it led to when it was first asked for. */
static void links(void **state)
{
    (void)state;
    put("v1", "version 1");
    put("v2", "version 2");
    assert_int_equal(symlink("v1", path("current")), 0);
    assert_reads("current", "version 1");
    assert_int_equal(unlink(path("current")), 0);
    assert_int_equal(symlink("v2", path("current")), 0);
    assert_reads("current", "version 1");
    assert_int_equal(unlink(path("current")), 0);
    assert_int_equal(unlink(path("v1")), 0);
    assert_int_equal(unlink(path("v2")), 0);
}

static void size_limit(void **state)
{
    (void)state;
    struct snapshot_file f;
    for (unsigned over = 0; over <= 1; over++) {
        const char *name = over ? "too long" : "longest";
        int fd = open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, SNAPSHOT_FILE_MAX + over), 0);
        assert_int_equal(pwrite(fd, "$", 1, SNAPSHOT_FILE_MAX - 1), 1);
        close(fd);
    }
    assert_int_equal(snapshot_read(snapshot, path("longest"), &f), 0);
    assert_int_equal(f.len, SNAPSHOT_FILE_MAX);
    assert_int_equal(f.data[SNAPSHOT_FILE_MAX - 1], '$');
    assert_refuses("too long", "it is longer than 16 MiB");
    assert_int_equal(unlink(path("longest")), 0);
    assert_int_equal(unlink(path("too long")), 0);
}

static void total_limit(void **state)
{
    (void)state;
    struct snapshot_file f;
    char name[32];
    for (unsigned i = 0; i <= SNAPSHOT_TOTAL / SNAPSHOT_FILE_MAX; i++) {
        snprintf(name, sizeof name, "large %u", i);
        int fd = open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(ftruncate(fd, SNAPSHOT_FILE_MAX), 0);
        close(fd);
        int rc = snapshot_read(snapshot, path(name), &f);
        assert_int_equal(unlink(path(name)), 0);
        assert_int_equal(rc, i < SNAPSHOT_TOTAL / SNAPSHOT_FILE_MAX ? 0 : -1);
    }
    assert_non_null(strstr(f.why, "64 MiB"));
    assert_int_equal(snapshot_read(snapshot, path("large 0"), &f), 0);
    assert_int_equal(f.len, SNAPSHOT_FILE_MAX);
    put("empty", "");
    assert_reads("empty", "");
    assert_int_equal(unlink(path("empty")), 0);
}

static void bytes_as_they_are(void **state)
{
    (void)state;
    char bytes[3000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 7);
    int fd = open(path("bytes"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    close(fd);
    struct snapshot_file f;
    assert_int_equal(snapshot_read(snapshot, path("bytes"), &f), 0);
    assert_int_equal(f.len, sizeof bytes);
    assert_memory_equal(f.data, bytes, sizeof bytes);
    assert_int_equal(unlink(path("bytes")), 0);
}

/* A file more than there may be is refused, those that were read before are not. */
static void number_of_files(void **state)
{
    (void)state;
    struct snapshot_file f;
    put("first", "still here");
    assert_reads("first", "still here");
    for (int i = 1; i < SNAPSHOT_FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(snapshot_read(snapshot, name, &f), -1);
        assert_string_equal(f.why, "No such file or directory");
    }
    put("one more", "x");
    assert_int_equal(snapshot_read(snapshot, path("one more"), &f), -1);
    assert_non_null(strstr(f.why, "4096 files"));
    assert_reads("first", "still here");
    assert_int_equal(unlink(path("one more")), 0);
    assert_int_equal(unlink(path("first")), 0);
}

static void data_lives_as_long_as_a_reference(void **state)
{
    (void)state;
    struct snapshot_file f, again;
    struct snapshot *mine = snapshot_create();
    put("kept", "kept");
    assert_ptr_equal(snapshot_ref(mine), mine);
    assert_int_equal(snapshot_read(mine, path("kept"), &f), 0);
    snapshot_unref(mine);
    assert_int_equal(snapshot_read(mine, path("kept"), &again), 0);
    assert_ptr_equal(again.data, f.data);
    assert_memory_equal(f.data, "kept", 4);
    snapshot_unref(mine);
    snapshot_unref(NULL);
    assert_int_equal(unlink(path("kept")), 0);
}

static void list_has_all_that_was_asked_for(void **state)
{
    (void)state;
    struct snapshot_file f;
    struct snapshot_stamp now;
    size_t n = 99;
    struct snapshot_path *all = snapshot_list(snapshot, &n);
    assert_int_equal(n, 0);
    free(all);
    put("there", "x");
    for (int i = 0; i < 2; i++) {
        assert_reads("there", "x");
        assert_int_equal(snapshot_read(snapshot, path("missing"), &f), -1);
    }
    assert_int_equal(snapshot_count(snapshot), 2);
    all = snapshot_list(snapshot, &n);
    assert_int_equal(n, 2);
    bool first = strcmp(all[0].path, path("there")) == 0;
    const struct snapshot_path *there = &all[first ? 0 : 1], *missing = &all[first ? 1 : 0];
    assert_string_equal(there->path, path("there"));
    assert_string_equal(missing->path, path("missing"));
    snapshot_look(path("there"), &now);
    assert_true(snapshot_same(&there->stamp, &now));
    assert_false(snapshot_same(&missing->stamp, &now));
    snapshot_look(path("missing"), &now);
    assert_true(snapshot_same(&missing->stamp, &now));
    free(all);
    assert_int_equal(unlink(path("there")), 0);
}

/* Each state differs from the one before. */
static void stamps_tell_states_apart(void **state)
{
    (void)state;
    struct snapshot_stamp before, now;
    const struct timespec early[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 1}};
    const struct timespec later[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 2}};
    snapshot_look(path("file"), &before);
    for (int step = 0; step < 7; step++) {
        switch (step) {
        case 0: put("file", "one"); break;
        case 1: assert_int_equal(utimensat(AT_FDCWD, path("file"), early, 0), 0); break;
        case 2: assert_int_equal(utimensat(AT_FDCWD, path("file"), later, 0), 0); break;
        case 3: assert_int_equal(truncate(path("file"), 1), 0); break;
        case 4: assert_int_equal(chmod(path("file"), 0400), 0); break;
        case 5: assert_int_equal(unlink(path("file")), 0); break;
        case 6: assert_int_equal(mkdir(path("file"), 0700), 0); break;
        }
        snapshot_look(path("file"), &now);
        if (snapshot_same(&before, &now))
            fail_msg("step %d", step);
        before = now;
    }
    put("file/inside", "x"); /* a folder is the same whatever comes into it */
    snapshot_look(path("file"), &now);
    assert_true(snapshot_same(&before, &now));
    assert_int_equal(unlink(path("file/inside")), 0);
    assert_int_equal(rmdir(path("file")), 0);
}

static void *read_shared(void *arg)
{
    struct snapshot_file *f = arg;
    char name[128];
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "%s/none-%d", folder, i);
        if (snapshot_read(snapshot, name, f) == 0)
            return NULL;
    }
    snprintf(name, sizeof name, "%s/shared", folder);
    snapshot_read(snapshot, name, f);
    return NULL;
}

static void threads_get_the_same(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct snapshot_file files[THREADS];
    put("shared", "for all");
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&threads[i], read_shared, &files[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        assert_null(files[i].why);
        assert_ptr_equal(files[i].data, files[0].data);
    }
    assert_memory_equal(files[0].data, "for all", 7);
    assert_int_equal(unlink(path("shared")), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(read_once),
        TEST(missing_is_remembered),
        TEST(empty_file),
        TEST(what_is_no_file),
        TEST(links),
        TEST(size_limit),
        TEST(total_limit),
        TEST(bytes_as_they_are),
        TEST(number_of_files),
        TEST(data_lives_as_long_as_a_reference),
        TEST(threads_get_the_same),
        TEST(list_has_all_that_was_asked_for),
        TEST(stamps_tell_states_apart),
    };
    return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
