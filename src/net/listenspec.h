/* SPDX-License-Identifier: MIT
 * What is written for a listener, taken apart. Pure; any thread.
 *
 *   [proxy:][tls:]ADDRESS[?cert=FILE&key=FILE...[&ca=FILE][&client=optional][&min=1.3]]
 *
 * Options are for tls: only. `cert` and `key` come in pairs, as often as there are certificates (SNI). The
 * table of the configuration file, { address =, proxy =, tls = {...} }, is brought into this form. */
#ifndef TIDEWIRE_NET_LISTENSPEC_H
#define TIDEWIRE_NET_LISTENSPEC_H

#include <stdbool.h>

#include "base/err.h"
#include "net/tlscontext.h"

struct listenspec {
    bool proxied, secure;
    bool asks_clients; /* "client=" is there */
    char *address;     /* "127.0.0.1:8080", "unix:/path", "fd:3": not looked at */
    struct tlscontext_options tls;
};

/* 0, or -1 with `e` filled. */
int listenspec_parse(struct listenspec *s, const char *text, struct err *e);
void listenspec_fini(struct listenspec *s);

/* Of a text that has been parsed before. The address in it, *len bytes. */
const char *listenspec_address(const char *text, size_t *len);
bool listenspec_is_proxied(const char *text);

#endif
