/* SPDX-License-Identifier: MIT
 * Whether a new connection gets a place: max_connections, max_connections_per_address. Any worker's thread.
 */
#ifndef TIDEWIRE_HTTP_ADMISSION_H
#define TIDEWIRE_HTTP_ADMISSION_H

#include <stdint.h>
#include <sys/socket.h>

#include "net/worker.h"

/* 0, or the status of the refusal with a sentence in *detail. `not_counted` connections take nobody's place.
 */
int admission_to_server(struct worker *w, uint64_t not_counted, const char **detail);

/* The same for its address; *place is then its place in that address's count, for peers_leave. */
int admission_of_address(struct worker *w, const struct sockaddr *peer, uint32_t *place, const char **detail);

#endif
