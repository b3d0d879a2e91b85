/* SPDX-License-Identifier: MIT
 * How a worker takes leave of its WebSockets. */
#include "ws/farewell.h"

#include "ws/closecode.h"
#include "ws/session.h"

#define FAREWELL_FLUSH 64 /* Close frames that wait to be sent, each in a chunk of its own */

static void farewell_close(struct session *s)
{
    static const char reason[] = "server is stopping";
    session_close(s, CLOSECODE_GOING_AWAY, reason, sizeof reason - 1);
}

static void farewell_say(struct session *s)
{
    if (!s->is_client && inbound_is_answering(s))
        s->leaving = true;
    else
        farewell_close(s);
}

void farewell_look_again(struct session *s)
{
    if (s->leaving && !inbound_is_answering(s))
        farewell_close(s);
}

/* One slice; with `all`, everybody who is still open. Nobody leaves the table within it: that is for the end
 * of the iteration. But one that left before may have pulled another to a place behind the cursor; it is
 * told with the last slice. */
static void farewell_tell(struct worker *w, struct farewell *f, bool all)
{
    const struct sessions *table = &((struct session_worker *)w->layer[WORKER_WS])->sessions;
    size_t told = 0;
    for (f->cursor = all ? 0 : f->cursor; f->cursor < table->slots && (all || told < f->share); f->cursor++) {
        struct session *s = table->table[f->cursor];
        if (s == NULL || !session_is_open(s) || (s->is_client && !all))
            continue;
        if (all)
            farewell_close(s);
        else
            farewell_say(s);
        if (++told % FAREWELL_FLUSH == 0 && !w->due)
            worker_send_fresh(w);
    }
}

static void farewell_on_slice(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)revents;
    struct worker *w = timer->data;
    struct farewell *f = &((struct session_worker *)w->layer[WORKER_WS])->farewell;
    bool last = --f->slices == 0;
    if (last)
        ev_timer_stop(loop, timer);
    if (last || f->share > 0)
        farewell_tell(w, f, last);
}

static void farewell_begin(struct worker *w, struct farewell *f)
{
    const struct session_worker *l = w->layer[WORKER_WS];
    unsigned slices = (unsigned)(w->config->drain_timeout / 2 / FAREWELL_SLICE_S);
    bool few = metrics_sum(METRIC_WEBSOCKETS) <= FAREWELL_FEW;
    f->begun = true;
    f->slices = slices + 1;
    f->share = few || slices == 0 ? 0 : (l->sessions.used + slices - 1) / slices;
    ev_timer_init(&f->timer, farewell_on_slice, FAREWELL_SLICE_S, FAREWELL_SLICE_S);
    f->timer.data = w;
    ev_timer_start(w->loop, &f->timer);
}

void farewell_on_stop(struct conn *c)
{
    struct session *s = conn_session(c);
    struct farewell *f = &session_layer(s)->farewell;
    if (!f->begun)
        farewell_begin(c->worker, f);
    if (f->share == 0)
        farewell_say(s);
}

void farewell_fini(struct worker *w)
{
    struct session_worker *l = w->layer[WORKER_WS];
    if (l->farewell.begun)
        ev_timer_stop(w->loop, &l->farewell.timer);
}
