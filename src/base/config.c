/* SPDX-License-Identifier: MIT
 * The configuration table and its parsers. */
#include "base/config.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"

#define KEY(field, type, initial, min, max, choices, flag, help)                                             \
    {                                                                                                        \
#field, type, offsetof(struct config, field), initial, min, max, choices, flag, help                 \
    }
#define KIB 1024.0
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

const struct config_key config_keys[] = {
    KEY(listen, CONFIG_LIST, "127.0.0.1:8080", 0, 0, NULL, 'l',
        "address to serve; repeatable; unix:/path and fd:N too"),
    KEY(workers, CONFIG_COUNT, "1", 0, CONFIG_WORKERS_MAX, "auto", 'w',
        "threads that serve; auto: one a processor"),
    KEY(pin_workers, CONFIG_BOOL, "false", 0, 0, NULL, 0, "each worker runs on one processor only"),
    KEY(log_level, CONFIG_CHOICE, "info", 0, 0, "debug|info|warn|error", 0, "what to log"),
    KEY(log_format, CONFIG_CHOICE, "text", 0, 0, "text|json", 0, "how to log"),
    KEY(log_file, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "file to log to; default: standard error"),
    KEY(log_buffer, CONFIG_BYTES, "1m", 64 * KIB, GIB, NULL, 0,
        "log lines that wait to be written; beyond it they are lost"),
    KEY(log_repeat, CONFIG_COUNT, "20", 0, 1e6, NULL, 0,
        "lines of one kind in a second; then they are only counted; 0: off"),
    KEY(access_log, CONFIG_TEXT, NULL, 0, 0, NULL, 0,
        "file for a line per request and WebSocket; -: standard output"),
    KEY(control, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "control socket for the commands: a path, or @name"),
    KEY(pid_file, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "file to write the process id to"),
    KEY(user, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "whom root becomes once it listens: NAME or NAME:GROUP"),
    KEY(watch, CONFIG_BOOL, "false", 0, 0, NULL, 0, "reload when a file of the script changes"),
    KEY(max_connections, CONFIG_COUNT, "auto", 0, 1e8, "auto", 0,
        "beyond it 503; auto: the file limit less a reserve"),
    KEY(max_connections_per_address, CONFIG_COUNT, "0", 0, 1e8, NULL, 0,
        "beyond it 429; IPv6 by /64; 0: off"),
    KEY(max_tls_handshakes, CONFIG_COUNT, "1000", 1, 1e8, NULL, 0,
        "TLS handshakes under way, process-wide; beyond it closed"),
    KEY(handshakes_per_second, CONFIG_NUMBER, "0", 0, 1e6, NULL, 0, "process-wide; beyond it 503; 0: off"),
    KEY(handshake_timeout, CONFIG_SECONDS, "10", 0.05, 3600, NULL, 0,
        "for a request's head to arrive; then 408"),
    KEY(max_head, CONFIG_BYTES, "16k", 512, 65000, NULL, 0, "request head; beyond it 431"),
    KEY(origins, CONFIG_LIST, "same", 0, 0, NULL, 0,
        "pages that may connect: same, *, https://*.example.com, null"),
    KEY(trusted_proxies, CONFIG_LIST, NULL, 0, 0, NULL, 0,
        "whose X-Forwarded-For to believe: 10.0.0.0/8, loopback, private"),
    KEY(proxy_timeout, CONFIG_SECONDS, "5", 0.05, 3600, NULL, 0,
        "for the PROXY protocol on listen addresses with proxy:"),
    KEY(max_body, CONFIG_BYTES, "1m", 0, 64 * GIB, NULL, 0, "request body; beyond it 413"),
    KEY(keep_alive_timeout, CONFIG_SECONDS, "60", 0.05, 1e6, NULL, 0, "for the next request of a connection"),
    KEY(body_timeout, CONFIG_SECONDS, "30", 0.05, 1e6, NULL, 0,
        "between two pieces of a request's body; then 408"),
    KEY(request_timeout, CONFIG_SECONDS, "60", 0, 1e6, NULL, 0,
        "for a suspended HTTP handler; then 503; 0: off"),
    KEY(send_timeout, CONFIG_SECONDS, "30", 0.05, 1e6, NULL, 0, "for a client to take some of its answer"),
    KEY(gzip, CONFIG_BOOL, "true", 0, 0, NULL, 0, "compress answers of text when the client can read it"),
    KEY(max_frame, CONFIG_BYTES, "0", 0, GIB, NULL, 0, "WebSocket frame; beyond it 1009; 0: as max_message"),
    KEY(max_message, CONFIG_BYTES, "1m", 1, GIB, NULL, 0, "WebSocket message, reassembled; beyond it 1009"),
    KEY(messages_per_second, CONFIG_NUMBER, "0", 0, 1e6, NULL, 0,
        "per WebSocket; beyond it reading pauses; 0: off"),
    KEY(read_ahead, CONFIG_BYTES, "64k", 0, GIB, NULL, 0, "messages that wait while a handler is suspended"),
    KEY(send_limit, CONFIG_BYTES, "1m", 1, GIB, NULL, 0, "unsent bytes per WebSocket; beyond it 1013"),
    KEY(on_slow, CONFIG_CHOICE, "close", 0, 0, "close|drop", 0,
        "what becomes of a message beyond send_limit"),
    KEY(compression, CONFIG_BOOL, "false", 0, 0, NULL, 0, "permessage-deflate, for WebSockets that offer it"),
    KEY(compression_min, CONFIG_BYTES, "1k", 0, GIB, NULL, 0, "shorter messages are sent as they are"),
    KEY(compression_level, CONFIG_COUNT, "3", 1, 9, NULL, 0, "zlib's: 1 is fast, 9 is small"),
    KEY(compression_takeover, CONFIG_BOOL, "true", 0, 0, NULL, 0,
        "messages may refer to earlier ones, which takes memory"),
    KEY(compression_window, CONFIG_COUNT, "12", 9, 15, NULL, 0,
        "bytes they refer back to, as a power of 2: 12 is 4k"),
    KEY(compression_limit, CONFIG_BYTES, "128m", MIB, 64 * GIB, NULL, 0,
        "memory of all compression; new WebSockets then go without"),
    KEY(idle_timeout, CONFIG_SECONDS, "120", 0, 1e7, NULL, 0, "without any received frame; 0: off"),
    KEY(ping_interval, CONFIG_SECONDS, "30", 0, 1e6, NULL, 0,
        "between pings; silence until the next cuts; 0: off"),
    KEY(close_timeout, CONFIG_SECONDS, "5", 0.05, 3600, NULL, 0, "for the peer's answer to a Close"),
    KEY(connect_timeout, CONFIG_SECONDS, "10", 0.05, 3600, NULL, 0,
        "for app.connect to have a WebSocket open"),
    KEY(max_clients, CONFIG_COUNT, "1000", 0, 1e8, NULL, 0,
        "connections that scripts have opened, process-wide"),
    KEY(handler_budget, CONFIG_SECONDS, "5", 0.05, 3600, NULL, 0, "for one handler's run; then it is cut"),
    KEY(load_budget, CONFIG_SECONDS, "10", 0.05, 3600, NULL, 0, "for loading the script"),
    KEY(reload_drain, CONFIG_SECONDS, "30", 0, 86400, NULL, 0,
        "for what still runs in the code of before a reload"),
    KEY(max_generations, CONFIG_COUNT, "8", 1, 60, NULL, 0, "versions of the code that are alive at once"),
    KEY(max_state, CONFIG_BYTES, "1m", 0, GIB, NULL, 0, "of ws.state or req.context, for a reload"),
    KEY(rollback_share, CONFIG_NUMBER, "0.1", 0, 1, NULL, 0,
        "of the connections that may fail to move to new code"),
    KEY(drain_timeout, CONFIG_SECONDS, "8", 0, 3600, NULL, 0, "for live connections when stopping"),
    KEY(stop_delay, CONFIG_SECONDS, "0", 0, 3600, NULL, 0,
        "told to stop it is not ready any more, but serves on for so long"),
    KEY(max_tasks, CONFIG_COUNT, "100000", 1, 1e8, NULL, 0,
        "suspended handlers, spawned functions and timers, per worker"),
    KEY(max_subscriptions, CONFIG_COUNT, "10000000", 1, 1e9, NULL, 0,
        "subscriptions to topics, process-wide"),
    KEY(max_subscriptions_per_connection, CONFIG_COUNT, "10000", 1, 1e8, NULL, 0, "of one connection"),
    KEY(vm_memory, CONFIG_BYTES, "512m", 4 * MIB, 64 * GIB, NULL, 0, "for Lua, per worker"),
    KEY(inbox_limit, CONFIG_BYTES, "64m", MIB, 64 * GIB, NULL, 0, "messages on their way to one worker"),
    KEY(shared_size, CONFIG_BYTES, "64m", MIB, 64 * GIB, NULL, 0,
        "app.shared; beyond it the least recently used keys go"),
    KEY(reassembly_limit, CONFIG_BYTES, "256m", MIB, 64 * GIB, NULL, 0,
        "all messages not yet whole or not yet handled, process-wide"),
    KEY(queue_limit, CONFIG_BYTES, "1g", MIB, 64 * GIB, NULL, 0, "all send queues, process-wide"),
    KEY(abort_stuck, CONFIG_BOOL, "false", 0, 0, NULL, 0,
        "abort when a C function called by a script never ends"),
};
const size_t config_nkeys = sizeof config_keys / sizeof config_keys[0];

