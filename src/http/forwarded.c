/* SPDX-License-Identifier: MIT
 * Who the client is behind trusted proxies.
 *
 * The lists are cut from the right as well: what a client has put at their left, an open quote for instance,
 * must not change how the elements are read that the proxies have added. */
#include "http/forwarded.h"

#include <netinet/in.h>
#include <string.h>
#include <strings.h>

struct text {
    const char *at;
    size_t len;
};

static bool is(struct text t, const char *word)
{
    return t.len == strlen(word) && strncasecmp(t.at, word, t.len) == 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static void skip(struct text *t, size_t n)
{
    t->at += n;
    t->len -= n;
}

static bool take(struct text *t, char c)
{
    bool found = t->len > 0 && *t->at == c;
    if (found)
        skip(t, 1);
    return found;
}

static void skip_blanks(struct text *t)
{
    while (take(t, ' ') || take(t, '\t'))
        ;
}

/* ---- the list, from its end ---- */

struct walk {
    const struct head *h;
    const char *name;
    int field;        /* the fields before this one are still to come */
    struct text rest; /* of the field at hand */
};

/* Cuts the last element off, without the blanks around it. A comma between quotes separates nothing. In a
 * sound element a backslash stands before each quote within a quoted text and before no other; wherever one
 * that is not sound is cut, it is malformed. */
static struct text cut_last(struct text *list)
{
    const char *begin = list->at, *end = begin + list->len, *at = end;
    bool quoted = false;
    while (at > begin && (quoted || at[-1] != ','))
        if (*--at == '"')
            quoted = !quoted || (at > begin && at[-1] == '\\');
    list->len = at > begin ? (size_t)(at - begin) - 1 : 0;
    while (end > at && is_blank(end[-1]))
        end--;
    struct text element = {at, (size_t)(end - at)};
    skip_blanks(&element);
    return element;
}

static bool previous(struct walk *w, struct text *element)
{
    const char *bytes = head_bytes(w->h);
    while (w->rest.len == 0) {
        if (w->field == 0)
            return false;
        const struct head_field *f = &w->h->fields[--w->field];
        if (is((struct text){bytes + f->name.at, f->name.len}, w->name))
            w->rest = (struct text){bytes + f->value.at, f->value.len};
    }
    *element = cut_last(&w->rest);
    return true;
}

/* ---- one element ---- */

static struct text take_word(struct text *rest)
{
    struct text word = {rest->at, 0};
    while (word.len < rest->len && memchr("\"=;, \t", rest->at[word.len], 6) == NULL)
        word.len++;
    skip(rest, word.len);
    return word;
}

/* Escapes stay as they are: no address needs one. */
static bool take_quoted(struct text *rest, struct text *value)
{
    for (size_t i = 1; i < rest->len; i++) {
        if (rest->at[i] == '"') {
            *value = (struct text){rest->at + 1, i - 1};
            skip(rest, i + 1);
            return true;
        }
        if (rest->at[i] == '\\')
            i++;
    }
    return false;
}

/* name=value */
static bool take_pair(struct text *rest, struct text *name, struct text *value)
{
    *name = take_word(rest);
    if (name->len == 0 || !take(rest, '='))
        return false;
    if (rest->len > 0 && *rest->at == '"')
        return take_quoted(rest, value);
    *value = take_word(rest);
    return value->len > 0;
}

/* The "for" of a Forwarded element; false when it has none or two, or is malformed anywhere. */
static bool find_for(struct text element, struct text *node)
{
    struct text name, value;
    bool found = false;
    do {
        skip_blanks(&element);
        if (element.len == 0 || *element.at == ';')
            continue;
        if (!take_pair(&element, &name, &value))
            return false;
        if (is(name, "for")) {
            if (found)
                return false;
            found = true;
            *node = value;
        }
        skip_blanks(&element);
    } while (take(&element, ';'));
    return found && element.len == 0;
}

/* The forms that the header lists. A hidden port ("_name") is as good as none. */
static bool parse_node(struct text t, struct sockaddr_storage *out)
{
    if (cidr_endpoint(AF_INET6, t.at, t.len, NULL, 0, out))
        return true;
    bool brackets = take(&t, '[');
    int family = brackets ? AF_INET6 : AF_INET;
    const char *end = memchr(t.at, brackets ? ']' : ':', t.len);
    struct text host = {t.at, end != NULL ? (size_t)(end - t.at) : t.len};
    skip(&t, host.len);
    if (brackets && !take(&t, ']'))
        return false;
    bool port = take(&t, ':');
    if (port ? t.len > 1 && *t.at == '_' : t.len == 0)
        return cidr_endpoint(family, host.at, host.len, NULL, 0, out);
    return port && cidr_endpoint(family, host.at, host.len, t.at, t.len, out);
}

/* ---- the walk ---- */

bool forwarded_client(const struct head *h, const struct sockaddr *peer, const struct cidr_list *trusted,
                      struct sockaddr_storage *out)
{
    if (!cidr_list_has(trusted, peer))
        return false;
    struct walk w = {.h = h, .name = "x-forwarded-for", .field = h->nfields};
    bool plain = head_find(h, w.name, strlen(w.name), 0) >= 0, reached = false;
    if (!plain)
        w.name = "forwarded";

    struct text node;
    for (int i = 0; i < FORWARDED_MAX_ELEMENTS && previous(&w, &node); i++) {
        if (node.len == 0)
            continue;
        if ((!plain && !find_for(node, &node)) || !parse_node(node, out))
            break;
        reached = true;
        if (!cidr_list_has(trusted, (const struct sockaddr *)out))
            break;
    }
    return reached;
}
