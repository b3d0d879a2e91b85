/* SPDX-License-Identifier: MIT
 * An attempt to open a WebSocket, against a socket of the test that listens, and says what the test wants. */
#include "worker_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "client/connector.h"
#include "client/multi.h"
#include "ws/upgrade.h"

enum { ATTEMPTS = 2, PATIENCE_S = 60 };

/* What became of an attempt, and of the connection it gave. */
static struct attempt {
    struct connector *k; /* NULL: it is over */
    unsigned told;
    char why[512]; /* "": it has a connection */
    bool leaves;   /* what it is given is not taken over */
    struct conn *conn;
    struct head *head;
    int protocol;
    struct extensions_terms terms;
    struct buf heard;
    void (*then)(struct attempt *a); /* when it is told */
} attempts[ATTEMPTS];
static struct attempt *const one = &attempts[0], *const two = &attempts[1];

static int listener, fillers[8], server; /* -1: none */
static char url[64];
static struct connector_options options;
static struct err e;
static uint64_t before_ok, before_failed;

/* ---- the resolver, which libcurl calls on a thread of its own ---- */

static sem_t slow_may_end, slow_has_ended;

/* No name server is asked: "server.example" is here, "slow.example" takes until the test says so, and nothing
 * else exists. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)hints;
    if (strcmp(node, "slow.example") == 0) {
        sem_wait(&slow_may_end);
        sem_post(&slow_has_ended);
    }
    if (strcmp(node, "server.example") != 0)
        return EAI_NONAME;
    struct addrinfo *found = calloc(1, sizeof *found);
    struct sockaddr_in *at = calloc(1, sizeof *at);
    if (found == NULL || at == NULL)
        abort();
    *at = (struct sockaddr_in){.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)strtoul(service, NULL, 10)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *found = (struct addrinfo){.ai_family = AF_INET,
                               .ai_socktype = SOCK_STREAM,
                               .ai_addrlen = sizeof *at,
                               .ai_addr = (struct sockaddr *)at};
    *out = found;
    return 0;
}

void freeaddrinfo(struct addrinfo *found)
{
    free(found->ai_addr);
    free(found);
}

/* ---- who takes the connection over ---- */

static size_t on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct attempt *a = conn_session(c);
    assert_int_equal(buf_append(&a->heard, data, len), 0);
    return len;
}

static void on_end(struct conn *c)
{
    conn_close(c);
}

static void on_dead(struct conn *c)
{
    struct attempt *a = conn_session(c);
    a->conn = NULL;
}

static const struct conn_ops ops = {
    .on_data = on_data, .on_eof = on_end, .on_timeout = on_end, .on_stop = on_end, .on_dead = on_dead};

static void on_done(void *to, const struct connector_result *result, const char *why)
{
    struct attempt *a = to;
    a->k = NULL;
    a->told++;
    ev_break(worker->loop, EVBREAK_ONE); /* who waits for it need not wait for what follows */
    assert_true((result == NULL) != (why == NULL));
    if (result == NULL) {
        assert_true(strlen(why) > 0);
        snprintf(a->why, sizeof a->why, "%s", why);
    } else {
        assert_int_equal(result->conn->state, CONN_OPEN);
        assert_true(result->conn->paused);
        a->head = head_ref(result->head);
        a->protocol = result->protocol;
        a->terms = result->terms;
    }
    if (result != NULL && !a->leaves) {
        a->conn = result->conn;
        conn_set_session(a->conn, &ops, a);
        conn_set_deadline(a->conn, 3600);
        conn_resume(a->conn, result->rest, result->rest_len);
    }
    if (a->then != NULL)
        a->then(a);
}

/* ---- the world ---- */

/* Listens, or only has a port where nobody does. */
static int take_port(bool listens, int backlog)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    if (listens)
        assert_int_equal(listen(fd, backlog), 0);
    snprintf(url, sizeof url, "ws://127.0.0.1:%u/chat", ntohs(at.sin_port));
    return fd;
}

