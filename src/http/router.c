/* SPDX-License-Identifier: MIT
 * The route table as a trie: one node per distinct prefix of patterns, so a lookup sees each node at most
 * once.
 *
 * A node's constant children are in a hash table; `:name`, `*` and `**` have a place each. What a capture is
 * called belongs to the route, not to the node: /chat/:room for GET and /chat/:name/log share a node. */
#include "http/router.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a component of a pattern is. The wildcards come first and number the places in struct node; among
 * themselves they are in order of precedence. */
enum kind { NAMED, ANY, REST, WILDCARDS, CONSTANT = WILDCARDS };

#define NO_CONSTANT UINT32_MAX /* a decoded length that no constant has */

/* A component of a path, or of a pattern, where nothing is encoded and decoded_len is len. */
struct component {
    const char *text; /* borrowed */
    size_t len;
    uint32_t decoded_len; /* or NO_CONSTANT */
    uint32_t hash;        /* of the decoded text */
};

struct slot {
    uint32_t hash;
    struct node *node; /* NULL when the slot is free */
};

struct node {
    struct slot *slots; /* constant children: open addressing, at most three quarters taken */
    uint32_t nslots;    /* 0 or a power of two */
    uint32_t nconstants;
    struct node *wild[WILDCARDS];
    uint32_t methods;           /* 1u << method for every route that ends here */
    int routes[ROUTER_METHODS]; /* valid where `methods` says so */
    uint32_t len;
    char text[]; /* the constant that leads here */
};

struct route {
    struct router_route shown;
    const char *names[]; /* of its captures from left to right; the text of all strings follows */
};

struct router {
    struct node *root;
    struct route **routes; /* by number; a block each, so that what router_route gives stays where it is */
    size_t count, cap;
    size_t depth; /* components of the longest pattern */
};

struct part {
    enum kind kind;
    struct component c;
};

struct pattern {
    size_t nparts;
    size_t ncaptures;
    size_t len; /* normalised */
    struct part parts[ROUTER_MAX_COMPONENTS];
};

struct search {
    const struct router *r;
    struct router_match *m;
    enum router_method method;
    const char *end;                       /* of the path, trailing slashes cut */
    size_t ncomponents;                    /* as many as the longest pattern has, at most */
    bool more;                             /* the path goes on after them */
    uint8_t captured[ROUTER_MAX_CAPTURES]; /* on the way here: which components */
    struct component components[ROUTER_MAX_COMPONENTS];
};

/* ---- components ---- */

#define HASH_START 2166136261u

static inline uint32_t hash_byte(uint32_t hash, unsigned char byte)
{
    return (hash ^ byte) * 16777619u; /* FNV-1a */
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The next decoded byte of an encoded text that is not at its end, or -1 for a broken escape. */
static int next_byte(const char **at, const char *end)
{
    const char *p = *at;
    if (*p != '%') {
        *at = p + 1;
        return (unsigned char)*p;
    }
    if (end - p < 3)
        return -1;
    int high = hex_digit(p[1]);
    int low = hex_digit(p[2]);
    *at = p + 3;
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Steps over slashes to the next component; false at the end. */
static bool next_component(const char **at, const char *end, struct component *c)
{
    const char *p = *at;
    while (p < end && *p == '/')
        p++;
    if (p == end)
        return false;
    const char *slash = memchr(p, '/', (size_t)(end - p));
    *at = slash == NULL ? end : slash;
    c->text = p;
    c->len = (size_t)(*at - p);
    return true;
}

/* Once for each component of a path, so that the nodes of one depth share the work. */
static void hash_encoded(struct component *c)
{
    const char *at = c->text;
    const char *end = at + c->len;
    uint32_t hash = HASH_START;
    uint32_t len = 0;
    c->hash = 0;
    c->decoded_len = NO_CONSTANT;
    while (at < end) {
        int byte = next_byte(&at, end);
        if (byte < 0 || len == ROUTER_MAX_PATTERN)
            return;
        hash = hash_byte(hash, (unsigned char)byte);
        len++;
    }
    c->hash = hash;
    c->decoded_len = len;
}

static void hash_plain(struct component *c)
{
    c->hash = HASH_START;
    for (size_t i = 0; i < c->len; i++)
        c->hash = hash_byte(c->hash, (unsigned char)c->text[i]);
    c->decoded_len = (uint32_t)c->len;
}

static bool is_constant(const struct node *n, const struct component *c)
{
    if (c->decoded_len != n->len)
        return false;
    if (c->decoded_len == c->len)
        return memcmp(c->text, n->text, n->len) == 0;
    const char *at = c->text;
    for (uint32_t i = 0; i < n->len; i++)
        if (next_byte(&at, c->text + c->len) != (unsigned char)n->text[i])
            return false;
    return true;
}

/* ---- patterns ---- */

static int check_bytes(const char *text, size_t len, struct err *e)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            return err_set(e, "byte %zu is the control character 0x%02x, which no path can have", i + 1, c);
        if (c == '?' || c == '#')
            return err_set(e, "'%c' cannot be part of a path", c);
    }
    return 0;
}

