/* SPDX-License-Identifier: MIT
 * Certificates, keys and rules of TLS, ready to be used by connections of any worker: of a listener, or of
 * clients that scripts open. Immutable once made; counted references. Any thread. */
#ifndef TIDEWIRE_NET_TLSCONTEXT_H
#define TIDEWIRE_NET_TLSCONTEXT_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define TLSCONTEXT_PAIRS 16

/* Paths of PEM files. */
struct tlscontext_options {
    struct {
        const char *cert; /* with the chain, the leaf first */
        const char *key;
    } pair[TLSCONTEXT_PAIRS]; /* the first is for clients that name no server, or an unknown one (SNI) */
    size_t npairs;
    const char *ca; /* server: who signs clients' certificates; NULL: none is asked for. Client: whom to
                       believe; NULL: whom the system believes */
    bool optional;  /* server: clients without a certificate are served too */
    bool only_13;   /* no TLS 1.2 */
    bool no_verify; /* client: anyone is believed */
    bool quiet;     /* an expired certificate has been warned of already */
};

struct tlscontext;

/* For a listener. NULL with `e` filled: a file that cannot be read or is none, a key that is not the
 * certificate's. It names the file. A certificate that has expired is only warned of: better that than no
 * server. */
struct tlscontext *tlscontext_create_server(const struct tlscontext_options *o, struct err *e);
/* For clients; at most one pair, the client's own. */
struct tlscontext *tlscontext_create_client(const struct tlscontext_options *o, struct err *e);
/* The one of clients that ask for nothing in particular: a reference, made at its first use. */
struct tlscontext *tlscontext_usual_client(struct err *e);
struct tlscontext *tlscontext_ref(struct tlscontext *x);
/* NULL is fine. */
void tlscontext_unref(struct tlscontext *x);

bool tlscontext_is_server(const struct tlscontext *x);
/* A connection's state of OpenSSL; NULL when memory runs out. */
SSL *tlscontext_new_ssl(const struct tlscontext *x);

/* ---- the one that is in use, and that a reload replaces ---- */

struct tlscontext_slot {
    pthread_mutex_t lock;
    struct tlscontext *current; /* NULL: no TLS */
};

void tlscontext_slot_init(struct tlscontext_slot *slot);
void tlscontext_slot_fini(struct tlscontext_slot *slot);
/* Takes over a reference; connections that have the old one keep it. */
void tlscontext_slot_set(struct tlscontext_slot *slot, struct tlscontext *x);
/* A reference. NULL where there is no slot. */
struct tlscontext *tlscontext_slot_get(struct tlscontext_slot *slot);

#endif
