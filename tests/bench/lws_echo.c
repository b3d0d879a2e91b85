/* SPDX-License-Identifier: MIT
 * Sends each message back under libwebsockets: lws_echo PORT. One thread; messages wait in a buffer of their
 * connection until it is writable, as the library asks for, and go until the kernel takes no more. */
#include <err.h>
#include <libwebsockets.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/resource.h>

#define BUFFER      (256 * 1024)       /* for what is read at once */
#define MESSAGE_MAX (64 * 1024 * 1024) /* no call is cut into smaller ones */

struct message {
    size_t at, len; /* of the payload in the bytes; LWS_PRE free ones stand before it */
    bool binary;
};

/* What the library keeps for each connection: messages[sent .. received) are to be sent, the one after them
 * is arriving. When all are sent the buffers are used from the beginning again. */
struct session {
    uint8_t *bytes;
    size_t len, room;
    struct message *messages;
    size_t sent, received, places;
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

/* Makes room for more elements, at least one and a half times as many as there were. */
static void *grow(void *block, size_t *room, size_t needed, size_t size)
{
    if (needed <= *room)
        return block;
    *room = MAX(needed, *room + *room / 2);
    block = realloc(block, *room * size);
    if (block == NULL)
        errx(1, "out of memory");
    return block;
}

static void session_receive(struct session *s, struct lws *wsi, const void *data, size_t len)
{
    if (lws_is_first_fragment(wsi)) {
        s->messages = grow(s->messages, &s->places, s->received + 1, sizeof s->messages[0]);
        s->len += LWS_PRE;
        s->messages[s->received] = (struct message){.at = s->len, .binary = lws_frame_is_binary(wsi)};
    }
    s->bytes = grow(s->bytes, &s->room, s->len + len, 1);
    memcpy(s->bytes + s->len, data, len);
    s->len += len;
    if (lws_is_final_fragment(wsi) && lws_remaining_packet_payload(wsi) == 0) {
        struct message *m = &s->messages[s->received++];
        m->len = s->len - m->at;
        lws_callback_on_writable(wsi);
    }
}

/* Returns -1 when the connection is gone. */
static int session_send(struct session *s, struct lws *wsi)
{
    while (s->sent < s->received) {
        struct message *m = &s->messages[s->sent++];
        if (lws_write(wsi, s->bytes + m->at, m->len, m->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT) < 0)
            return -1;
        if (s->sent < s->received && lws_send_pipe_choked(wsi)) {
            lws_callback_on_writable(wsi);
            return 0;
        }
    }
    size_t end = s->received == 0 ? 0 : s->messages[s->received - 1].at + s->messages[s->received - 1].len;
    if (s->len > end) { /* part of another is there */
        memmove(s->bytes, s->bytes + end, s->len - end);
        s->messages[0] = s->messages[s->received];
        s->messages[0].at = LWS_PRE;
    }
    s->len -= end;
    s->sent = s->received = 0;
    return 0;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *data, size_t len)
{
    struct session *s = user;
    switch (reason) {
    case LWS_CALLBACK_RECEIVE: session_receive(s, wsi, data, len); return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE: return session_send(s, wsi);
    case LWS_CALLBACK_CLOSED:
        free(s->bytes);
        free(s->messages);
        return 0;
    default: return 0;
    }
}

int main(int argc, char **argv)
{
    const struct lws_protocols protocols[] = {
        {.name = "echo",
         .callback = on_event,
         .per_session_data_size = sizeof(struct session),
         .rx_buffer_size = BUFFER,
         .tx_packet_size = MESSAGE_MAX},
        {0},
    };
    struct rlimit files;
    if (argc != 2)
        errx(2, "usage: lws_echo PORT");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    lws_set_log_level(LLL_ERR, NULL);
    struct lws_context_creation_info info = {
        .port = atoi(argv[1]), .iface = "127.0.0.1", .protocols = protocols, .pt_serv_buf_size = BUFFER};
    struct lws_context *context = lws_create_context(&info);
    if (context == NULL)
        errx(1, "libwebsockets does not start");
    while (!stopped && lws_service(context, 0) >= 0)
        ;
    lws_context_destroy(context);
    return 0;
}
