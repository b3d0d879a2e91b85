/* SPDX-License-Identifier: MIT
 * The metrics registry: one table of names, one block of values per thread, summed when read.
 *
 * Each block has a single writer, so counting is a plain load, add and store on a line of its own: no lock
 * prefix, no sharing on the hot path. Readers on other threads see each value whole. */
#ifndef TIDEWIRE_BASE_METRICS_H
#define TIDEWIRE_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/buf.h"

/* X(id, name, labels, type, help): Prometheus names; entries of one name stand together. */
#define METRICS(X)                                                                                           \
    X(CONNECTIONS, "tidewire_connections", "", "gauge", "Open connections of every kind.")                   \
    X(WEBSOCKETS, "tidewire_websockets", "", "gauge", "Open WebSocket connections.")                         \
    X(ACCEPTED, "tidewire_connections_accepted_total", "", "counter", "Connections accepted.")               \
    X(HANDED_OVER, "tidewire_connections_handed_over_total", "", "counter",                                  \
      "Connections that one worker accepted and gave to another.")                                           \
    X(REFUSED_FULL, "tidewire_connections_refused_total", "reason=\"full\"", "counter",                      \
      "Connections refused.")                                                                                \
    X(REFUSED_ADDRESS, "tidewire_connections_refused_total", "reason=\"address\"", "counter", "")            \
    X(REFUSED_TLS, "tidewire_connections_refused_total", "reason=\"tls\"", "counter", "")                    \
    X(REFUSED_ORIGIN, "tidewire_upgrades_refused_total", "reason=\"origin\"", "counter",                     \
      "WebSocket handshakes refused.")                                                                       \
    X(REFUSED_RATE, "tidewire_upgrades_refused_total", "reason=\"rate\"", "counter", "")                     \
    X(REFUSED_SCRIPT, "tidewire_upgrades_refused_total", "reason=\"script\"", "counter", "")                 \
    X(UPGRADES, "tidewire_upgrades_total", "", "counter", "WebSocket handshakes completed.")                 \
    X(TLS_OK, "tidewire_tls_handshakes_total", "outcome=\"ok\"", "counter", "TLS handshakes.")               \
    X(TLS_FAILED, "tidewire_tls_handshakes_total", "outcome=\"failed\"", "counter", "")                      \
    X(TLS_RESUMED, "tidewire_tls_resumed_total", "", "counter", "TLS handshakes that resumed a session.")    \
    X(TLS_HANDSHAKING, "tidewire_tls_handshaking", "", "gauge", "TLS handshakes under way.")                 \
    X(TLS_CONNECTIONS, "tidewire_tls_connections", "", "gauge", "Open connections with TLS.")                \
    X(CLIENTS, "tidewire_clients", "", "gauge", "Connections that scripts have opened, or are opening.")     \
    X(CLIENT_CONNECTS, "tidewire_client_connects_total", "outcome=\"ok\"", "counter",                        \
      "Attempts of scripts to open a WebSocket.")                                                            \
    X(CLIENT_CONNECT_FAILURES, "tidewire_client_connects_total", "outcome=\"failed\"", "counter", "")        \
    X(HTTP_REQUESTS, "tidewire_http_requests_total", "", "counter", "HTTP requests, handshakes too.")        \
    X(HTTP_2XX, "tidewire_http_responses_total", "class=\"2xx\"", "counter",                                 \
      "HTTP answers by class of status.")                                                                    \
    X(HTTP_3XX, "tidewire_http_responses_total", "class=\"3xx\"", "counter", "")                             \
    X(HTTP_4XX, "tidewire_http_responses_total", "class=\"4xx\"", "counter", "")                             \
    X(HTTP_5XX, "tidewire_http_responses_total", "class=\"5xx\"", "counter", "")                             \
    X(MESSAGES_IN, "tidewire_messages_received_total", "", "counter", "Whole WebSocket messages received.")  \
    X(MESSAGES_OUT, "tidewire_messages_sent_total", "", "counter", "WebSocket messages queued for sending.") \
    X(BYTES_IN, "tidewire_received_bytes_total", "", "counter", "Bytes received.")                           \
    X(BYTES_OUT, "tidewire_sent_bytes_total", "", "counter", "Bytes the kernel took for sending.")           \
    X(PROTOCOL_ERRORS, "tidewire_websocket_faults_total", "", "counter",                                     \
      "WebSockets failed for the peer's mistakes.")                                                          \
    X(PING_TIMEOUTS, "tidewire_ping_timeouts_total", "", "counter",                                          \
      "WebSockets cut because the peer was silent.")                                                         \
    X(SLOW_CLOSED, "tidewire_slow_consumers_closed_total", "", "counter",                                    \
      "Connections closed over send_limit or queue_limit.")                                                  \
    X(SLOW_DROPPED, "tidewire_messages_dropped_total", "reason=\"slow\"", "counter",                         \
      "Messages not sent to WebSockets over their send limit.")                                              \
    X(INBOX_DROPPED, "tidewire_messages_dropped_total", "reason=\"inbox\"", "counter", "")                   \
    X(PUBLISHED, "tidewire_published_total", "", "counter", "Messages published to topics.")                 \
    X(TOPICS, "tidewire_topics", "", "gauge", "Topics with subscribers, counted in each worker.")            \
    X(SUBSCRIPTIONS, "tidewire_subscriptions", "", "gauge", "Subscriptions to topics.")                      \
    X(FRAME_CONTEXTS, "tidewire_frame_contexts", "", "gauge", "wslay frame contexts lent to connections.")   \
    X(REASSEMBLY_BYTES, "tidewire_reassembly_bytes", "", "gauge",                                            \
      "Memory holding messages not yet whole or not yet handled.")                                           \
    X(REASSEMBLY_REFUSED, "tidewire_reassembly_refused_total", "", "counter",                                \
      "WebSockets closed and requests refused because of reassembly_limit or compression_limit.")            \
    X(COMPRESSED, "tidewire_websockets_compressed", "", "gauge",                                             \
      "Open WebSockets that agreed on permessage-deflate.")                                                  \
    X(COMPRESSION_BYTES, "tidewire_compression_bytes", "", "gauge",                                          \
      "Memory that permessage-deflate has, or has promised to open WebSockets.")                             \
    X(COMPRESSION_REDUCED, "tidewire_compression_reduced_total", "", "counter",                              \
      "WebSockets that got less compression because of compression_limit.")                                  \
    X(QUEUED_BYTES, "tidewire_send_queue_bytes", "", "gauge", "Bytes waiting in send queues.")               \
    X(HANDLER_CALLS, "tidewire_handler_calls_total", "", "counter", "Entries into Lua.")                     \
    X(HANDLER_ERRORS, "tidewire_handler_errors_total", "reason=\"error\"", "counter",                        \
      "Entries that failed.")                                                                                \
    X(HANDLER_CUT, "tidewire_handler_errors_total", "reason=\"budget\"", "counter", "")                      \
    X(TASKS, "tidewire_tasks", "", "gauge", "Suspended handlers and functions.")                             \
    X(TASKS_CANCELLED, "tidewire_tasks_cancelled_total", "", "counter",                                      \
      "Suspended handlers and functions that were cancelled.")                                               \
    X(TIMERS, "tidewire_timers", "", "gauge", "Lua timers that are set.")                                    \
    X(SHARED_BYTES, "tidewire_shared_bytes", "", "gauge", "Memory of app.shared.")                           \
    X(SHARED_KEYS, "tidewire_shared_keys", "", "gauge", "Keys in app.shared.")                               \
    X(SHARED_EVICTIONS, "tidewire_shared_evictions_total", "", "counter",                                    \
      "Keys that app.shared lost because of shared_size.")                                                   \
    X(LOG_LOST, "tidewire_log_lines_lost_total", "log=\"log\"", "counter",                                   \
      "Lines that found no room in log_buffer.")                                                             \
    X(ACCESS_LOST, "tidewire_log_lines_lost_total", "log=\"access\"", "counter", "")                         \
    X(RELOADS_OK, "tidewire_reloads_total", "outcome=\"ok\"", "counter", "Generations built.")               \
    X(RELOADS_FAILED, "tidewire_reloads_total", "outcome=\"refused\"", "counter", "")                        \
    X(RELOADS_ROLLED_BACK, "tidewire_reloads_total", "outcome=\"rolled_back\"", "counter", "")               \
    X(MIGRATED, "tidewire_migrations_total", "outcome=\"moved\"", "counter",                                 \
      "WebSockets that went on in newer code.")                                                              \
    X(MIGRATION_FAILED, "tidewire_migrations_total", "outcome=\"failed\"", "counter", "")                    \
    X(GENERATION, "tidewire_generation", "", "gauge", "Number of the newest published generation.")

