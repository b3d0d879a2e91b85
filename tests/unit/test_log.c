/* SPDX-License-Identifier: MIT
 * The log as it comes out of file descriptor 2: as few writes as can be, two forms, nothing that forges a
 * line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

/* Standard error is this socket while a test logs; it keeps writes apart, as a pipe would not. */
static int reader, writer, real_stderr;
static char line[40000];

static int set_up(void **state)
{
    (void)state;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) < 0)
        return -1;
    reader = fds[0];
    writer = fds[1];
    int room = 1 << 20;
    setsockopt(writer, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    real_stderr = dup(STDERR_FILENO);
    log_setup(LOG_INFO, LOG_TEXT);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(reader);
    close(writer);
    close(real_stderr);
    return 0;
}

static void capture(void)
{
    dup2(writer, STDERR_FILENO);
}

/* What was written since capture(), without the time, which must look like one. */
static const char *written(void)
{
    static const char stamp[] = "2000-00-00T00:00:00.000Z";
    dup2(real_stderr, STDERR_FILENO);
    size_t len = 0;
    for (ssize_t n; (n = recv(reader, line + len, sizeof line - 1 - len, MSG_DONTWAIT)) > 0; len += (size_t)n)
        assert_int_equal(len % PIPE_BUF, 0); /* no more writes than are needed */
    line[len] = '\0';
    if (len == 0)
        return line;
    assert_int_equal(strlen(line), len); /* a NUL would hide the rest */
    char *at = line[0] == '{' ? line + strlen("{\"time\":\"") : line;
    regex_t time;
    assert_int_equal(regcomp(&time,
                             "^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3}Z",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    assert_int_equal(regexec(&time, at, 0, NULL, 0), 0);
    regfree(&time);
    memmove(at, at + strlen(stamp), strlen(at + strlen(stamp)) + 1);
    return line;
}

static void text(void **state)
{
    (void)state;
    capture();
    log_info("listening on %s:%d", "127.0.0.1", 80);
    assert_string_equal(written(), " info  listening on 127.0.0.1:80\n");
    capture();
    log_error("no");
    assert_string_equal(written(), " error no\n");
    capture();
    log_warn("caf\xc3\xa9\t%%");
    assert_string_equal(written(), " warn  caf\xc3\xa9\t%\n");
}

static void text_cannot_be_forged(void **state)
{
    (void)state;
    capture();
    log_info("one\ntwo\r\n\x1b[2Jthree\x7f\n2024-01-01T00:00:00.000Z info  forged");
    assert_string_equal(written(), " info  one\n    two\\x0d\n    \\x1b[2Jthree\\x7f\n"
                                   "    2024-01-01T00:00:00.000Z info  forged\n");
}

/* U+0080 to U+009F are control characters too; of what is not UTF-8 nobody knows. */
static void beyond_ascii(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text, *json;
    } cases[] = {
        {"\xc2\x9b\xc2\x80\xc2\xa0", "\\x9b\\x80\xc2\xa0", "\\u009b\\u0080\xc2\xa0"},
        {"\xe2\x82\xac\xf0\x9f\x98\x80", "\xe2\x82\xac\xf0\x9f\x98\x80", "\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"a\xff", "a\\xff", "a\\u00ff"},
        {"\xe2\x82", "\\xe2\\x82", "\\u00e2\\u0082"},
        {"\xc2", "\\xc2", "\\u00c2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char want[256];
        log_setup(LOG_INFO, LOG_TEXT);
        capture();
        log_info("%s", cases[i].bytes);
        snprintf(want, sizeof want, " info  %s\n", cases[i].text);
        assert_string_equal(written(), want);
        log_setup(LOG_INFO, LOG_JSON);
        capture();
        log_info("%s", cases[i].bytes);
        snprintf(want, sizeof want, "{\"time\":\"\",\"level\":\"info\",\"message\":\"%s\"}\n", cases[i].json);
        assert_string_equal(written(), want);
    }
}

static void any_bytes(void **state)
{
    (void)state;
    capture();
    log_text(LOG_INFO, NULL, "a\0b", 3);
    assert_string_equal(written(), " info  a\\x00b\n");
    capture();
    log_text(LOG_WARN, &(struct log_context){.worker = 1}, "abc", 0);
    assert_string_equal(written(), " warn  [worker 1] \n");
    capture();
    log_text(LOG_DEBUG, NULL, "hidden", 6);
    assert_string_equal(written(), "");
}

/* A pipe that nobody reads costs a little patience once; when it is read again, what was lost is said. */
static void nobody_reads(void **state)
{
    (void)state;
    int fds[2];
    char byte = '.', got[512];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    while (write(fds[1], &byte, 1) == 1)
        ;
    assert_int_equal(fcntl(fds[1], F_SETFL, 0), 0);
    dup2(fds[1], STDERR_FILENO);
    for (int i = 0; i < 100; i++)
        log_info("lost");
    while (read(fds[0], got, sizeof got) > 0)
        ;
    log_info("seen");
    dup2(real_stderr, STDERR_FILENO);
    ssize_t n = read(fds[0], got, sizeof got - 1);
    assert_true(n > 0);
    got[n] = '\0';
    assert_null(strstr(got, "lost\n"));
    const char *note = strstr(got, " warn  100 log lines were lost: nobody read standard error\n");
    const char *seen = strstr(got, " info  seen\n");
    assert_non_null(note);
    assert_non_null(seen);
    assert_true(note < seen);
    close(fds[0]);
    close(fds[1]);
}

/* A line that was cut by a reader's pause must not swallow the beginning of the next. */
static void cut_lines_end(void **state)
{
    (void)state;
    int fds[2];
    char fill[PIPE_BUF], got[4 * PIPE_BUF];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 2 * PIPE_BUF), 2 * PIPE_BUF);
    memset(fill, '.', sizeof fill);
    fill[sizeof fill - 1] = '\n';
    assert_int_equal(write(fds[1], fill, sizeof fill), sizeof fill);
    dup2(fds[1], STDERR_FILENO);
    log_info("%0*d", 2 * PIPE_BUF - 1000, 0);
    dup2(real_stderr, STDERR_FILENO);
    ssize_t n = read(fds[0], got, sizeof got);
    assert_int_equal(n, 2 * PIPE_BUF);
    assert_int_equal(got[n - 1], '0');
    dup2(fds[1], STDERR_FILENO);
    log_info("next");
    dup2(real_stderr, STDERR_FILENO);
    n = read(fds[0], got, sizeof got - 1);
    close(fds[0]);
    close(fds[1]);
    assert_true(n > 0);
    got[n] = '\0';
    assert_int_equal(got[0], '\n');
    assert_non_null(strstr(got, " info  next\n"));
}

static void text_with_context(void **state)
{
    (void)state;
    static const struct {
        struct log_context about;
        const char *line;
    } cases[] = {
        {{0}, " warn  x\n"},
        {{.worker = 2}, " warn  [worker 2] x\n"},
        {{.conn = 77}, " warn  [connection 77] x\n"},
        {{.route = "/chat/:room"}, " warn  [/chat/:room] x\n"},
        {{.worker = 1, .conn = UINT64_MAX}, " warn  [worker 1, connection 18446744073709551615] x\n"},
        {{.conn = 5, .route = "/"}, " warn  [connection 5, /] x\n"},
        {{.worker = 1, .conn = 5, .route = "/a"}, " warn  [worker 1, connection 5, /a] x\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        capture();
        log_write(LOG_WARN, &cases[i].about, "x");
        assert_string_equal(written(), cases[i].line);
    }
}

static void json(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON);
    capture();
    log_error("say \"%s\"\\", "hi");
    assert_string_equal(written(),
                        "{\"time\":\"\",\"level\":\"error\",\"message\":\"say \\\"hi\\\"\\\\\"}\n");
    capture();
    log_info("a\nb\tc\x01\x1f\x7f caf\xc3\xa9");
    assert_string_equal(written(), "{\"time\":\"\",\"level\":\"info\",\"message\":"
                                   "\"a\\nb\\u0009c\\u0001\\u001f\\u007f caf\xc3\xa9\"}\n");
}

static void json_with_context(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON);
    capture();
    log_write(LOG_WARN, &(struct log_context){3, 12, "/\"\n"}, "x");
    assert_string_equal(written(), "{\"time\":\"\",\"level\":\"warn\",\"message\":\"x\",\"worker\":3,"
                                   "\"connection\":12,\"route\":\"/\\\"\\n\"}\n");
    capture();
    log_write(LOG_WARN, &(struct log_context){0}, "x");
    assert_string_equal(written(), "{\"time\":\"\",\"level\":\"warn\",\"message\":\"x\"}\n");
    capture();
    log_write(LOG_WARN, &(struct log_context){.conn = 1}, "x");
    assert_string_equal(written(), "{\"time\":\"\",\"level\":\"warn\",\"message\":\"x\",\"connection\":1}\n");
}

