/* SPDX-License-Identifier: MIT
 * Cookies: lenient with what browsers send, strict with what they get. */
#include "http/cookie.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "http/head.h"

/* What browsers keep (6265bis, 5.6). */
#define MAX_PAIR_BYTES      4096
#define MAX_ATTRIBUTE_BYTES 1024
#define MAX_EXPIRES_S       INT64_C(253402300799) /* the last second of the year 9999 */

/* ---- reading ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Takes the blanks off both ends of at[0 .. *len). */
static const char *trim(const char *at, size_t *len)
{
    while (*len > 0 && is_blank(at[*len - 1]))
        --*len;
    while (*len > 0 && is_blank(*at)) {
        at++;
        --*len;
    }
    return at;
}

bool cookie_next(const char *field, size_t len, size_t *at, struct cookie_pair *pair)
{
    while (*at < len) {
        const char *from = field + *at;
        const char *semicolon = memchr(from, ';', len - *at);
        const char *end = semicolon != NULL ? semicolon : field + len;
        const char *equals = memchr(from, '=', (size_t)(end - from));
        *at = (size_t)(end - field) + (semicolon != NULL);
        if (equals == NULL)
            continue;
        pair->name_len = (size_t)(equals - from);
        pair->name = trim(from, &pair->name_len);
        if (pair->name_len == 0)
            continue;
        pair->value_len = (size_t)(end - equals - 1);
        pair->value = trim(equals + 1, &pair->value_len);
        if (pair->value_len >= 2 && *pair->value == '"' && pair->value[pair->value_len - 1] == '"') {
            pair->value++;
            pair->value_len -= 2;
        }
        return true;
    }
    return false;
}

/* ---- writing ---- */

/* Whether every character is a visible one of ASCII and not one of `except`. */
static bool is_visible(const char *text, const char *except)
{
    for (; *text != '\0'; text++)
        if (*text <= ' ' || *text >= 0x7f || strchr(except, *text) != NULL)
            return false;
    return true;
}

static int check_attribute(const char *name, const char *what, const char *value, struct err *e)
{
    for (const char *at = value; *at != '\0'; at++)
        if (*at < ' ' || *at >= 0x7f || *at == ';')
            return err_set(e,
                           "the %s of the cookie \"%s\" has a ';', a control character or one outside ASCII",
                           what, name);
    if (strlen(value) > MAX_ATTRIBUTE_BYTES)
        return err_set(e, "the %s of the cookie \"%s\" is too long: browsers ignore more than %d bytes", what,
                       name, MAX_ATTRIBUTE_BYTES);
    return 0;
}

static bool has_prefix(const char *name, const char *prefix)
{
    return strncasecmp(name, prefix, strlen(prefix)) == 0;
}

/* Browsers drop a cookie whose name promises what its attributes do not keep. */
static int check_promises(const struct cookie *c, struct err *e)
{
    if (c->same_site == COOKIE_SAME_SITE_NONE && !c->secure)
        return err_set(e, "the cookie \"%s\" has SameSite=None, which needs Secure", c->name);
    if (has_prefix(c->name, "__Secure-") && !c->secure)
        return err_set(e, "the cookie \"%s\" needs Secure, because of the prefix of its name", c->name);
    bool at_root = c->path != NULL && strcmp(c->path, "/") == 0;
    if (has_prefix(c->name, "__Host-") && (!c->secure || !at_root || c->domain != NULL))
        return err_set(e,
                       "the cookie \"%s\" needs Secure and the path \"/\" and may not have a domain, because "
                       "of the prefix of its name",
                       c->name);
    return 0;
}

static int check(const struct cookie *c, struct err *e)
{
    if (!head_is_token(c->name, strlen(c->name)))
        return err_set(e, "a cookie's name consists of letters, digits and !#$%%&'*+-.^_`|~ only");
    if (!is_visible(c->value, "\",;\\"))
        return err_set(e,
                       "the value of the cookie \"%s\" has a character that cookies cannot carry (a blank, "
                       "'\"', ',', ';', '\\', a control character or one outside ASCII): encode it first",
                       c->name);
    if (strlen(c->name) + strlen(c->value) > MAX_PAIR_BYTES)
        return err_set(e, "the cookie \"%.40s\" is too long: browsers drop one of more than %d bytes",
                       c->name, MAX_PAIR_BYTES);
    if (c->path != NULL && *c->path != '/')
        return err_set(e, "the path of the cookie \"%s\" does not begin with '/'", c->name);
    if (c->domain != NULL && *c->domain == '\0')
        return err_set(e, "the domain of the cookie \"%s\" is empty", c->name);
    if (c->path != NULL && check_attribute(c->name, "path", c->path, e) < 0)
        return -1;
    if (c->domain != NULL && check_attribute(c->name, "domain", c->domain, e) < 0)
        return -1;
    if (c->max_age_s < -1 || c->expires_s < -1 || c->expires_s > MAX_EXPIRES_S)
        return err_set(e, "the cookie \"%s\" has an age or a date out of range", c->name);
    return check_promises(c, e);
}

/* IMF-fixdate (RFC 9110, 5.6.7). */
static int write_expires(struct buf *out, int64_t expires_s)
{
    time_t when = (time_t)expires_s;
    struct tm tm;
    char date[64];
    gmtime_r(&when, &tm);
    strftime(date, sizeof date, "; Expires=%a, %d %b %Y %H:%M:%S GMT", &tm);
    return buf_puts(out, date);
}

static int write_text(struct buf *out, const char *attribute, const char *value)
{
    return value != NULL ? buf_printf(out, "; %s=%s", attribute, value) : 0;
}

int cookie_write(struct buf *out, const struct cookie *c, struct err *e)
{
    static const char *const same_sites[] = {
        [COOKIE_SAME_SITE_UNSET] = NULL,
        [COOKIE_SAME_SITE_NONE] = "None",
        [COOKIE_SAME_SITE_LAX] = "Lax",
        [COOKIE_SAME_SITE_STRICT] = "Strict",
    };
    size_t len = out->len;

    if (check(c, e) < 0)
        return -1;
    if (buf_printf(out, "%s=%s", c->name, c->value) == 0 && write_text(out, "Path", c->path) == 0 &&
        write_text(out, "Domain", c->domain) == 0 &&
        (c->max_age_s < 0 || buf_printf(out, "; Max-Age=%" PRId64, c->max_age_s) == 0) &&
        (c->expires_s < 0 || write_expires(out, c->expires_s) == 0) &&
        (!c->secure || buf_puts(out, "; Secure") == 0) &&
        (!c->http_only || buf_puts(out, "; HttpOnly") == 0) &&
        write_text(out, "SameSite", same_sites[c->same_site]) == 0)
        return 0;
    out->len = len;
    return err_set(e, "out of memory");
}
