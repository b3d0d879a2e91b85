/* SPDX-License-Identifier: MIT
 * The client's side of the opening handshake (RFC 6455, 4.1): makes the request out of a URL and options, and
 * reads the answer. Pure: no sockets; any thread. A `struct opening` owns its memory and borrows nothing
 * after opening_init. */
#ifndef TIDEWIRE_CLIENT_OPENING_H
#define TIDEWIRE_CLIENT_OPENING_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "http/head.h"
#include "ws/extensions.h"

#define OPENING_WHY_MAX 256
#define OPENING_URL_MAX 256

/* A header field, as bytes. */
struct opening_field {
    const char *name, *value;
    size_t name_len, value_len;
};

struct opening_options {
    const char *url;
    const struct opening_field *fields;
    size_t nfields;
    const char *const *protocols; /* offered, the most wanted one first */
    size_t nprotocols;
    const struct extensions_terms *want; /* NULL, or deflate false: no extension is offered */
};

struct opening {
    struct head *head;     /* the request; its bytes are what is to be sent */
    CURLU *url;            /* with the scheme http: libcurl only connects */
    char *host;            /* without brackets */
    uint16_t port;         /* never 0 */
    bool tls;              /* wss:// */
    bool literal_v6;       /* the host is an IPv6 address */
    uint8_t interim;       /* answers with a status of 1xx that were passed over */
    size_t at;             /* where the answer begins that is being read */
    struct head_scan scan; /* of it */
    struct extensions_terms offered;
};

/* What the server has agreed to. */
struct opening_answer {
    size_t used;  /* bytes up to the end of its head; frames follow */
    int protocol; /* place among the offers; -1: none */
    struct extensions_terms terms;
    char why[OPENING_WHY_MAX]; /* of a failure; printable ASCII */
};

enum opening_state { OPENING_MORE, OPENING_DONE, OPENING_FAILED };

/* Makes the request, with a key of its own. 0, or -1 with `e` filled; then there is nothing to release.
 *
 * The URL is ws:// or wss://, or http:// or https://, which mean the same (WHATWG WebSockets, 3.1); without a
 * fragment (RFC 6455, 3). Bytes beyond ASCII in path and query are percent-encoded; in the host they are
 * refused. A user name and password become Basic credentials (RFC 7617), as browsers and most libraries send
 * them, unless a field is called Authorization. Field names are tokens, values have no control characters;
 * Host and User-Agent may be replaced; what belongs to the handshake (Connection, Upgrade, Sec-WebSocket-*)
 * or announces a body may not be given. Protocols are different tokens, SUBPROTOCOL_MAX_OFFERS at most. */
int opening_init(struct opening *o, const struct opening_options *options, struct err *e);
void opening_fini(struct opening *o);

/* "ws://example.com/path", without user, password and query, and without the usual port. */
void opening_url(const struct opening *o, char out[OPENING_URL_MAX]);

/* "example.com:80", "[::1]:8080". */
void opening_where(const struct opening *o, char *out, size_t size);

/* Looks at the answer, of which `len` bytes have come: `data` is its first byte at every call. No more than
 * `limit` bytes may belong to the head. Fills `a` when it is DONE or FAILED; is not called again then.
 * Answers with a status of 1xx other than 101 are passed over, a few (RFC 9110, 15.2). */
enum opening_state opening_read(struct opening *o, const char *data, size_t len, size_t limit,
                                struct opening_answer *a);

#endif
