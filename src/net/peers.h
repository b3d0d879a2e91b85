/* SPDX-License-Identifier: MIT
 * How many connections each client address has: one table for the process, for max_connections_per_address.
 * Any thread; owns its memory, which is for the most addresses there were at once since it was last empty. */
#ifndef TIDEWIRE_NET_PEERS_H
#define TIDEWIRE_NET_PEERS_H

#include <stdint.h>
#include <sys/socket.h>

#define PEERS_UNLIMITED UINT32_MAX

/* Counts one more connection of that address: a handle to give back when the connection is over. 0 when the
 * address has `limit` of them already, and nothing is counted. PEERS_UNLIMITED for what is not counted: a
 * unix socket, or when memory runs out.
 *
 * An IPv4 address counts by itself, also when it comes mapped into IPv6. IPv6 counts by the first 64 bits:
 * that much is one customer's, who could otherwise take a new address for each connection. */
uint32_t peers_enter(const struct sockaddr *peer, uint64_t limit);

/* Gives one connection back. 0 and PEERS_UNLIMITED are ignored. */
void peers_leave(uint32_t handle);

#endif
