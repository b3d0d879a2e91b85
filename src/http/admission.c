/* SPDX-License-Identifier: MIT
 * Whether a new connection gets a place. */
#include "http/admission.h"

#include "net/peers.h"

int admission_to_server(struct worker *w, uint64_t not_counted, const char **detail)
{
    uint64_t limit = (uint64_t)w->config->max_connections;
    if (limit == 0 || worker_total_conns() - not_counted < limit)
        return 0;
    metrics_add(w->metrics, METRIC_REFUSED_FULL, 1);
    *detail = "The server has as many connections as it may; try again later.";
    return 503;
}

int admission_of_address(struct worker *w, const struct sockaddr *peer, uint32_t *place, const char **detail)
{
    uint64_t limit = (uint64_t)w->config->max_connections_per_address;
    *place = limit > 0 ? peers_enter(peer, limit) : 0;
    if (limit == 0 || *place != 0)
        return 0;
    metrics_add(w->metrics, METRIC_REFUSED_ADDRESS, 1);
    *detail = "Your address has as many connections as it may (max_connections_per_address).";
    return 429;
}