static bool is_name(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
        if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '-' && c < 0x80)
            return false;
    }
    return true;
}

static int classify(struct part *part, struct err *e)
{
    const char *text = part->c.text;
    size_t len = part->c.len;
    part->kind = CONSTANT;
    if (text[0] == ':') {
        if (len == 1)
            return err_set(e, "a ':' needs a name after it");
        if (!is_name(text + 1, len - 1))
            return err_set(e, "a name has only letters, digits, '_' and '-', and '%.*s' is none",
                           (int)(len - 1), text + 1);
        part->kind = NAMED;
    } else if (text[0] == '*') {
        if (len > 2 || text[len - 1] != '*')
            return err_set(e, "'*' and '**' stand alone between slashes, unlike '%.*s'", (int)len, text);
        part->kind = len == 1 ? ANY : REST;
    }
    return 0;
}

/* Whether the parts before `part` and it go together. */
static int check_part(const struct pattern *p, const struct part *part, struct err *e)
{
    if (p->nparts == ROUTER_MAX_COMPONENTS)
        return err_set(e, "it has more than %d components", ROUTER_MAX_COMPONENTS);
    if (p->nparts > 0 && p->parts[p->nparts - 1].kind == REST)
        return err_set(e, "'**' takes the rest of the path, so it must come last");
    if (part->kind != CONSTANT && p->ncaptures == ROUTER_MAX_CAPTURES)
        return err_set(e, "it has more than %d captures", ROUTER_MAX_CAPTURES);
    for (size_t i = 0; part->kind == NAMED && i < p->nparts; i++) {
        const struct part *other = &p->parts[i];
        if (other->kind == NAMED && other->c.len == part->c.len &&
            memcmp(other->c.text, part->c.text, part->c.len) == 0)
            return err_set(e, "the name '%.*s' is there twice", (int)part->c.len, part->c.text);
    }
    return 0;
}

static int parse(struct pattern *p, const char *text, size_t len, struct err *e)
{
    p->nparts = p->ncaptures = p->len = 0;
    if (len > ROUTER_MAX_PATTERN)
        return err_set(e, "it is longer than %d bytes", ROUTER_MAX_PATTERN);
    if (check_bytes(text, len, e) < 0)
        return -1;
    struct part part;
    const char *at = text;
    while (next_component(&at, text + len, &part.c)) {
        if (classify(&part, e) < 0 || check_part(p, &part, e) < 0)
            return -1;
        hash_plain(&part.c);
        p->parts[p->nparts++] = part;
        p->ncaptures += part.kind != CONSTANT;
        p->len += 1 + part.c.len;
    }
    if (p->nparts == 0)
        p->len = 1;
    return 0;
}

