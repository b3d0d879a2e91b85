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

/* X(id, name, labels, type, help): Prometheus names; entries of one name stand together, and the first has
 * the help. Those whose labels are just `worker` are one series for each worker. lua/metrics.md is made from
 * these two tables (scripts/metrics.py). The order within a name is that of
 * enum conn_state, of `false` and `true`, of the opcodes. */
#define METRICS(X)                                                                                           \
    X(CONNECTIONS, "tidewire_connections", "state=\"open\"", "gauge",                                        \
      "Connections by state: open; flushing (the last bytes are being sent); lingering (the other side is "  \
      "given time to read them); closed (about to be forgotten). WebSockets and those of app.connect too.")  \
    X(CONNECTIONS_FLUSHING, "tidewire_connections", "state=\"flushing\"", "gauge", "")                       \
    X(CONNECTIONS_LINGERING, "tidewire_connections", "state=\"lingering\"", "gauge", "")                     \
    X(CONNECTIONS_CLOSED, "tidewire_connections", "state=\"closed\"", "gauge", "")                           \
    X(WEBSOCKETS, "tidewire_websockets", "", "gauge", "Open WebSockets, without those of app.connect.")      \
    X(ACCEPTED, "tidewire_connections_accepted_total", "", "counter", "Connections accepted.")               \
    X(HANDED_OVER, "tidewire_connections_handed_over_total", "", "counter",                                  \
      "Connections that one worker accepted and gave to another.")                                           \
    X(REFUSED_FULL, "tidewire_connections_refused_total", "reason=\"full\"", "counter",                      \
      "Connections refused: full is max_connections, address is max_connections_per_address, tls is "        \
      "max_tls_handshakes.")                                                                                 \
    X(REFUSED_ADDRESS, "tidewire_connections_refused_total", "reason=\"address\"", "counter", "")            \
    X(REFUSED_TLS, "tidewire_connections_refused_total", "reason=\"tls\"", "counter", "")                    \
    X(REFUSED_ORIGIN, "tidewire_upgrades_refused_total", "reason=\"origin\"", "counter",                     \
      "WebSocket handshakes refused: by origins, by handshakes_per_second (rate), by the script's "          \
      "should_upgrade or middleware, errors included (script).")                                             \
    X(REFUSED_RATE, "tidewire_upgrades_refused_total", "reason=\"rate\"", "counter", "")                     \
    X(REFUSED_SCRIPT, "tidewire_upgrades_refused_total", "reason=\"script\"", "counter", "")                 \
    X(UPGRADES, "tidewire_upgrades_total", "", "counter", "WebSocket handshakes completed.")                 \
    X(TLS_OK, "tidewire_tls_handshakes_total", "outcome=\"ok\"", "counter", "TLS handshakes.")               \
    X(TLS_FAILED, "tidewire_tls_handshakes_total", "outcome=\"failed\"", "counter", "")                      \
    X(TLS_RESUMED, "tidewire_tls_resumed_total", "", "counter", "TLS handshakes that resumed a session.")    \
    X(TLS_HANDSHAKING, "tidewire_tls_handshaking", "", "gauge", "TLS handshakes under way.")                 \
    X(TLS_CONNECTIONS, "tidewire_tls_connections", "", "gauge", "Open connections with TLS.")                \
    X(CLIENTS, "tidewire_clients", "", "gauge",                                                              \
      "Connections that scripts have opened, or are opening: what max_clients bounds.")                      \
    X(CLIENT_CONNECTS, "tidewire_client_connects_total", "outcome=\"ok\"", "counter",                        \
      "Attempts of app.connect to open a WebSocket, without those cancelled and those that tried nothing.")  \
    X(CLIENT_CONNECT_FAILURES, "tidewire_client_connects_total", "outcome=\"failed\"", "counter", "")        \
    X(HTTP_REQUESTS, "tidewire_http_requests_total", "", "counter",                                          \
      "Well-formed HTTP requests, WebSocket handshakes too.")                                                \
    X(HTTP_2XX, "tidewire_http_responses_total", "class=\"2xx\"", "counter",                                 \
      "HTTP answers by class of status, without 101.")                                                       \
    X(HTTP_3XX, "tidewire_http_responses_total", "class=\"3xx\"", "counter", "")                             \
    X(HTTP_4XX, "tidewire_http_responses_total", "class=\"4xx\"", "counter", "")                             \
    X(HTTP_5XX, "tidewire_http_responses_total", "class=\"5xx\"", "counter", "")                             \
    X(MESSAGES_IN_BINARY, "tidewire_messages_received_total", "kind=\"binary\"", "counter",                  \
      "Whole WebSocket messages received and handed to a handler.")                                          \
    X(MESSAGES_IN_TEXT, "tidewire_messages_received_total", "kind=\"text\"", "counter", "")                  \
    X(MESSAGE_BYTES_IN_BINARY, "tidewire_messages_received_bytes_total", "kind=\"binary\"", "counter",       \
      "What was in them, after decompression, without frame headers.")                                       \
    X(MESSAGE_BYTES_IN_TEXT, "tidewire_messages_received_bytes_total", "kind=\"text\"", "counter", "")       \
    X(MESSAGES_OUT_TEXT, "tidewire_messages_sent_total", "kind=\"text\"", "counter",                         \
      "WebSocket messages queued for sending, one for each receiver.")                                       \
    X(MESSAGES_OUT_BINARY, "tidewire_messages_sent_total", "kind=\"binary\"", "counter", "")                 \
    X(MESSAGE_BYTES_OUT_TEXT, "tidewire_messages_sent_bytes_total", "kind=\"text\"", "counter",              \
      "What was in them, before compression, without frame headers.")                                        \
    X(MESSAGE_BYTES_OUT_BINARY, "tidewire_messages_sent_bytes_total", "kind=\"binary\"", "counter", "")      \
    X(CLOSES_IN, "tidewire_control_frames_received_total", "kind=\"close\"", "counter",                      \
      "WebSocket control frames received.")                                                                  \
    X(PINGS_IN, "tidewire_control_frames_received_total", "kind=\"ping\"", "counter", "")                    \
    X(PONGS_IN, "tidewire_control_frames_received_total", "kind=\"pong\"", "counter", "")                    \
    X(CLOSES_OUT, "tidewire_control_frames_sent_total", "kind=\"close\"", "counter",                         \
      "WebSocket control frames queued for sending.")                                                        \
    X(PINGS_OUT, "tidewire_control_frames_sent_total", "kind=\"ping\"", "counter", "")                       \
    X(PONGS_OUT, "tidewire_control_frames_sent_total", "kind=\"pong\"", "counter", "")                       \
    X(BYTES_IN, "tidewire_received_bytes_total", "", "counter",                                              \
      "Bytes received: HTTP and WebSocket, headers and all.")                                                \
    X(BYTES_OUT, "tidewire_sent_bytes_total", "", "counter", "Bytes the kernel took for sending.")           \
    X(PROTOCOL_ERRORS, "tidewire_websocket_faults_total", "", "counter",                                     \
      "WebSockets failed for the peer's mistakes.")                                                          \
    X(PING_TIMEOUTS, "tidewire_ping_timeouts_total", "", "counter",                                          \
      "WebSockets cut because the peer was silent.")                                                         \
    X(SLOW_CLOSED, "tidewire_slow_consumers_closed_total", "", "counter",                                    \
      "Connections closed over send_limit or queue_limit.")                                                  \
    X(SLOW_DROPPED, "tidewire_messages_dropped_total", "reason=\"slow\"", "counter",                         \
      "Messages lost: for one connection over send_limit or queue_limit (slow), for all subscribers of a "   \
      "worker over inbox_limit (inbox).")                                                                    \
    X(INBOX_DROPPED, "tidewire_messages_dropped_total", "reason=\"inbox\"", "counter", "")                   \
    X(PUBLISHED, "tidewire_published_total", "", "counter",                                                  \
      "Messages published to topics, each once, however many get it.")                                       \
    X(DELIVERED, "tidewire_deliveries_total", "", "counter",                                                 \
      "Published messages queued for a subscriber, one for each.")                                           \
    X(TOPICS, "tidewire_topics", "", "gauge", "Topics with subscribers, counted in each worker.")            \
    X(SUBSCRIPTIONS, "tidewire_subscriptions", "", "gauge",                                                  \
      "Subscriptions to topics: what max_subscriptions bounds.")                                             \
    X(FRAME_CONTEXTS, "tidewire_frame_contexts", "", "gauge", "wslay frame contexts lent to connections.")   \
    X(QUEUED_BYTES, "tidewire_send_queue_bytes", "", "gauge",                                                \
      "Bytes waiting in send queues: what queue_limit bounds.")                                              \
    X(REASSEMBLY_BYTES, "tidewire_reassembly_bytes", "", "gauge",                                            \
      "Memory of messages and bodies not yet whole or not yet handled: what reassembly_limit bounds.")       \
    X(REASSEMBLY_REFUSED, "tidewire_reassembly_refused_total", "", "counter",                                \
      "WebSockets closed and requests refused because of reassembly_limit, or because compression_limit "    \
      "had no room for their message.")                                                                      \
    X(COMPRESSED, "tidewire_websockets_compressed", "", "gauge",                                             \
      "Open WebSockets that agreed on permessage-deflate.")                                                  \
    X(COMPRESSION_BYTES, "tidewire_compression_bytes", "", "gauge",                                          \
      "Memory that permessage-deflate has, or has promised to open WebSockets: what compression_limit "      \
      "bounds.")                                                                                             \
    X(COMPRESSION_REDUCED, "tidewire_compression_reduced_total", "", "counter",                              \
      "WebSockets that got less compression because of compression_limit.")                                  \
    X(TASKS, "tidewire_tasks", "", "gauge",                                                                  \
      "Suspended handlers and spawned functions. With tidewire_timers what max_tasks bounds, but of all "    \
      "workers.")                                                                                            \
    X(TASKS_CANCELLED, "tidewire_tasks_cancelled_total", "", "counter",                                      \
      "Suspended handlers and functions that were cancelled while they waited.")                             \
    X(TIMERS, "tidewire_timers", "", "gauge", "Lua timers that are set.")                                    \
    X(LUA_BYTES, "tidewire_lua_memory_bytes", "worker", "gauge",                                             \
      "Memory of Lua, of all versions of the code that the worker has. vm_memory bounds that of one. "       \
      "Looked "                                                                                              \
      "at ten times a second.")                                                                              \
    X(LUA_CYCLES, "tidewire_lua_collections_total", "worker", "counter",                                     \
      "Cycles of Lua's collector. It works in small steps while scripts run, so its time is part of "        \
      "theirs.")                                                                                             \
    X(SHARED_BYTES, "tidewire_shared_bytes", "", "gauge", "Memory of app.shared: what shared_size bounds.")  \
    X(SHARED_KEYS, "tidewire_shared_keys", "", "gauge", "Keys in app.shared.")                               \
    X(SHARED_EVICTIONS, "tidewire_shared_evictions_total", "", "counter",                                    \
      "Keys that app.shared lost because of shared_size.")                                                   \
    X(LOG_LOST, "tidewire_log_lines_lost_total", "log=\"log\"", "counter",                                   \
      "Lines that found no room in log_buffer.")                                                             \
    X(ACCESS_LOST, "tidewire_log_lines_lost_total", "log=\"access\"", "counter", "")                         \
    X(RELOADS_OK, "tidewire_reloads_total", "outcome=\"ok\"", "counter",                                     \
      "Reloads: taken, going back to the code before included (ok); refused; taken, but too many "           \
      "connections failed to move (rolled_back).")                                                           \
    X(RELOADS_FAILED, "tidewire_reloads_total", "outcome=\"refused\"", "counter", "")                        \
    X(RELOADS_ROLLED_BACK, "tidewire_reloads_total", "outcome=\"rolled_back\"", "counter", "")               \
    X(MIGRATED, "tidewire_migrations_total", "outcome=\"moved\"", "counter",                                 \
      "WebSockets that went on in newer code, and those that failed to.")                                    \
    X(MIGRATION_FAILED, "tidewire_migrations_total", "outcome=\"failed\"", "counter", "")                    \
    X(GENERATION, "tidewire_generation", "", "gauge", "Number of the newest version of the code that serves.")