enum metric {
#define METRICS_ID(id, name, labels, type, help) METRIC_##id,
    METRICS(METRICS_ID)
#undef METRICS_ID
        METRIC_COUNT
};

/* The values of one thread. Zero it, then register it once. */
struct metrics {
    _Alignas(64) _Atomic uint64_t value[METRIC_COUNT];
    struct metrics *next;
};

/* Adds a block to what is summed. It must outlive every reader; blocks are never removed. Any thread. */
void metrics_register(struct metrics *m);

/* Only the block's own thread. */
static inline void metrics_add(struct metrics *m, enum metric id, uint64_t n)
{
    uint64_t v = atomic_load_explicit(&m->value[id], memory_order_relaxed);
    atomic_store_explicit(&m->value[id], v + n, memory_order_relaxed);
}

static inline void metrics_sub(struct metrics *m, enum metric id, uint64_t n)
{
    metrics_add(m, id, (uint64_t)0 - n);
}

/* This block's own part. */
static inline uint64_t metrics_get(const struct metrics *m, enum metric id)
{
    return atomic_load_explicit(&m->value[id], memory_order_relaxed);
}

/* The sum over all threads. Any thread. */
uint64_t metrics_sum(enum metric id);

/* Everything in the Prometheus text format. 0, or -1 when memory runs out. */
int metrics_render(struct buf *out);

#endif
