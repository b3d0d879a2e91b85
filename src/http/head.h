/* SPDX-License-Identifier: MIT
 * The head of an HTTP/1.x request: found in a byte stream, checked strictly, kept as one block.
 *
 * llhttp parses; what it lets through and RFC 9112 does not is refused here. Pure: no sockets, no Lua; any
 * thread. A `struct head` owns its bytes and borrows nothing. */
#ifndef TIDEWIRE_HTTP_HEAD_H
#define TIDEWIRE_HTTP_HEAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* The longest head that the offsets below can describe; the configured limit is never above it. */
#define HEAD_MAX_BYTES  65000
#define HEAD_MAX_FIELDS 256

/* ---- finding the end ---- */

/* Where the search for the empty line stands; zero it for a new head. */
struct head_scan {
    uint32_t at; /* bytes of the head already looked at */
    uint8_t state;
};

/* Looks at data[s->at .. len) and goes on where the last call stopped, so that a head that arrives a byte at
 * a time costs each byte once. `data` is the head from its first byte at every call. Empty lines before the
 * request line are part of the head (RFC 9112, 2.2; at most two). Returns the head's length with its empty
 * line, 0 when more bytes are needed, or -400 when a bare CR, a bare LF, a NUL or another control character
 * makes it hopeless: then no byte that follows could mend it. */
long head_scan(struct head_scan *s, const char *data, size_t len);

/* ---- the parsed head ---- */

struct head_span {
    uint16_t at; /* offset into the bytes */
    uint16_t len;
};

struct head_field {
    struct head_span name;
    struct head_span value; /* without surrounding blanks */
};

enum head_flag {
    HEAD_KEEP_ALIVE = 1,     /* the connection may carry another request after this one */
    HEAD_UPGRADE = 2,        /* Connection: upgrade together with an Upgrade field */
    HEAD_CONTENT_LENGTH = 4, /* there is a Content-Length, also when it is 0 */
    HEAD_CHUNKED = 8,
    HEAD_EXPECT_CONTINUE = 16,
};

struct tls_facts;

/* One malloc block: this struct, then the fields, then the raw bytes. */
struct head {
    _Atomic uint32_t refs;
    uint16_t nfields;
    uint16_t nbytes;
    uint64_t content_length;
    uint64_t id;             /* of the request, unique in this process; the HTTP side sets it */
    struct tls_facts *tls;   /* of its connection; NULL: plain. The HTTP side sets it; a reference */
    struct head_span target; /* as sent */
    struct head_span path;   /* absolute path, still percent-encoded; "*" for OPTIONS * */
    struct head_span query;  /* after the '?', which is not part of it; empty when there is none */
    struct head_span method_name;
    uint8_t method; /* enum llhttp_method */
    uint8_t minor;  /* HTTP/1.minor */
    uint8_t flags;
    uint8_t remote_family; /* AF_INET, AF_INET6, AF_UNIX; set by head_set_remote */
    uint16_t remote_port;
    uint8_t remote_ip[16];
    struct head_field fields[];
};

/* Why a head was refused, for the HTTP answer: a status and one sentence for a person. */
struct head_fault {
    int status;         /* 400, 431, 501 or 505 */
    const char *reason; /* static text, e.g. "The Host header is missing." */
};

/* Parses `len` bytes, exactly what head_scan found. On success *out is a new block with one reference
 * and 0 is returned; otherwise -1 with *fault filled, or -1 with fault->status 500 when memory ran out.
 *
 * Refused with 400: folded lines, empty or non-token field names, blanks before the colon, control
 * characters in values or target, no Host with HTTP/1.1, two Hosts or one with characters that no host has
 * (a blank, '/', '@'), two or differing or signed or non-numeric Content-Lengths (RFC 9112 6.3 would let
 * equal ones pass; we do not), Content-Length with Transfer-Encoding, Transfer-Encoding with HTTP/1.0 or not
 * ending in (or repeating) chunked, codings other than chunked (501), an upgrade with a Content-Length or
 * Transfer-Encoding, bad percent escapes or %00 in the path, a target that is neither origin-form,
 * absolute-form (http, https, ws, wss) nor, for OPTIONS, "*"; a '#' in the target. 501: a well-formed method
 * that llhttp does not know, and CONNECT. 505: HTTP/2 and everything that is not HTTP/1.0 or 1.1. 431: more
 * than HEAD_MAX_FIELDS fields or HEAD_MAX_BYTES bytes. */
int head_parse(const char *data, size_t len, struct head **out, struct head_fault *fault);

/* Scripts may hold a request longer than its connection lives, and drop it on the thread that closes their
 * VM: any thread. NULL is fine for head_unref. */
struct head *head_ref(struct head *h);
void head_unref(struct head *h);

/* The address of the peer, kept in the head so that `req.remote_address` outlives the socket. An IPv4 address
 * in IPv6 clothes (::ffff:127.0.0.1) is kept as the IPv4 address it is. */
void head_set_remote(struct head *h, const struct sockaddr *sa);
/* Text form without port ("127.0.0.1", "::1", "unix:"); `out` takes INET6_ADDRSTRLEN bytes. */
void head_remote_text(const struct head *h, char *out, size_t size);

const char *head_bytes(const struct head *h);
static inline size_t head_block_size(const struct head *h)
{
    return offsetof(struct head, fields) + h->nfields * sizeof h->fields[0] + h->nbytes;
}

/* Case-insensitive search from field number `from` on; the index, or -1. */
int head_find(const struct head *h, const char *name, size_t name_len, int from);

/* The value of the only field of that name: false when there is none or more than one. */
bool head_single(const struct head *h, const char *name, const char **value, size_t *len);

/* Whether any field of that name has `token` in its comma-separated list (case-insensitive, RFC 9110, 5.6.1).
 */
bool head_has_token(const struct head *h, const char *name, const char *token);

/* A token (RFC 9110, 5.6.2): its characters, and whether a text is one. */
bool head_is_token_char(char c);
bool head_is_token(const char *text, size_t len);

/* Steps through the comma-separated list from *at to `end` (both NULL: an empty one): the next element
 * without the blanks around it, or false when there is none. Empty ones are skipped; quotes mean nothing. */
bool head_list_next(const char **at, const char *end, const char **element, size_t *len);

#endif
