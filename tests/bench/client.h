/* SPDX-License-Identifier: MIT
 * What the load generators share: connecting to a WebSocket server, reading CPU times, numbers in and out.
 * Any thread may call it, as it keeps no state; what goes wrong ends the process with a sentence. */
#ifndef TIDEWIRE_BENCH_CLIENT_H
#define TIDEWIRE_BENCH_CLIENT_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#include "wire.h"

enum { CLIENT_FAILED = 1, CLIENT_USAGE = 2 };
enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { FINAL = 0x80, RESERVED = 0x70, OPCODE = 0x0f, MASKED = 0x80, LENGTH = 0x7f };

#define CLIENT_HEAD_MAX    14   /* of a frame: two bytes, eight of length, four of mask */
#define CLIENT_CONTROL_MAX 131  /* a control frame of ours: two bytes, four of mask, 125 of payload */
#define CLIENT_REQUEST_MAX 4096 /* a request for an upgrade */
#define CLIENT_ANSWER_MAX  8192 /* the head of its answer, with a NUL */

struct client_target {
    char host[256], port[8], path[1024];
    struct addrinfo *address;
    SSL_CTX *tls;       /* of wire.h; NULL: plain */
    const char *fields; /* more header lines of the request, each with its CR LF; or NULL */
};

/* A moment, and the CPU time used until then by this process and by the server's, in microseconds. */
struct client_reading {
    double at, own, user, system;
};

/* Zeroed memory; the caller frees it. */
void *client_allocate(size_t count, size_t size);

uint64_t client_clock_ns(clockid_t clock);

/* When message `i` of an open loop is due, which begins with message 0 at `start_ns` and has `rate` of them a
 * second. */
uint64_t client_due_ns(uint64_t start_ns, uint64_t i, double rate);

/* epoll_wait until this time of CLOCK_MONOTONIC. */
int client_wait(int epoll, struct epoll_event *events, int room, uint64_t until_ns);

/* Raises the limit on open files as far as the system lets it. */
void client_allow_files(void);

/* Splits HOST:PORT/PATH; false when it is something else. */
bool client_parse_url(struct client_target *target, const char *url);

/* Looks the host up; the caller frees target->address with freeaddrinfo. */
void client_resolve(struct client_target *target);

/* Writes the request for an upgrade into CLIENT_REQUEST_MAX bytes. Returns its length. */
size_t client_make_request(const struct client_target *target, char *request);

/* Ends the process unless this head, whole and ended by a NUL, is the right answer to such a request. */
void client_check_answer(const char *head);

/* Connects and upgrades, waiting for each step. The caller ends it with wire_fini, or closes its socket when
 * it is plain. Nothing behind the handshake has been read from it; with TLS nothing may be there. */
struct wire client_connect(const struct client_target *target);

/* Writes the head of a whole frame, with FINAL and the mask bit but without the four bytes of a mask that
 * follow a masked one. Returns its length. */
size_t client_frame_head(uint8_t *head, unsigned opcode, size_t size, bool masked);

/* Writes the pong that answers a ping with `size` bytes of payload, 125 at most, into CLIENT_CONTROL_MAX
 * bytes. Returns its length. */
size_t client_make_pong(const uint8_t *ping, size_t size, uint8_t *pong);

/* Of these processes together, "PID,PID"; NULL stands for no server. */
struct client_reading client_take_reading(const char *pids);

/* The value of the option --name; ends the process unless it is a number from min to max. */
double client_parse_number(const char *name, const char *text, double min, double max);

/* Prints a line, or with `json` a member after the first of an object. */
void client_print_number(bool json, const char *name, double value);

#endif
