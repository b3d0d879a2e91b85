/* SPDX-License-Identifier: MIT
 * Address ranges: which peers "10.0.0.0/8", "unix:" or "private" mean. Pure values; any thread; no memory. */
#ifndef TIDEWIRE_NET_CIDR_H
#define TIDEWIRE_NET_CIDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

/* More than CONFIG_LIST_MAX items can make: the longest word stands for 7 ranges, and none is kept twice. */
#define CIDR_LIST_MAX 64

/* The peers of a family whose address begins with certain bits. All bytes, so that two compare as memory. */
struct cidr {
    uint8_t family; /* AF_INET, AF_INET6 or AF_UNIX */
    uint8_t bits;   /* how many count */
    uint8_t address[16];
};

/* Zero it for an empty one. */
struct cidr_list {
    size_t n;
    struct cidr range[CIDR_LIST_MAX];
};

/* One range: "10.0.0.0/8", "fd00::/8", a single address, or "unix:" for the peer of any unix socket. An
 * address with bits beyond its prefix is refused, since it leaves open what was meant. An IPv4 range in IPv6
 * clothes ("::ffff:10.0.0.0/104") is the IPv4 range. 0, or -1 with `e` saying what is wrong and how it is
 * right. */
int cidr_parse(const char *text, size_t len, struct cidr *out, struct err *e);

/* Adds one range, or the ranges that a word stands for:
 *
 *   loopback   127.0.0.0/8, ::1, unix:
 *   private    RFC 1918 (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16), RFC 4193 (fc00::/7) and loopback
 *
 * 0, or -1 with `e` filled and the list as it was. */
int cidr_list_add(struct cidr_list *l, const char *text, size_t len, struct err *e);

/* Whether a range has this peer. An IPv4 address in IPv6 clothes counts as IPv4 and only so: "::/0" is
 * without it. Reads no more of `peer` than its family's struct. */
bool cidr_list_has(const struct cidr_list *l, const struct sockaddr *peer);

/* An address and a port as others write them, into *out: `family` is AF_INET or AF_INET6, the host has no
 * brackets, the port is decimal without leading zeros (NULL: none, 0). False, and *out as it was, when it is
 * not exactly that. */
bool cidr_endpoint(int family, const char *host, size_t host_len, const char *port, size_t port_len,
                   struct sockaddr_storage *out);

#endif
