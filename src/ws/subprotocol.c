/* SPDX-License-Identifier: MIT
 * Choosing the subprotocol that client and server will speak. */
#include "ws/subprotocol.h"

#include <string.h>

#define FIELD "Sec-WebSocket-Protocol"

/* Where a walk over the offers stands: one field's list after the other. */
struct walk {
    const struct head *h;
    int field;
    const char *at, *end;
};

static struct walk walk_start(const struct head *h)
{
    return (struct walk){.h = h, .field = -1};
}

static bool walk_field(struct walk *w)
{
    w->field = head_find(w->h, FIELD, sizeof FIELD - 1, w->field + 1);
    if (w->field < 0)
        return false;
    struct head_span value = w->h->fields[w->field].value;
    w->at = head_bytes(w->h) + value.at;
    w->end = w->at + value.len;
    return true;
}

static bool walk_offer(struct walk *w, const char **name, size_t *len)
{
    while (!head_list_next(&w->at, w->end, name, len))
        if (!walk_field(w))
            return false;
    return true;
}

bool subprotocol_offers_valid(const struct head *h)
{
    struct walk w = walk_start(h);
    unsigned offers = 0;
    while (walk_field(&w)) {
        unsigned before = offers;
        const char *name;
        size_t len;
        while (head_list_next(&w.at, w.end, &name, &len))
            if (!head_is_token(name, len) || ++offers > SUBPROTOCOL_MAX_OFFERS)
                return false;
        if (offers == before)
            return false;
    }
    return true;
}

static int find_offer(const struct head *h, const char *wanted, size_t wanted_len)
{
    struct walk w = walk_start(h);
    const char *name;
    size_t len;
    for (int position = 0; walk_offer(&w, &name, &len); position++)
        if (len == wanted_len && memcmp(name, wanted, len) == 0)
            return position;
    return -1;
}

int subprotocol_choose(const struct head *h, const char *const *supported, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int position = find_offer(h, supported[i], strlen(supported[i]));
        if (position >= 0)
            return position;
    }
    return -1;
}

const char *subprotocol_offer(const struct head *h, unsigned position, size_t *len)
{
    struct walk w = walk_start(h);
    const char *name;
    while (walk_offer(&w, &name, len))
        if (position-- == 0)
            return name;
    return NULL;
}
