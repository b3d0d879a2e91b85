/* SPDX-License-Identifier: MIT
 * The admin listener. */
#include "ops/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <llhttp.h>
#include <openssl/crypto.h>

#include "base/log.h"
#include "http/head.h"
#include "http/response.h"
#include "net/listener.h"
#include "ops/report.h"

#define ADMIN_CLIENTS   64
#define ADMIN_HEAD      8192
#define ADMIN_TIMEOUT_S 10.0 /* for a head to arrive, and for an answer to be taken */
#define ADMIN_IDLE_S    75.0 /* between two requests: scrapers come every minute or more often */
#define ADMIN_LINGER_S  2.0
#define ADMIN_PAUSE_S   0.5 /* rest when the process is out of descriptors */
#define ADMIN_TOKEN_MAX 1024

enum admin_state { ADMIN_READING, ADMIN_WRITING, ADMIN_LINGERING };

struct admin_client {
    ev_io io;
    ev_timer timer;
    struct admin *admin;
    enum admin_state state;
    bool keep;       /* another request may follow */
    bool idle;       /* nothing of it has come yet */
    uint64_t active; /* when it last began something, by admin->clock */
    struct head_scan scan;
    size_t len;
    struct buf out;
    size_t sent;
    char in[ADMIN_HEAD];
};

struct admin {
    ev_io io;
    ev_timer pause;
    struct ev_loop *loop;
    struct listener_set set;
    const struct admin_answers *answers;
    void *user;
    char *token;      /* NULL: none is asked for */
    char *next_token; /* prepared */
    bool has_next;
    uint64_t clock;
    struct admin_client *clients[ADMIN_CLIENTS];
};

/* ---- the token ---- */

static void admin_forget_token(char *token)
{
    if (token != NULL)
        explicit_bzero(token, strlen(token));
    free(token);
}

/* What can be sent in a header field as it is. */
static int admin_check_token(const char *what, const char *token, struct err *e)
{
    size_t len = strlen(token);
    if (len == 0)
        return err_set(e, "%s: the token is empty; make one with `openssl rand -hex 32`", what);
    if (len > ADMIN_TOKEN_MAX)
        return err_set(e, "%s: the token is longer than %d bytes", what, ADMIN_TOKEN_MAX);
    for (size_t i = 0; i < len; i++)
        if (token[i] <= ' ' || token[i] > '~')
            return err_set(e, "%s: the token has blanks, or characters that are not ASCII", what);
    return 0;
}

/* What is in the file, without the blanks around it. */
static int admin_read_token(const char *path, char **out, struct err *e)
{
    char text[ADMIN_TOKEN_MAX + 64];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return err_set(e, "admin_token_file: cannot read %s: %s", path, strerror(why));
    text[n] = '\0';
    while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL)
        text[--n] = '\0';
    const char *token = text + strspn(text, " \t\r\n");
    int rc = admin_check_token(path, token, e);
    if (rc == 0 && (*out = strdup(token)) == NULL)
        rc = err_set(e, "out of memory");
    explicit_bzero(text, sizeof text);
    return rc;
}

/* *out is NULL when none is set. */
static int admin_get_token(const struct config *config, char **out, struct err *e)
{
    *out = NULL;
    if (config->admin_token != NULL && config->admin_token_file != NULL)
        return err_set(e, "admin_token and admin_token_file: one of them is enough");
    if (config->admin_token_file != NULL)
        return admin_read_token(config->admin_token_file, out, e);
    if (config->admin_token == NULL)
        return 0;
    if (admin_check_token("admin_token", config->admin_token, e) < 0)
        return -1;
    *out = strdup(config->admin_token);
    return *out != NULL ? 0 : err_set(e, "out of memory");
}

int admin_check(const struct config *config, struct err *e)
{
    char *token;
    const char *spec = config->admin;
    if (spec == NULL)
        return 0;
    if (strncmp(spec, "proxy:", 6) == 0 || strncmp(spec, "tls:", 4) == 0)
        return err_set(e, "admin: %s: proxy: and tls: are for `listen` only", spec);
    if (listener_check(spec, e) < 0)
        return err_prefix(e, "admin: ");
    if (admin_get_token(config, &token, e) < 0)
        return -1;
    bool open = token == NULL && !listener_is_local(spec);
    admin_forget_token(token);
    return !open ? 0
                 : err_set(e,
                           "admin: %s can be reached from other machines, so it needs a token: set "
                           "admin_token_file (or admin_token), or use 127.0.0.1 or unix:/path",
                           spec);
}