static void *config_field(struct config *c, const struct config_key *key)
{
    return (char *)c + key->offset;
}

int config_init(struct config *c)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < config_nkeys; i++) {
        struct err e;
        if (config_keys[i].initial != NULL &&
            config_set(c, &config_keys[i], config_keys[i].name, config_keys[i].initial, false, &e) < 0)
            return -1;
    }
    return 0;
}

static void config_clear_list(struct config_list *list)
{
    while (list->n > 0)
        free(list->item[--list->n]);
}

void config_list_free(struct config_list *list)
{
    if (list != NULL)
        config_clear_list(list);
    free(list);
}

void config_fini(struct config *c)
{
    for (size_t i = 0; i < config_nkeys; i++) {
        void *field = config_field(c, &config_keys[i]);
        if (config_keys[i].type == CONFIG_LIST)
            config_clear_list(field);
        else if (config_keys[i].type == CONFIG_TEXT)
            free(*(char **)field);
    }
    memset(c, 0, sizeof *c);
}

const struct config_key *config_find(const char *name, size_t len)
{
    for (size_t i = 0; i < config_nkeys; i++) {
        const char *k = config_keys[i].name;
        size_t n = 0;
        while (n < len && k[n] != '\0' && (name[n] == k[n] || (name[n] == '-' && k[n] == '_')))
            n++;
        if (n == len && k[n] == '\0')
            return &config_keys[i];
    }
    return NULL;
}

