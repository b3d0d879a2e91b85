/* SPDX-License-Identifier: MIT
 * What the machine lets the process have: processors, descriptors. The main thread, at start. */
#ifndef TIDEWIRE_OPS_LIMITS_H
#define TIDEWIRE_OPS_LIMITS_H

#include <stddef.h>

#include "base/config.h"

/* How many workers to run: as configured, or one for each processor that the process may use, by its affinity
 * and its control group's quota. */
size_t limits_workers(const struct config *config);

/* The processor for the worker of this number: the next of those the process may use, and again from the
 * first. -1 when they cannot be told. */
int limits_processor_of(unsigned index);

/* Raises the file limit to what it may be, and derives max_connections from it. */
void limits_set(struct config *config);

/* Logs how many connections there can be, and a warning when that is less than max_connections. */
void limits_tell(const struct config *config);

#endif
