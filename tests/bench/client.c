/* SPDX-License-Identifier: MIT
 * What the load generators share; see client.h. */
#include "client.h"

#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND    UINT64_C(1000000000)
#define CONNECT_S 10 /* for each step of a handshake */

/* The example of RFC 6455, 1.3: with another key each time the server would do the same work. */
#define KEY    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define ACCEPT "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

void *client_allocate(size_t count, size_t size)
{
    void *block = calloc(count, size);
    if (block == NULL)
        errx(CLIENT_FAILED, "out of memory");
    return block;
}

uint64_t client_clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t client_due_ns(uint64_t start_ns, uint64_t i, double rate)
{
    return start_ns + (uint64_t)((double)i * 1e9 / rate);
}

int client_wait(int epoll, struct epoll_event *events, int room, uint64_t until_ns)
{
    uint64_t now_ns = client_clock_ns(CLOCK_MONOTONIC), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / SECOND), .tv_nsec = (long)(left_ns % SECOND)};
    return epoll_pwait2(epoll, events, room, &left, NULL);
}

void client_allow_files(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

bool client_parse_url(struct client_target *target, const char *url)
{
    return sscanf(url, "%255[^:/]:%7[0-9]%1023s", target->host, target->port, target->path) == 3;
}

void client_resolve(struct client_target *target)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(target->host, target->port, &hints, &target->address);
    if (rc != 0)
        errx(CLIENT_FAILED, "%s: %s", target->host, gai_strerror(rc));
}

size_t client_make_request(const struct client_target *target, char *request)
{
    int len =
        snprintf(request, CLIENT_REQUEST_MAX,
                 "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Version: 13\r\n" KEY "%s\r\n",
                 target->path, target->host, target->port, target->fields != NULL ? target->fields : "");
    if (len >= CLIENT_REQUEST_MAX)
        errx(CLIENT_FAILED, "the request is too long");
    return (size_t)len;
}

void client_check_answer(const char *head)
{
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0 || strcasestr(head, ACCEPT) == NULL)
        errx(CLIENT_FAILED, "the handshake failed: %.*s", (int)strcspn(head, "\r\n"), head);
}

struct wire client_connect(const struct client_target *target)
{
    const struct addrinfo *address = target->address;
    int on = 1, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = CONNECT_S};
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, address->ai_addr, address->ai_addrlen) < 0)
        err(CLIENT_FAILED, "cannot connect to %s:%s", target->host, target->port);
    char request[CLIENT_REQUEST_MAX], text[CLIENT_ANSWER_MAX];
    size_t len = client_make_request(target, request);
    struct wire wire;
    wire_init(&wire, fd, target->tls, NULL);
    if (wire_send(&wire, request, len, MSG_NOSIGNAL) != (ssize_t)len)
        err(CLIENT_FAILED, "cannot send the handshake");
    len = 0; /* byte by byte, so that frames which follow at once stay in the socket */
    while (len < 4 || memcmp(text + len - 4, "\r\n\r\n", 4) != 0) {
        size_t room = target->tls != NULL ? sizeof text - 1 - len : 1;
        ssize_t n = len < sizeof text - 1 ? wire_recv(&wire, text + len, room, 0) : 0;
        if (n <= 0)
            errx(CLIENT_FAILED, "no answer to the handshake");
        len += (size_t)n;
    }
    text[len] = '\0';
    client_check_answer(text);
    return wire;
}

size_t client_frame_head(uint8_t *head, unsigned opcode, size_t size, bool masked)
{
    size_t at = 2, width = size < 126 ? 0 : size < 65536 ? 2 : 8;
    size_t length = width == 0 ? size : width == 2 ? 126 : 127;
    head[0] = (uint8_t)(FINAL | opcode);
    head[1] = (uint8_t)((masked ? MASKED : 0) | length);
    for (size_t i = width; i > 0; i--)
        head[at++] = (uint8_t)(size >> (8 * (i - 1)));
    return at;
}

size_t client_make_pong(const uint8_t *ping, size_t size, uint8_t *pong)
{
    size_t at = client_frame_head(pong, OP_PONG, size, true);
    const uint8_t *mask = pong + at;
    arc4random_buf(pong + at, 4);
    at += 4;
    for (size_t i = 0; i < size; i++)
        pong[at + i] = ping[2 + i] ^ mask[i % 4];
    return at + size;
}

/* Adds what a process has used. */
static void client_read_process(unsigned long pid, struct client_reading *r)
{
    double user, system;
    char text[1024];
    snprintf(text, sizeof text, "/proc/%lu/stat", pid);
    FILE *file = fopen(text, "r");
    if (file == NULL)
        err(CLIENT_FAILED, "%s", text);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *name_end = strrchr(text, ')'); /* the name may hold anything */
    if (name_end == NULL ||
        sscanf(name_end + 1, "%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%lf%lf", &user, &system) != 2)
        errx(CLIENT_FAILED, "process %lu has gone", pid);
    r->user += user * 1e6 / (double)sysconf(_SC_CLK_TCK);
    r->system += system * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

struct client_reading client_take_reading(const char *pids)
{
    struct client_reading r = {.at = (double)client_clock_ns(CLOCK_MONOTONIC) / 1e3,
                               .own = (double)client_clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e3};
    for (char *end; pids != NULL; pids = *end == ',' ? end + 1 : NULL) {
        unsigned long pid = strtoul(pids, &end, 10);
        if (end == pids || (*end != '\0' && *end != ','))
            errx(CLIENT_USAGE, "--cpu-of %s: expected PID or PID,PID", pids);
        client_read_process(pid, &r);
    }
    return r;
}

double client_parse_number(const char *name, const char *text, double min, double max)
{
    char *end;
    double n = strtod(text, &end);
    if (end == text || *end != '\0' || !(n >= min && n <= max))
        errx(CLIENT_USAGE, "--%s %s: expected a number from %g to %g", name, text, min, max);
    return n;
}

void client_print_number(bool json, const char *name, double value)
{
    printf(json ? ", \"%s\": %.3f" : "%-30s%14.3f\n", name, value);
}
