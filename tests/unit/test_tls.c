/* SPDX-License-Identifier: MIT
 * TLS between a connection and its socket: both ways, what the socket does not take, ends, and floods. The
 * peer is OpenSSL's client on the other end of a socket pair. */
#include "conn_fixture.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdio.h>

#include "net/tls.h"

enum { SMALL_BUFFER = 4096, PATIENCE = 1000 };

static char pem[] = "/tmp/test_tls_XXXXXX"; /* certificate and key, made for this run */
static struct tlscontext *context;
static SSL_CTX *client_ctx;
static SSL *client;

/* ---- the world ---- */

static void write_pem(EVP_PKEY *key, X509 *cert)
{
    int fd = mkstemp(pem);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, cert), 1);
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
}

static int make_certificate(void **state)
{
    (void)state;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_non_null(key);
    assert_non_null(cert);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const uint8_t *)"test", -1,
                               -1, 0);
    X509_set_pubkey(cert, key);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    write_pem(key, cert);
    X509_free(cert);
    EVP_PKEY_free(key);
    struct tlscontext_options o = {.pair = {{pem, pem}}, .npairs = 1};
    struct err e;
    context = tlscontext_create_server(&o, &e);
    unlink(pem);
    client_ctx = SSL_CTX_new(TLS_client_method());
    return context != NULL && client_ctx != NULL ? 0 : -1;
}

static int drop_certificate(void **state)
{
    (void)state;
    tlscontext_unref(context);
    SSL_CTX_free(client_ctx);
    return 0;
}

/* What the client could not do for now; anything else is wrong. */
static void expect_waiting(int rc)
{
    int error = SSL_get_error(client, rc);
    assert_true(error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE);
}

static void shake_hands(void)
{
    for (int i = 0; i < PATIENCE; i++) {
        int rc = SSL_connect(client);
        if (rc == 1)
            break;
        expect_waiting(rc);
        run();
    }
    run();
    assert_true(SSL_is_init_finished(client));
    assert_true(tls_is_ready(conn_tls(one->c)));
}

/* `one` is a connection with TLS, whose client has not said anything yet. */
static int set_up_tls(void **state)
{
    int fds[2], small = SMALL_BUFFER;
    assert_int_equal(set_up(state), 0);
    conn_close(one->c);
    run();
    close_peer(one);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    memset(one, 0, sizeof *one);
    one->peer = fds[1];
    struct tls *tls = tls_create(worker, tlscontext_ref(context), NULL);
    assert_non_null(tls);
    one->c = conn_create(worker, fds[0], &ops, one, tls);
    assert_non_null(one->c);
    conn_set_deadline(one->c, 3600);
    tls_start(tls);
    client = SSL_new(client_ctx);
    assert_non_null(client);
    assert_int_equal(SSL_set_fd(client, one->peer), 1);
    return 0;
}

static int set_up_ready(void **state)
{
    assert_int_equal(set_up_tls(state), 0);
    shake_hands();
    return 0;
}

static int tear_down_tls(void **state)
{
    SSL_free(client);
    int rc = tear_down(state);
    ERR_clear_error();
    assert_int_equal(metrics_sum(METRIC_TLS_HANDSHAKING), 0);
    assert_int_equal(metrics_sum(METRIC_TLS_CONNECTIONS), 0);
    return rc;
}

static void client_writes(const char *text)
{
    assert_int_equal(SSL_write(client, text, (int)strlen(text)), strlen(text));
}

/* Bytes that the client reads now, into `to`; 0 with *end when it is told of the end. */
static size_t client_reads(char *to, size_t max, bool *end)
{
    int n = SSL_read(client, to, (int)max);
    *end = n <= 0 && SSL_get_error(client, n) == SSL_ERROR_ZERO_RETURN;
    if (n <= 0 && !*end)
        expect_waiting(n);
    return n > 0 ? (size_t)n : 0;
}

/* The client reads `want` bytes of the pattern and no more, however often the server has to be waited for. */
static void client_reads_pattern(size_t want)
{
    char data[4096];
    size_t at = 0;
    bool end = false;
    for (int idle = 0; idle < 10 && !end;) {
        size_t n = client_reads(data, sizeof data, &end);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(data[i], pattern_at(at++));
        idle = n > 0 ? 0 : idle + 1;
        run();
    }
    assert_int_equal(at, want);
}

static void assert_client_reads(const char *text)
{
    char data[256];
    bool end;
    size_t n = client_reads(data, sizeof data, &end);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(data, text, n);
}

static void assert_client_reads_end(void)
{
    char byte;
    bool end;
    assert_int_equal(client_reads(&byte, 1, &end), 0);
    assert_true(end);
}