static void levels(void **state)
{
    (void)state;
    static const char *const shown[] = {" debug x\n", " info  x\n", " warn  x\n", " error x\n", " info  x\n"};
    for (int least = LOG_DEBUG; least <= LOG_ERROR; least++) {
        log_setup((enum log_level)least, LOG_TEXT);
        for (int level = LOG_DEBUG; level <= LOG_ALWAYS; level++) {
            assert_int_equal(log_enabled((enum log_level)level), level >= least);
            capture();
            log_write((enum log_level)level, NULL, "x");
            assert_string_equal(written(), level >= least ? shown[level] : "");
        }
    }
}

/* However long, and whatever has to be escaped: one write, one line end, at its end. */
static void long_messages_are_one_line(void **state)
{
    (void)state;
    static const char *const fills[] = {"x", "\x01"};
    for (size_t i = 0; i < 2; i++) {
        char message[12000];
        memset(message, fills[i][0], sizeof message - 1);
        message[sizeof message - 1] = '\0';
        log_setup(LOG_INFO, i == 0 ? LOG_JSON : LOG_TEXT);
        capture();
        log_info("%.3000s", message);
        const char *got = written();
        assert_true(strlen(got) >= 3000);
        assert_int_equal(strcspn(got, "\n"), strlen(got) - 1);
        capture();
        log_info("%s", message);
        got = written();
        assert_true(strlen(got) >= 8000);
        assert_int_equal(strcspn(got, "\n"), strlen(got) - 1);
        assert_string_equal(written(), "");
    }
}

static void errno_is_kept(void **state)
{
    (void)state;
    capture();
    errno = ENOENT;
    log_info("x");
    int after = errno;
    written();
    assert_int_equal(after, ENOENT);

    capture();
    close(STDERR_FILENO); /* nowhere to write to */
    errno = EPERM;
    log_info("x");
    after = errno;
    assert_string_equal(written(), "");
    assert_int_equal(after, EPERM);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(text),
        TEST(text_cannot_be_forged),
        TEST(beyond_ascii),
        TEST(any_bytes),
        TEST(nobody_reads),
        TEST(cut_lines_end),
        TEST(text_with_context),
        TEST(json),
        TEST(json_with_context),
        TEST(levels),
        TEST(long_messages_are_one_line),
        TEST(errno_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
