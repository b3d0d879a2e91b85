/* SPDX-License-Identifier: MIT
 * The addresses that the process listens on. */
#include "ops/addresses.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* ---- entries ---- */

static void addresses_free(struct addresses_entry *entry)
{
    if (entry->set != NULL)
        listener_release(entry->set);
    free(entry->set);
    free(entry->spec);
    free(entry->next);
    tlscontext_unref(entry->next_tls);
    free(entry);
}

static void addresses_remove(struct addresses *a, struct addresses_entry *entry)
{
    size_t at = 0;
    while (a->entries[at] != entry)
        at++;
    a->entries[at] = a->entries[--a->n];
    addresses_free(entry);
}

/* An address that is being left has the port: then that is no other server's. */
static bool addresses_makes_room(const struct addresses *a, const char *spec)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->entries[i]->next == NULL && listener_same_port(a->entries[i]->set, spec))
            return true;
    return false;
}

static int addresses_bind(struct addresses *a, const char *spec, struct err *e)
{
    struct addresses_entry *entry = a->n < ADDRESSES_MAX ? calloc(1, sizeof *entry) : NULL;
    if (a->n == ADDRESSES_MAX)
        return err_set(e, "%d addresses are still being left; try again in a moment", ADDRESSES_MAX);
    if (entry == NULL || (entry->set = calloc(1, sizeof *entry->set)) == NULL ||
        (entry->next = strdup(spec)) == NULL || (entry->spec = strdup(spec)) == NULL) {
        if (entry != NULL)
            addresses_free(entry);
        return err_set(e, "out of memory");
    }
    if (listener_bind(entry->set, spec, a->nworkers, e) < 0 &&
        (!addresses_makes_room(a, spec) || listener_bind_beside(entry->set, spec, a->nworkers, e) < 0)) {
        addresses_free(entry);
        return -1;
    }
    a->entries[a->n++] = entry;
    return 0;
}

/* ---- preparing ---- */

/* Lets the sockets that are there do for what is configured, those in that state. */
static int addresses_claim(struct addresses *a, const char *spec, enum addresses_state state, bool exact)
{
    for (size_t i = 0; i < a->n; i++) {
        struct addresses_entry *entry = a->entries[i];
        if (entry->next != NULL || entry->state != state ||
            (state == ADDRESSES_LEAVING && strncmp(entry->set->text, "unix:", 5) == 0)) /* its file is gone */
            continue;
        if (exact ? strcmp(entry->spec, spec) == 0 : listener_same_address(entry->spec, spec)) {
            entry->next = strdup(spec);
            return entry->next != NULL ? 1 : -1;
        }
    }
    return 0;
}

/* Those whose whole text is the same come first, so that no other takes theirs. */
static int addresses_claim_all(struct addresses *a, const struct config_list *listen, bool *claimed)
{
    static const struct {
        enum addresses_state state;
        bool exact;
    } turns[] = {{ADDRESSES_SERVED, true},
                 {ADDRESSES_SERVED, false},
                 {ADDRESSES_LEAVING, true},
                 {ADDRESSES_LEAVING, false}};
    for (size_t turn = 0; turn < sizeof turns / sizeof turns[0]; turn++)
        for (size_t i = 0; i < listen->n; i++) {
            int rc =
                claimed[i] ? 0 : addresses_claim(a, listen->item[i], turns[turn].state, turns[turn].exact);
            if (rc < 0)
                return -1;
            claimed[i] = claimed[i] || rc > 0;
        }
    return 0;
}

static void addresses_on_done(struct mail *m, void *receiver);

/* One for each worker, to be given at the commit. */
static int addresses_order(struct addresses *a, struct addresses_entry *entry, bool serve)
{
    for (size_t i = 0; i < a->nworkers; i++) {
        const struct listener_order what = {.to = a->workers[i],
                                            .set = entry->set,
                                            .serve = serve,
                                            .back = a->mailbox,
                                            .done = addresses_on_done,
                                            .user = a};
        struct listener_order *o = listener_order_create(&what);
        if (o == NULL)
            return -1;
        a->prepared[a->nprepared++] = o;
    }
    return 0;
}

static int addresses_order_all(struct addresses *a)
{
    for (size_t i = 0; i < a->n && a->workers != NULL; i++) {
        struct addresses_entry *entry = a->entries[i];
        bool served = entry->state == ADDRESSES_SERVED, wanted = entry->next != NULL;
        if (served != wanted && (served || wanted) && addresses_order(a, entry, wanted) < 0)
            return -1;
    }
    return 0;
}

