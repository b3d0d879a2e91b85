/* SPDX-License-Identifier: MIT
 * Address ranges. A single address is the range of all its bits; a peer is in a range when nothing is left to
 * tell them apart once the peer's bits beyond the prefix are cleared. */
#include "net/cidr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

static bool is(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && memcmp(text, word, len) == 0;
}

/* A decimal number as one writes it: without sign, blanks or leading zeros. */
static bool parse_number(const char *text, size_t len, unsigned max, unsigned *out)
{
    unsigned n = 0;
    if (len == 0 || len > 5 || (len > 1 && text[0] == '0'))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        n = n * 10 + (unsigned)(text[i] - '0');
    }
    *out = n;
    return n <= max;
}

static bool parse_address(int family, const char *text, size_t len, void *out)
{
    char copy[INET6_ADDRSTRLEN];
    if (len >= sizeof copy || memchr(text, '\0', len) != NULL)
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return inet_pton(family, copy, out) == 1;
}

/* ---- ranges ---- */

static void clear_host_bits(struct cidr *c)
{
    unsigned whole = c->bits / 8;
    if (whole == sizeof c->address)
        return;
    c->address[whole] &= (uint8_t)(0xff00 >> c->bits % 8);
    memset(c->address + whole + 1, 0, sizeof c->address - whole - 1);
}

/* Takes the IPv6 clothes off. Only IPv6 has as many bits. */
static void unmap(struct cidr *c)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (c->bits < 96 || memcmp(c->address, mapped, sizeof mapped) != 0)
        return;
    *c = (struct cidr){
        .family = AF_INET,
        .bits = (uint8_t)(c->bits - 96),
        .address = {c->address[12], c->address[13], c->address[14], c->address[15]},
    };
}

static int refuse_host_bits(const struct cidr *c, const struct cidr *network, struct err *e)
{
    char address[INET6_ADDRSTRLEN], first[INET6_ADDRSTRLEN];
    inet_ntop(c->family, c->address, address, sizeof address);
    inet_ntop(c->family, network->address, first, sizeof first);
    return err_set(e,
                   "the address has bits beyond the first %d; write \"%s/%d\" for the range or \"%s\" for "
                   "the one address",
                   c->bits, first, c->bits, address);
}

int cidr_parse(const char *text, size_t len, struct cidr *out, struct err *e)
{
    if (is(text, len, "unix:")) {
        *out = (struct cidr){.family = AF_UNIX};
        return 0;
    }
    if (len > 5 && memcmp(text, "unix:", 5) == 0)
        return err_set(e, "peers on unix sockets have no path; write \"unix:\" for all of them");

    const char *slash = memchr(text, '/', len);
    size_t address_len = slash != NULL ? (size_t)(slash - text) : len;
    struct cidr c = {0};
    if (parse_address(AF_INET, text, address_len, c.address))
        c.family = AF_INET;
    else if (parse_address(AF_INET6, text, address_len, c.address))
        c.family = AF_INET6;
    else
        return err_set(e, "it is no address or range; write \"10.0.0.0/8\", \"192.168.1.7\", \"fd00::/8\", "
                          "\"unix:\", or in a list \"loopback\" or \"private\"");

    unsigned width = c.family == AF_INET ? 32 : 128, bits = width;
    if (slash != NULL && !parse_number(slash + 1, len - address_len - 1, width, &bits))
        return err_set(e, "what follows the slash is the number of bits that count, from 0 to %u: \"%s\"",
                       width, c.family == AF_INET ? "10.0.0.0/8" : "fd00::/8");
    c.bits = (uint8_t)bits;
    unmap(&c);
    struct cidr network = c;
    clear_host_bits(&network);
    if (memcmp(&network, &c, sizeof c) != 0)
        return refuse_host_bits(&c, &network, e);
    *out = c;
    return 0;
}

/* ---- lists ---- */

static int add_range(struct cidr_list *l, const char *text, size_t len, struct err *e)
{
    struct cidr c;
    if (cidr_parse(text, len, &c, e) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (memcmp(&l->range[i], &c, sizeof c) == 0)
            return 0;
    if (l->n == CIDR_LIST_MAX)
        return err_set(e, "there are more than %d ranges; write wider ones", CIDR_LIST_MAX);
    l->range[l->n++] = c;
    return 0;
}

int cidr_list_add(struct cidr_list *l, const char *text, size_t len, struct err *e)
{
    static const char *const private[] = {"10.0.0.0/8",  "172.16.0.0/12", "192.168.0.0/16", "fc00::/7",
                                          "127.0.0.0/8", "::1",           "unix:"};
    const size_t count = sizeof private / sizeof private[0], before = l->n;
    size_t from;
    if (is(text, len, "private"))
        from = 0;
    else if (is(text, len, "loopback"))
        from = count - 3; /* the last line */
    else
        return add_range(l, text, len, e);
    for (size_t i = from; i < count; i++)
        if (add_range(l, private[i], strlen(private[i]), e) < 0) {
            l->n = before;
            return -1;
        }
    return 0;
}

static struct cidr of_peer(const struct sockaddr *peer)
{
    struct cidr c = {.family = (uint8_t)peer->sa_family};
    if (peer->sa_family == AF_INET) {
        c.bits = 32;
        memcpy(c.address, (const char *)peer + offsetof(struct sockaddr_in, sin_addr), 4);
    } else if (peer->sa_family == AF_INET6) {
        c.bits = 128;
        memcpy(c.address, (const char *)peer + offsetof(struct sockaddr_in6, sin6_addr), 16);
    }
    unmap(&c);
    return c;
}

bool cidr_list_has(const struct cidr_list *l, const struct sockaddr *peer)
{
    const struct cidr address = of_peer(peer);
    for (size_t i = 0; i < l->n; i++) {
        struct cidr c = address;
        c.bits = l->range[i].bits;
        clear_host_bits(&c);
        if (memcmp(&c, &l->range[i], sizeof c) == 0)
            return true;
    }
    return false;
}

/* ---- single addresses ---- */

bool cidr_endpoint(int family, const char *host, size_t host_len, const char *port, size_t port_len,
                   struct sockaddr_storage *out)
{
    union {
        struct sockaddr_storage any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } sa = {.any = {.ss_family = (sa_family_t)family}};
    void *address = family == AF_INET ? (void *)&sa.in.sin_addr : (void *)&sa.in6.sin6_addr;
    unsigned n = 0;
    if (!parse_address(family, host, host_len, address) ||
        (port != NULL && !parse_number(port, port_len, UINT16_MAX, &n)))
        return false;
    if (family == AF_INET)
        sa.in.sin_port = htons((uint16_t)n);
    else
        sa.in6.sin6_port = htons((uint16_t)n);
    *out = sa.any;
    return true;
}
