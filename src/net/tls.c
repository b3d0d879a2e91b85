/* SPDX-License-Identifier: MIT
 * TLS of one connection. */
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "net/worker.h"

/* Sealed bytes that answers to the peer's own messages (key updates) may add while it reads nothing. */
#define TLS_SEALED_MAX (4 * TLS_BATCH)

/* Key updates (RFC 8446, 4.6.3) in what is received at once. A peer needs one in millions of records; each
 * costs as much as thousands of bytes, so many would keep the other connections waiting. */
#define TLS_KEY_UPDATES_MAX 32

#define TLS_WHY_MAX 160

enum tls_state { TLS_WAITING, TLS_HANDSHAKE, TLS_READY };

/* How it ended. */
enum tls_end { TLS_GOES_ON, TLS_PEER_ENDED, TLS_FAULT };

struct tls {
    SSL *ssl;
    struct worker *worker;
    struct tlscontext *context;
    struct tls_facts *facts;
    struct buf sealed; /* what the kernel has not taken; from `sent` on */
    size_t sent;
    char *why;     /* on the heap, since few fail */
    uint8_t state; /* enum tls_state */
    uint8_t end;   /* enum tls_end */
    uint8_t key_updates;
    bool ended; /* close_notify is sealed */
};

/* What connections need only while they are worked on. */
struct tls_worker {
    const uint8_t *input; /* arrived, and not yet given to OpenSSL */
    size_t input_len;
    struct buf output;          /* sealed, and not yet sent */
    uint8_t record[TLS_RECORD]; /* small pieces put together */
    uint8_t raw[TLS_INPUT];
};

/* ---- OpenSSL's side of the wire ---- */

static struct tls_worker *tls_worker_of(const struct tls *t)
{
    return t->worker->tls;
}

static int tls_bio_read(BIO *bio, char *to, size_t len, size_t *got)
{
    struct tls_worker *w = tls_worker_of(BIO_get_data(bio));
    size_t n = w->input_len < len ? w->input_len : len;
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(to, w->input, n);
    w->input += n;
    w->input_len -= n;
    *got = n;
    return 1;
}

static int tls_bio_write(BIO *bio, const char *data, size_t len, size_t *put)
{
    struct tls_worker *w = tls_worker_of(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (buf_append(&w->output, data, len) < 0)
        return 0;
    *put = len;
    return 1;
}

static long tls_bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *tls_method;

static void tls_make_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tidewire");
    if (m != NULL && BIO_meth_set_read_ex(m, tls_bio_read) == 1 &&
        BIO_meth_set_write_ex(m, tls_bio_write) == 1 && BIO_meth_set_ctrl(m, tls_bio_control) == 1)
        tls_method = m;
    else
        BIO_meth_free(m);
}

/* OpenSSL's look at each record and message: nothing else tells that keys are updated. */
static void tls_on_record(int out, int version, int type, const void *data, size_t len, SSL *ssl, void *arg)
{
    (void)version;
    (void)ssl;
    struct tls *t = arg;
    if (!out && type == SSL3_RT_HANDSHAKE && len > 0 && *(const uint8_t *)data == SSL3_MT_KEY_UPDATE &&
        ++t->key_updates == TLS_KEY_UPDATES_MAX)
        tls_worker_of(t)->input_len = 0; /* tls_open finds out why nothing is left */
}

/* ---- life ---- */

/* 0, or -1 when memory runs out. */
static int tls_make_worker(struct worker *w)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, tls_make_method);
    if (tls_method == NULL)
        return -1;
    if (w->tls == NULL)
        w->tls = calloc(1, sizeof *w->tls);
    return w->tls != NULL ? 0 : -1;
}

void tls_worker_fini(struct worker *w)
{
    if (w->tls != NULL)
        buf_fini(&w->tls->output);
    free(w->tls);
    w->tls = NULL;
}

/* A client says whom it wants (RFC 6066, 3), and believes nobody else. An address is never sent as a name. */
static int tls_set_host(SSL *ssl, const char *host)
{
    unsigned char address[16];
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1 ? 0 : -1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1 ? 0 : -1;
}

