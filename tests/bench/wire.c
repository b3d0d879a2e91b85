/* SPDX-License-Identifier: MIT
 * The way of a load generator's bytes to the server; see wire.h. */
#include "wire.h"

#include <err.h>
#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

#define RECORD 16384 /* of plain bytes */
#define EXTRA  512   /* that sealing may add to a record */
#define INPUT  (128 * 1024)
#define OUTPUT (128 * 1024)

/* What a thread's wires need only while they are worked on. */
static _Thread_local struct {
    const uint8_t *input;
    size_t input_len, output_len;
    uint8_t raw[INPUT], output[OUTPUT];
} now;

static BIO_METHOD *method;

/* ---- OpenSSL's side ---- */

static int wire_bio_read(BIO *bio, char *to, size_t len, size_t *got)
{
    BIO_clear_retry_flags(bio);
    if (now.input_len == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    *got = MIN(len, now.input_len);
    memcpy(to, now.input, *got);
    now.input += *got;
    now.input_len -= *got;
    return 1;
}

static int wire_bio_write(BIO *bio, const char *data, size_t len, size_t *put)
{
    (void)bio;
    if (len > sizeof now.output - now.output_len)
        errx(CLIENT_FAILED, "TLS has more to say than there is room for");
    memcpy(now.output + now.output_len, data, len);
    now.output_len += len;
    *put = len;
    return 1;
}

static long wire_bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static void wire_make_method(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
    if (method == NULL || BIO_meth_set_read_ex(method, wire_bio_read) != 1 ||
        BIO_meth_set_write_ex(method, wire_bio_write) != 1 ||
        BIO_meth_set_ctrl(method, wire_bio_control) != 1)
        errx(CLIENT_FAILED, "out of memory");
}

/* ---- life ---- */

SSL_CTX *wire_make_context(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, wire_make_method);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_set1_groups_list(context, "X25519") != 1)
        errx(CLIENT_FAILED, "OpenSSL cannot be set up");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    return context;
}

void wire_init(struct wire *w, int fd, SSL_CTX *context, SSL_SESSION *session)
{
    *w = (struct wire){.fd = fd};
    if (context == NULL)
        return;
    BIO *bio = BIO_new(method);
    w->ssl = SSL_new(context);
    if (w->ssl == NULL || bio == NULL || (session != NULL && SSL_set_session(w->ssl, session) != 1))
        errx(CLIENT_FAILED, "out of memory");
    BIO_set_init(bio, 1);
    SSL_set_bio(w->ssl, bio, bio);
    SSL_set_connect_state(w->ssl);
}

void wire_fini(struct wire *w)
{
    close(w->fd);
    if (w->ssl != NULL) /* or its session could not be resumed */
        SSL_set_shutdown(w->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(w->ssl);
    free(w->sealed);
}

SSL_SESSION *wire_take_session(const struct wire *w)
{
    SSL_SESSION *session = SSL_get1_session(w->ssl);
    if (session == NULL || !SSL_SESSION_is_resumable(session))
        errx(CLIENT_FAILED, "the server gives no session that could be resumed");
    return session;
}

bool wire_is_full(const struct wire *w)
{
    return w->sealed_len > 0;
}

/* ---- sending and receiving ---- */

static _Noreturn void wire_fail(void)
{
    const char *why = ERR_reason_error_string(ERR_peek_error());
    errx(CLIENT_FAILED, "TLS failed: %s", why != NULL ? why : "the server closed the connection");
}

/* Sends what waits and, when that is gone, what has been sealed now. Returns 0, or -1 with errno when the
 * socket does not take it all; the rest then waits. */
static int wire_flush(struct wire *w, int flags)
{
    const uint8_t *from = w->sealed_len > 0 ? w->sealed : now.output;
    size_t len = w->sealed_len > 0 ? w->sealed_len : now.output_len, at = 0;
    for (ssize_t n = 0; at < len && n >= 0; at += (size_t)MAX(n, 0))
        n = send(w->fd, from + at, len - at, flags);
    size_t fresh = w->sealed_len > 0 ? now.output_len : 0;
    uint8_t *rest = at < len || fresh > 0 ? client_allocate(len - at + fresh, 1) : NULL;
    if (rest != NULL) {
        memcpy(rest, from + at, len - at);
        memcpy(rest + len - at, now.output, fresh);
    }
    free(w->sealed);
    w->sealed = rest;
    w->sealed_len = len - at + fresh;
    now.output_len = 0;
    return w->sealed_len == 0 ? 0 : at < len ? -1 : wire_flush(w, flags);
}

/* As recv(2), into what OpenSSL reads from. */
static ssize_t wire_take(struct wire *w, int flags)
{
    ssize_t n = recv(w->fd, now.raw, sizeof now.raw, flags);
    now.input = now.raw;
    now.input_len = (size_t)MAX(n, 0);
    return n;
}

/* Goes on as far as the server has. Returns 0 when it is over: the last of it is not sent yet, so that it
 * leaves together with what comes behind it; -1 with errno. */
static int wire_shake_hands(struct wire *w, int flags)
{
    for (int rc; (rc = SSL_do_handshake(w->ssl)) != 1;) {
        if (SSL_get_error(w->ssl, rc) != SSL_ERROR_WANT_READ)
            wire_fail();
        if (wire_flush(w, flags | MSG_NOSIGNAL) < 0)
            return -1;
        ssize_t n = wire_take(w, flags & MSG_DONTWAIT);
        if (n == 0)
            errno = ECONNRESET;
        if (n <= 0)
            return -1;
    }
    return 0;
}

ssize_t wire_send(struct wire *w, const void *data, size_t len, int flags)
{
    if (w->ssl == NULL)
        return send(w->fd, data, len, flags);
    if (w->sealed_len > 0 && wire_flush(w, flags) < 0)
        return -1;
    if (!SSL_is_init_finished(w->ssl) && wire_shake_hands(w, flags) < 0)
        return -1;
    size_t put = 0, n = 0;
    while (put < len && sizeof now.output - now.output_len >= RECORD + EXTRA) {
        if (SSL_write_ex(w->ssl, (const uint8_t *)data + put, MIN(len - put, RECORD), &n) != 1)
            wire_fail();
        put += n;
    }
    return wire_flush(w, flags) == 0 || errno == EAGAIN ? (ssize_t)put : -1;
}

/* Opens all that was taken. Returns how many bytes that gave, or -1 when the server has ended TLS. */
static ssize_t wire_open(struct wire *w, uint8_t *to, size_t room)
{
    size_t got = 0, n = 0;
    int rc = 0;
    while (got < room && (rc = SSL_read_ex(w->ssl, to + got, room - got, &n)) == 1)
        got += n;
    if (rc == 1)
        errx(CLIENT_FAILED, "more has come at once than there is room for");
    int error = SSL_get_error(w->ssl, rc);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_ZERO_RETURN)
        wire_fail();
    return error == SSL_ERROR_ZERO_RETURN && got == 0 ? -1 : (ssize_t)got;
}

ssize_t wire_recv(struct wire *w, void *to, size_t room, int flags)
{
    if (w->ssl == NULL)
        return recv(w->fd, to, room, flags);
    for (;;) {
        ssize_t n = wire_take(w, flags);
        if (n > 0)
            n = wire_open(w, to, room);
        else
            return n;
        if (now.output_len > 0)
            wire_flush(w, flags | MSG_NOSIGNAL);
        if (n != 0)
            return n > 0 ? n : 0;
    }
}