/* The socket's end, without close_notify. */
static void assert_client_is_cut(void)
{
    char byte;
    int n = SSL_read(client, &byte, 1);
    int error = SSL_get_error(client, n);
    assert_true(n <= 0 && (error == SSL_ERROR_SYSCALL || error == SSL_ERROR_SSL));
}

/* ---- what callbacks do ---- */

static void do_answer(struct probe *p)
{
    assert_int_equal(conn_send(p->c, p->got.data, p->got.len), 0);
    p->got.len = 0;
}

static void do_pause(struct probe *p)
{
    conn_pause(p->c);
}

/* ---- both ways ---- */

static void bytes_both_ways(void **state)
{
    (void)state;
    one->on['d'] = do_answer;
    client_writes("ping");
    run();
    assert_string_equal(one->trace, "d");
    assert_client_reads("ping");
    assert_int_equal(metrics_sum(METRIC_TLS_OK), 1);
}

static void what_is_sent_in_the_handshake_leaves_after_it(void **state)
{
    (void)state;
    uint64_t failed = metrics_sum(METRIC_TLS_FAILED);
    assert_int_equal(conn_send(one->c, "early", 5), 0);
    run();
    assert_null(worker->dirty);
    shake_hands();
    assert_client_reads("early");
    assert_int_equal(metrics_sum(METRIC_TLS_FAILED), failed);
}

static void a_handshake_that_is_given_up_counts_as_failed(void **state)
{
    (void)state;
    uint64_t failed = metrics_sum(METRIC_TLS_FAILED);
    assert_int_equal(metrics_sum(METRIC_TLS_HANDSHAKING), 1);
    conn_close(one->c);
    assert_int_equal(metrics_sum(METRIC_TLS_HANDSHAKING), 0);
    assert_int_equal(metrics_sum(METRIC_TLS_FAILED), failed + 1);
}

static void no_tls_at_all_is_a_fault(void **state)
{
    (void)state;
    peer_writes(one, "\x17\x03\x03\xff\xff no TLS");
    run();
    assert_string_equal(one->trace, "ex");
}

/* ---- what the socket does not take ---- */

static void all_of_a_large_piece_arrives_whatever_its_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {TLS_BATCH - 1, TLS_BATCH, TLS_BATCH + 1, 2 * TLS_BATCH, BIG};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *data = malloc(sizes[i]);
        assert_non_null(data);
        for (size_t k = 0; k < sizes[i]; k++)
            data[k] = pattern_at(k);
        assert_int_equal(conn_send_at_once(one->c, data, sizes[i]), 0);
        free(data);
        client_reads_pattern(sizes[i]);
        assert_int_equal(metrics_sum(METRIC_QUEUED_BYTES), 0);
    }
}

static void sealed_bytes_count_as_queued(void **state)
{
    (void)state;
    char data[TLS_BATCH] = {0};
    assert_int_equal(conn_send_at_once(one->c, data, sizeof data), 0);
    assert_int_equal(one->c->out.bytes, 0);
    assert_true(metrics_sum(METRIC_QUEUED_BYTES) > TLS_BATCH / 2);
    assert_true(conn_is_sending(one->c));
}

static void the_peer_takes_also_what_is_sealed_already(void **state)
{
    (void)state;
    char data[TLS_RECORD];
    bool end;
    send_pattern(one->c, TLS_BATCH);
    run();
    uint32_t sent = one->c->last_sent;
    size_t before = tls_sealed(conn_tls(one->c));
    assert_int_equal(one->c->out.bytes, 0);
    tick(3);
    assert_int_equal(one->c->last_sent, sent);
    client_reads(data, sizeof data, &end);
    run();
    assert_true(conn_is_sending(one->c) && tls_sealed(conn_tls(one->c)) < before);
    assert_int_equal(one->c->last_sent, sent + 3);
}

static void a_half_closed_peer_that_is_slow_is_waited_for(void **state)
{
    (void)state;
    send_pattern(one->c, 3 * TLS_BATCH); /* less than CONN_READ_STOP */
    conn_finish(one->c, 3600);
    run();
    assert_int_equal(shutdown(one->peer, SHUT_WR), 0);
    run();
    assert_null(worker->dirty); /* or it would be looked at for ever */
    assert_int_equal(one->c->state, CONN_FLUSHING);
    client_reads_pattern(3 * TLS_BATCH);
    assert_string_equal(one->trace, "x");
}

/* ---- ends ---- */

static void an_end_is_told_after_what_came_before_it(void **state)
{
    (void)state;
    client_writes("last");
    assert_int_equal(SSL_shutdown(client), 0);
    run();
    assert_string_equal(one->trace, "dex");
}