const char *config_nearest(const char *name)
{
    struct nearest n;
    nearest_init(&n, name);
    for (size_t i = 0; i < config_nkeys; i++)
        nearest_try(&n, config_keys[i].name);
    return n.name;
}

/* Parses "64k", "1.5m", "2GiB": factor 1 for plain bytes. -1 when it is none. */
static double config_parse_size(const char *value)
{
    char *end;
    double n = strtod(value, &end);
    if (end == value || !isfinite(n))
        return -1;
    static const char units[] = "kmg";
    const char *unit = *end != '\0' ? strchr(units, tolower((unsigned char)*end)) : NULL;
    if (unit != NULL) {
        n *= pow(1024, (double)(unit - units) + 1);
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'b' || *end == 'B')
        end++;
    return *end == '\0' ? n : -1;
}

/* Parses "10", "0.5", "10s", "500ms", "2m". -1 when it is none. */
static double config_parse_seconds(const char *value)
{
    char *end;
    double n = strtod(value, &end);
    if (end == value || !isfinite(n))
        return -1;
    if (strcmp(end, "ms") == 0)
        return n / 1000;
    if (strcmp(end, "m") == 0)
        return n * 60;
    return *end == '\0' || strcmp(end, "s") == 0 ? n : -1;
}

/* Parses "10", "0.5". -1 when it is none. */
static double config_parse_number(const char *value)
{
    char *end;
    double n = strtod(value, &end);
    return end != value && *end == '\0' && isfinite(n) ? n : -1;
}

