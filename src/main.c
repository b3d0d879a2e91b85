/* SPDX-License-Identifier: MIT
 * Start-up and shut-down. The main thread runs signals, the control socket and the watchdog, and never a
 * script.
 *
 *   parse the command line -> open what is listened on and files -> root becomes `user`
 *   -> build generation 1 (builder thread) -> start workers -> serve
 *   -> signal -> stop_delay -> stop workers -> all have ended -> leave */
#include <curl/curl.h>
#include <errno.h>
#include <ev.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "bus/shared.h"
#include "bus/topics.h"
#include "lua/bind.h"
#include "net/listener.h"
#include "net/mailbox.h"
#include "net/worker.h"
#include "ops/cli.h"
#include "ops/control.h"
#include "ops/limits.h"
#include "ops/logs.h"
#include "ops/notify.h"
#include "ops/pidfile.h"
#include "ops/privileges.h"
#include "ops/watch.h"
#include "ops/watchdog.h"
#include "script/dispatch.h"
#include "script/live.h"
#include "script/reaper.h"
#include "script/reload.h"
#include "script/rollout.h"
#include "ws/upgrade.h"

enum { EXIT_FINE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

#define RELOAD_SLACK_S    5.0 /* beyond load_budget, for reading files and closing what was refused */
#define JUDGED_PATIENCE_S 3.0 /* until `tidewire reload` is told, although connections have still to move */
#define STOP_SLACK_S      1.0 /* beyond drain_timeout, for a worker to close what is left */
#define KEPT_FREE         (16 << 20)

struct server {
    struct cli cli;
    struct ev_loop *loop;
    struct mailbox mailbox;
    struct metrics metrics;
    struct reload *reload;
    struct reaper *reaper;
    struct shared *shared;
    struct control *control;
    struct watch *watch; /* NULL: files are not watched */
    struct watchdog watchdog;
    struct rollout rollout;
    struct { /* a reload that somebody waits for */
        uint64_t ticket, generation;
        ev_timer patience;
    } judged;
    struct listener_set sets[CONFIG_LIST_MAX];
    struct worker **workers; /* NULL until the first generation is there */
    struct mail *finished;   /* one for each worker */
    size_t nworkers, nstarted, nfinished;
    uint64_t generation;
    ev_signal on_hup, on_term, on_int, on_usr1;
    ev_timer stop_delay, stop_deadline;
    struct notify notify;
    bool stopping; /* or about to: not ready for anything new */
    int pid_fd;    /* -1: none */
    int exit_code;
};

/* ---- leaving ---- */

/* What would be left in the file system. */
static void remove_files(struct server *s)
{
    for (size_t i = 0; i < CONFIG_LIST_MAX; i++)
        listener_unlink(&s->sets[i]);
    control_close(s->control);
    s->control = NULL;
    pidfile_remove(s->cli.config.pid_file, &s->pid_fd);
}

/* Ends the process although threads are running. */
static void leave_at_once(struct server *s, int exit_code)
{
    remove_files(s);
    log_leave();
    _exit(exit_code);
}

static void leave(struct server *s, int exit_code)
{
    s->exit_code = exit_code;
    ev_break(s->loop, EVBREAK_ALL);
}

static void on_worker_finished(struct mail *m, void *receiver)
{
    (void)m;
    struct server *s = receiver;
    if (++s->nfinished == s->nstarted)
        leave(s, s->exit_code);
}

/* A worker that is stuck in a C function does not hear that it should stop. */
static void on_stop_deadline(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    struct server *s = timer->data;
    if (s->nfinished == s->nstarted) /* it is just about to leave */
        return;
    log_error("%zu of %zu workers did not end in time: leaving without them", s->nstarted - s->nfinished,
              s->nstarted);
    leave_at_once(s, EXIT_FAILED);
}

/* Nothing more is accepted; who is there takes leave. */
static void stop_workers(struct server *s)
{
    ev_timer_init(&s->stop_deadline, on_stop_deadline, s->cli.config.drain_timeout + STOP_SLACK_S, 0);
    s->stop_deadline.data = s;
    ev_timer_start(s->loop, &s->stop_deadline);
    for (size_t i = 0; i < s->nstarted; i++)
        worker_stop(s->workers[i]);
}

static void on_stop_delay(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    stop_workers(timer->data);
}

/* The server is not ready any more (`stopping`); after `delay` seconds, in which load balancers take notice,
 * it accepts no more. */
static void stop(struct server *s, int exit_code, double delay)
{
    s->exit_code = exit_code;
    s->stopping = true;
    notify_tell(&s->notify, "STOPPING=1", "stopping");
    control_answer(s->control, UINT64_MAX, "error stopping\n");
    if (s->nstarted == 0)
        leave(s, exit_code);
    else if (delay > 0) {
        ev_timer_init(&s->stop_delay, on_stop_delay, delay, 0);
        s->stop_delay.data = s;
        ev_timer_start(s->loop, &s->stop_delay);
    } else
        stop_workers(s);
}

static void on_stop_signal(struct ev_loop *loop, ev_signal *signal, int revents)
{
    (void)loop;
    (void)revents;
    struct server *s = signal->data;
    const char *name = signal->signum == SIGTERM ? "SIGTERM" : "SIGINT";
    if (s->stopping) {
        log_always("%s again: leaving at once", name);
        leave_at_once(s, EXIT_FINE);
    }
    log_always("%s: stopping", name);
    stop(s, EXIT_FINE, s->cli.config.stop_delay);
}

/* ---- reloading ---- */

/* Returns the request's ticket. */
static uint64_t request_reload(struct server *s)
{
    notify_reloading(&s->notify);
    watch_taken(s->watch); /* before, so that nothing that changes in between is taken for loaded */
    return reload_request(s->reload);
}

static void on_hup_signal(struct ev_loop *loop, ev_signal *signal, int revents)
{
    (void)loop;
    (void)revents;
    struct server *s = signal->data;
    if (s->stopping)
        return;
    log_info("SIGHUP: loading %s", s->cli.script);
    request_reload(s);
}

static void on_usr1_signal(struct ev_loop *loop, ev_signal *signal, int revents)
{
    (void)loop;
    (void)signal;
    (void)revents;
    logsink_reopen();
}

static void on_file_change(void *user, const char *path, size_t others)
{
    struct server *s = user;
    if (s->stopping)
        return;
    if (others == 0)
        log_info("%s changed: loading %s", path, s->cli.script);
    else
        log_info("%s and %zu more changed: loading %s", path, others, s->cli.script);
    request_reload(s);
}

/* `tidewire reload`. A load may be under way that began too early to count, and each worker's VM has a budget
 * of its own. */
static void on_reload_request(struct server *s, struct control_request *request)
{
    log_info("tidewire reload: loading %s", s->cli.script);
    request->ticket = request_reload(s);
    request->patience_s = 2 * (double)s->nworkers * s->cli.config.load_budget + RELOAD_SLACK_S;
}

/* Those who wait for the reload that is being judged hear of it; `end` is what there is to say besides. */
static void tell_judged(struct server *s, bool ok, const char *end)
{
    struct buf text = BUF_INIT;
    ev_timer_stop(s->loop, &s->judged.patience);
    if (s->judged.ticket == 0)
        return;
    int rc = buf_printf(&text, "%s generation %llu serves new connections; %s\n", ok ? "ok" : "error",
                        (unsigned long long)s->judged.generation, end);
    control_answer(s->control, s->judged.ticket, rc == 0 ? text.data : "error out of memory\n");
    buf_fini(&text);
    s->judged.ticket = 0;
}

static void on_judged_patience(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    tell_judged(timer->data, true, "connections that wait have still to move to it");
}

/* A generation is published: it is judged before those who wait hear of it, unless that takes long. */
static void tell_later(struct server *s, uint64_t ticket, uint64_t generation)
{
    tell_judged(s, true, "a newer one came before all connections had moved to it");
    s->judged.ticket = ticket;
    s->judged.generation = generation;
    ev_timer_init(&s->judged.patience, on_judged_patience, JUDGED_PATIENCE_S, 0);
    s->judged.patience.data = s;
    ev_timer_start(s->loop, &s->judged.patience);
}

/* Tells the service manager that nothing is being loaded any more. */
static void tell_loaded(struct server *s, const struct reload_outcome *out)
{
    if (!s->notify.reloading || reload_is_newer(s->reload, out->ticket))
        return;
    unsigned long long n = (unsigned long long)s->generation;
    if (out->gen != NULL)
        notify_tell(&s->notify, "READY=1", "generation %llu serves", n);
    else
        notify_tell(&s->notify, "READY=1", "generation %llu serves; a reload was refused: %s", n,
                    out->error.text);
}

/* Tells those who wait for it that a reload was refused. */
static void tell_outcome(struct server *s, const struct reload_outcome *out)
{
    struct buf text = BUF_INIT;
    int rc = buf_printf(&text, "error reload refused, generation %llu goes on: %s\n",
                        (unsigned long long)s->generation, out->error.text);
    control_answer(s->control, out->ticket, rc == 0 ? text.data : "error out of memory\n");
    buf_fini(&text);
}

/* ---- serving ---- */

static void write_metrics(const struct server *s, struct buf *out)
{
    metrics_render(out);
    buf_puts(out, "# HELP tidewire_generation_websockets WebSockets by the version of the code they run.\n"
                  "# TYPE tidewire_generation_websockets gauge\n");
    uint64_t oldest = s->generation > LIVE_GENERATIONS ? s->generation - LIVE_GENERATIONS + 1 : 1;
    for (uint64_t g = oldest; g <= s->generation; g++)
        if (live_sockets(g) != 0 || g == s->generation)
            buf_printf(out, "tidewire_generation_websockets{generation=\"%llu\"} %lld\n",
                       (unsigned long long)g, (long long)live_sockets(g));
}

static void on_control(void *user, struct control_request *request)
{
    struct server *s = user;
    struct buf *answer = request->answer;
    bool reload = strcmp(request->line, "reload") == 0;
    unsigned sick = watchdog_unhealthy(&s->watchdog);
    if (strcmp(request->line, "metrics") == 0)
        write_metrics(s, answer);
    else if (!reload && strcmp(request->line, "health") != 0)
        buf_puts(answer, "error unknown request\n");
    else if (s->stopping)
        buf_puts(answer, "error stopping\n");
    else if (s->workers == NULL)
        buf_puts(answer, "error starting\n");
    else if (reload)
        on_reload_request(s, request);
    else if (sick != 0)
        buf_printf(answer, "error worker %u does not answer\n", sick);
    else
        buf_printf(answer, "ok generation %llu, %zu worker%s, %llu connections\n",
                   (unsigned long long)s->generation, s->nworkers, s->nworkers == 1 ? "" : "s",
                   (unsigned long long)worker_total_conns());
}

static void accept_generation(struct server *s)
{
    const struct rollout *r = &s->rollout;
    char text[256];
    int n = snprintf(text, sizeof text, "%llu connections moved to it", (unsigned long long)r->moved);
    if (r->failed > 0)
        n += snprintf(text + n, sizeof text - (size_t)n, "; %llu failed to and are closed",
                      (unsigned long long)r->failed);
    if (r->homeless > 0)
        snprintf(text + n, sizeof text - (size_t)n, "; %llu are closed, for it has no route for them",
                 (unsigned long long)r->homeless);
    log_info("generation %llu: %s", (unsigned long long)r->generation, text);
    tell_judged(s, true, text);
    for (size_t i = 0; i < s->nworkers; i++)
        dispatch_accept(s->workers[i], r->generation);
}

/* A worker has moved its connections to the newest generation, as far as they can move. */
static void on_migration_report(struct mail *m, void *receiver)
{
    struct server *s = receiver;
    struct migrate_report *report = (struct migrate_report *)m;
    const struct rollout *r = &s->rollout;
    enum rollout_verdict verdict = s->stopping ? ROLLOUT_WAIT : rollout_on_report(&s->rollout, report);
    free(report);
    if (verdict == ROLLOUT_BACK) {
        log_error(
            "generation %llu: %llu of %llu connections failed to move to it; going back to the code before",
            (unsigned long long)r->generation, (unsigned long long)r->failed,
            (unsigned long long)(r->moved + r->failed));
        metrics_add(&s->metrics, METRIC_RELOADS_ROLLED_BACK, 1);
        tell_judged(s, false, "but too many connections failed to move to it: going back to the code before");
        reload_restore(s->reload, r->accepted, r->generation);
    } else if (verdict == ROLLOUT_ACCEPT)
        accept_generation(s);
}

/* What may take root's rights to open; then these go, before anything of a script runs. */
static int open_all(struct server *s, struct err *e)
{
    const struct config *config = &s->cli.config;
    struct privileges user;
    if (privileges_find(&user, config->user, e) < 0)
        return -1;
    for (size_t i = 0; i < config->listen.n; i++) {
        if (listener_bind(&s->sets[i], config->listen.item[i], s->nworkers, e) < 0)
            return -1;
        privileges_give_socket(&user, s->sets[i].unix_path);
    }
    if (pidfile_write(config->pid_file, &s->pid_fd, e) < 0 ||
        control_open(&s->control, s->loop, config, on_control, s, e) < 0)
        return -1;
    privileges_give_socket(&user, control_path(s->control));
    return privileges_drop(&user, e);
}

static int start_workers(struct server *s, struct gen *gen, struct err *e)
{
    const struct dispatch_options dispatch = {
        .reaper = s->reaper, .reports = &s->mailbox, .on_report = on_migration_report};
    const struct config *config = &s->cli.config;
    s->workers = calloc(s->nworkers, sizeof s->workers[0]);
    s->finished = calloc(s->nworkers, sizeof s->finished[0]);
    s->shared = shared_create((uint64_t)config->shared_size);
    if (s->workers == NULL || s->finished == NULL || s->shared == NULL)
        return err_set(e, "out of memory");
    if (topics_init((unsigned)s->nworkers) < 0)
        return err_set(e, "cannot get random bytes: %s", strerror(errno));
    for (size_t i = 0; i < s->nworkers; i++) {
        struct worker *w = worker_create((unsigned)i + 1, config, &dispatch_worker_hooks);
        if (w == NULL)
            return err_set(e, "cannot create worker %zu: %s", i + 1, strerror(errno));
        s->workers[i] = w;
        w->count = (unsigned)s->nworkers;
        w->peers = s->workers;
        w->trusted_proxies = &s->cli.trusted_proxies;
        w->layer[WORKER_SHARED] = s->shared;
        if (dispatch_worker_init(w, gen->vms[i], &dispatch) < 0)
            return err_set(e, "out of memory");
        gen->vms[i] = NULL;
        w->sets = s->sets;
        w->nsets = config->listen.n;
        w->cpu = config->pin_workers ? limits_processor_of(w->index) : -1;
        if (listener_open_all(w) < 0)
            return err_set(e, "out of memory");
    }
    if (watchdog_add_workers(&s->watchdog, s->workers, s->nworkers) < 0)
        return err_set(e, "out of memory");
    for (size_t i = 0; i < s->nworkers; i++) {
        s->finished[i].deliver = on_worker_finished;
        int rc = worker_start(s->workers[i], &s->mailbox, &s->finished[i]);
        if (rc != 0)
            return err_set(e, "cannot start worker %zu: %s", i + 1, strerror(rc));
        s->nstarted++;
    }
    limits_tell(config);
    privileges_tell(config->user);
    for (size_t i = 0; i < config->listen.n; i++)
        log_always("listening on %s", s->sets[i].text);
    logs_on_serving();
    notify_tell(&s->notify, "READY=1", "generation %llu serves", (unsigned long long)s->generation);
    notify_watch(&s->notify, s->loop, &s->watchdog);
    return 0;
}

static void note_generation(struct server *s, const struct gen *gen, const struct router *router)
{
    uint64_t number = gen->number;
    if (router_count(router) == 0)
        log_warn("%s registers no route: every request will get a 404", s->cli.script);
    metrics_add(&s->metrics, METRIC_RELOADS_OK, 1);
    metrics_add(&s->metrics, METRIC_GENERATION, number - s->generation);
    s->generation = number;
}

static void publish(struct server *s, struct gen *gen)
{
    note_generation(s, gen, gen->vms[0]->router);
    rollout_publish(&s->rollout, gen->number, gen->snapshot, gen->back);
    for (size_t i = 0; i < s->nworkers; i++) {
        dispatch_publish(s->workers[i], gen->vms[i]);
        gen->vms[i] = NULL;
    }
    log_info("generation %llu serves new connections", (unsigned long long)gen->number);
}

static void print_routes(const struct router *r)
{
    int width = (int)strlen("PATTERN");
    for (size_t i = 0; i < router_count(r); i++) {
        int n = (int)strlen(router_route(r, i)->pattern);
        width = n > width ? n : width;
    }
    printf("%-9s  %-*s  %s\n", "METHOD", width, "PATTERN", "WHERE");
    for (size_t i = 0; i < router_count(r); i++) {
        const struct router_route *route = router_route(r, i);
        printf("%-9s  %-*s  %s\n", router_method_name(route->method), width, route->pattern, route->where);
    }
}

/* The first generation: what the command line asked for happens now. */
static void on_first_generation(struct server *s, struct gen *gen)
{
    const struct router *router = gen->vms[0]->router;
    struct err e;
    if (s->cli.command == CLI_CHECK) {
        printf("%s: fine, %zu route%s\n", s->cli.script, router_count(router),
               router_count(router) == 1 ? "" : "s");
        leave(s, EXIT_FINE);
    } else if (s->cli.command == CLI_ROUTES) {
        print_routes(router);
        leave(s, EXIT_FINE);
    }
    if (s->cli.command != CLI_RUN)
        return;
    note_generation(s, gen, router);
    rollout_init(&s->rollout, &s->cli.config, s->nworkers);
    rollout_publish(&s->rollout, gen->number, gen->snapshot, false);
    if (start_workers(s, gen, &e) < 0) {
        log_error("%s", e.text);
        stop(s, EXIT_FAILED, 0);
    }
}

/* The builder has an answer. */
static void on_outcome(struct mail *m, void *receiver)
{
    struct server *s = receiver;
    struct reload_outcome *out = (struct reload_outcome *)m;
    bool serving = s->workers != NULL;
    if (serving && out->gen != NULL && router_count(out->gen->vms[0]->router) == 0) {
        err_set(&out->error, "%s registers no route any more; an empty or half-written file?", s->cli.script);
        gen_destroy(out->gen);
        out->gen = NULL;
    }
    /* what was built to go back is older than what is on the disk */
    if (!s->stopping && !reload_is_newer(s->reload, out->ticket))
        watch_follow(s->watch, out->snapshot, out->gen != NULL);
    if (s->stopping) {
        /* whatever it was, it comes too late */
    } else if (out->gen == NULL && serving) {
        metrics_add(&s->metrics, METRIC_RELOADS_FAILED, 1);
        log_error("reload refused, generation %llu goes on: %s", (unsigned long long)s->generation,
                  out->error.text);
        tell_outcome(s, out);
        if (out->back)
            log_error("there is no going back: connections that failed to move stay with the code they have");
    } else if (out->gen == NULL && s->cli.command == CLI_RUN) {
        log_error("%s", out->error.text);
        leave(s, EXIT_FAILED);
    } else if (out->gen == NULL) {
        fprintf(stderr, "%s\n", out->error.text);
        leave(s, EXIT_FAILED);
    } else if (serving) {
        publish(s, out->gen);
        if (!out->back)
            tell_later(s, out->ticket, out->gen->number);
    } else
        on_first_generation(s, out->gen);
    if (serving && !s->stopping)
        tell_loaded(s, out);
    gen_destroy(out->gen);
    snapshot_unref(out->snapshot);
    free(out);
}

static void on_stuck(void)
{
    log_error("abort_stuck is set: aborting");
    log_leave();
    abort();
}

/* ---- the process ---- */

static void watch_signal(struct server *s, ev_signal *w, int number,
                         void (*callback)(struct ev_loop *, ev_signal *, int))
{
    ev_signal_init(w, callback, number);
    w->data = s;
    ev_signal_start(s->loop, w);
}

static int start(struct server *s, struct err *e)
{
    struct config *config = &s->cli.config;
    bool serve = s->cli.command == CLI_RUN;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    limits_set(config);
    int rc = budget_install();
    if (rc != 0)
        return err_set(e, "cannot install the time budget's signal: %s", strerror(rc));
    if (upgrade_init() < 0)
        return err_set(e, "OpenSSL has no SHA-1, which the WebSocket handshake needs");
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) /* before there are other threads */
        return err_set(e, "libcurl cannot be initialized");
    s->loop = ev_default_loop(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (s->loop == NULL)
        return err_set(e, "cannot create the main loop: %s", strerror(errno));
    mailbox_init(&s->mailbox, s->loop, s);
    ev_ref(s->loop); /* runs until it is told to stop */
    metrics_register(&s->metrics);
    watch_signal(s, &s->on_hup, SIGHUP, on_hup_signal);
    watch_signal(s, &s->on_term, SIGTERM, on_stop_signal);
    watch_signal(s, &s->on_int, SIGINT, on_stop_signal);
    watch_signal(s, &s->on_usr1, SIGUSR1, on_usr1_signal);
    s->nworkers = serve ? limits_workers(config) : 1;
    if (serve) {
        notify_open(&s->notify);
        if (open_all(s, e) < 0)
            return -1;
    }
    s->reaper = reaper_create();
    if (s->reaper == NULL)
        return err_set(e, "cannot start the reaper thread");
    struct reload_options options = {
        .config = config,
        .script = s->cli.script,
        .workers = s->nworkers,
        .bindings = &bind_all,
        .to = &s->mailbox,
        .deliver = on_outcome,
    };
    s->reload = reload_create(&options, e);
    if (s->reload == NULL)
        return -1;
    watchdog_start(&s->watchdog, s->loop, config, reload_budget(s->reload), on_stuck);
    if (serve && config->watch &&
        (s->watch = watch_create(s->loop, s->cli.config_file, on_file_change, s)) == NULL)
        return err_set(e, "out of memory");
    reload_request(s->reload);
    return 0;
}

static volatile sig_atomic_t final_exit_code;

static void on_late_signal(int number)
{
    (void)number;
    logsink_flush(LOGSINK_LEAVE_MS);
    _exit((int)final_exit_code);
}

/* The loop that answered signals runs no more; what is left to do is giving memory back. */
static void take_signals_back(struct server *s)
{
    sigset_t set, before;
    if (s->loop == NULL)
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    ev_signal_stop(s->loop, &s->on_hup); /* each sets the signal's default action */
    ev_signal_stop(s->loop, &s->on_term);
    ev_signal_stop(s->loop, &s->on_int);
    ev_signal_stop(s->loop, &s->on_usr1);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, on_late_signal);
    signal(SIGINT, on_late_signal);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Undoes start and start_workers, in reverse; each step bears that its counterpart never ran. */
static void finish(struct server *s)
{
    s->stopping = true;
    remove_files(s);
    final_exit_code = s->exit_code;
    take_signals_back(s);
    if (s->reload != NULL && !reload_destroy(s->reload)) {
        log_error("the script that is loading cannot be stopped: leaving without it");
        leave_at_once(s, s->exit_code);
    }
    for (size_t i = 0; s->workers != NULL && i < s->nworkers; i++)
        if (s->workers[i] != NULL) {
            struct worker *w = s->workers[i];
            worker_join(w);
            dispatch_worker_fini(w);
            worker_destroy(w);
        }
    free(s->workers);
    for (size_t i = 0; i < CONFIG_LIST_MAX; i++)
        listener_release(&s->sets[i]);
    topics_fini();
    notify_close(&s->notify, s->loop);
    if (s->reload != NULL)
        watchdog_stop(&s->watchdog, s->loop);
    if (s->reaper != NULL)
        reaper_destroy(s->reaper);
    shared_destroy(s->shared);
    if (s->loop != NULL) {
        mailbox_fini(&s->mailbox);
        watch_destroy(s->watch);
        ev_loop_destroy(s->loop);
    }
    free(s->finished);
    rollout_fini(&s->rollout);
}

static int serve(struct server *s)
{
    struct err e;
    for (size_t i = 0; i < s->cli.config.listen.n; i++)
        if (listener_check(s->cli.config.listen.item[i], &e) < 0) {
            fprintf(stderr, "tidewire: %s\n", e.text);
            return EXIT_USAGE;
        }
    if (s->cli.command == CLI_RUN && logs_start(&s->cli.config, &e) < 0) {
        fprintf(stderr, "tidewire: %s\n", e.text);
        return EXIT_FAILED;
    }
    if (start(s, &e) < 0) {
        log_error("%s", e.text);
        s->exit_code = EXIT_FAILED;
    } else
        ev_run(s->loop, 0);
    finish(s);
    log_stop();
    return s->exit_code;
}

static int ask_health(const struct config *config)
{
    struct buf answer = BUF_INIT;
    struct err e;
    bool answered = control_ask(config, "health", &answer, &e) == 0;
    if (answered)
        printf("%.*s", (int)answer.len, answer.data);
    else
        fprintf(stderr, "%s\n", e.text);
    bool fine = answered && answer.len >= 2 && memcmp(answer.data, "ok", 2) == 0;
    buf_fini(&answer);
    return fine ? EXIT_FINE : EXIT_FAILED;
}

static int ask_reload(const struct config *config)
{
    struct buf answer = BUF_INIT;
    struct err e;
    bool answered = control_ask(config, "reload", &answer, &e) == 0;
    bool fine = answered && answer.len >= 2 && memcmp(answer.data, "ok", 2) == 0;
    if (answered)
        fprintf(fine ? stdout : stderr, "%.*s", (int)answer.len, answer.data);
    else
        fprintf(stderr, "%s\n", e.text);
    buf_fini(&answer);
    return fine ? EXIT_FINE : EXIT_FAILED;
}

/* Large messages come and go: their memory stays with the process, up to KEPT_FREE at the end of each
 * worker's heap, for it costs more to have the kernel take it back and clear it anew than to copy them. */
static void keep_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, KEPT_FREE);
    mallopt(M_TRIM_THRESHOLD, KEPT_FREE);
#endif
}

int main(int argc, char **argv)
{
    static struct server server = {.pid_fd = -1, .notify = {.fd = -1}};
    struct err e;
    int exit_code = EXIT_FINE;
    if (cli_parse(&server.cli, argc, argv, environ, &e) < 0) {
        fprintf(stderr, "tidewire: %s\n", e.text);
        cli_fini(&server.cli);
        return EXIT_USAGE;
    }
    const struct config *config = &server.cli.config;
    keep_memory();
    logs_setup(config);
    switch (server.cli.command) {
    case CLI_HELP: cli_print_help(); break;
    case CLI_VERSION: cli_print_version(); break;
    case CLI_HEALTH: exit_code = ask_health(config); break;
    case CLI_RELOAD: exit_code = ask_reload(config); break;
    case CLI_RUN:
    case CLI_CHECK:
    case CLI_ROUTES: exit_code = serve(&server); break;
    }
    cli_fini(&server.cli);
    return exit_code;
}
