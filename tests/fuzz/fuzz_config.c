/* SPDX-License-Identifier: MIT
 * Settings in any order: what is refused names the setting and changes no value, what is accepted lies within
 * its bounds and is shown in a form that is accepted again and means the same.
 *
 * The input: settings one after another, each a byte for the key, a byte whose lowest bit says whether to
 * append, and a value that ends with a NUL. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

#include "check.h"

enum { SHOWN = 8192 };

/* In a block of its own, so that AddressSanitizer sees a step beyond it. */
static char *show(const struct config *c, const struct config_key *key, size_t size)
{
    char *out = malloc(size);
    CHECK(out != NULL);
    config_show(c, key, out, size);
    CHECK(memchr(out, '\0', size) != NULL);
    return out;
}

static const void *field_of(const struct config *c, const struct config_key *key)
{
    return (const char *)c + key->offset;
}

static bool is_fraction(const struct config_key *key)
{
    return key->type == CONFIG_SECONDS || key->type == CONFIG_NUMBER;
}

static bool is_number(const struct config_key *key)
{
    return key->type == CONFIG_COUNT || key->type == CONFIG_BYTES || is_fraction(key);
}

static double number(const struct config *c, const struct config_key *key)
{
    const void *field = field_of(c, key);
    return is_fraction(key) ? *(const double *)field : (double)*(const int64_t *)field;
}

/* Fifteen digits are shown of a fraction: a reader wants 0.1, not 0.10000000000000001. */
static bool same(const struct config_key *key, double a, double b)
{
    double apart = a > b ? a - b : b - a;
    return is_fraction(key) ? apart <= a * 1e-14 : apart == 0;
}

static void check_accepted(const struct config *c, const struct config_key *key)
{
    struct config again;
    struct err e;
    CHECK(config_init(&again) == 0);
    char *shown = show(c, key, SHOWN);
    bool text = key->type == CONFIG_TEXT || key->type == CONFIG_SECRET;
    bool unset = text && *(char *const *)field_of(c, key) == NULL;
    if (!unset) {
        if (config_set(&again, key, key->name, shown, false, &e) < 0) {
            fprintf(stderr, "%s\n", e.text);
            __builtin_trap();
        }
        char *shown_again = show(&again, key, SHOWN);
        CHECK(strcmp(shown, shown_again) == 0);
        free(shown_again);
    }
    if (is_number(key)) {
        double n = number(c, key), least = key->choices != NULL ? 0 : key->min;
        CHECK(n >= least && n <= key->max);
        CHECK(same(key, n, number(&again, key)));
    }
    size_t cut = strlen(shown) / 2 + 1;
    char *part = show(c, key, cut);
    CHECK(strlen(part) == cut - 1 && memcmp(part, shown, cut - 1) == 0);
    free(part);
    free(shown);
    config_fini(&again);
}

/* A list that was refused may be left with nothing in it. */
static bool is_empty_list(const struct config *c, const struct config_key *key)
{
    return key->type == CONFIG_LIST && ((const struct config_list *)field_of(c, key))->n == 0;
}

static void check_set(struct config *c, const struct config_key *key, const char *value, bool append)
{
    struct err e = {""};
    char *before = show(c, key, SHOWN);
    if (config_set(c, key, "--what", value, append, &e) == 0)
        check_accepted(c, key);
    else {
        CHECK(memcmp(e.text, "--what: ", 8) == 0);
        char *after = show(c, key, SHOWN);
        CHECK(key->type == CONFIG_LIST || strcmp(before, after) == 0);
        CHECK(key->type != CONFIG_TEXT && key->type != CONFIG_SECRET);
        free(after);
    }
    CHECK(c->listen.n <= CONFIG_LIST_MAX && c->origins.n <= CONFIG_LIST_MAX);
    free(before);
}

/* The same value by way of the environment comes to the same. */
static void check_env(const struct config_key *key, const char *value)
{
    struct config by_env, by_set;
    struct err e = {""};
    size_t size = strlen(key->name) + strlen(value) + 16;
    char *variable = malloc(size);
    CHECK(variable != NULL && config_init(&by_env) == 0 && config_init(&by_set) == 0);
    int n = snprintf(variable, size, "TIDEWIRE_%s=%s", key->name, value);
    CHECK(n > 0 && (size_t)n < size);
    for (char *p = variable; *p != '='; p++)
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
    char *environment[] = {variable, NULL};
    int rc = config_set_env(&by_env, environment, &e);
    CHECK(rc == config_set(&by_set, key, "x", value, false, NULL));
    char *a = show(&by_env, key, SHOWN), *b = show(&by_set, key, SHOWN);
    CHECK(strcmp(a, b) == 0);
    free(a);
    free(b);
    free(variable);
    config_fini(&by_env);
    config_fini(&by_set);
}

/* Any text as the name of a key, and as that of a variable. */
static void check_names(struct config *c, const char *text)
{
    const struct config_key *key = config_find(text, strlen(text));
    const char *near = config_nearest(text);
    CHECK(near == NULL || config_find(near, strlen(near)) != NULL);
    if (key != NULL) {
        CHECK(strlen(key->name) == strlen(text));
        CHECK(near == key->name);
    }
    size_t size = strlen(text) + 16;
    char *variable = malloc(size);
    CHECK(variable != NULL);
    snprintf(variable, size, "TIDEWIRE_%s", text);
    char *environment[] = {variable, NULL};
    struct err e = {""};
    if (config_set_env(c, environment, &e) < 0)
        CHECK(strstr(e.text, "TIDEWIRE_") != NULL);
    free(variable);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    if (size > SHOWN / 2)
        return 0;
    CHECK(config_init(&c) == 0);
    while (size > 2) {
        const struct config_key *key = &config_keys[data[0] % config_nkeys];
        bool append = data[1] & 1;
        size_t len = strnlen((const char *)data + 2, size - 2);
        char *value = strndup((const char *)data + 2, len);
        CHECK(value != NULL);
        check_set(&c, key, value, append);
        check_env(key, value);
        check_names(&c, value);
        free(value);
        size_t used = 2 + len + (2 + len < size);
        data += used;
        size -= used;
    }
    for (size_t i = 0; i < config_nkeys; i++)
        if (!is_empty_list(&c, &config_keys[i]))
            check_accepted(&c, &config_keys[i]);
    config_fini(&c);
    return 0;
}