/* Puts "main.lua:12: route "/x": " before the reason. The pattern may hold any byte and be of any length. */
static int refuse(struct err *e, const char *where, const char *text, size_t len)
{
    char shown[256];
    size_t n = 0;
    size_t i = 0;
    for (; i < len && n < sizeof shown - 8; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            n += (size_t)snprintf(shown + n, sizeof shown - n, "\\x%02x", c);
        else
            shown[n++] = (char)c;
    }
    shown[n] = '\0';
    return err_prefix(e, "%s: route \"%s%s\": ", where, shown, i < len ? "..." : "");
}

/* ---- building ---- */

static struct node *node_create(const char *text, size_t len)
{
    struct node *n = calloc(1, sizeof *n + len);
    if (n != NULL && len > 0) {
        memcpy(n->text, text, len);
        n->len = (uint32_t)len;
    }
    return n;
}

static void node_destroy(struct node *n)
{
    if (n == NULL)
        return;
    for (uint32_t i = 0; i < n->nslots; i++)
        node_destroy(n->slots[i].node);
    for (int kind = 0; kind < WILDCARDS; kind++)
        node_destroy(n->wild[kind]);
    free(n->slots);
    free(n);
}

/* The slot of the constant, or the free one where it belongs. Only for a node that has slots. */
static struct slot *find_slot(const struct node *n, const struct component *c)
{
    uint32_t mask = n->nslots - 1;
    for (uint32_t i = c->hash & mask;; i = (i + 1) & mask) {
        struct slot *s = &n->slots[i];
        if (s->node == NULL || (s->hash == c->hash && is_constant(s->node, c)))
            return s;
    }
}

/* Makes room for one more constant child. */
static int grow(struct node *n)
{
    if ((n->nconstants + 1) * 4 <= n->nslots * 3)
        return 0;
    uint32_t nslots = n->nslots == 0 ? 2 : n->nslots * 2;
    struct slot *slots = calloc(nslots, sizeof *slots);
    if (slots == NULL)
        return -1;
    for (uint32_t i = 0; i < n->nslots; i++) {
        if (n->slots[i].node == NULL)
            continue;
        uint32_t to = n->slots[i].hash & (nslots - 1);
        while (slots[to].node != NULL)
            to = (to + 1) & (nslots - 1);
        slots[to] = n->slots[i];
    }
    free(n->slots);
    n->slots = slots;
    n->nslots = nslots;
    return 0;
}

static struct node *constant_child(struct node *n, const struct component *c)
{
    if (grow(n) < 0)
        return NULL;
    struct slot *s = find_slot(n, c);
    if (s->node == NULL) {
        s->node = node_create(c->text, c->len);
        s->hash = c->hash;
        n->nconstants += s->node != NULL;
    }
    return s->node;
}

/* The node of a pattern, made where it is missing; NULL when memory runs out. Nodes made until then stay:
 * without routes they match nothing. */
static struct node *reach(struct node *n, const struct pattern *p)
{
    for (size_t i = 0; i < p->nparts && n != NULL; i++) {
        const struct part *part = &p->parts[i];
        if (part->kind == CONSTANT) {
            n = constant_child(n, &part->c);
        } else {
            struct node **child = &n->wild[part->kind];
            if (*child == NULL)
                *child = node_create(NULL, 0);
            n = *child;
        }
    }
    return n;
}

static void put_path(char *out, const struct pattern *p, char separator)
{
    if (p->nparts == 0)
        *out++ = separator;
    for (size_t i = 0; i < p->nparts; i++) {
        *out++ = separator;
        memcpy(out, p->parts[i].c.text, p->parts[i].c.len);
        out += p->parts[i].c.len;
    }
    *out = '\0';
}

/* One block. The pattern is in it a second time with NULs for slashes: there the names end where they should.
 */