struct tls *tls_create(struct worker *w, struct tlscontext *context, const char *host)
{
    BIO *bio = NULL;
    struct tls *t = calloc(1, sizeof *t);
    if (t == NULL || tls_make_worker(w) < 0 || (t->ssl = tlscontext_new_ssl(context)) == NULL ||
        (bio = BIO_new(tls_method)) == NULL)
        goto fail;
    t->worker = w;
    t->context = context;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio); /* takes it over */
    SSL_set_msg_callback(t->ssl, tls_on_record);
    SSL_set_msg_callback_arg(t->ssl, t);
    if (tlscontext_is_server(context))
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    if (host != NULL && tls_set_host(t->ssl, host) < 0)
        goto fail;
    metrics_add(w->metrics, METRIC_TLS_CONNECTIONS, 1);
    return t;
fail:
    if (t != NULL)
        SSL_free(t->ssl);
    free(t);
    tlscontext_unref(context);
    return NULL;
}

static void tls_leave_handshake(struct tls *t, enum metric outcome)
{
    metrics_sub(t->worker->metrics, METRIC_TLS_HANDSHAKING, 1);
    metrics_add(t->worker->metrics, outcome, 1);
}

/* Nothing sealed is left. */
static void tls_drop_sealed(struct tls *t)
{
    metrics_sub(t->worker->metrics, METRIC_QUEUED_BYTES, t->sealed.cap);
    buf_fini(&t->sealed);
    t->sent = 0;
}

void tls_destroy(struct tls *t)
{
    if (t == NULL)
        return;
    if (t->state == TLS_HANDSHAKE)
        tls_leave_handshake(t, METRIC_TLS_FAILED);
    metrics_sub(t->worker->metrics, METRIC_TLS_CONNECTIONS, 1);
    SSL_free(t->ssl);
    tlscontext_unref(t->context);
    tls_facts_unref(t->facts);
    tls_drop_sealed(t);
    free(t->why);
    free(t);
}

void tls_start(struct tls *t)
{
    t->state = TLS_HANDSHAKE;
    metrics_add(t->worker->metrics, METRIC_TLS_HANDSHAKING, 1);
}

bool tls_is_started(const struct tls *t)
{
    return t->state != TLS_WAITING;
}

bool tls_is_ready(const struct tls *t)
{
    return t->state == TLS_READY;
}

bool tls_is_over(const struct tls *t)
{
    return t->end != TLS_GOES_ON;
}

size_t tls_sealed(const struct tls *t)
{
    return t->sealed.len - t->sent;
}

struct tls_facts *tls_facts(const struct tls *t)
{
    return t->facts;
}

const char *tls_why(const struct tls *t)
{
    return t->why != NULL ? t->why : "";
}

/* ---- what was agreed on ---- */

struct tls_facts *tls_facts_ref(struct tls_facts *f)
{
    if (f != NULL)
        atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void tls_facts_unref(struct tls_facts *f)
{
    if (f == NULL || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(f->server_name);
    free(f->subject);
    free(f->issuer);
    free(f->serial);
    free(f->fingerprint);
    free(f);
}

/* "CN=alice,O=Example" (RFC 2253); bytes that are no plain text are escaped. */
static char *tls_name_text(const X509_NAME *name)
{
    char *text = NULL, *data;
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio == NULL)
        return NULL;
    if (X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0) {
        long len = BIO_get_mem_data(bio, &data);
        text = strndup(len > 0 ? data : "", len > 0 ? (size_t)len : 0);
    }
    BIO_free(bio);
    return text;
}

static char *tls_hex(const unsigned char *data, size_t len)
{
    char *text = malloc(2 * len + 1);
    for (size_t i = 0; text != NULL && i < len; i++)
        snprintf(text + 2 * i, 3, "%02x", data[i]);
    if (text != NULL)
        text[2 * len] = '\0';
    return text;
}

static int tls_describe_peer(struct tls_facts *f, X509 *cert)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    if (X509_digest(cert, EVP_sha256(), hash, &len) != 1)
        return -1;
    f->fingerprint = tls_hex(hash, len);
    f->serial = tls_hex(ASN1_STRING_get0_data(serial), (size_t)ASN1_STRING_length(serial));
    f->subject = tls_name_text(X509_get_subject_name(cert));
    f->issuer = tls_name_text(X509_get_issuer_name(cert));
    return f->fingerprint != NULL && f->serial != NULL && f->subject != NULL && f->issuer != NULL ? 0 : -1;
}

static struct tls_facts *tls_describe(SSL *ssl)
{
    struct tls_facts *f = calloc(1, sizeof *f);
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    X509 *peer = SSL_is_server(ssl) ? SSL_get0_peer_certificate(ssl) : NULL;
    if (f == NULL)
        return NULL;
    f->refs = 1;
    f->version = SSL_get_version(ssl);
    f->cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(ssl));
    f->resumed = SSL_session_reused(ssl) == 1;
    bool ok = name == NULL || (f->server_name = strdup(name)) != NULL;
    if (ok && (peer == NULL || tls_describe_peer(f, peer) == 0))
        return f;
    tls_facts_unref(f);
    return NULL;
}

