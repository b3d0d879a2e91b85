/* SPDX-License-Identifier: MIT
 * Whether a request that asks for a WebSocket gets one. */
#include "script/handshake.h"

#include <string.h>

#include <lauxlib.h>

#include "base/clock.h"
#include "base/rate.h"
#include "http/http1.h"
#include "http/reply.h"
#include "script/dispatch.h"
#include "script/exchange.h"
#include "script/live.h"
#include "ws/origin.h"
#include "ws/upgrade.h"

/* Cross-site WebSocket hijacking: a browser sends the user's cookies along with whatever page asks, but says
 * which page it was (RFC 6455, 10.2). Clients that are no browsers send no Origin. */
static bool handshake_origin_fits(const struct vm *vm, int route, const struct head *head,
                                  const char **origin, size_t *len)
{
    const struct config_list *allowed = vm->routes[route].origins;
    const char *host = NULL;
    size_t host_len = 0;
    if (allowed == NULL)
        allowed = &vm->config->origins;
    *origin = "";
    *len = 0;
    if (head_find(head, "Origin", 6, 0) < 0)
        return true;
    head_single(head, "Origin", origin, len); /* two of them fit nothing but "*" */
    head_single(head, "Host", &host, &host_len);
    for (size_t i = 0; i < allowed->n; i++)
        if (origin_matches(allowed->item[i], strlen(allowed->item[i]), *origin, *len, host, host_len))
            return true;
    return false;
}

static void handshake_log_origin(const struct conn *c, const struct vm *vm, int route, const char *origin,
                                 size_t len)
{
    struct log_context about = vm_about(vm, c, route);
    log_write(LOG_INFO, &about, "refused a page of origin \"%.*s\": not in origins (see the route's options)",
              (int)(len < 200 ? len : 200), origin);
}

static _Atomic uint64_t handshake_rate; /* handshakes_per_second */

static bool handshake_too_many(const struct worker *w)
{
    double limit = w->config->handshakes_per_second;
    return limit > 0 && !rate_take(&handshake_rate, clock_coarse_ms() * 1000, limit, limit);
}

/* Whether it may go on; else it has been answered. */
static bool handshake_check(struct conn *c, const struct head *head, const struct vm *vm, int route)
{
    const char *reason, *origin;
    size_t len;
    struct metrics *m = c->worker->metrics;
    int status = upgrade_check(head, &reason);
    if (status != 0)
        reply_error(c, status, reason, status == 426 ? HANDSHAKE_UPGRADE : NULL);
    else if (c->worker->stopping)
        reply_error(c, 503, HANDSHAKE_STOPPING, NULL);
    else if (!handshake_origin_fits(vm, route, head, &origin, &len)) {
        metrics_add(m, METRIC_REFUSED_ORIGIN, 1);
        handshake_log_origin(c, vm, route, origin, len);
        reply_error(c, 403, "Pages of this origin may not connect here (see origins).", NULL);
    } else if (handshake_too_many(c->worker)) {
        metrics_add(m, METRIC_REFUSED_RATE, 1);
        reply_error(c, 503, "Too many clients connect at once; try again in a moment.", "Retry-After: 1\r\n");
    } else
        return true;
    return false;
}

void handshake_on_request(struct conn *c, struct head *head, struct vm *vm, int route)
{
    int none = LUA_NOREF, chain = vm->routes[route].chain;
    reply_last(c); /* frames may follow a handshake that was refused */
    if (!handshake_check(c, head, vm, route))
        return;
    if (chain == LUA_NOREF)
        live_accept(c, head_ref(head), vm, route, "", &none);
    else
        exchange_start(c, head, vm, &(struct exchange){.chain = chain, .route = route, .upgrade = true},
                       NULL);
}
