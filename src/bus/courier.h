/* SPDX-License-Identifier: MIT
 * What workers tell each other: deliveries are gathered during a loop iteration and leave as one mail for
 * each receiver, so that a batch costs one wake-up. Each receiver gets what one sender tells it in the order
 * told. Bounded by inbox_limit for each receiver, about: senders look at what others have posted, not at what
 * they are gathering. All on the thread of the sender; deliveries on that of the receiver. */
#ifndef TIDEWIRE_BUS_COURIER_H
#define TIDEWIRE_BUS_COURIER_H

#include <stddef.h>
#include <stdint.h>

#include "net/worker.h"

/* Gets what was added; `data` is aligned for anything, and valid during the call. Called exactly once,
 * perhaps when the worker has ended and its layers are gone: then it only releases what it refers to. */
typedef void courier_deliver(struct worker *w, const uint8_t *data, size_t len);

/* Makes the courier of a worker; worker->layer[WORKER_COURIER]. 0, or -1 when memory runs out. */
int courier_init(struct worker *w);
/* When no thread of a worker runs any more. */
void courier_fini(struct worker *w);

/* Room for a delivery of `len` bytes to another worker, which the caller fills. `weight` is what it keeps in
 * memory besides. NULL when the receiver's inbox is full or memory runs out. Valid until the next call. */
uint8_t *courier_add(struct worker *from, struct worker *to, courier_deliver *deliver, size_t len,
                     size_t weight);

/* The data of the delivery that was added last, when it is one for `deliver` and has not left yet; else NULL.
 */
uint8_t *courier_last(const struct worker *from, const struct worker *to, courier_deliver *deliver);

/* Makes the last delivery longer: the room for `more` bytes behind it, or NULL as above. */
uint8_t *courier_extend(struct worker *from, struct worker *to, size_t more);

/* Sends what has been gathered. At the end of an iteration. */
void courier_flush(struct worker *from);

#endif