/* Whether the request has the token (RFC 6750, 2.1). */
static bool admin_has_token(const struct admin *a, const struct head *head)
{
    static const char scheme[] = "Bearer ";
    const char *value;
    size_t len, skip = sizeof scheme - 1;
    if (!head_single(head, "Authorization", &value, &len) || len < skip ||
        strncasecmp(value, scheme, skip) != 0)
        return false;
    while (skip < len && value[skip] == ' ')
        skip++;
    return len - skip == strlen(a->token) && CRYPTO_memcmp(value + skip, a->token, len - skip) == 0;
}

/* ---- clients ---- */

static void admin_drop(struct admin_client *k)
{
    struct admin *a = k->admin;
    for (int i = 0; i < ADMIN_CLIENTS; i++)
        if (a->clients[i] == k)
            a->clients[i] = NULL;
    ev_io_stop(a->loop, &k->io);
    ev_timer_stop(a->loop, &k->timer);
    close(k->io.fd);
    buf_fini(&k->out);
    free(k);
}

static void admin_await(struct admin_client *k, int events)
{
    ev_io_stop(k->admin->loop, &k->io);
    ev_io_set(&k->io, k->io.fd, events);
    ev_io_start(k->admin->loop, &k->io);
}

static void admin_patience(struct admin_client *k, double seconds)
{
    ev_timer_stop(k->admin->loop, &k->timer);
    ev_timer_set(&k->timer, seconds, 0);
    ev_timer_start(k->admin->loop, &k->timer);
}

/* The answer has gone. What the client has sent already is looked at in the next iteration: the socket can be
 * written to. */
static void admin_sent(struct admin_client *k)
{
    buf_fini(&k->out);
    k->sent = 0;
    k->active = ++k->admin->clock;
    if (k->keep) {
        k->state = ADMIN_READING;
        k->idle = k->len == 0;
        admin_patience(k, k->idle ? ADMIN_IDLE_S : ADMIN_TIMEOUT_S);
        admin_await(k, k->idle ? EV_READ : EV_WRITE);
    } else { /* to close it with unread input would destroy the answer */
        k->state = ADMIN_LINGERING;
        shutdown(k->io.fd, SHUT_WR);
        admin_patience(k, ADMIN_LINGER_S);
        admin_await(k, EV_READ);
    }
}

/* Sends what there is; may free `k`. */
static void admin_write(struct admin_client *k)
{
    ssize_t n = send(k->io.fd, k->out.data + k->sent, k->out.len - k->sent, MSG_NOSIGNAL);
    if (n > 0)
        k->sent += (size_t)n;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        admin_drop(k);
    else if (k->sent == k->out.len)
        admin_sent(k);
    else
        admin_await(k, EV_WRITE);
}

/* ---- answers ---- */

struct admin_reply {
    int status;
    const char *type, *fields; /* more header lines; "" is none */
    struct buf body;
};

/* Answers with an error page. */
static void admin_refuse(struct admin_reply *r, int status, const char *detail, const char *fields)
{
    r->status = status;
    r->fields = fields;
    r->body.len = 0;
    if (response_error_page(&r->body, status, detail, false) < 0)
        r->body.len = 0;
}

/* Sends the answer, whose body is given back; may free `k`. `head` is NULL when there was none. */
static void admin_send(struct admin_client *k, const struct head *head, struct admin_reply *r)
{
    char lines[RESPONSE_LINES];
    bool mute = head != NULL && head->method == HTTP_HEAD;
    bool old = head != NULL && head->minor == 0;
    size_t n = response_first_lines(r->status, r->type, (int64_t)r->body.len, lines);
    int rc = buf_append(&k->out, lines, n);
    rc |= buf_printf(&k->out, "Cache-Control: no-store\r\n%s%s\r\n", r->fields,
                     !k->keep ? "Connection: close\r\n"
                     : old    ? "Connection: keep-alive\r\n"
                              : "");
    if (!mute && r->body.len > 0)
        rc |= buf_append(&k->out, r->body.data, r->body.len);
    buf_fini(&r->body);
    if (rc != 0) {
        admin_drop(k);
        return;
    }
    k->state = ADMIN_WRITING;
    k->active = ++k->admin->clock;
    admin_patience(k, ADMIN_TIMEOUT_S);
    admin_write(k);
}

