/* SPDX-License-Identifier: MIT
 * Accept and Accept-Encoding: lists of names with weights. */
#include "http/accept.h"

#include <string.h>
#include <strings.h>

#include "http/head.h"

struct item {
    const char *name;
    size_t len;
    double quality;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* 0 to 1 with up to three decimals (RFC 9110, 12.4.2); 0 also for what is none. */
static double weight(const char *text, size_t len)
{
    int value = 0, scale = 1000;
    for (size_t i = 0; i < len; i++) {
        if (i == 1 && text[i] == '.')
            continue;
        if (i == 1 || i > 4 || text[i] < '0' || text[i] > '9')
            return 0;
        value += (text[i] - '0') * scale;
        scale /= 10;
    }
    return value <= 1000 ? value / 1000.0 : 0;
}

/* The weight among the parameters at[0 .. end), each with its ';' before it: 1 when there is none. */
static double find_weight(const char *at, const char *end)
{
    while (at < end) {
        const char *next = memchr(at + 1, ';', (size_t)(end - at - 1));
        const char *last = next != NULL ? next : end;
        do
            at++;
        while (at < last && is_blank(*at));
        while (last > at && is_blank(last[-1]))
            last--;
        if (last - at >= 2 && (*at == 'q' || *at == 'Q') && at[1] == '=')
            return weight(at + 2, (size_t)(last - at - 2));
        at = next != NULL ? next : end;
    }
    return 1;
}

static bool next_item(const char **at, const char *end, struct item *item)
{
    if (!head_list_next(at, end, &item->name, &item->len))
        return false;
    const char *last = item->name + item->len;
    const char *semicolon = memchr(item->name, ';', item->len);
    item->quality = semicolon != NULL ? find_weight(semicolon, last) : 1;
    if (semicolon != NULL)
        item->len = (size_t)(semicolon - item->name);
    while (item->len > 0 && is_blank(item->name[item->len - 1]))
        item->len--;
    return true;
}

static bool is(const struct item *item, const char *name)
{
    return item->len == strlen(name) && strncasecmp(item->name, name, item->len) == 0;
}

double accept_quality(const char *field, size_t len, const char *what)
{
    const char *at = field;
    struct item item;
    double any = 0;
    while (next_item(&at, field + len, &item)) {
        if (is(&item, what))
            return item.quality;
        if (is(&item, "*"))
            any = item.quality;
    }
    return any;
}

static bool is_json(const struct item *item)
{
    static const char suffix[] = "+json";
    size_t len = sizeof suffix - 1;
    return is(item, "application/json") ||
           (item->len > len && strncasecmp(item->name + item->len - len, suffix, len) == 0);
}

static bool is_text(const struct item *item)
{
    return is(item, "text/html") || is(item, "text/plain") || is(item, "text/*");
}

bool accept_prefers_json(const char *accept, size_t len)
{
    const char *at = accept;
    struct item item;
    double json = 0, text = 0, any = 0;
    bool names_text = false, json_leads = false;
    while (next_item(&at, accept + len, &item)) {
        if (is_json(&item) && item.quality > json) {
            json = item.quality;
            json_leads = json > text;
        } else if (is_text(&item)) {
            names_text = true;
            if (item.quality > text) {
                text = item.quality;
                json_leads = json >= text;
            }
        } else if (is(&item, "*/*")) {
            any = item.quality;
        }
    }
    return names_text ? json_leads : json > 0 && json >= any;
}
