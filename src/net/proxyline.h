/* SPDX-License-Identifier: MIT
 * The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): what a proxy says about the client, in
 * the first bytes of a connection. Pure; any thread; owns nothing.
 *
 * Whoever may send it chooses the address, and it is never to be guessed whether it is there: read it on
 * listeners that are set up for it, from peers that are trusted, and close the connection at -1. */
#ifndef TIDEWIRE_NET_PROXYLINE_H
#define TIDEWIRE_NET_PROXYLINE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* No header is longer: the room that a caller needs, unless it can go on at any length. */
#define PROXYLINE_MAX_BYTES 4096

struct proxyline {
    /* AF_UNSPEC: the socket's own address holds, since the proxy speaks for itself (LOCAL, a health check),
     * does not know (UNKNOWN, UNSPEC) or the client came over a datagram protocol. AF_INET and AF_INET6 with
     * port; an IPv4 address may come in IPv6 clothes. AF_UNIX without path. */
    struct sockaddr_storage source;
};

/* Looks at data[0 .. len), the connection from its first byte at every call. Returns how many bytes the
 * header has, with *out filled: the byte behind it is the client's first. 0 when it is not whole, -1 as soon
 * as it is known to be malformed; then *out is as it was.
 *
 * Version 1 is exactly as specified: single blanks, no leading zeros, CR LF within 107 bytes. In version 2
 * the TLVs behind the addresses are skipped, but must fill the header exactly, and a CRC32c among them must
 * be right. Behind LOCAL and UNSPEC nothing is looked at, as there is no saying where TLVs would begin. */
int proxyline_parse(const uint8_t *data, size_t len, struct proxyline *out);

#endif