static struct route *route_create(enum router_method method, const struct pattern *p, const char *where)
{
    size_t names_size = p->ncaptures * sizeof(char *);
    size_t where_size = strlen(where) + 1;
    struct route *route = malloc(sizeof *route + names_size + 2 * (p->len + 1) + where_size);
    if (route == NULL)
        return NULL;
    char *pattern = (char *)route->names + names_size;
    char *split = pattern + p->len + 1;
    char *place = split + p->len + 1;
    put_path(pattern, p, '/');
    put_path(split, p, '\0');
    memcpy(place, where, where_size);
    route->shown = (struct router_route){method, pattern, place};
    const char **name = route->names;
    for (size_t i = 0; i < p->nparts; i++) {
        split++;
        if (p->parts[i].kind != CONSTANT)
            *name++ = p->parts[i].kind == NAMED ? split + 1 : split;
        split += p->parts[i].c.len;
    }
    return route;
}

static int reserve_route(struct router *r)
{
    if (r->count < r->cap)
        return 0;
    size_t cap = r->cap == 0 ? 16 : r->cap * 2;
    struct route **routes = cap > INT_MAX ? NULL : realloc(r->routes, cap * sizeof(struct route *));
    if (routes == NULL)
        return -1;
    r->routes = routes;
    r->cap = cap;
    return 0;
}

struct router *router_create(void)
{
    struct router *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->root = node_create(NULL, 0);
    if (r->root == NULL) {
        free(r);
        return NULL;
    }
    return r;
}

void router_destroy(struct router *r)
{
    if (r == NULL)
        return;
    node_destroy(r->root);
    for (size_t i = 0; i < r->count; i++)
        free(r->routes[i]);
    free(r->routes);
    free(r);
}

int router_add(struct router *r, enum router_method method, const char *pattern, size_t len,
               const char *where, struct err *e)
{
    if (method >= ROUTER_METHODS) {
        err_set(e, "no route can have this method");
        return refuse(e, where, pattern, len);
    }
    struct pattern p;
    if (parse(&p, pattern, len, e) < 0)
        return refuse(e, where, pattern, len);
    struct route *route = route_create(method, &p, where);
    struct node *node = route == NULL ? NULL : reach(r->root, &p);
    if (node == NULL || reserve_route(r) < 0) {
        free(route);
        return err_set(e, "%s: out of memory", where);
    }
    if (node->methods & 1u << method) {
        const struct router_route *first = &r->routes[node->routes[method]]->shown;
        err_set(e, "%s: route %s for %s is the same as %s, registered at %s", where, route->shown.pattern,
                router_method_name(method), first->pattern, first->where);
        free(route);
        return -1;
    }
    int number = (int)r->count;
    node->methods |= 1u << method;
    node->routes[method] = number;
    r->routes[r->count++] = route;
    if (p.nparts > r->depth)
        r->depth = p.nparts;
    return number;
}

size_t router_count(const struct router *r)
{
    return r->count;
}

const struct router_route *router_route(const struct router *r, size_t number)
{
    return number < r->count ? &r->routes[number]->shown : NULL;
}

/* ---- matching ---- */

static void split_path(struct search *s, const char *path, size_t len)
{
    const char *at = path;
    s->end = path + len;
    while (s->end > path && s->end[-1] == '/')
        s->end--;
    s->ncomponents = 0;
    struct component c;
    while (s->ncomponents < s->r->depth && next_component(&at, s->end, &c)) {
        hash_encoded(&c);
        s->components[s->ncomponents++] = c;
    }
    s->more = next_component(&at, s->end, &c);
}

/* A pattern that ends at `n` fits the path. True when its route wins: the first with the right method does,
 * since the search goes from the most to the least specific. */
