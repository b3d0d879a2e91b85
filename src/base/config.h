/* SPDX-License-Identifier: MIT
 * The configuration: one table of keys gives the struct's defaults, the command line's flags, the
 * environment's variables, the file's keys, their bounds and their help. Filled by one thread, then read-only
 * for all. */
#ifndef TIDEWIRE_BASE_CONFIG_H
#define TIDEWIRE_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"

#define CONFIG_LIST_MAX    16
#define CONFIG_WORKERS_MAX 256

struct config_list {
    char *item[CONFIG_LIST_MAX];
    size_t n; /* of a key: never 0 once set */
};

/* The choices of on_slow. */
enum config_on_slow { CONFIG_ON_SLOW_CLOSE, CONFIG_ON_SLOW_DROP };

/* Sizes are bytes, times are seconds; 0 turns a limit off only where the key's bounds include it. */
struct config {
    struct config_list listen, origins, trusted_proxies;
    char *control;
    char *pid_file;
    char *user;
    int64_t workers; /* 0 is auto: one per processor this process may use */
    int64_t log_level, log_format;
    char *log_file, *access_log;
    int64_t log_buffer, log_repeat;
    int64_t max_connections; /* 0 is auto: the file limit less a reserve */
    int64_t max_connections_per_address, max_tls_handshakes;
    int64_t max_head, max_body, max_frame, max_message, send_limit, read_ahead, vm_memory;
    int64_t reassembly_limit, queue_limit, inbox_limit, shared_size;
    int64_t on_slow; /* enum config_on_slow */
    int64_t compression_min, compression_level, compression_window, compression_limit;
    double rollback_share;
    int64_t max_state, max_generations;
    int64_t max_tasks, max_clients;
    int64_t max_subscriptions, max_subscriptions_per_connection;
    double handshakes_per_second, messages_per_second;
    double handshake_timeout, idle_timeout, ping_interval, close_timeout, connect_timeout;
    double drain_timeout, stop_delay, reload_drain;
    double handler_budget, load_budget;
    double proxy_timeout, keep_alive_timeout, body_timeout, request_timeout, send_timeout;
    bool abort_stuck, compression, compression_takeover, gzip, pin_workers, watch;
};

enum config_type {
    CONFIG_LIST,
    CONFIG_TEXT,
    CONFIG_COUNT,
    CONFIG_BYTES,
    CONFIG_SECONDS,
    CONFIG_NUMBER,
    CONFIG_BOOL,
    CONFIG_CHOICE
};

struct config_key {
    const char *name; /* as in the file; TIDEWIRE_NAME in the environment, --na-me on the command line */
    enum config_type type;
    size_t offset;
    const char *initial; /* NULL: unset */
    double min, max;
    const char *choices; /* CONFIG_CHOICE: "debug|info|..."; CONFIG_COUNT: a word for 0, e.g. "auto" */
    char flag;           /* one-letter flag or 0 */
    const char *help;
};

extern const struct config_key config_keys[];
extern const size_t config_nkeys;

/* Sets every key to its default. 0, or -1 when memory runs out. */
int config_init(struct config *c);
void config_fini(struct config *c);

/* The key of that name ('-' counts as '_'), or NULL. */
const struct config_key *config_find(const char *name, size_t len);

/* The name most like `name`, or NULL when none is near. For "unknown key X, did you mean Y". */
const char *config_nearest(const char *name);

/* Appends a copy; 0, or -1 with `e` filled. */
int config_list_add(struct config_list *list, const char *item, size_t len, struct err *e);
/* Of a list on the heap; NULL is fine. */
void config_list_free(struct config_list *list);

/* Parses and stores one value. `append` adds to a list instead of replacing it. `what` is how the user wrote
 * the key ("--max-head", "TIDEWIRE_MAX_HEAD") and begins the message. 0, or -1 with `e` filled. */
int config_set(struct config *c, const struct config_key *key, const char *what, const char *value,
               bool append, struct err *e);

/* Applies every TIDEWIRE_* variable. Those that Kubernetes sets for a service of that name are passed over.
 */
int config_set_env(struct config *c, char **environment, struct err *e);

/* "127.0.0.1:8080" as it would be written in the file; for `tidewire check --config` and messages. */
void config_show(const struct config *c, const struct config_key *key, char *out, size_t size);

#endif
