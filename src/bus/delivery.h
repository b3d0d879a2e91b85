/* SPDX-License-Identifier: MIT
 * From the feeds of topics into the send queues of their subscribers. The thread of the worker. Never runs a
 * script: a session that ends here is told at the end of the loop iteration, as ever. */
#ifndef TIDEWIRE_BUS_DELIVERY_H
#define TIDEWIRE_BUS_DELIVERY_H

#include "net/worker.h"
#include "ws/session.h"

/* session_handler.catch_up: what was published to it so far, over all topics in the order published. */
void delivery_catch_up(struct session *s);

/* The same for all subscribers; then the feeds are empty. */
void delivery_flush(struct worker *w);

#endif
