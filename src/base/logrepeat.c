/* SPDX-License-Identifier: MIT
 * Lines that come again and again. */
#include "base/logrepeat.h"

#include <stdio.h>
#include <string.h>

/* Gives what was hidden to the caller, and begins anew. */
static void logrepeat_end(struct logrepeat *r, struct logrepeat_kind *k, struct logrepeat_kind *over)
{
    if (k->hidden > 0) {
        *over = *k;
        r->hiding--;
    }
    k->count = k->hidden = 0;
}

/* The place of the kind, or the one it gets: that of the kind with the fewest lines in its second. */
static struct logrepeat_kind *logrepeat_find(struct logrepeat *r, uint64_t key, uint64_t now_ms)
{
    struct logrepeat_kind *set = r->kind[key % LOGREPEAT_SETS], *least = &set[0];
    uint64_t fewest = UINT64_MAX;
    for (int i = 0; i < LOGREPEAT_WAYS; i++) {
        uint64_t lines = now_ms - set[i].since_ms < LOGREPEAT_SECOND_MS ? set[i].count : set[i].hidden;
        if (set[i].key == key)
            return &set[i];
        if (lines < fewest) {
            fewest = lines;
            least = &set[i];
        }
    }
    return least;
}

static void logrepeat_hide(struct logrepeat *r, struct logrepeat_kind *k, const struct logrepeat_line *line)
{
    if (k->hidden++ > 0)
        return;
    const char *end = memchr(line->text, '\n', line->len);
    size_t len = end != NULL ? (size_t)(end - line->text) : line->len;
    if (len >= sizeof k->text)
        for (len = sizeof k->text - 1; len > 0 && ((unsigned char)line->text[len] & 0xc0) == 0x80;)
            len--; /* not within a character */
    memcpy(k->text, line->text, len);
    k->text[len] = '\0';
    snprintf(k->route, sizeof k->route, "%s", line->route != NULL ? line->route : "");
    k->level = line->level;
    r->hiding++;
}

bool logrepeat_take(struct logrepeat *r, const struct logrepeat_line *line, unsigned limit, uint64_t now_ms,
                    struct logrepeat_kind *over)
{
    uint64_t key = line->key != 0 ? line->key : 1;
    struct logrepeat_kind *k = logrepeat_find(r, key, now_ms);
    over->hidden = 0;
    if (k->key != key || now_ms - k->since_ms >= LOGREPEAT_SECOND_MS) {
        logrepeat_end(r, k, over);
        k->key = key;
        k->since_ms = now_ms;
    }
    if (++k->count <= limit)
        return true;
    logrepeat_hide(r, k, line);
    return false;
}

bool logrepeat_next(struct logrepeat *r, uint64_t now_ms, bool all, struct logrepeat_kind *over)
{
    for (int i = 0; r->hiding > 0 && i < LOGREPEAT_SETS * LOGREPEAT_WAYS; i++) {
        struct logrepeat_kind *k = &r->kind[i / LOGREPEAT_WAYS][i % LOGREPEAT_WAYS];
        if (k->hidden == 0 || (!all && now_ms - k->since_ms < LOGREPEAT_SECOND_MS))
            continue;
        logrepeat_end(r, k, over);
        return true;
    }
    return false;
}
