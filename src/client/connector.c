/* SPDX-License-Identifier: MIT
 * One attempt to open a WebSocket to somewhere. */
#include "client/connector.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "client/multi.h"
#include "net/tls.h"

#define CONNECTOR_WHERE_MAX 300
#define CONNECTOR_WHY_MAX   (CONNECTOR_WHERE_MAX + 100)

struct connector {
    struct worker *worker;
    void (*on_done)(void *to, const struct connector_result *result, const char *why);
    void *to;
    double timeout;
    struct opening opening;
    struct tlscontext *tls; /* wss://, until there is a connection; a reference */
    CURL *easy;             /* CONNECTING */
    bool resolved;          /* libcurl has an address */
    int socket;             /* the one that libcurl connected and is not to close; -1: none */
    ev_timer deadline;      /* CONNECTING; from then on it is the connection's */
    ev_prepare stop;        /* CONNECTING: looks whether the server stops, which tells connections only */
    struct conn *conn;      /* from ASKING on */
    struct buf in;          /* the answer, as far as it is here */
    struct opening_answer answer;
    char why[CONNECTOR_WHY_MAX]; /* it has failed */
};

static const struct conn_ops connector_ops;

/* ---- how it ends ---- */

static void connector_release_easy(struct connector *k)
{
    if (k->easy == NULL)
        return;
    ev_timer_stop(k->worker->loop, &k->deadline);
    ev_prepare_stop(k->worker->loop, &k->stop);
    multi_remove(k->worker, k->easy);
    curl_easy_cleanup(k->easy);
    k->easy = NULL;
}

/* The place among max_clients is the connection's, once there is one. */
static void connector_free(struct connector *k)
{
    connector_release_easy(k);
    if (k->socket >= 0)
        close(k->socket);
    if (k->conn == NULL)
        metrics_sub(k->worker->metrics, METRIC_CLIENTS, 1);
    tlscontext_unref(k->tls);
    opening_fini(&k->opening);
    buf_fini(&k->in);
    free(k);
}

/* Tells of the failure and frees; outside of every callback of the connection and of libcurl. */
static void connector_tell_failure(struct connector *k)
{
    void (*on_done)(void *to, const struct connector_result *result, const char *why) = k->on_done;
    void *to = k->to;
    char why[CONNECTOR_WHY_MAX];
    memcpy(why, k->why, sizeof why);
    struct metrics *metrics = k->worker->metrics;
    connector_free(k);
    if (on_done != NULL) {
        metrics_add(metrics, METRIC_CLIENT_CONNECT_FAILURES, 1);
        on_done(to, NULL, why);
    }
}