static bool admin_is(const struct head *head, const char *path)
{
    return head->path.len == strlen(path) &&
           memcmp(head_bytes(head) + head->path.at, path, head->path.len) == 0;
}

static void admin_answer(const struct admin *a, const struct head *head, struct admin_reply *r)
{
    bool health = admin_is(head, "/healthz"), ready = admin_is(head, "/readyz");
    if (!health && !ready && a->token != NULL && !admin_has_token(a, head))
        admin_refuse(r, 401, "This needs the field Authorization: Bearer TOKEN (see admin_token).",
                     "WWW-Authenticate: Bearer realm=\"tidewire\"\r\n");
    else if (!health && !ready && !admin_is(head, "/metrics"))
        admin_refuse(r, 404, "There are /metrics, /healthz and /readyz here.", "");
    else if (head->method != HTTP_GET && head->method != HTTP_HEAD)
        admin_refuse(r, 405, NULL, "Allow: GET, HEAD\r\n");
    else if (health || ready)
        r->status = (health ? a->answers->health : a->answers->ready)(a->user, &r->body) ? 200 : 503;
    else if (a->answers->metrics(&r->body) < 0)
        admin_refuse(r, 500, "The server is out of memory.", "");
    else
        r->type = REPORT_TYPE;
}

/* The first `len` bytes are a whole head; or, when that is not positive, there is none: its status. */
static void admin_handle(struct admin_client *k, long len)
{
    struct head *head = NULL;
    struct head_fault fault = {.status = (int)-len, .reason = NULL};
    struct admin_reply reply = {.status = 200, .type = RESPONSE_TEXT, .fields = "", .body = BUF_INIT};
    k->keep = false;
    if (len > 0 && head_parse(k->in, (size_t)len, &head, &fault) == 0) {
        /* Nobody is going to read a body. */
        bool more = (head->flags & (HEAD_CHUNKED | HEAD_UPGRADE)) || head->content_length > 0;
        k->keep = (head->flags & HEAD_KEEP_ALIVE) && !more;
        k->len -= (size_t)len;
        memmove(k->in, k->in + len, k->len);
        k->scan = (struct head_scan){0};
        admin_answer(k->admin, head, &reply);
    } else
        admin_refuse(&reply, fault.status, fault.reason, "");
    admin_send(k, head, &reply);
    head_unref(head);
}

/* ---- events ---- */

/* Looks for a whole head in what has come; may free `k`. */
static void admin_look(struct admin_client *k)
{
    long len = head_scan(&k->scan, k->in, k->len);
    if (len == 0 && k->len == sizeof k->in)
        len = -431;
    if (len != 0)
        admin_handle(k, len);
    else
        admin_await(k, EV_READ);
}

static void admin_read(struct admin_client *k)
{
    ssize_t n = recv(k->io.fd, k->in + k->len, sizeof k->in - k->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        admin_drop(k);
        return;
    }
    if (k->idle)
        admin_patience(k, ADMIN_TIMEOUT_S);
    k->idle = false;
    k->len += (size_t)n;
    admin_look(k);
}

static void admin_discard(struct admin_client *k)
{
    ssize_t n = recv(k->io.fd, k->in, sizeof k->in, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        admin_drop(k);
}

static void admin_on_client(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)loop;
    struct admin_client *k = io->data;
    if (k->state == ADMIN_WRITING)
        admin_write(k);
    else if (k->state == ADMIN_LINGERING)
        admin_discard(k);
    else if (revents & EV_READ)
        admin_read(k);
    else
        admin_look(k);
}

static void admin_on_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct admin_client *k = timer->data;
    if (k->state == ADMIN_READING && k->len > 0)
        admin_handle(k, -408);
    else
        admin_drop(k);
}

