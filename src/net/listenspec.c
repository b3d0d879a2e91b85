/* SPDX-License-Identifier: MIT
 * What is written for a listener, taken apart. */
#include "net/listenspec.h"

#include <stdlib.h>
#include <string.h>

#define LISTENSPEC_PROXY "proxy:"
#define LISTENSPEC_TLS   "tls:"

static bool listenspec_skip(const char **at, const char *prefix)
{
    size_t n = strlen(prefix);
    bool found = strncmp(*at, prefix, n) == 0;
    *at += found ? n : 0;
    return found;
}

const char *listenspec_address(const char *text, size_t *len)
{
    listenspec_skip(&text, LISTENSPEC_PROXY);
    bool secure = listenspec_skip(&text, LISTENSPEC_TLS);
    *len = secure ? strcspn(text, "?") : strlen(text);
    return text;
}

bool listenspec_is_proxied(const char *text)
{
    return listenspec_skip(&text, LISTENSPEC_PROXY);
}

static int listenspec_set_pair(struct listenspec *s, bool key, const char *file, struct err *e)
{
    struct tlscontext_options *o = &s->tls;
    bool open = o->npairs > 0 && o->pair[o->npairs - 1].key == NULL; /* a cert without its key */
    if (key != open)
        return err_set(e, "cert and key come in pairs, the certificate first");
    if (key)
        o->pair[o->npairs - 1].key = file;
    else if (o->npairs == TLSCONTEXT_PAIRS)
        return err_set(e, "more than %d certificates", TLSCONTEXT_PAIRS);
    else
        o->pair[o->npairs++].cert = file;
    return 0;
}

/* "client=optional": whether the client's certificate is asked for only. */
static int listenspec_set_client(struct listenspec *s, const char *value, struct err *e)
{
    s->asks_clients = true;
    s->tls.optional = strcmp(value, "optional") == 0;
    if (s->tls.optional || strcmp(value, "required") == 0)
        return 0;
    return err_set(e, "client is required or optional, not \"%s\"", value);
}

static int listenspec_set_min(struct listenspec *s, const char *value, struct err *e)
{
    s->tls.only_13 = strcmp(value, "1.3") == 0;
    if (s->tls.only_13 || strcmp(value, "1.2") == 0)
        return 0;
    return err_set(e, "min is 1.2 or 1.3, not \"%s\"", value);
}

static int listenspec_set(struct listenspec *s, char *option, struct err *e)
{
    char *value = strchr(option, '=');
    if (value == NULL || value[1] == '\0')
        return err_set(e, "\"%s\" has no value: an option is NAME=VALUE", option);
    *value++ = '\0';
    if (strcmp(option, "cert") == 0 || strcmp(option, "key") == 0)
        return listenspec_set_pair(s, option[0] == 'k', value, e);
    if (strcmp(option, "client") == 0)
        return listenspec_set_client(s, value, e);
    if (strcmp(option, "min") == 0)
        return listenspec_set_min(s, value, e);
    if (strcmp(option, "ca") != 0)
        return err_set(e, "unknown option \"%s\"; there are cert, key, ca, client and min", option);
    s->tls.ca = value;
    return 0;
}

static int listenspec_check(const struct listenspec *s, struct err *e)
{
    const struct tlscontext_options *o = &s->tls;
    if (o->npairs == 0)
        return err_set(e, "TLS needs a certificate and its key: ?cert=FILE&key=FILE");
    if (o->pair[o->npairs - 1].key == NULL)
        return err_set(e, "the certificate %s has no key", o->pair[o->npairs - 1].cert);
    if (s->asks_clients && o->ca == NULL)
        return err_set(e, "client= needs to know who signs clients' certificates: ca=FILE");
    return 0;
}

int listenspec_parse(struct listenspec *s, const char *text, struct err *e)
{
    *s = (struct listenspec){0};
    const char *at = text;
    s->proxied = listenspec_skip(&at, LISTENSPEC_PROXY);
    s->secure = listenspec_skip(&at, LISTENSPEC_TLS);
    s->address = strdup(at);
    if (s->address == NULL)
        return err_set(e, "out of memory");
    if (!s->secure && strstr(at, "?cert=") == NULL)
        return 0;
    char *next = strchr(s->address, '?');
    int rc = !s->secure ? err_set(e, "certificates are for addresses that begin with tls:")
             : strncmp(at, LISTENSPEC_PROXY, strlen(LISTENSPEC_PROXY)) == 0
                 ? err_set(e, "the order is proxy:tls:ADDRESS: the PROXY protocol comes before TLS")
                 : 0;
    while (next != NULL && rc == 0) {
        *next = '\0';
        char *option = next + 1;
        next = strchr(option, '&');
        if (next != NULL)
            *next = '\0';
        rc = listenspec_set(s, option, e);
    }
    if (rc == 0)
        rc = listenspec_check(s, e);
    if (rc == 0)
        return 0;
    listenspec_fini(s);
    return err_prefix(e, "listen \"%s\": ", text);
}

void listenspec_fini(struct listenspec *s)
{
    free(s->address);
    *s = (struct listenspec){0};
}
