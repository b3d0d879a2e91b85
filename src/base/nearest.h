/* SPDX-License-Identifier: MIT
 * The name that was probably meant, for "unknown key X; did you mean Y?". Any thread; owns nothing. */
#ifndef TIDEWIRE_BASE_NEAREST_H
#define TIDEWIRE_BASE_NEAREST_H

#include <stddef.h>

struct nearest {
    const char *wanted;
    const char *name; /* the one most like it, of those that were tried; NULL when none is near */
    size_t distance;
};

void nearest_init(struct nearest *n, const char *wanted);

/* Borrows both names. Case, and - for _, make no difference. */
void nearest_try(struct nearest *n, const char *name);

#endif
