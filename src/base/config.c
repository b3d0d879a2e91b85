/* SPDX-License-Identifier: MIT
 * The configuration table and its parsers. */
#include "base/config.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(field, type, initial, min, max, choices, flag, help)                                             \
    {                                                                                                        \
#field, type, offsetof(struct config, field), initial, min, max, choices, flag, help                 \
    }
#define KIB 1024.0
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

const struct config_key config_keys[] = {
    KEY(listen, CONFIG_LIST, "127.0.0.1:8080", 0, 0, NULL, 'l',
        "address to serve; repeatable; unix:/path too"),
    KEY(workers, CONFIG_COUNT, "1", 0, CONFIG_WORKERS_MAX, "auto", 'w',
        "threads that serve; auto: one a processor"),
    KEY(log_level, CONFIG_CHOICE, "info", 0, 0, "debug|info|warn|error", 0, "what to log"),
    KEY(log_format, CONFIG_CHOICE, "text", 0, 0, "text|json", 0, "how to log"),
    KEY(control, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "control socket for `tidewire health`: a path, or @name"),
    KEY(pid_file, CONFIG_TEXT, NULL, 0, 0, NULL, 0, "file to write the process id to"),
    KEY(max_connections, CONFIG_COUNT, "auto", 0, 1e8, "auto", 0,
        "beyond it 503; auto: the file limit less a reserve"),
    KEY(handshake_timeout, CONFIG_SECONDS, "10", 0.05, 3600, NULL, 0,
        "for a request's head to arrive; then 408"),
    KEY(max_head, CONFIG_BYTES, "16k", 512, 65000, NULL, 0, "request head; beyond it 431"),
    KEY(max_message, CONFIG_BYTES, "1m", 1, GIB, NULL, 0, "WebSocket message, reassembled; beyond it 1009"),
    KEY(send_limit, CONFIG_BYTES, "1m", 1, GIB, NULL, 0, "unsent bytes per WebSocket; beyond it 1013"),
    KEY(idle_timeout, CONFIG_SECONDS, "120", 0, 1e7, NULL, 0, "without any received frame; 0: off"),
    KEY(ping_interval, CONFIG_SECONDS, "30", 0, 1e6, NULL, 0,
        "between pings; silence until the next cuts; 0: off"),
    KEY(close_timeout, CONFIG_SECONDS, "5", 0.05, 3600, NULL, 0, "for the peer's answer to a Close"),
    KEY(handler_budget, CONFIG_SECONDS, "5", 0.05, 3600, NULL, 0, "for one handler's run; then it is cut"),
    KEY(load_budget, CONFIG_SECONDS, "10", 0.05, 3600, NULL, 0, "for loading the script"),
    KEY(drain_timeout, CONFIG_SECONDS, "8", 0, 3600, NULL, 0, "for live connections when stopping"),
    KEY(vm_memory, CONFIG_BYTES, "512m", 4 * MIB, 64 * GIB, NULL, 0, "for Lua, per worker"),
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

static void config_clear_list(struct config *c)
{
    while (c->nlisten > 0)
        free(c->listen[--c->nlisten]);
}

void config_fini(struct config *c)
{
    config_clear_list(c);
    free(c->control);
    free(c->pid_file);
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

/* Levenshtein distance of two short names. */
static size_t config_distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n >= 64)
        return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            char ca = a[i - 1] == '-' ? '_' : (char)tolower((unsigned char)a[i - 1]);
            size_t best = diagonal + (ca != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

const char *config_nearest(const char *name)
{
    const char *best = NULL;
    size_t best_distance = strlen(name) / 2 + 1;
    for (size_t i = 0; i < config_nkeys; i++) {
        size_t d = config_distance(name, config_keys[i].name);
        if (d < best_distance) {
            best_distance = d;
            best = config_keys[i].name;
        }
    }
    return best;
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

static int config_set_text(char **field, const char *value, struct err *e)
{
    char *copy = strdup(value);
    if (copy == NULL)
        return err_set(e, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

static int config_set_list(struct config *c, const char *what, const char *value, bool append, struct err *e)
{
    if (!append)
        config_clear_list(c);
    for (const char *p = value; *p != '\0';) {
        size_t n = strcspn(p, ",");
        if (n > 0) {
            if (c->nlisten == CONFIG_MAX_LISTEN)
                return err_set(e, "%s: at most %d addresses", what, CONFIG_MAX_LISTEN);
            char *copy = strndup(p, n);
            if (copy == NULL)
                return err_set(e, "out of memory");
            c->listen[c->nlisten++] = copy;
        }
        p += n + (p[n] == ',');
    }
    return c->nlisten > 0 ? 0 : err_set(e, "%s: no address given", what);
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
    double n;
    if (key->type == CONFIG_SECONDS)
        n = config_parse_seconds(value);
    else if (key->type == CONFIG_BYTES)
        n = config_parse_size(value);
    else if (key->choices != NULL && strcmp(value, key->choices) == 0)
        n = 0;
    else {
        char *end;
        n = strtod(value, &end);
        if (end == value || *end != '\0' || floor(n) != n)
            n = -1;
        else if (n == 0 && key->choices != NULL)
            n = -1;
    }
    if (!(n >= key->min && n <= key->max)) {
        const char *kind = key->type == CONFIG_SECONDS ? "number of seconds"
                           : key->type == CONFIG_BYTES ? "number of bytes"
                                                       : "whole number";
        return err_set(e, "%s: \"%s\" is not a %s from %.15g to %.15g%s%s", what, value, kind,
                       key->choices != NULL ? 1 : key->min, key->max, key->choices != NULL ? ", or " : "",
                       key->choices != NULL ? key->choices : "");
    }
    if (key->type == CONFIG_SECONDS)
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
    case CONFIG_LIST: return config_set_list(c, what, value, append, e);
    case CONFIG_TEXT: return config_set_text(config_field(c, key), value, e);
    case CONFIG_CHOICE: return config_set_choice(config_field(c, key), key, what, value, e);
    case CONFIG_BOOL: return config_set_bool(config_field(c, key), what, value, e);
    case CONFIG_COUNT:
    case CONFIG_BYTES:
    case CONFIG_SECONDS: break;
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
    case CONFIG_LIST:
        for (size_t i = 0; i < c->nlisten && at < size; i++)
            at += (size_t)snprintf(out + at, size - at, "%s%s", i > 0 ? "," : "", c->listen[i]);
        break;
    case CONFIG_TEXT:
        snprintf(out, size, "%s", *(char *const *)field != NULL ? *(char *const *)field : "");
        break;
    case CONFIG_SECONDS: snprintf(out, size, "%.15g", *(const double *)field); break;
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