static int config_set_text(char **field, const char *value, struct err *e)
{
    char *copy = strdup(value);
    if (copy == NULL)
        return err_set(e, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

int config_list_add(struct config_list *list, const char *item, size_t len, struct err *e)
{
    if (list->n == CONFIG_LIST_MAX)
        return err_set(e, "at most %d values", CONFIG_LIST_MAX);
    char *copy = strndup(item, len);
    if (copy == NULL)
        return err_set(e, "out of memory");
    list->item[list->n++] = copy;
    return 0;
}

static int config_set_list(struct config_list *list, const char *what, const char *value, bool append,
                           struct err *e)
{
    if (!append)
        config_clear_list(list);
    for (const char *p = value; *p != '\0';) {
        size_t n = strcspn(p, ",");
        if (n > 0 && config_list_add(list, p, n, e) < 0) {
            err_prefix(e, "%s: ", what);
            return -1;
        }
        p += n + (p[n] == ',');
    }
    return list->n > 0 ? 0 : err_set(e, "%s: no value given", what);
}

static int config_set_choice(int64_t *field, const struct config_key *key, const char *what,
                             const char *value, struct err *e)
{
    int64_t i = 0;
    for (const char *p = key->choices; *p != '\0'; i++) {
        size_t n = strcspn(p, "|");
        if (strlen(value) == n && strncmp(p, value, n) == 0) {
            *field = i;
            return 0;
        }
        p += n + (p[n] == '|');
    }
    return err_set(e, "%s: \"%s\" is none of %s", what, value, key->choices);
}

static int config_set_number(struct config *c, const struct config_key *key, const char *what,
                             const char *value, struct err *e)
{
    double n = 0;
    const char *kind = "number";
    if (key->type == CONFIG_SECONDS)
        n = config_parse_seconds(value), kind = "number of seconds";
    else if (key->type == CONFIG_BYTES)
        n = config_parse_size(value), kind = "number of bytes";
    else if (key->type == CONFIG_NUMBER)
        n = config_parse_number(value);
    else {
        kind = "whole number";
        if (key->choices == NULL || strcmp(value, key->choices) != 0) {
            n = config_parse_number(value);
            if (floor(n) != n || (n == 0 && key->choices != NULL))
                n = -1;
        }
    }
    if (!(n >= key->min && n <= key->max))
        return err_set(e, "%s: \"%s\" is not a %s from %.15g to %.15g%s%s", what, value, kind,
                       key->choices != NULL ? 1 : key->min, key->max, key->choices != NULL ? ", or " : "",
                       key->choices != NULL ? key->choices : "");
    if (key->type == CONFIG_SECONDS || key->type == CONFIG_NUMBER)
        *(double *)config_field(c, key) = n;
    else
        *(int64_t *)config_field(c, key) = (int64_t)n;
    return 0;
}

static int config_set_bool(bool *field, const char *what, const char *value, struct err *e)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(value, words[i]) == 0) {
            *field = i % 2 == 1;
            return 0;
        }
    return err_set(e, "%s: \"%s\" is neither true nor false", what, value);
}

int config_set(struct config *c, const struct config_key *key, const char *what, const char *value,
               bool append, struct err *e)
{
    switch (key->type) {
    case CONFIG_LIST: return config_set_list(config_field(c, key), what, value, append, e);
    case CONFIG_TEXT: return config_set_text(config_field(c, key), value, e);
    case CONFIG_CHOICE: return config_set_choice(config_field(c, key), key, what, value, e);
    case CONFIG_BOOL: return config_set_bool(config_field(c, key), what, value, e);
    case CONFIG_COUNT:
    case CONFIG_BYTES:
    case CONFIG_SECONDS:
    case CONFIG_NUMBER: break;
    }
    return config_set_number(c, key, what, value, e);
}

