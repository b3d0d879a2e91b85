/* SPDX-License-Identifier: MIT
 * Unix sockets that leave a file behind. Any thread. */
#ifndef TIDEWIRE_NET_UNIXSOCK_H
#define TIDEWIRE_NET_UNIXSOCK_H

/* Removes the socket at `path` when no process serves it any more. Anything that is not a socket stays, and
 * so does one that answers: then the caller's bind says so. */
void unixsock_remove_stale(const char *path);

#endif