static void connector_fail(struct connector *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void connector_fail(struct connector *k, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(k->why, sizeof k->why, fmt, args);
    va_end(args);
    if (k->conn != NULL)
        conn_close(k->conn); /* on_dead tells */
    else
        connector_tell_failure(k);
}

void connector_cancel(struct connector *k)
{
    k->on_done = NULL;
    if (k->conn != NULL)
        conn_close(k->conn);
    else if (k->resolved)
        connector_free(k);
    /* else a thread of the resolver goes on, of which there could be many: its place is kept until it has
     * ended, or the deadline */
}

static void connector_fail_late(struct connector *k)
{
    connector_fail(k, "timed out after %.15g s", k->timeout);
}

static void connector_fail_stopping(struct connector *k)
{
    connector_fail(k, "the server is stopping");
}

/* ---- the answer ---- */

static size_t connector_on_data(struct conn *c, uint8_t *data, size_t len)
{
    struct connector *k = conn_session(c);
    if (buf_append(&k->in, data, len) < 0) {
        connector_fail(k, "out of memory");
        return len;
    }
    switch (
        opening_read(&k->opening, k->in.data, k->in.len, (size_t)k->worker->config->max_head, &k->answer)) {
    case OPENING_MORE: break;
    case OPENING_FAILED: connector_fail(k, "%s", k->answer.why); break;
    case OPENING_DONE:
        conn_pause(c);
        conn_later(c);
        break;
    }
    return len;
}

/* ANSWERED. */
static void connector_on_later(struct conn *c)
{
    struct connector *k = conn_session(c);
    if (c->state != CONN_OPEN)
        return;
    char url[OPENING_URL_MAX];
    opening_url(&k->opening, url);
    const struct connector_result result = {
        .conn = c,
        .head = k->opening.head,
        .url = url,
        .protocol = k->answer.protocol,
        .terms = k->answer.terms,
        .rest = (const uint8_t *)k->in.data + k->answer.used,
        .rest_len = k->in.len - k->answer.used,
    };
    void (*on_done)(void *to, const struct connector_result *result, const char *why) = k->on_done;
    k->on_done = NULL;
    c->sips = false;
    metrics_add(k->worker->metrics, METRIC_CLIENT_CONNECTS, 1);
    on_done(k->to, &result, NULL);
    if (c->ops == &connector_ops)
        conn_close(c); /* on_dead frees */
    else
        connector_free(k);
}

/* ---- the connection's other events ---- */

static void connector_on_eof(struct conn *c)
{
    struct connector *k = conn_session(c);
    const char *why = conn_tls(c) != NULL ? tls_why(conn_tls(c)) : "";
    if (why[0] != '\0')
        connector_fail(k, "TLS with %.*s: %s", CONNECTOR_WHERE_MAX, k->opening.host, why);
    else
        connector_fail(k, "the server closed the connection %s",
                       k->in.len == 0 ? "without an answer" : "in the middle of its answer");
}

static void connector_on_timeout(struct conn *c)
{
    connector_fail_late(conn_session(c));
}

static void connector_on_stop(struct conn *c)
{
    connector_fail_stopping(conn_session(c));
}

static void connector_on_dead(struct conn *c)
{
    struct connector *k = conn_session(c);
    if (k->why[0] == '\0') /* it was closed by others */
        snprintf(k->why, sizeof k->why, "%s",
                 k->worker->stopping ? "the server is stopping" : "out of memory");
    connector_tell_failure(k);
}

static const struct conn_ops connector_ops = {
    .on_data = connector_on_data,
    .on_eof = connector_on_eof,
    .on_timeout = connector_on_timeout,
    .on_stop = connector_on_stop,
    .on_later = connector_on_later,
    .on_dead = connector_on_dead,
};

/* ---- connecting ---- */

/* The socket is connected: sends the request. */
static void connector_ask(struct connector *k, double left)
{
    struct worker *w = k->worker;
    struct head *head = k->opening.head;
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    if (getpeername(k->socket, (struct sockaddr *)&peer, &len) == 0)
        head_set_remote(head, (const struct sockaddr *)&peer);
    head->id = ++w->request_seq * w->count + (w->index - 1);
    struct tls *tls = NULL;
    if (k->opening.tls) {
        tls = tls_create(w, k->tls, k->opening.host);
        k->tls = NULL;
    }
    if (tls != NULL || !k->opening.tls) {
        k->conn = conn_create(w, k->socket, &connector_ops, k, tls);
        k->socket = -1;
    }
    if (k->conn == NULL) {
        connector_fail(k, "out of memory");
        return;
    }
    if (tls != NULL)
        tls_start(tls);
    k->conn->client = true;
    k->conn->sips = true; /* what is behind the answer's head is kept */
    conn_set_deadline(k->conn, left > 0 ? left : 0);
    conn_send(k->conn, head_bytes(head), head->nbytes);
}

static void connector_fail_connecting(struct connector *k, CURLcode result)
{
    char where[CONNECTOR_WHERE_MAX];
    long number = 0;
    curl_easy_getinfo(k->easy, CURLINFO_OS_ERRNO, &number);
    opening_where(&k->opening, where, sizeof where);
    switch (result) {
    case CURLE_COULDNT_RESOLVE_HOST:
        connector_fail(k, "%.*s: could not be resolved", CONNECTOR_WHERE_MAX, k->opening.host);
        break;
    case CURLE_OPERATION_TIMEDOUT: connector_fail_late(k); break;
    case CURLE_ABORTED_BY_CALLBACK: connector_fail_stopping(k); break;
    default:
        connector_fail(k, "connect to %s: %s", where,
                       number != 0 ? strerror((int)number) : curl_easy_strerror(result));
    }
}

static void connector_on_connected(void *to, CURLcode result)
{
    struct connector *k = to;
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (result == CURLE_OK)
        result = curl_easy_getinfo(k->easy, CURLINFO_ACTIVESOCKET, &fd);
    if (fd == CURL_SOCKET_BAD) {
        connector_fail_connecting(k, result == CURLE_OK ? CURLE_COULDNT_CONNECT : result);
        return;
    }
    if (k->on_done == NULL) {
        connector_free(k);
        return;
    }
    if (k->worker->stopping) { /* which a connection made now would not be told */
        connector_fail_stopping(k);
        return;
    }
    double left = ev_timer_remaining(k->worker->loop, &k->deadline);
    k->socket = fd;
    connector_release_easy(k);
    connector_ask(k, left);
}

static void connector_on_deadline(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    connector_fail_late(timer->data);
}

static void connector_on_prepare(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
    (void)loop;
    (void)revents;
    struct connector *k = prepare->data;
    if (k->worker->stopping)
        connector_fail_stopping(k);
}

static curl_socket_t connector_open_socket(void *to, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct connector *k = to;
    (void)purpose;
    k->resolved = true;
    if (k->on_done == NULL)
        return CURL_SOCKET_BAD;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* The socket is taken over rather than duplicated: a duplicate would keep the old number alive in the loop's
 * epoll set, of which libev would then make a new one. */
static int connector_close_socket(void *to, curl_socket_t fd)
{
    const struct connector *k = to;
    return fd == k->socket ? 0 : close(fd);
}

/* An easy handle that only connects. 0, or -1 when memory runs out. */
static int connector_make_easy(struct connector *k)
{
    CURL *easy = k->easy = curl_easy_init();
    if (easy == NULL)
        return -1;
    long ms = (long)(k->timeout * 1000) + 1; /* by it libcurl shares the time out between addresses */
    bool ok = curl_easy_setopt(easy, CURLOPT_CURLU, k->opening.url) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK && /* none from the environment */
              curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, ms) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, connector_open_socket) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, k) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, connector_close_socket) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, k) == CURLE_OK;
    if (ok && multi_add(k->worker, easy, connector_on_connected, k) == 0)
        return 0;
    curl_easy_cleanup(easy);
    k->easy = NULL;
    return -1;
}

