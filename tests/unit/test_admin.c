/* SPDX-License-Identifier: MIT
 * The admin listener as a reload uses it: which configurations can be used, and what changes while clients
 * are connected. What clients get is in tests/e2e/test_admin.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "ops/admin.h"

static struct ev_loop *loop;
static struct config config;
static char folder[] = "/tmp/test_admin.XXXXXX";
static char path[64], spec[80], other_spec[80], token_file[64];

static int say_metrics(struct buf *out)
{
    return buf_puts(out, "metrics\n");
}

static bool say_fine(void *user, struct buf *out)
{
    buf_puts(out, user);
    return true;
}

static const struct admin_answers answers = {say_metrics, say_fine, say_fine};

static int set_up(void **state)
{
    (void)state;
    log_setup(LOG_ERROR, LOG_TEXT);
    loop = ev_loop_new(EVFLAG_AUTO);
    memset(&config, 0, sizeof config);
    config.admin = spec;
    return loop != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    ev_loop_destroy(loop);
    unlink(token_file);
    return 0;
}

static void write_token(const char *text)
{
    FILE *file = fopen(token_file, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    fclose(file);
    config.admin_token_file = token_file;
}

static struct admin *opened(void)
{
    struct admin *a = NULL;
    struct err e;
    assert_int_equal(admin_open(&a, loop, &config, &answers, "fine\n", NULL, &e), 0);
    assert_non_null(a);
    return a;
}

static int connected(const char *to)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", to + strlen("unix:"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
    return fd;
}

/* The status that a request for the metrics gets; -1 at the end of the connection. */
static int status(int fd, const char *token)
{
    char text[512];
    int n = snprintf(text, sizeof text,
                     "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", token);
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) < 0)
        return -1;
    for (int i = 0; i < 10; i++)
        ev_run(loop, EVRUN_NOWAIT);
    ssize_t got = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (got <= 0)
        return -1;
    text[got] = '\0';
    int code = 0;
    assert_int_equal(sscanf(text, "HTTP/1.1 %d", &code), 1);
    return code;
}

static void without_an_address_there_is_none(void **state)
{
    (void)state;
    struct admin *a = (struct admin *)&config;
    struct err e;
    config.admin = NULL;
    config.admin_token_file = "/nowhere"; /* not even looked at */
    assert_int_equal(admin_check(&config, &e), 0);
    assert_int_equal(admin_open(&a, loop, &config, &answers, NULL, NULL, &e), 0);
    assert_null(a);
    assert_int_equal(admin_prepare_token(a, &config, false, &e), 0);
    admin_commit_token(a);
    admin_discard_token(a);
    admin_announce(a);
    assert_null(admin_path(a));
    admin_close(a);
}

static void who_needs_a_token(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        bool needs;
    } cases[] = {
        {"127.0.0.1:1", false},
        {"127.255.1.2:1", false},
        {"[::1]:1", false},
        {"unix:/x", false},
        {"[::ffff:127.0.0.1]:1", false},
        {"0.0.0.0:1", true},
        {":1", true},
        {"*:1", true},
        {"[::]:1", true},
        {"128.0.0.1:1", true},
        {"192.0.2.7:1", true},
        {"[2001:db8::1]:1", true},
        {"126.0.0.1:1", true},
        {"[::ffff:192.0.2.7]:1", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err e;
        config.admin = (char *)(uintptr_t)cases[i].address;
        config.admin_token = NULL;
        if (admin_check(&config, &e) != -cases[i].needs)
            fail_msg("%s", cases[i].address);
        assert_true(!cases[i].needs || strstr(e.text, "admin_token_file") != NULL);
        config.admin_token = "token";
        assert_int_equal(admin_check(&config, &e), 0);
    }
}

static void a_new_token_holds_for_those_who_are_connected(void **state)
{
    (void)state;
    struct err e;
    write_token("old\n");
    struct admin *a = opened();
    int fd = connected(spec);
    assert_int_equal(status(fd, "old"), 200);
    write_token("new\n");
    assert_int_equal(admin_prepare_token(a, &config, true, &e), 0);
    assert_int_equal(status(fd, "old"), 200); /* only prepared */
    admin_discard_token(a);
    admin_commit_token(a);
    assert_int_equal(status(fd, "old"), 200); /* taken back */
    assert_int_equal(admin_prepare_token(a, &config, true, &e), 0);
    admin_commit_token(a);
    assert_int_equal(status(fd, "old"), 401);
    assert_int_equal(status(fd, "new"), 200);
    config.admin_token_file = NULL;
    assert_int_equal(admin_prepare_token(a, &config, false, &e), 0);
    admin_commit_token(a);
    assert_int_equal(status(fd, "whatever"), 200);
    close(fd);
    admin_close(a);
}

static void a_token_that_cannot_be_used_changes_nothing(void **state)
{
    (void)state;
    struct err e;
    write_token("good");
    struct admin *a = opened();
    static const char *const bad[] = {"", " \n", "two words", "caf\303\251", "a\nb"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_token(bad[i]);
        assert_int_equal(admin_prepare_token(a, &config, true, &e), -1);
    }
    unlink(token_file);
    assert_int_equal(admin_prepare_token(a, &config, true, &e), -1);
    assert_non_null(strstr(e.text, token_file));
    int fd = connected(spec);
    assert_int_equal(status(fd, "good"), 200);
    assert_int_equal(status(fd, ""), 401);
    close(fd);
    admin_close(a);
}

/* A reload opens the new address before it lets the old one go. */
static void an_address_can_be_changed(void **state)
{
    (void)state;
    struct err e;
    struct admin *a = opened(), *b = NULL;
    int old = connected(spec);
    assert_int_equal(status(old, ""), 200);
    config.admin = "unix:/nowhere/at/all";
    assert_int_equal(admin_open(&b, loop, &config, &answers, "fine\n", NULL, &e), -1);
    assert_null(b);
    assert_int_equal(strncmp(e.text, "admin: ", 7), 0);
    assert_int_equal(status(old, ""), 200);
    config.admin = other_spec;
    b = opened();
    admin_close(a);
    assert_int_equal(status(old, ""), -1);
    int new = connected(other_spec);
    assert_int_equal(status(new, ""), 200);
    close(old);
    close(new);
    admin_close(b);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/a", folder);
    snprintf(spec, sizeof spec, "unix:%s/a", folder);
    snprintf(other_spec, sizeof other_spec, "unix:%s/b", folder);
    snprintf(token_file, sizeof token_file, "%s/token", folder);
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(without_an_address_there_is_none),
        TEST(who_needs_a_token),
        TEST(a_new_token_holds_for_those_who_are_connected),
        TEST(a_token_that_cannot_be_used_changes_nothing),
        TEST(an_address_can_be_changed),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
