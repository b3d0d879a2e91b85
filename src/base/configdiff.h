/* SPDX-License-Identifier: MIT
 * What differs between two configurations, for the log. Pure; any thread; borrows its arguments. */
#ifndef TIDEWIRE_BASE_CONFIGDIFF_H
#define TIDEWIRE_BASE_CONFIGDIFF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/config.h"

/* Whether the key has the same value in both. In a list neither order nor repetition counts. */
bool configdiff_same(const struct config *a, const struct config *b, const struct config_key *key);

/* A value as one would write it, sizes with their unit: "64k"; "none" when it is unset. Cut to `size`. */
void configdiff_show(const struct config *c, const struct config_key *key, char *out, size_t size);

/* "max_message 1m -> 64k, listen + 127.0.0.1:8443 - 127.0.0.1:8080": what became of the first configuration.
 * When that is longer than `size` the last words say how many more keys differ. Returns how many differ. */
size_t configdiff_tell(const struct config *from, const struct config *to, char *out, size_t size);

#endif