static int connector_check(struct worker *w, struct err *e)
{
    int64_t limit = w->config->max_clients;
    if (w->stopping)
        return err_set(e, "the server is stopping");
    if (worker_over_limit(w, METRIC_CLIENTS, limit, 1))
        return err_set(e, "too many connections (max_clients is %lld)", (long long)limit);
    return 0;
}

static int connector_prepare_tls(struct connector *k, const struct tlscontext_options *o, struct err *e)
{
    if (!k->opening.tls)
        return o == NULL ? 0 : err_set(e, "tls is an option for wss:// only");
    k->tls = o != NULL ? tlscontext_create_client(o, e) : tlscontext_usual_client(e);
    return k->tls != NULL ? 0 : -1;
}

struct connector *connector_start(struct worker *w, const struct connector_options *options,
                                  void (*on_done)(void *to, const struct connector_result *result,
                                                  const char *why),
                                  void *to, struct err *e)
{
    struct connector *k = calloc(1, sizeof *k);
    if (k == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    *k = (struct connector){
        .worker = w, .on_done = on_done, .to = to, .timeout = options->timeout, .socket = -1};
    if (opening_init(&k->opening, &options->opening, e) < 0) {
        free(k);
        return NULL;
    }
    if (connector_check(w, e) < 0 || connector_prepare_tls(k, options->tls, e) < 0 ||
        (connector_make_easy(k) < 0 && err_set(e, "out of memory") < 0)) {
        tlscontext_unref(k->tls);
        opening_fini(&k->opening);
        free(k);
        return NULL;
    }
    metrics_add(w->metrics, METRIC_CLIENTS, 1);
    ev_now_update(w->loop); /* a script may have run for long */
    ev_timer_init(&k->deadline, connector_on_deadline, k->timeout, 0);
    k->deadline.data = k;
    ev_timer_start(w->loop, &k->deadline);
    ev_prepare_init(&k->stop, connector_on_prepare);
    ev_set_priority(&k->stop, EV_MAXPRI); /* before what is done at the end of the iteration */
    k->stop.data = k;
    ev_prepare_start(w->loop, &k->stop);
    return k;
}