/* Certificates are read each time, for files change. Going back must not fail for one: the old stay. */
static int addresses_load_tls(struct addresses *a, bool lenient, struct err *e)
{
    for (size_t i = 0; i < a->n; i++) {
        struct addresses_entry *entry = a->entries[i];
        if (entry->next == NULL || listener_load_tls(entry->next, &entry->next_tls, e) == 0)
            continue;
        if (!lenient)
            return -1;
        log_error("%s; going on with the certificates there are", e->text);
        entry->next_tls = tlscontext_slot_get(&entry->set->tls);
    }
    return 0;
}

int addresses_prepare(struct addresses *a, const struct config *config, bool lenient, struct err *e)
{
    bool claimed[CONFIG_LIST_MAX] = {false};
    if (addresses_claim_all(a, &config->listen, claimed) < 0) {
        err_set(e, "out of memory");
        goto fail;
    }
    for (size_t i = 0; i < config->listen.n; i++) {
        if (claimed[i] || addresses_bind(a, config->listen.item[i], e) == 0)
            continue;
        if (!lenient)
            goto fail;
        log_error("%s; going on without it", e->text);
    }
    if (addresses_load_tls(a, lenient, e) < 0)
        goto fail;
    if (addresses_order_all(a) < 0) {
        err_set(e, "out of memory");
        goto fail;
    }
    return 0;
fail:
    addresses_discard(a);
    return -1;
}

void addresses_discard(struct addresses *a)
{
    while (a->nprepared > 0)
        listener_order_destroy(a->prepared[--a->nprepared]);
    for (size_t i = a->n; i-- > 0;) {
        struct addresses_entry *entry = a->entries[i];
        free(entry->next);
        entry->next = NULL;
        tlscontext_unref(entry->next_tls);
        entry->next_tls = NULL;
        if (entry->state == ADDRESSES_BOUND)
            addresses_remove(a, entry);
    }
}

/* ---- carrying out ---- */

static struct addresses_entry *addresses_find(const struct addresses *a, const struct listener_set *set)
{
    size_t at = 0;
    while (a->entries[at]->set != set)
        at++;
    return a->entries[at];
}

/* A worker has done what it was told. */
static void addresses_on_done(struct mail *m, void *receiver)
{
    (void)receiver;
    struct listener_order *o = (struct listener_order *)m;
    struct addresses *a = o->user;
    struct addresses_entry *entry = addresses_find(a, o->set);
    listener_order_destroy(o);
    if (--entry->orders > 0 || entry->state != ADDRESSES_LEAVING)
        return;
    log_always("no longer listening on %s", entry->set->text);
    addresses_remove(a, entry);
}

static void addresses_tell(const struct addresses_entry *entry)
{
    log_always("listening on %s%s", entry->set->text, listener_is_secure(entry->set) ? " (TLS)" : "");
}

static void addresses_commit_entry(const struct addresses *a, struct addresses_entry *entry)
{
    bool running = a->workers != NULL;
    if (entry->next == NULL && entry->state == ADDRESSES_SERVED) {
        entry->state = ADDRESSES_LEAVING;
        listener_turn_away(entry->set);
    } else if (entry->next != NULL) {
        if (entry->state == ADDRESSES_LEAVING)
            listener_welcome(entry->set);
        listener_update(entry->set, entry->next, entry->next_tls);
        entry->next_tls = NULL;
        if (entry->state != ADDRESSES_SERVED && running)
            addresses_tell(entry);
        entry->state = ADDRESSES_SERVED;
        free(entry->spec);
        entry->spec = entry->next;
        entry->next = NULL;
    }
}

void addresses_commit(struct addresses *a)
{
    for (size_t i = 0; i < a->n; i++)
        addresses_commit_entry(a, a->entries[i]);
    for (size_t i = 0; i < a->nprepared; i++) {
        addresses_find(a, a->prepared[i]->set)->orders++;
        listener_order_post(a->prepared[i]);
    }
    a->nprepared = 0;
}

int addresses_open(const struct addresses *a, struct worker *w)
{
    for (size_t i = 0; i < a->n; i++)
        if (listener_open(w, a->entries[i]->set) < 0)
            return -1;
    return 0;
}

void addresses_serve(struct addresses *a, struct worker *const *workers)
{
    a->workers = workers;
    for (size_t i = 0; i < a->n; i++)
        addresses_tell(a->entries[i]);
}

void addresses_unlink(struct addresses *a)
{
    for (size_t i = 0; i < a->n; i++)
        listener_unlink(a->entries[i]->set);
}

void addresses_fini(struct addresses *a)
{
    while (a->n > 0)
        addresses_free(a->entries[--a->n]);
}