static int set_up(void **state)
{
    (void)state;
    alarm(PATIENCE_S);
    memset(attempts, 0, sizeof attempts);
    memset(&e, 0, sizeof e);
    for (size_t i = 0; i < sizeof fillers / sizeof fillers[0]; i++)
        fillers[i] = -1;
    server = -1;
    worker_set_up();
    assert_int_equal(upgrade_init(), 0);
    listener = take_port(true, 8);
    options = (struct connector_options){.opening = {.url = url}, .timeout = 30};
    before_ok = metrics_sum(METRIC_CLIENT_CONNECTS);
    before_failed = metrics_sum(METRIC_CLIENT_CONNECT_FAILURES);
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int tear_down(void **state)
{
    (void)state;
    uint64_t ok = 0, failed = 0;
    for (int i = 0; i < ATTEMPTS; i++) {
        struct attempt *a = &attempts[i];
        assert_null(a->k);
        if (a->conn != NULL)
            conn_close(a->conn);
        run();
        assert_null(a->conn);
        assert_true(a->told <= 1);
        ok += a->told == 1 && a->why[0] == '\0';
        failed += a->told == 1 && a->why[0] != '\0';
        head_unref(a->head);
        buf_fini(&a->heard);
    }
    multi_fini(worker);
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 0);
    assert_int_equal(metrics_sum(METRIC_CLIENT_CONNECTS) - before_ok, ok);
    assert_int_equal(metrics_sum(METRIC_CLIENT_CONNECT_FAILURES) - before_failed, failed);
    close_fd(&listener);
    close_fd(&server);
    for (size_t i = 0; i < sizeof fillers / sizeof fillers[0]; i++)
        close_fd(&fillers[i]);
    worker_tear_down();
    alarm(0);
    return 0;
}

/* Never told before it returns. */
static void start(struct attempt *a)
{
    a->k = connector_start(worker, &options, on_done, a, &e);
    if (a->k == NULL)
        fail_msg("%s", e.text);
    assert_int_equal(a->told, 0);
}

static void refuse(const char *why)
{
    assert_null(connector_start(worker, &options, on_done, two, &e));
    assert_string_equal(e.text, why);
    assert_int_equal(two->told, 0);
}

static void wait_until_told(const struct attempt *a)
{
    while (a->told == 0)
        ev_run(worker->loop, EVRUN_ONCE);
}

static void assert_why(const struct attempt *a, const char *why)
{
    wait_until_told(a);
    assert_string_equal(a->why, why);
}

/* Lets both sides go on until `fd` can be read. */
static void wait_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 1) == 0)
        ev_run(worker->loop, EVRUN_NOWAIT);
}

/* ---- the server ---- */

static void server_accepts(void)
{
    wait_readable(listener);
    server = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(server >= 0);
}

static void server_writes(const void *data, size_t len)
{
    assert_int_equal(send(server, data, len, MSG_NOSIGNAL), len);
}

static void server_says(const char *text)
{
    server_writes(text, strlen(text));
}

/* Reads the request, and returns the 101 for it, with `more` lines. */
static const char *server_reads_request(const char *more)
{
    static char text[1024];
    char request[4096] = "";
    size_t len = 0;
    struct head *head;
    struct head_fault fault;
    char accept[UPGRADE_ACCEPT_LEN + 1];
    while (strstr(request, "\r\n\r\n") == NULL) {
        wait_readable(server);
        ssize_t n = recv(server, request + len, sizeof request - 1 - len, 0);
        assert_true(n > 0);
        len += (size_t)n;
        request[len] = '\0';
    }
    assert_int_equal(head_parse(request, len, &head, &fault), 0);
    assert_int_equal(upgrade_accept(head, accept), 0);
    head_unref(head);
    snprintf(text, sizeof text,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n%s\r\n",
             accept, more);
    return text;
}

/* It has nothing more to read but the end. */
static void assert_server_reads_end(void)
{
    char data[16];
    wait_readable(server);
    ssize_t n = recv(server, data, sizeof data, 0);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

/* Takes all places in the listener's queue: who connects now gets no answer. */
static void fill_listener(void)
{
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    close_fd(&listener);
    listener = take_port(true, 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    for (size_t i = 0; i < sizeof fillers / sizeof fillers[0]; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fillers[i], (struct sockaddr *)&at, sizeof at), -1);
        assert_int_equal(errno, EINPROGRESS);
    }
}

/* ---- success ---- */

static void frames_behind_the_answer_are_the_rest(void **state)
{
    (void)state;
    static const char *const protocols[] = {"a", "b"};
    static const struct extensions_terms want = {.deflate = true,
                                                 .server_takeover = true,
                                                 .client_takeover = true,
                                                 .server_bits = 15,
                                                 .client_bits = 15};
    char packet[1024], address[INET6_ADDRSTRLEN];
    options.opening.protocols = protocols;
    options.opening.nprotocols = 2;
    options.opening.want = &want;
    start(one);
    server_accepts();
    const char *answer = server_reads_request("Sec-WebSocket-Protocol: b\r\n"
                                              "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    size_t len = strlen(answer);
    memcpy(packet, answer, len);
    memcpy(packet + len, "\x81\x02hi\x81", 5); /* a frame, and half of one */
    server_writes(packet, len + 5);
    assert_why(one, "");
    assert_int_equal(one->protocol, 1);
    assert_true(one->terms.deflate);
    head_remote_text(one->head, address, sizeof address);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(one->head->remote_port, strtoul(strrchr(url, ':') + 1, NULL, 10));
    assert_true(one->head->id > 0);
    run();
    assert_int_equal(one->heard.len, 5);
    assert_memory_equal(one->heard.data, "\x81\x02hi\x81", 5);
    server_says("more");
    wait_readable(one->conn->io.fd);
    run();
    assert_int_equal(one->heard.len, 9);
    assert_int_equal(conn_send(one->conn, "x", 1), 0);
    run();
    char byte;
    wait_readable(server);
    assert_int_equal(recv(server, &byte, 1, 0), 1);
}

static void socket_is_as_those_that_are_accepted(void **state)
{
    (void)state;
    int nodelay = 0, keepalive = 0;
    socklen_t len = sizeof(int);
    start(one);
    server_accepts();
    server_says(server_reads_request(""));
    assert_why(one, "");
    assert_int_equal(one->protocol, -1);
    assert_int_equal(one->heard.len, 0);
    int fd = one->conn->io.fd;
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive, &len), 0);
    assert_true(nodelay && keepalive);
}

