/* SPDX-License-Identifier: MIT
 * Cookies (RFC 6265 and its successor, draft-ietf-httpbis-rfc6265bis): reading the Cookie field, writing the
 * Set-Cookie field. Pure: no sockets, no Lua; any thread; owns nothing. */
#ifndef TIDEWIRE_HTTP_COOKIE_H
#define TIDEWIRE_HTTP_COOKIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* ---- reading ---- */

struct cookie_pair {
    const char *name, *value;
    size_t name_len, value_len;
};

/* Steps *at (0 at first) through field[0 .. len): true and the next pair, or false at the end. Several Cookie
 * fields are joined with "; " before (RFC 9113, 8.2.3). As lenient as what browsers keep: what has no '=' or
 * no name is passed over, blanks around name and value and one pair of DQUOTEs around the value are taken
 * off, nothing is decoded. The same name may come twice; the first one has the longest path. */
bool cookie_next(const char *field, size_t len, size_t *at, struct cookie_pair *pair);

/* ---- writing ---- */

enum cookie_same_site {
    COOKIE_SAME_SITE_UNSET,
    COOKIE_SAME_SITE_NONE,
    COOKIE_SAME_SITE_LAX,
    COOKIE_SAME_SITE_STRICT,
};

/* Texts end in a NUL; NULL: no such attribute. */
struct cookie {
    const char *name, *value; /* never NULL */
    const char *path, *domain;
    int64_t max_age_s; /* -1: no such attribute; 0 deletes the cookie */
    int64_t expires_s; /* since 1970; -1: no such attribute; 0 deletes the cookie */
    bool secure, http_only;
    enum cookie_same_site same_site;
};

#define COOKIE_INIT                                                                                          \
    {                                                                                                        \
        .max_age_s = -1, .expires_s = -1                                                                     \
    }

/* Appends the value of a Set-Cookie field. 0, or -1 with *e saying what a script has to change: then `out` is
 * as it was. Refused is what a browser would drop or read differently: a name that is no token, a value with
 * other than cookie-octets, more than 4,096 bytes of both; a path that does not begin with '/', an empty
 * domain, one of them with ';', a control or non-ASCII character or more than 1,024 bytes; SameSite=None
 * without Secure; a name that begins with __Secure- or __Host- (in any case) without what that promises
 * (6265bis, 4.1.3). */
int cookie_write(struct buf *out, const struct cookie *c, struct err *e);

#endif
