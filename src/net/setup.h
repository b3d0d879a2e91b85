/* SPDX-License-Identifier: MIT
 * One state of the configuration, and what was made of it: counted, and never changed once it is shared. A
 * worker holds the one in force, a VM the one that it was loaded under, until it is closed. */
#ifndef TIDEWIRE_NET_SETUP_H
#define TIDEWIRE_NET_SETUP_H

#include <stdatomic.h>

#include "base/config.h"
#include "base/err.h"
#include "net/cidr.h"

struct setup {
    _Atomic unsigned refs;
    struct config config;
    struct cidr_list trusted_proxies;
    char *kept; /* keys that are other than the file says, as they are fixed, a line each; NULL: none */
};

/* Takes over what is in *c, which holds nothing then. NULL with `e` filled when trusted_proxies is wrong, or
 * missing for an address with "proxy:", or memory runs out; then *c is the caller's still. */
struct setup *setup_create(struct config *c, struct err *e);

/* Any thread. NULL is fine. */
struct setup *setup_ref(struct setup *s);
void setup_unref(struct setup *s);

#endif