static void answer_comes_a_byte_at_a_time(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    const char *answer = server_reads_request("");
    for (size_t i = 0; i < strlen(answer); i++) {
        assert_int_equal(one->told, 0);
        server_writes(answer + i, 1);
        while (metrics_sum(METRIC_BYTES_IN) == 0)
            ev_run(worker->loop, EVRUN_ONCE);
        run();
    }
    assert_why(one, "");
}

static void name_is_resolved_and_proxies_are_passed_by(void **state)
{
    (void)state;
    char by_name[80];
    snprintf(by_name, sizeof by_name, "ws://server.example%s", strrchr(url, ':'));
    options.opening.url = by_name;
    setenv("http_proxy", "http://127.0.0.1:1/", 1);
    setenv("all_proxy", "http://127.0.0.1:1/", 1);
    start(one);
    server_accepts();
    server_says(server_reads_request(""));
    assert_why(one, "");
    unsetenv("http_proxy");
    unsetenv("all_proxy");
}

static void connection_that_is_left_is_closed(void **state)
{
    (void)state;
    one->leaves = true;
    start(one);
    server_accepts();
    server_says(server_reads_request(""));
    assert_why(one, "");
    assert_server_reads_end();
}

/* ---- failure ---- */

static void port_where_nobody_listens(void **state)
{
    (void)state;
    char why[128];
    close_fd(&listener);
    listener = take_port(false, 0);
    start(one);
    snprintf(why, sizeof why, "connect to %.*s: Connection refused", (int)strcspn(url + 5, "/"), url + 5);
    assert_why(one, why);
}

static void name_that_cannot_be_resolved(void **state)
{
    (void)state;
    options.opening.url = "ws://nowhere.example/";
    start(one);
    assert_why(one, "nowhere.example: could not be resolved");
}

/* The attempt is over although the resolver still works on it, and nobody waits for that. */
static void let_the_resolver_end(void)
{
    sem_post(&slow_may_end);
    sem_wait(&slow_has_ended);
}

static void name_that_takes_too_long(void **state)
{
    (void)state;
    options.opening.url = "ws://slow.example/";
    options.timeout = 0.125;
    start(one);
    assert_why(one, "timed out after 0.125 s");
    let_the_resolver_end();
}

static void answer_that_is_none(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    server_says("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
    assert_why(one, "the server answered 404 Not Found");
    assert_server_reads_end();
}

static void answer_longer_than_max_head(void **state)
{
    (void)state;
    config.max_head = 512;
    char text[600];
    start(one);
    server_accepts();
    server_reads_request("");
    memset(text, 'x', sizeof text);
    memcpy(text, "HTTP/1.1 101 ", 13);
    server_writes(text, sizeof text);
    assert_why(one, "the head of the server's answer is longer than 512 bytes");
}

static void end_without_an_answer(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    close_fd(&server);
    assert_why(one, "the server closed the connection without an answer");
}

static void end_in_the_middle_of_the_answer(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    server_says("HTTP/1.1 101 Switching Protocols\r\nUpgrade");
    close_fd(&server);
    assert_why(one, "the server closed the connection in the middle of its answer");
}

static void silence_instead_of_an_answer(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    tick(29 * 1000 / WHEEL_TICK_MS);
    assert_int_equal(one->told, 0);
    server_says("HTTP/1.1 101 "); /* does not earn it more time */
    run();
    tick(1000 / WHEEL_TICK_MS + 2);
    assert_why(one, "timed out after 30 s");
    assert_server_reads_end();
}

static void silence_instead_of_a_connection(void **state)
{
    (void)state;
    fill_listener();
    options.timeout = 0.125;
    start(one);
    assert_why(one, "timed out after 0.125 s");
}

static void start_the_other(struct attempt *a)
{
    (void)a;
    start(two);
}

static void failure_may_start_another(void **state)
{
    (void)state;
    close_fd(&listener);
    listener = take_port(false, 0);
    one->then = start_the_other;
    start(one);
    wait_until_told(two);
    assert_non_null(strstr(one->why, "refused"));
    assert_string_equal(two->why, one->why);
}

/* ---- giving up ---- */

static void assert_never_told(void)
{
    run();
    tick(31 * 1000 / WHEEL_TICK_MS);
    assert_int_equal(one->told, 0);
    assert_int_equal(worker->nconns, 0);
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 0);
}