/* ---- faults ---- */

static void tls_fail_with(struct tls *t, const char *why)
{
    t->end = TLS_FAULT;
    if (t->why == NULL)
        t->why = strndup(why, TLS_WHY_MAX);
}

/* What OpenSSL has against it. */
static void tls_fail(struct tls *t)
{
    long verdict = SSL_get_verify_result(t->ssl);
    unsigned long code = ERR_peek_error();
    const char *why = code != 0 ? ERR_reason_error_string(code) : NULL;
    if (code != 0 && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK)
        why = X509_verify_cert_error_string(verdict);
    tls_fail_with(t, why != NULL ? why : "the connection broke");
    ERR_clear_error();
}

/* What SSL_get_error says of a call depends on the queue of errors, which is empty as a rule; to look costs a
 * tenth of emptying it. */
static void tls_forget_errors(void)
{
    if (ERR_peek_error() != 0)
        ERR_clear_error();
}

/* ---- receiving ---- */

/* The handshake may have come to its end. */
static void tls_look_at_handshake(struct tls *t)
{
    if (t->state != TLS_HANDSHAKE || !SSL_is_init_finished(t->ssl))
        return;
    t->facts = tls_describe(t->ssl);
    if (t->facts == NULL) {
        tls_fail_with(t, "out of memory");
        return;
    }
    t->state = TLS_READY;
    tls_leave_handshake(t, METRIC_TLS_OK);
    if (t->facts->resumed)
        metrics_add(t->worker->metrics, METRIC_TLS_RESUMED, 1);
}

/* Moves what OpenSSL has sealed, from `from` on, to what is to be sent. */
static void tls_keep_output(struct tls *t, struct tls_worker *w, size_t from)
{
    size_t len = w->output.len - from, before = t->sealed.cap;
    if (len > 0 && t->sealed.len + len > TLS_SEALED_MAX)
        tls_fail_with(t, "it does not read what it makes us send");
    else if (len > 0 && (buf_reserve_exact(&t->sealed, len) < 0 ||
                         buf_append(&t->sealed, w->output.data + from, len) < 0))
        tls_fail_with(t, "out of memory");
    metrics_add(t->worker->metrics, METRIC_QUEUED_BYTES, t->sealed.cap - before);
    w->output.len = 0;
}

/* Opens what is in the worker's input, and asks no further when it has all: OpenSSL would make a buffer for
 * that. Returns how many plain bytes it gave. */
static size_t tls_open(struct tls *t, uint8_t *to, size_t room)
{
    const struct tls_worker *w = tls_worker_of(t);
    size_t got = 0, n = 0;
    int rc = 1;
    tls_forget_errors();
    t->key_updates = 0;
    while (rc == 1 && got < room && (got == 0 || w->input_len > 0 || SSL_has_pending(t->ssl) == 1))
        if ((rc = SSL_read_ex(t->ssl, to + got, room - got, &n)) == 1)
            got += n;
    if (rc == 1)
        return got;
    int error = SSL_get_error(t->ssl, rc);
    if (error == SSL_ERROR_ZERO_RETURN)
        t->end = TLS_PEER_ENDED;
    else if (error != SSL_ERROR_WANT_READ)
        tls_fail(t);
    else if (t->key_updates == TLS_KEY_UPDATES_MAX)
        tls_fail_with(t, "it updates its keys for ever");
    return got;
}

static ssize_t tls_say_end(const struct tls *t)
{
    if (t->end == TLS_PEER_ENDED)
        return 0;
    errno = EPROTO;
    return -1;
}

ssize_t tls_recv(struct tls *t, int fd, void *to, size_t room)
{
    struct tls_worker *w = tls_worker_of(t);
    if (t->end != TLS_GOES_ON)
        return tls_say_end(t);
    size_t most = room - TLS_SLACK < sizeof w->raw ? room - TLS_SLACK : sizeof w->raw;
    ssize_t n = recv(fd, w->raw, most, 0);
    if (n <= 0) {
        if (n == 0 && t->state == TLS_HANDSHAKE)
            tls_fail_with(t, "the peer ended the connection in the handshake");
        return n;
    }
    w->input = w->raw;
    w->input_len = (size_t)n;
    size_t got = tls_open(t, to, room);
    w->input_len = 0;
    tls_keep_output(t, w, 0);
    tls_look_at_handshake(t);
    if (t->end == TLS_PEER_ENDED && t->state == TLS_HANDSHAKE)
        tls_fail_with(t, "the peer ended the connection in the handshake");
    if (got > 0)
        return (ssize_t)got;
    if (t->end != TLS_GOES_ON)
        return tls_say_end(t);
    errno = EAGAIN;
    return -1;
}

