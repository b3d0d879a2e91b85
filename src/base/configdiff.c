/* SPDX-License-Identifier: MIT
 * What differs between two configurations. */
#include "base/configdiff.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONFIGDIFF_KEY  1024 /* bytes of what became of one key */
#define CONFIGDIFF_REST 32   /* bytes kept free for "and N more" */

static const void *configdiff_field(const struct config *c, const struct config_key *key)
{
    return (const char *)c + key->offset;
}

static bool configdiff_has(const struct config_list *list, const char *item)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->item[i], item) == 0)
            return true;
    return false;
}

static bool configdiff_has_all(const struct config_list *list, const struct config_list *items)
{
    for (size_t i = 0; i < items->n; i++)
        if (!configdiff_has(list, items->item[i]))
            return false;
    return true;
}

bool configdiff_same(const struct config *a, const struct config *b, const struct config_key *key)
{
    const void *left = configdiff_field(a, key), *right = configdiff_field(b, key);
    switch (key->type) {
    case CONFIG_LIST: return configdiff_has_all(left, right) && configdiff_has_all(right, left);
    case CONFIG_SECRET:
    case CONFIG_TEXT: {
        const char *one = *(char *const *)left, *other = *(char *const *)right;
        return one == other || (one != NULL && other != NULL && strcmp(one, other) == 0);
    }
    case CONFIG_BOOL: return *(const bool *)left == *(const bool *)right;
    case CONFIG_SECONDS:
    case CONFIG_NUMBER: return *(const double *)left == *(const double *)right;
    case CONFIG_COUNT:
    case CONFIG_BYTES:
    case CONFIG_CHOICE: break;
    }
    return *(const int64_t *)left == *(const int64_t *)right;
}

void configdiff_show(const struct config *c, const struct config_key *key, char *out, size_t size)
{
    static const char *const units[] = {"", "k", "m", "g"};
    size_t unit = 0;
    config_show(c, key, out, size);
    if (key->type == CONFIG_BYTES) {
        int64_t n = *(const int64_t *)configdiff_field(c, key);
        for (; n > 0 && n % 1024 == 0 && unit < 3; unit++)
            n /= 1024;
        snprintf(out, size, "%lld%s", (long long)n, units[unit]);
    }
    if (out[0] == '\0')
        snprintf(out, size, "none");
}

/* Text that is cut at the end of its place, and how long it would be. */
struct configdiff_text {
    char text[CONFIGDIFF_KEY];
    size_t len;
};

__attribute__((format(printf, 2, 3))) static void configdiff_add(struct configdiff_text *t,
                                                                 const char *format, ...)
{
    size_t at = t->len < sizeof t->text ? t->len : sizeof t->text - 1;
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(t->text + at, sizeof t->text - at, format, ap);
    va_end(ap);
    t->len += n > 0 ? (size_t)n : 0;
}

static void configdiff_add_list(struct configdiff_text *t, const struct config_list *from,
                                const struct config_list *to)
{
    for (size_t i = 0; i < to->n; i++)
        if (!configdiff_has(from, to->item[i]))
            configdiff_add(t, " + %s", to->item[i]);
    for (size_t i = 0; i < from->n; i++)
        if (!configdiff_has(to, from->item[i]))
            configdiff_add(t, " - %s", from->item[i]);
}

static void configdiff_add_key(struct configdiff_text *t, const struct config *from, const struct config *to,
                               const struct config_key *key)
{
    char before[256], after[256];
    configdiff_add(t, "%s", key->name);
    if (key->type == CONFIG_LIST) {
        configdiff_add_list(t, configdiff_field(from, key), configdiff_field(to, key));
        return;
    }
    configdiff_show(from, key, before, sizeof before);
    configdiff_show(to, key, after, sizeof after);
    configdiff_add(t, " %s -> %s", before, after);
}

size_t configdiff_tell(const struct config *from, const struct config *to, char *out, size_t size)
{
    size_t at = 0, told = 0, all = 0;
    out[0] = '\0';
    for (size_t i = 0; i < config_nkeys; i++) {
        if (configdiff_same(from, to, &config_keys[i]))
            continue;
        struct configdiff_text one = {.len = 0};
        configdiff_add_key(&one, from, to, &config_keys[i]);
        all++;
        if (one.len < sizeof one.text && at + one.len + CONFIGDIFF_REST < size) {
            at += (size_t)snprintf(out + at, size - at, "%s%s", told > 0 ? ", " : "", one.text);
            told++;
        }
    }
    if (told < all)
        snprintf(out + at, size - at, "%s%zu more", told > 0 ? " and " : "", all - told);
    return all;
}