#define ENV_PREFIX "TIDEWIRE_"

/* Kubernetes makes variables of services: of one called tidewire TIDEWIRE_SERVICE_HOST,
 * TIDEWIRE_PORT=tcp://... and TIDEWIRE_PORT_8080_TCP, of one called tidewire-chat TIDEWIRE_CHAT_SERVICE_HOST
 * and so on. */
static bool config_from_kubernetes(const char *name, const char *value)
{
    const char *port = strstr(name, "PORT");
    return strstr(name, "SERVICE_HOST") != NULL || strstr(name, "SERVICE_PORT") != NULL ||
           (port != NULL && port[4] == '_' && isdigit((unsigned char)port[5])) ||
           (port != NULL && port[4] == '\0' && strstr(value, "://") != NULL);
}

int config_set_env(struct config *c, char **environment, struct err *e)
{
    for (char **p = environment; *p != NULL; p++) {
        if (strncmp(*p, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
            continue;
        const char *equals = strchr(*p, '=');
        char what[80], name[64];
        size_t len = equals != NULL ? (size_t)(equals - *p) - strlen(ENV_PREFIX) : sizeof name;
        if (len >= sizeof name)
            continue;
        for (size_t i = 0; i < len; i++)
            name[i] = (char)tolower((unsigned char)(*p)[strlen(ENV_PREFIX) + i]);
        name[len] = '\0';
        snprintf(what, sizeof what, "%.*s", (int)(equals - *p), *p);
        const struct config_key *key = config_find(name, len);
        if (key == NULL &&
            (config_from_kubernetes(what + strlen(ENV_PREFIX), equals + 1) || strcmp(name, "config") == 0))
            continue;
        if (key == NULL) {
            const char *near = config_nearest(name);
            char upper[64] = "";
            for (size_t i = 0; near != NULL && near[i] != '\0' && i < sizeof upper - 1; i++)
                upper[i] = (char)toupper((unsigned char)near[i]), upper[i + 1] = '\0';
            return err_set(e, "unknown environment variable %s%s%s%s", what,
                           near != NULL ? "; did you mean " ENV_PREFIX : "", upper, near != NULL ? "?" : "");
        }
        if (config_set(c, key, what, equals + 1, false, e) < 0)
            return -1;
    }
    return 0;
}

void config_show(const struct config *c, const struct config_key *key, char *out, size_t size)
{
    const void *field = (const char *)c + key->offset;
    size_t at = 0;
    out[0] = '\0';
    switch (key->type) {
    case CONFIG_LIST: {
        const struct config_list *list = field;
        for (size_t i = 0; i < list->n && at < size; i++)
            at += (size_t)snprintf(out + at, size - at, "%s%s", i > 0 ? "," : "", list->item[i]);
        break;
    }
    case CONFIG_TEXT:
        snprintf(out, size, "%s", *(char *const *)field != NULL ? *(char *const *)field : "");
        break;
    case CONFIG_SECONDS:
    case CONFIG_NUMBER: snprintf(out, size, "%.15g", *(const double *)field); break;
    case CONFIG_BOOL: snprintf(out, size, "%s", *(const bool *)field ? "true" : "false"); break;
    case CONFIG_COUNT:
        if (key->choices != NULL && *(const int64_t *)field == 0)
            snprintf(out, size, "%s", key->choices);
        else
            snprintf(out, size, "%lld", (long long)*(const int64_t *)field);
        break;
    case CONFIG_BYTES: snprintf(out, size, "%lld", (long long)*(const int64_t *)field); break;
    case CONFIG_CHOICE: {
        const char *p = key->choices;
        for (int64_t i = *(const int64_t *)field; i > 0; i--)
            p += strcspn(p, "|") + 1;
        snprintf(out, size, "%.*s", (int)strcspn(p, "|"), p);
        break;
    }
    }
}