static void cancel(struct attempt *a)
{
    connector_cancel(a->k);
    a->k = NULL;
}

static void cancelled_at_once(void **state)
{
    (void)state;
    start(one);
    cancel(one);
    assert_never_told();
}

static void cancelled_while_resolving(void **state)
{
    (void)state;
    options.opening.url = "ws://slow.example/";
    start(one);
    run();
    cancel(one);
    run();
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 1); /* a thread of the resolver still has its place */
    let_the_resolver_end();
    while (metrics_sum(METRIC_CLIENTS) > 0)
        ev_run(worker->loop, EVRUN_ONCE);
    assert_never_told();
}

static void cancelled_while_connecting(void **state)
{
    (void)state;
    fill_listener();
    start(one);
    run();
    cancel(one);
    assert_never_told();
}

static void cancelled_while_the_answer_comes(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    server_says("HTTP/1.1 ");
    run();
    cancel(one);
    assert_never_told();
    assert_server_reads_end();
}

/* The answer is there, and would be told at the end of the iteration. */
static void cancelled_when_all_is_well(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_says(server_reads_request(""));
    while (metrics_sum(METRIC_BYTES_IN) == 0)
        ev_run(worker->loop, EVRUN_NOWAIT);
    assert_int_equal(one->told, 0);
    cancel(one);
    assert_never_told();
    assert_server_reads_end();
}

static void stop_while_resolving(void **state)
{
    (void)state;
    options.opening.url = "ws://slow.example/";
    start(one);
    run();
    worker_stop(worker);
    assert_why(one, "the server is stopping");
    let_the_resolver_end();
}

static void stop_while_connecting(void **state)
{
    (void)state;
    fill_listener();
    start(one);
    run();
    worker_stop(worker);
    assert_why(one, "the server is stopping");
    refuse("the server is stopping");
}

static void stop_while_the_answer_comes(void **state)
{
    (void)state;
    start(one);
    server_accepts();
    server_reads_request("");
    worker_stop(worker);
    assert_why(one, "the server is stopping");
    assert_server_reads_end();
}

static void end_of_the_worker(void **state)
{
    (void)state;
    fill_listener();
    start(one);
    multi_fini(worker);
    assert_int_equal(one->told, 1);
    assert_string_equal(one->why, "the server is stopping");
}

/* ---- what is refused at once ---- */

static void options_that_are_no_good(void **state)
{
    (void)state;
    options.opening.url = "ws://h/#x";
    refuse("bad URL: a WebSocket's has no fragment ('#')");
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 0);
}

/* Attempts count, and connections until they are dead. */
static void more_than_max_clients(void **state)
{
    (void)state;
    static const char why[] = "too many connections (max_clients is 1)";
    config.max_clients = 1;
    start(one);
    refuse(why);
    server_accepts();
    server_says(server_reads_request(""));
    assert_why(one, "");
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 1);
    refuse(why);
    conn_close(one->conn);
    assert_int_equal(metrics_sum(METRIC_CLIENTS), 0);
    start(two);
    cancel(two);
    config.max_clients = 0;
    refuse("too many connections (max_clients is 0)");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(frames_behind_the_answer_are_the_rest),
        TEST(socket_is_as_those_that_are_accepted),
        TEST(answer_comes_a_byte_at_a_time),
        TEST(name_is_resolved_and_proxies_are_passed_by),
        TEST(connection_that_is_left_is_closed),
        TEST(port_where_nobody_listens),
        TEST(name_that_cannot_be_resolved),
        TEST(name_that_takes_too_long),
        TEST(answer_that_is_none),
        TEST(answer_longer_than_max_head),
        TEST(end_without_an_answer),
        TEST(end_in_the_middle_of_the_answer),
        TEST(silence_instead_of_an_answer),
        TEST(silence_instead_of_a_connection),
        TEST(failure_may_start_another),
        TEST(cancelled_at_once),
        TEST(cancelled_while_resolving),
        TEST(cancelled_while_connecting),
        TEST(cancelled_while_the_answer_comes),
        TEST(cancelled_when_all_is_well),
        TEST(stop_while_resolving),
        TEST(stop_while_connecting),
        TEST(stop_while_the_answer_comes),
        TEST(end_of_the_worker),
        TEST(options_that_are_no_good),
        TEST(more_than_max_clients),
    };
    sem_init(&slow_may_end, 0, 0);
    sem_init(&slow_has_ended, 0, 0);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