/* A free place; the client that has been quiet for longest gives its own, one that takes an answer last. */
static int admin_place(struct admin *a)
{
    int quiet = 0;
    for (int i = 0; i < ADMIN_CLIENTS; i++) {
        const struct admin_client *k = a->clients[i], *q = a->clients[quiet];
        if (k == NULL)
            return i;
        bool writing = k->state == ADMIN_WRITING, q_writing = q->state == ADMIN_WRITING;
        if (writing != q_writing ? q_writing : k->active < q->active)
            quiet = i;
    }
    admin_drop(a->clients[quiet]);
    return quiet;
}

static void admin_on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct admin *a = timer->data;
    ev_io_start(loop, &a->io);
}

static void admin_on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
    (void)revents;
    struct admin *a = io->data;
    int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        ev_io_stop(loop, io); /* it would be reported for ever */
        ev_timer_set(&a->pause, ADMIN_PAUSE_S, 0);
        ev_timer_start(loop, &a->pause);
    }
    struct admin_client *k = fd >= 0 ? malloc(sizeof *k) : NULL;
    if (k == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    memset(k, 0, offsetof(struct admin_client, in));
    k->admin = a;
    k->active = ++a->clock;
    a->clients[admin_place(a)] = k;
    ev_io_init(&k->io, admin_on_client, fd, EV_READ);
    k->io.data = k;
    ev_io_start(loop, &k->io);
    ev_timer_init(&k->timer, admin_on_timeout, ADMIN_TIMEOUT_S, 0);
    k->timer.data = k;
    ev_timer_start(loop, &k->timer);
}

/* ---- the listener ---- */

int admin_open(struct admin **out, struct ev_loop *loop, const struct config *config,
               const struct admin_answers *answers, void *user, const struct admin *old, struct err *e)
{
    *out = NULL;
    if (config->admin == NULL)
        return 0;
    if (admin_check(config, e) < 0)
        return -1;
    struct admin *a = calloc(1, sizeof *a);
    if (a == NULL)
        return err_set(e, "out of memory");
    bool beside = old != NULL && listener_same_port(&old->set, config->admin);
    if (admin_get_token(config, &a->token, e) < 0 ||
        (beside ? listener_bind_beside : listener_bind)(&a->set, config->admin, 1, e) < 0) {
        admin_forget_token(a->token);
        free(a);
        return err_prefix(e, "admin: ");
    }
    a->loop = loop;
    a->answers = answers;
    a->user = user;
    ev_io_init(&a->io, admin_on_accept, a->set.fds[0], EV_READ);
    a->io.data = a;
    ev_io_start(loop, &a->io);
    ev_timer_init(&a->pause, admin_on_pause_over, 0, 0);
    a->pause.data = a;
    *out = a;
    return 0;
}

void admin_announce(const struct admin *a)
{
    if (a != NULL)
        log_always("admin listening on %s", a->set.text);
}

const char *admin_path(const struct admin *a)
{
    return a != NULL ? a->set.unix_path : NULL;
}

int admin_prepare_token(struct admin *a, const struct config *config, bool keep, struct err *e)
{
    const char *file = config->admin_token_file;
    if (a == NULL || (keep && file != NULL && access(file, R_OK) < 0 && errno == EACCES))
        return 0;
    if (admin_check(config, e) < 0 || admin_get_token(config, &a->next_token, e) < 0)
        return -1;
    a->has_next = true;
    return 0;
}

void admin_commit_token(struct admin *a)
{
    if (a == NULL || !a->has_next)
        return;
    admin_forget_token(a->token);
    a->token = a->next_token;
    a->next_token = NULL;
    a->has_next = false;
}

void admin_discard_token(struct admin *a)
{
    if (a == NULL)
        return;
    admin_forget_token(a->next_token);
    a->next_token = NULL;
    a->has_next = false;
}

void admin_close(struct admin *a)
{
    if (a == NULL)
        return;
    for (int i = 0; i < ADMIN_CLIENTS; i++)
        if (a->clients[i] != NULL)
            admin_drop(a->clients[i]);
    ev_io_stop(a->loop, &a->io);
    ev_timer_stop(a->loop, &a->pause);
    listener_release(&a->set);
    admin_discard_token(a);
    admin_forget_token(a->token);
    free(a);
}
