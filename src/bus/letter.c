/* SPDX-License-Identifier: MIT
 * To one WebSocket by its connection id. */
#include "bus/letter.h"

#include <string.h>

#include "bus/courier.h"

struct letter {
    uint64_t id;
    unsigned close_code; /* 0: a message */
    bool text;
    size_t len;
    char data[];
};

static enum session_sent letter_act(struct worker *w, const struct letter *l, const char *data)
{
    struct session *s = session_find(w, l->id);
    if (s == NULL || !session_is_open(s))
        return SESSION_NOT_OPEN;
    if (l->close_code == 0)
        return session_send(s, l->text, data, l->len);
    session_close(s, l->close_code, data, l->len);
    return SESSION_SENT;
}

static void letter_on_arrival(struct worker *w, const uint8_t *data, size_t len)
{
    const struct letter *l = (const struct letter *)data;
    (void)len;
    if (w->layer[WORKER_WS] != NULL) /* else it has come after the end */
        letter_act(w, l, l->data);
}

static enum session_sent letter_post(struct worker *w, const struct letter *l, const char *data)
{
    struct worker *to = w->count > 1 ? w->peers[l->id % w->count] : w;
    if (to == w)
        return letter_act(w, l, data);
    struct letter *copy = (struct letter *)courier_add(w, to, letter_on_arrival, sizeof *copy + l->len, 0);
    if (copy == NULL)
        return SESSION_QUEUE_FULL;
    *copy = *l;
    memcpy(copy->data, data, l->len);
    return SESSION_SENT;
}

enum session_sent letter_send(struct worker *w, uint64_t id, bool text, const char *data, size_t len)
{
    return letter_post(w, &(struct letter){.id = id, .text = text, .len = len}, data);
}

enum session_sent letter_close(struct worker *w, uint64_t id, unsigned code, const char *reason, size_t len)
{
    return letter_post(w, &(struct letter){.id = id, .close_code = code, .len = len}, reason);
}