/* X(id, name, labels, type, help): what is not a value of each thread; `labels` are their names. */
#define METRICS_FAMILIES(X)                                                                                  \
    X(GENERATIONS, "tidewire_generations", "", "gauge", "Versions of the code that some worker still has.")  \
    X(GENERATION_WEBSOCKETS, "tidewire_generation_websockets", "generation", "gauge",                        \
      "WebSockets by the version of the code they run.")                                                     \
    X(HANDLER_CALLS, "tidewire_handler_calls_total", "method, route", "counter",                             \
      "Entries into Lua by route: requests; of a WebSocket its opening, its messages and other events. "     \
      "Route none: timers, app.spawn and so on. After 1,000 routes, over all reloads, further ones are "     \
      "counted together as route other.")                                                                    \
    X(HANDLER_ERRORS, "tidewire_handler_errors_total", "method, route, reason", "counter",                   \
      "Those that failed: with an error, or cut for being over handler_budget (budget).")                    \
    X(HANDLER_SECONDS, "tidewire_handler_duration_seconds", "method, route", "histogram",                    \
      "How long they ran at a time, to their end or until they waited, the time of Lua's collector "         \
      "included. Of HTTP routes all are measured, of the others a sample, one in 32.")                       \
    X(LOOP_DELAY, "tidewire_loop_delay_seconds", "worker", "histogram",                                      \
      "How late a worker's loop came to a timer of 100 ms: what arrived meanwhile waited so long. Below "    \
      "about a millisecond it is the timer's own rounding.")                                                 \
    X(BUILD_INFO, "tidewire_build_info", "version", "gauge", "Always 1; the label has the version.")         \
    X(PROCESS_CPU, "process_cpu_seconds_total", "", "counter", "User and system CPU time.")                  \
    X(PROCESS_START, "process_start_time_seconds", "", "gauge", "When the process started, in Unix time.")   \
    X(PROCESS_RESIDENT, "process_resident_memory_bytes", "", "gauge", "Resident memory.")                    \
    X(PROCESS_VIRTUAL, "process_virtual_memory_bytes", "", "gauge", "Virtual memory.")                       \
    X(PROCESS_FDS, "process_open_fds", "", "gauge", "Open file descriptors.")                                \
    X(PROCESS_MAX_FDS, "process_max_fds", "", "gauge", "How many file descriptors may be open.")