/* ---- sending ---- */

/* Sends what is sealed. -1 with errno when the socket does not take all. */
static int tls_send_sealed(struct tls *t, int fd)
{
    while (t->sent < t->sealed.len) {
        ssize_t n = send(fd, t->sealed.data + t->sent, t->sealed.len - t->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        t->sent += (size_t)n;
    }
    tls_drop_sealed(t);
    return 0;
}

/* Sends the worker's output; what the socket does not take is kept. */
static void tls_send_output(struct tls *t, struct tls_worker *w, int fd)
{
    ssize_t n = send(fd, w->output.data, w->output.len, MSG_NOSIGNAL);
    tls_keep_output(t, w, n > 0 ? (size_t)n : 0);
}

/* Where the next record's bytes are, and how many: those of one large piece, or several small ones that are
 * put together. *at and *offset say how far the pieces have been used. */
static const void *tls_next_record(struct tls_worker *w, const struct iovec *iov, int count, int *at,
                                   size_t *offset, size_t *len)
{
    const uint8_t *first = (const uint8_t *)iov[*at].iov_base + *offset;
    size_t left = iov[*at].iov_len - *offset;
    if (left >= TLS_RECORD || *at + 1 == count) {
        *len = left < TLS_RECORD ? left : TLS_RECORD;
        *offset += *len;
        if (*offset == iov[*at].iov_len)
            ++*at, *offset = 0;
        return first;
    }
    size_t have = 0;
    while (have < TLS_RECORD && *at < count) {
        left = iov[*at].iov_len - *offset;
        size_t n = left < TLS_RECORD - have ? left : TLS_RECORD - have;
        memcpy(w->record + have, (const uint8_t *)iov[*at].iov_base + *offset, n);
        have += n;
        *offset += n;
        if (n == left)
            ++*at, *offset = 0;
    }
    *len = have;
    return w->record;
}

/* Seals up to TLS_BATCH bytes into the worker's output. Returns how many; fewer than there are, also 0, when
 * it has failed. */
static size_t tls_seal(struct tls *t, const struct iovec *iov, int count)
{
    struct tls_worker *w = tls_worker_of(t);
    size_t total = 0, offset = 0;
    tls_forget_errors();
    for (int at = 0; at < count && total < TLS_BATCH;) {
        size_t len, put;
        const void *record = tls_next_record(w, iov, count, &at, &offset, &len);
        if (len == 0)
            continue;
        if (SSL_write_ex(t->ssl, record, len, &put) != 1 || put != len) {
            tls_fail(t);
            break;
        }
        total += len;
    }
    return total;
}

/* A client speaks first. */
static void tls_shake_hands(struct tls *t)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(t->ssl);
    if (rc != 1 && SSL_get_error(t->ssl, rc) != SSL_ERROR_WANT_READ)
        tls_fail(t);
    tls_keep_output(t, tls_worker_of(t), 0);
}

ssize_t tls_send(struct tls *t, int fd, const struct iovec *iov, int count)
{
    struct tls_worker *w = tls_worker_of(t);
    if (t->state == TLS_HANDSHAKE && t->end == TLS_GOES_ON)
        tls_shake_hands(t);
    if (t->sealed.len > 0 && tls_send_sealed(t, fd) < 0)
        return -1;
    if (t->end == TLS_FAULT) {
        errno = EPROTO;
        return -1;
    }
    if (count == 0)
        return 0;
    if (t->state != TLS_READY) {
        errno = EINPROGRESS;
        return -1;
    }
    size_t n = tls_seal(t, iov, count);
    tls_send_output(t, w, fd);
    if (t->end != TLS_FAULT)
        return (ssize_t)n;
    errno = EPROTO;
    return -1;
}

void tls_end(struct tls *t)
{
    if (t->ended || t->state != TLS_READY || t->end == TLS_FAULT)
        return;
    t->ended = true;
    ERR_clear_error();
    if (SSL_shutdown(t->ssl) < 0)
        ERR_clear_error();
    tls_keep_output(t, tls_worker_of(t), 0);
}