static void an_end_waits_for_a_connection_that_pauses(void **state)
{
    (void)state;
    one->on['d'] = do_pause;
    client_writes("last");
    assert_int_equal(SSL_shutdown(client), 0);
    run();
    assert_string_equal(one->trace, "d");
    one->on['d'] = NULL;
    assert_true(conn_peer_gone(one->c, true));
    assert_false(conn_peer_gone(one->c, false));
    conn_resume(one->c, "again", 5);
    run();
    assert_string_equal(one->trace, "ddex");
}

static void an_end_waits_for_input_that_is_held(void **state)
{
    (void)state;
    one->bite = 1;
    client_writes("abc");
    assert_int_equal(SSL_shutdown(client), 0);
    run();
    assert_string_equal(one->trace, "dddex");
}

static void finishing_says_so(void **state)
{
    (void)state;
    do_say_goodbye(one);
    run();
    assert_client_reads("bye");
    assert_client_reads_end();
    assert_int_equal(one->c->state, CONN_LINGERING);
}

static void closing_says_so_when_nothing_is_lost(void **state)
{
    (void)state;
    conn_close(one->c);
    run();
    assert_client_reads_end();
}

static void closing_does_not_say_so_when_something_is_lost(void **state)
{
    (void)state;
    assert_int_equal(conn_send(one->c, "lost", 4), 0);
    conn_close(one->c);
    run();
    assert_client_is_cut();
}

static void an_end_in_the_handshake_is_a_fault(void **state)
{
    (void)state;
    static const unsigned char close_notify[] = {21, 3, 3, 0, 2, 1, 0};
    uint64_t failed = metrics_sum(METRIC_TLS_FAILED);
    assert_int_equal(conn_send(one->c, "never", 5), 0);
    conn_finish(one->c, 3600);
    run();
    assert_int_equal(write(one->peer, close_notify, sizeof close_notify), sizeof close_notify);
    run();
    assert_string_equal(one->trace, "x");
    assert_int_equal(metrics_sum(METRIC_TLS_FAILED), failed + 1);
}

/* ---- floods ---- */

static void update_keys(int times)
{
    for (int i = 0; i < times; i++) {
        assert_int_equal(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(client), 1);
    }
}

static void keys_may_be_updated(void **state)
{
    (void)state;
    one->on['d'] = do_answer;
    for (int i = 0; i < 100; i++) {
        update_keys(2);
        client_writes("new");
        run();
        assert_client_reads("new");
        one->trace[0] = '\0';
    }
}

static void a_flood_of_key_updates_ends_the_connection(void **state)
{
    (void)state;
    update_keys(200);
    run();
    assert_string_equal(one->trace, "ex");
}

static void answers_that_nobody_reads_end_the_connection(void **state)
{
    (void)state;
    int i;
    for (i = 0; i < 100000 && one->c != NULL; i++) {
        update_keys(8);
        run();
        assert_true(metrics_sum(METRIC_QUEUED_BYTES) < (1 << 20));
    }
    assert_string_equal(one->trace, "ex");
}

int main(void)
{
#define READY(test)   cmocka_unit_test_setup_teardown(test, set_up_ready, tear_down_tls)
#define SHAKING(test) cmocka_unit_test_setup_teardown(test, set_up_tls, tear_down_tls)
    signal(SIGPIPE, SIG_IGN); /* the client's */
    const struct CMUnitTest tests[] = {
        READY(bytes_both_ways),
        SHAKING(what_is_sent_in_the_handshake_leaves_after_it),
        SHAKING(a_handshake_that_is_given_up_counts_as_failed),
        SHAKING(no_tls_at_all_is_a_fault),
        READY(all_of_a_large_piece_arrives_whatever_its_size),
        READY(sealed_bytes_count_as_queued),
        READY(the_peer_takes_also_what_is_sealed_already),
        READY(a_half_closed_peer_that_is_slow_is_waited_for),
        READY(an_end_is_told_after_what_came_before_it),
        READY(an_end_waits_for_a_connection_that_pauses),
        READY(an_end_waits_for_input_that_is_held),
        READY(finishing_says_so),
        READY(closing_says_so_when_nothing_is_lost),
        READY(closing_does_not_say_so_when_something_is_lost),
        SHAKING(an_end_in_the_handshake_is_a_fault),
        READY(keys_may_be_updated),
        READY(a_flood_of_key_updates_ends_the_connection),
        READY(answers_that_nobody_reads_end_the_connection),
    };
    return cmocka_run_group_tests(tests, make_certificate, drop_certificate);
}