static bool arrive(struct search *s, const struct node *n, size_t ncaptures)
{
    struct router_match *m = s->m;
    m->allowed |= n->methods;
    if (m->route >= 0 || !(n->methods & 1u << s->method))
        return false;
    m->route = n->routes[s->method];
    m->ncaptures = (uint8_t)ncaptures;
    const struct route *route = s->r->routes[m->route];
    for (size_t i = 0; i < ncaptures; i++) {
        const struct component *c = &s->components[s->captured[i]];
        m->captures[i] = (struct router_capture){route->names[i], c->text, c->len};
    }
    return true;
}

/* Goes on after the winner, for the methods of the other patterns that fit. The depth of the recursion is
 * that of the trie: ROUTER_MAX_COMPONENTS. */
static void visit(struct search *s, const struct node *n, size_t depth, size_t ncaptures)
{
    if (depth == s->ncomponents) {
        if (!s->more)
            arrive(s, n, ncaptures);
        return;
    }
    const struct component *c = &s->components[depth];
    const struct node *constant = n->nconstants == 0 ? NULL : find_slot(n, c)->node;
    if (constant != NULL)
        visit(s, constant, depth + 1, ncaptures);
    for (int kind = NAMED; kind <= ANY; kind++) {
        if (n->wild[kind] != NULL) {
            s->captured[ncaptures] = (uint8_t)depth;
            visit(s, n->wild[kind], depth + 1, ncaptures + 1);
        }
    }
    if (n->wild[REST] != NULL) {
        s->captured[ncaptures] = (uint8_t)depth;
        if (arrive(s, n->wild[REST], ncaptures + 1))
            s->m->captures[ncaptures].value_len = (size_t)(s->end - c->text);
    }
}

int router_match(const struct router *r, enum router_method method, const char *path, size_t len,
                 struct router_match *m)
{
    m->route = -1;
    m->allowed = 0;
    m->ncaptures = 0;
    if (len == 0 || path[0] != '/')
        return -1;
    struct search s; /* not cleared: most of it stays unused */
    s.r = r;
    s.m = m;
    s.method = method;
    split_path(&s, path, len);
    visit(&s, r->root, 0, 0);
    return m->route;
}

/* ---- comparing and naming ---- */

bool router_equal(const struct router *a, const struct router *b, struct err *e)
{
    size_t both = a->count < b->count ? a->count : b->count;
    for (size_t i = 0; i < both; i++) {
        const struct router_route *x = &a->routes[i]->shown;
        const struct router_route *y = &b->routes[i]->shown;
        if (x->method != y->method || strcmp(x->pattern, y->pattern) != 0) {
            err_set(e, "%s: route %s for %s is in one table where the other has %s for %s, registered at %s",
                    x->where, x->pattern, router_method_name(x->method), y->pattern,
                    router_method_name(y->method), y->where);
            return false;
        }
    }
    if (a->count != b->count) {
        const struct router_route *x = &(a->count > both ? a : b)->routes[both]->shown;
        err_set(e, "%s: route %s for %s is in one table only", x->where, x->pattern,
                router_method_name(x->method));
        return false;
    }
    return true;
}

static const char *const method_names[] = {
    [ROUTER_GET] = "GET",         [ROUTER_HEAD] = "HEAD",           [ROUTER_POST] = "POST",
    [ROUTER_PUT] = "PUT",         [ROUTER_PATCH] = "PATCH",         [ROUTER_DELETE] = "DELETE",
    [ROUTER_OPTIONS] = "OPTIONS", [ROUTER_WEBSOCKET] = "WEBSOCKET", [ROUTER_NO_METHOD] = "?",
};

enum router_method router_method_from_name(const char *name, size_t len)
{
    for (int i = 0; i < ROUTER_WEBSOCKET; i++)
        if (strlen(method_names[i]) == len && memcmp(method_names[i], name, len) == 0)
            return (enum router_method)i;
    return ROUTER_NO_METHOD;
}

const char *router_method_name(enum router_method method)
{
    return method_names[method < ROUTER_METHODS ? method : ROUTER_NO_METHOD];
}
