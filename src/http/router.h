/* SPDX-License-Identifier: MIT
 * The route table: patterns to route numbers. Pure; built by one thread, read by one thread.
 *
 * Components are split by '/', empty ones are ignored (so a leading and a trailing slash make no difference,
 * as in Vapor). `:name` captures one component, `*` matches one, `**` (last only) matches the rest, at
 * least one component. The most specific full match wins, compared component by component from the left,
 * constant before `:name` before `*` before `**`; a dead end backtracks. A pattern whose method does not
 * fit is no match. The pattern "/" (or "") fits only the path without components. */
#ifndef TIDEWIRE_HTTP_ROUTER_H
#define TIDEWIRE_HTTP_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define ROUTER_MAX_COMPONENTS 64 /* of a pattern */
#define ROUTER_MAX_CAPTURES   16
#define ROUTER_MAX_PATTERN    1024 /* bytes */

/* What a route answers to. An upgrade request asks for ROUTER_WEBSOCKET first. */
enum router_method {
    ROUTER_GET,
    ROUTER_HEAD,
    ROUTER_POST,
    ROUTER_PUT,
    ROUTER_PATCH,
    ROUTER_DELETE,
    ROUTER_OPTIONS,
    ROUTER_WEBSOCKET,
    ROUTER_METHODS
};
#define ROUTER_NO_METHOD ROUTER_METHODS /* a request method that no route can have */

/* One captured component, percent-encoded still, pointing into the path that was matched. The rest of the
 * path goes from its first component to its last, without slashes around them. */
struct router_capture {
    const char *name; /* NUL-terminated, owned by the router; "*" for `*`, "**" for the rest of the path */
    const char *value;
    size_t value_len;
};

struct router_match {
    int route;        /* the number that router_add gave, or -1 */
    uint32_t allowed; /* 1u << method of every pattern that fits this path (for 405, Allow, 426) */
    uint8_t ncaptures;
    struct router_capture captures[ROUTER_MAX_CAPTURES];
};

/* One registered route as `tidewire routes` prints it. */
struct router_route {
    enum router_method method;
    const char *pattern; /* normalised: leading slash, no empty components */
    const char *where;   /* "main.lua:12" */
};

struct router;
struct router *router_create(void); /* NULL when memory runs out */
void router_destroy(struct router *r);

/* Registers a pattern. Returns the route's number, counted from 0, or -1 with `e` filled: an empty `:name`
 * or one that has anything but letters, digits, '_', '-' and bytes from 0x80 on (":id(\d+)", ":from:to"),
 * `**` before the end, a name used twice in one pattern, a component that starts with '*' and goes on ("*x",
 * "**x"; "a:b" and "a*b" are constants), a control character, '?' or '#', over the limits above, or the same
 * pattern (names aside) with the same method registered before; that message names both places: "main.lua:9:
 * route /chat/:room for GET is the same as /chat/:name, registered at main.lua:3". Constants are compared
 * with the percent-decoded component of the request's path, so patterns are written unencoded. `pattern` and
 * `where` are copied. */
int router_add(struct router *r, enum router_method method, const char *pattern, size_t len,
               const char *where, struct err *e);

size_t router_count(const struct router *r);
/* NULL when there is no such number; valid as long as the router. */
const struct router_route *router_route(const struct router *r, size_t number);

/* Finds the route of `path` (absolute, percent-encoded, without query; one that does not start with '/', like
 * the "*" of OPTIONS, fits nothing). A component with a broken escape equals no constant, but can be
 * captured. Allocates nothing; cost depends on the path's length and on how many patterns share its prefix,
 * not on the number of routes. Captures are those of the winning route. Returns m->route. */
int router_match(const struct router *r, enum router_method method, const char *path, size_t len,
                 struct router_match *m);

/* Whether both tables have the same routes (method and pattern, wherever registered) in the same order;
 * otherwise `e` names the first that differs. */
bool router_equal(const struct router *a, const struct router *b, struct err *e);

/* "GET" -> ROUTER_GET, else ROUTER_NO_METHOD; also for "WEBSOCKET", which no request line can ask for. */
enum router_method router_method_from_name(const char *name, size_t len);
const char *router_method_name(enum router_method method); /* "GET" ... "WEBSOCKET" */

#endif