#define METRICS_ID(id, name, labels, type, help) METRIC_##id,
enum metric { METRICS(METRICS_ID) METRIC_COUNT };
#undef METRICS_ID

#define METRICS_ID(id, name, labels, type, help) METRICS_##id,
enum metrics_family { METRICS_FAMILIES(METRICS_ID) METRICS_FAMILY_COUNT };
#undef METRICS_ID

/* Times, by their size: one bucket for each bound of metrics.c, and one for what is longer. */
#define METRICS_BUCKETS 12
struct metrics_histogram {
    _Atomic uint64_t bucket[METRICS_BUCKETS + 1]; /* each alone, not those below it */
    _Atomic uint64_t sum_ns;
};

/* The values of one thread. Zero it, then register it once. */
struct metrics {
    _Alignas(64) _Atomic uint64_t value[METRIC_COUNT];
    struct metrics_histogram loop_delay;
    unsigned worker; /* its number; 0: no worker */
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

/* The same for one of several that stand together: the `kind`-th behind `first`. */
static inline void metrics_add_kind(struct metrics *m, enum metric first, size_t kind, uint64_t n)
{
    _Atomic uint64_t *value = &m->value[first] + kind;
    uint64_t v = atomic_load_explicit(value, memory_order_relaxed);
    atomic_store_explicit(value, v + n, memory_order_relaxed);
}

static inline void metrics_sub(struct metrics *m, enum metric id, uint64_t n)
{
    metrics_add(m, id, (uint64_t)0 - n);
}

static inline void metrics_set(struct metrics *m, enum metric id, uint64_t value)
{
    atomic_store_explicit(&m->value[id], value, memory_order_relaxed);
}

/* A time of `ns` nanoseconds. Only the histogram's own thread. */
void metrics_observe(struct metrics_histogram *h, uint64_t ns);

/* This block's own part. */
static inline uint64_t metrics_get(const struct metrics *m, enum metric id)
{
    return atomic_load_explicit(&m->value[id], memory_order_relaxed);
}

/* The sum over all threads. Any thread. */
uint64_t metrics_sum(enum metric id);

/* ---- the text: Prometheus' format 0.0.4. All return 0, or -1 when memory runs out; any thread. ---- */

/* The values of METRICS, and the histograms of the workers' loops. */
int metrics_render(struct buf *out);

/* The lines HELP and TYPE, which come before the samples of a family. */
int metrics_begin(struct buf *out, enum metrics_family id);

/* The lines of one histogram, which is the sum of `n`, each `stride` bytes behind the one before. `labels`
 * are NAME="VALUE" with commas between them. */
int metrics_render_histogram(struct buf *out, enum metrics_family id, const char *labels,
                             const struct metrics_histogram *h, size_t n, size_t stride);

/* The name of a family, for its samples. */
const char *metrics_name(enum metrics_family id);

/* Appends `text` as it stands between the quotes of a label's value: escaped, and bytes that are not UTF-8 as
 * \\xNN. */
int metrics_append_label(struct buf *out, const char *text);

#endif
