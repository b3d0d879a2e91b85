/* SPDX-License-Identifier: MIT
 * The client's side of the opening handshake: what is sent for which URL and options, and which answers
 * count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "client/opening.h"
#include "ws/subprotocol.h"
#include "ws/upgrade.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define LIMIT        4096
#define FIELD(name, value)                                                                                   \
    {                                                                                                        \
        name, value, sizeof name - 1, sizeof value - 1                                                       \
    }

static struct opening opening;
static struct opening_options options;
static struct opening_answer answer;
static struct err e;
static const struct extensions_terms deflate = {
    .deflate = true, .server_takeover = true, .client_takeover = true, .server_bits = 15, .client_bits = 15};

static int set_up(void **state)
{
    (void)state;
    options = (struct opening_options){.url = "ws://h/"};
    memset(&opening, 0, sizeof opening);
    e.text[0] = '\0';
    return upgrade_init();
}

static int tear_down(void **state)
{
    (void)state;
    opening_fini(&opening);
    return 0;
}

static void open_it(void)
{
    opening_fini(&opening);
    if (opening_init(&opening, &options, &e) < 0)
        fail_msg("%s: %s", options.url, e.text);
}

static void assert_refused(const char *why)
{
    assert_int_equal(opening_init(&opening, &options, &e), -1);
    if (strstr(e.text, why) == NULL)
        fail_msg("\"%s\" does not say: %s", e.text, why);
}

static const char *text_of(const char *at, size_t len)
{
    static char text[70000];
    assert_true(len < sizeof text);
    memcpy(text, at, len);
    text[len] = '\0';
    return text;
}

/* The value of a field that is there once; "-" when it is not there. */
static const char *sent(const char *name)
{
    const char *value;
    size_t len;
    if (head_find(opening.head, name, strlen(name), 0) < 0)
        return "-";
    assert_true(head_single(opening.head, name, &value, &len));
    return text_of(value, len);
}

static const char *sent_target(void)
{
    return text_of(head_bytes(opening.head) + opening.head->target.at, opening.head->target.len);
}

/* ---- the request ---- */

static void request_is_as_rfc_6455_4_1_asks(void **state)
{
    (void)state;
    static const char *const protocols[] = {"chat.v2", "chat"};
    const struct opening_field fields[] = {FIELD("X-Token", "a b")};
    const char *reason;
    char want[1024], offer[EXTENSIONS_TEXT_MAX], key[32];
    options = (struct opening_options){.url = "ws://example.com:8080/chat?room=1",
                                       .fields = fields,
                                       .nfields = 1,
                                       .protocols = protocols,
                                       .nprotocols = 2,
                                       .want = &deflate};
    open_it();
    extensions_offer(&deflate, offer);
    snprintf(key, sizeof key, "%s", sent("Sec-WebSocket-Key"));
    snprintf(
        want, sizeof want,
        "GET /chat?room=1 HTTP/1.1\r\nHost: example.com:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: chat.v2, chat\r\n"
        "Sec-WebSocket-Extensions: %s\r\nUser-Agent: tidewire/" TIDEWIRE_VERSION "\r\nX-Token: a b\r\n\r\n",
        key, offer);
    assert_string_equal(text_of(head_bytes(opening.head), opening.head->nbytes), want);
    assert_true(upgrade_wanted(opening.head));
    assert_int_equal(upgrade_check(opening.head, &reason), 0); /* our own server would take it */
}

static void key_is_new_each_time(void **state) /* RFC 6455, 4.1, item 7 */
{
    (void)state;
    char first[32];
    open_it();
    snprintf(first, sizeof first, "%s", sent("Sec-WebSocket-Key"));
    assert_int_equal(strlen(first), 24);
    open_it();
    assert_string_not_equal(sent("Sec-WebSocket-Key"), first);
}

static void url_gives_target_and_host(void **state) /* RFC 6455, 3 and 4.1, item 4 */
{
    (void)state;
    static const struct {
        const char *url, *target, *field, *host;
        unsigned port;
        bool tls;
    } cases[] = {
        {"ws://h", "/", "h", "h", 80, false},
        {"wss://h", "/", "h", "h", 443, true},
        {"http://h/a", "/a", "h", "h", 80, false},
        {"https://h/a", "/a", "h", "h", 443, true},
        {"WS://h/", "/", "h", "h", 80, false},
        {"ws://h:80/", "/", "h", "h", 80, false},
        {"ws://h:/", "/", "h", "h", 80, false},
        {"ws://h:443/", "/", "h:443", "h", 443, false},
        {"wss://h:443/", "/", "h", "h", 443, true},
        {"wss://h:80/", "/", "h:80", "h", 80, true},
        {"ws://h?q", "/?q", "h", "h", 80, false},
        {"ws://h/x?", "/x", "h", "h", 80, false},
        {"ws://h/a/../b?x=/../y", "/b?x=/../y", "h", "h", 80, false},
        {"ws://h/%41%2f?%zz", "/%41%2f?%zz", "h", "h", 80, false},
        {"ws://h/\xc3\xa4?\xc3\xb6=\xe2\x82\xac", "/%c3%a4?%c3%b6=%e2%82%ac", "h", "h", 80, false},
        {"ws://[::1]:8080/", "/", "[::1]:8080", "::1", 8080, false},
        {"ws://[::1]/", "/", "[::1]", "::1", 80, false},
        {"ws://127.0.0.1:9/", "/", "127.0.0.1:9", "127.0.0.1", 9, false},
        {"ws://a_b.example/", "/", "a_b.example", "a_b.example", 80, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        options.url = cases[i].url;
        open_it();
        assert_string_equal(sent_target(), cases[i].target);
        assert_string_equal(sent("Host"), cases[i].field);
        assert_string_equal(opening.host, cases[i].host);
        assert_int_equal(opening.port, cases[i].port);
        assert_int_equal(opening.tls, cases[i].tls);
    }
}

static void where_has_the_port(void **state)
{
    (void)state;
    char where[64];
    options.url = "ws://example.com/";
    open_it();
    opening_where(&opening, where, sizeof where);
    assert_string_equal(where, "example.com:80");
    options.url = "ws://[::1]:7/";
    open_it();
    opening_where(&opening, where, sizeof where);
    assert_string_equal(where, "[::1]:7");
}

static void url_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *url, *why;
    } cases[] = {
        {"", "bad URL \"\": it must begin with ws:// or wss://"},
        {"h", "must begin with ws:// or wss://"},
        {"/chat", "\"/chat\": it must begin with ws:// or wss://"},
        {"ftp://h/", "\"ftp://h/\": it must begin with ws:// or wss://"},
        {"ws:h", "must begin with"},
        {"f\x1b[2Joo\nbar", "f?[2Joo?bar"},
        {"ws://", "no host"},
        {"ws:///chat", "no host"},
        {"ws://:80/", "ost"},
        {"ws://h/#top", "fragment"}, /* RFC 6455, 3 */
        {"ws://h#", "fragment"},
        {"ws://h/a b", "%20"},
        {"ws://h/\x01", "bad URL"},
        {"ws://h/a\r\nX: y", "%20"},
        {"ws://h/a\r\nX:y", "bad URL"},
        {"ws://h/%zz", "percent escape"},
        {"ws://h/%00", "percent escape"},
        {"ws://h:0/", "port 0"},
        {"ws://h:65536/", "Port"},
        {"ws://h:x/", "Port"},
        {"ws://[::1/", "bad URL"},
        {"ws://h\xc3\xa4/", "xn--"},
        {"ws://u%3a:p@h/", "RFC 7617"},
        {"ws://u:%0a@h/", "RFC 7617"},
        {"ws://u:%00@h/", "RFC 7617"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        options.url = cases[i].url;
        assert_refused(cases[i].why);
    }
}

static void user_and_password_are_basic_credentials(void **state) /* RFC 7617, 2 */
{
    (void)state;
    static const struct {
        const char *url, *field;
    } cases[] = {
        {"ws://h/", "-"},
        {"ws://Aladdin:open%20sesame@h/", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
        {"ws://u@h/", "Basic dTo="},
        {"ws://u:@h/", "Basic dTo="},
        {"ws://:p@h/", "Basic OnA="},
        {"ws://u:a%3ab@h/", "Basic dTphOmI="},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        options.url = cases[i].url;
        open_it();
        assert_string_equal(sent("Authorization"), cases[i].field);
        assert_string_equal(sent("Host"), "h");
        assert_string_equal(sent_target(), "/");
    }
    const struct opening_field own[] = {FIELD("authorization", "Bearer x")};
    options.fields = own;
    options.nfields = 1;
    open_it();
    assert_string_equal(sent("Authorization"), "Bearer x");
}

static void long_credentials_are_refused(void **state)
{
    (void)state;
    char url[1200] = "ws://";
    memset(url + 5, 'u', 1024);
    memcpy(url + 5 + 1024, "@h/", 4);
    options.url = url;
    assert_refused("RFC 7617");
    memcpy(url + 5 + 1023, "@h/", 4);
    open_it();
    assert_int_equal(strlen(sent("Authorization")), 6 + 1024 * 4 / 3 + 2 + 1);
}

static void fields_replace_host_and_user_agent(void **state)
{
    (void)state;
    const struct opening_field fields[] = {FIELD("host", "other:1"), FIELD("USER-AGENT", "x"),
                                           FIELD("Empty", ""), FIELD("Tab", "a\tb"), FIELD("Bytes", "\xe4")};
    options.fields = fields;
    options.nfields = COUNT(fields);
    open_it();
    assert_string_equal(sent("Host"), "other:1");
    assert_string_equal(sent("User-Agent"), "x");
    assert_string_equal(sent("Empty"), "");
    assert_string_equal(sent("Tab"), "a\tb");
    assert_string_equal(sent("Bytes"), "\xe4");
    assert_string_equal(opening.host, "h"); /* where to connect */
}

static void field_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct opening_field field;
        const char *why;
    } cases[] = {
        {FIELD("", "x"), "not a token"}, /* RFC 9110, 5.1 */
        {FIELD("a b", "x"), "not a token"},
        {FIELD("a:", "x"), "not a token"},
        {FIELD("a\r\nb", "x"), "header \"a??b\" has a name that is not a token"},
        {FIELD("a\0", "x"), "not a token"},
        {FIELD("a", "x\r\nb: c"), "control character"}, /* RFC 9110, 5.5 */
        {FIELD("a", "x\n"), "control character"},
        {FIELD("a", "x\ry"), "control character"},
        {FIELD("a", "\0"), "control character"},
        {FIELD("a", "\x7f"), "control character"},
        {FIELD("Connection", "close"), "belongs to the handshake"}, /* RFC 6455, 4.1 */
        {FIELD("upgrade", "h2c"), "belongs to the handshake"},
        {FIELD("Content-Length", "0"), "belongs to the handshake"},
        {FIELD("Transfer-Encoding", "chunked"), "belongs to the handshake"},
        {FIELD("Sec-WebSocket-Key", "x"), "belongs to the handshake"},
        {FIELD("sec-websocket-protocol", "x"), "belongs to the handshake"},
        {FIELD("Sec-WebSocket-Anything", "x"), "belongs to the handshake"},
        {FIELD("Host", "a/b"), "Host"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        options.fields = &cases[i].field;
        options.nfields = 1;
        assert_refused(cases[i].why);
    }
    static const struct opening_field two[] = {FIELD("Host", "a"), FIELD("Host", "a")};
    options.fields = two;
    options.nfields = 2;
    assert_refused("Host");
}

static void request_has_a_bound(void **state)
{
    (void)state;
    static char value[HEAD_MAX_BYTES];
    memset(value, 'x', sizeof value);
    const struct opening_field large = {"X", value, 1, HEAD_MAX_BYTES - 400};
    const struct opening_field larger = {"X", value, 1, HEAD_MAX_BYTES};
    static struct opening_field many[HEAD_MAX_FIELDS];
    options.fields = &large;
    options.nfields = 1;
    open_it();
    options.fields = &larger;
    opening_fini(&opening);
    assert_refused("too long");
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = (struct opening_field)FIELD("X", "y");
    options.fields = many;
    options.nfields = COUNT(many);
    assert_refused("too many headers");
}

static void protocols_are_different_tokens(void **state) /* RFC 6455, 4.1, item 10 */
{
    (void)state;
    static const struct {
        const char *protocols[2], *why;
    } cases[] = {
        {{"", "a"}, "not a token"},          {{"a", "b c"}, "protocol \"b c\" is not a token"},
        {{"a,b", "c"}, "not a token"},       {{"a", "a"}, "protocol \"a\" is given twice"},
        {{"a\r\nX: y", "b"}, "not a token"},
    };
    options.nprotocols = 2;
    for (size_t i = 0; i < COUNT(cases); i++) {
        options.protocols = cases[i].protocols;
        assert_refused(cases[i].why);
    }
    static const char *const fine[] = {"a", "A"};
    options.protocols = fine;
    open_it();
    assert_string_equal(sent("Sec-WebSocket-Protocol"), "a, A");
    static char names[SUBPROTOCOL_MAX_OFFERS + 1][8];
    const char *many[SUBPROTOCOL_MAX_OFFERS + 1];
    for (size_t i = 0; i < COUNT(many); i++) {
        snprintf(names[i], sizeof names[i], "p%zu", i);
        many[i] = names[i];
    }
    options.protocols = many;
    options.nprotocols = SUBPROTOCOL_MAX_OFFERS;
    open_it();
    opening_fini(&opening);
    options.nprotocols++;
    assert_refused("more than");
}

static void extensions_are_offered_when_wanted(void **state) /* RFC 6455, 4.1, item 11 */
{
    (void)state;
    struct extensions_terms none = deflate;
    open_it();
    assert_string_equal(sent("Sec-WebSocket-Extensions"), "-");
    none.deflate = false;
    options.want = &none;
    open_it();
    assert_string_equal(sent("Sec-WebSocket-Extensions"), "-");
}

/* ---- the answer ---- */

static const char *accept_value(void)
{
    static char text[UPGRADE_ACCEPT_LEN + 1];
    assert_int_equal(upgrade_accept(opening.head, text), 0);
    return text;
}

#define SWITCHING "HTTP/1.1 101 Switching Protocols\r\n"
#define UPGRADES  "Upgrade: websocket\r\nConnection: Upgrade\r\n"

/* For a request of `options`; a '@' stands for the right Sec-WebSocket-Accept. Read from a block of the exact
 * size, so that ASan sees a read beyond it. */
static enum opening_state read_answer(const char *form, size_t limit)
{
    struct buf text = BUF_INIT;
    open_it();
    for (; *form != '\0'; form++)
        assert_int_equal(*form == '@' ? buf_puts(&text, accept_value()) : buf_append(&text, form, 1), 0);
    char *exact = malloc(text.len);
    assert_non_null(exact);
    memcpy(exact, text.data, text.len);
    enum opening_state whole = opening_read(&opening, exact, text.len, limit, &answer);
    buf_fini(&text);
    free(exact);
    return whole;
}

static void assert_taken(const char *form)
{
    if (read_answer(form, LIMIT) != OPENING_DONE)
        fail_msg("%s: %s", form, answer.why);
}

static void assert_failed(const char *form, const char *why)
{
    assert_int_equal(read_answer(form, LIMIT), OPENING_FAILED);
    assert_string_equal(answer.why, why);
}

static void right_answer_is_taken(void **state)
{
    (void)state;
    static const char *const cases[] = {
        SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n",
        SWITCHING
        "upgrade: WebSocket\r\nCONNECTION: keep-alive, UPGRADE\r\nsec-websocket-accept:\t@ \r\n\r\n",
        SWITCHING UPGRADES "Connection: keep-alive\r\nServer: x\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101\r\n" UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 \r\n" UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 Na \xe4 ja\r\n" UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n",
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_taken(cases[i]);
        assert_int_equal(answer.protocol, -1);
        assert_false(answer.terms.deflate);
    }
}

static void
answer_must_switch_to_websocket(void **state) /* RFC 6455, 4.1, what the client verifies, 2 and 3 */
{
    (void)state;
    static const char *const bad_upgrade[] = {"", "Upgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n",
                                              "Upgrade: websocket/13\r\n",
                                              "Upgrade: websocket\r\nUpgrade: websocket\r\n"};
    static const char *const bad_connection[] = {"", "Connection: close\r\n", "Connection: upgraded\r\n",
                                                 "Proxy-Connection: Upgrade\r\n"};
    char text[256];
    for (size_t i = 0; i < COUNT(bad_upgrade); i++) {
        snprintf(text, sizeof text, SWITCHING "%sConnection: Upgrade\r\nSec-WebSocket-Accept: @\r\n\r\n",
                 bad_upgrade[i]);
        assert_failed(text, "the answer's Upgrade is not \"websocket\"");
    }
    for (size_t i = 0; i < COUNT(bad_connection); i++) {
        snprintf(text, sizeof text, SWITCHING "Upgrade: websocket\r\n%sSec-WebSocket-Accept: @\r\n\r\n",
                 bad_connection[i]);
        assert_failed(text, "the answer's Connection does not say \"upgrade\"");
    }
}

static void accept_must_be_right(void **state) /* RFC 6455, 4.1, what the client verifies, 4 */
{
    (void)state;
    assert_failed(SWITCHING UPGRADES "\r\n", "the answer's Sec-WebSocket-Accept is missing");
    assert_failed(SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\nSec-WebSocket-Accept: @\r\n\r\n",
                  "the answer's Sec-WebSocket-Accept is repeated");
    static const char *const cases[] = {"", "@x", "x@", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "@, @"};
    char text[256];
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(text, sizeof text, SWITCHING UPGRADES "Sec-WebSocket-Accept: %s\r\n\r\n", cases[i]);
        assert_failed(text, "the answer's Sec-WebSocket-Accept is wrong");
    }
}

static void protocol_must_have_been_offered(void **state) /* RFC 6455, 4.1, what the client verifies, 6 */
{
    (void)state;
#define WITH(protocol) SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\n" protocol "\r\n"
    static const char *const offers[] = {"chat.v2", "chat"};
    assert_failed(WITH("Sec-WebSocket-Protocol: chat\r\n"),
                  "the server chose the protocol \"chat\", which was not offered");
    options.protocols = offers;
    options.nprotocols = 2;
    assert_taken(WITH("Sec-WebSocket-Protocol: chat.v2\r\n"));
    assert_int_equal(answer.protocol, 0);
    assert_taken(WITH("sec-websocket-protocol: chat\r\n"));
    assert_int_equal(answer.protocol, 1);
    assert_taken(WITH("")); /* it speaks none of them */
    assert_int_equal(answer.protocol, -1);
    assert_failed(WITH("Sec-WebSocket-Protocol: Chat\r\n"),
                  "the server chose the protocol \"Chat\", which was not offered");
    assert_failed(WITH("Sec-WebSocket-Protocol:\r\n"),
                  "the server chose the protocol \"\", which was not offered");
    assert_failed(WITH("Sec-WebSocket-Protocol: chat, chat.v2\r\n"),
                  "the server chose the protocol \"chat, chat.v2\", which was not offered");
    assert_failed(WITH("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n"),
                  "the answer's Sec-WebSocket-Protocol is repeated");
}

static void extensions_must_have_been_offered(void **state) /* RFC 6455, 4.1, what the client verifies, 5 */
{
    (void)state;
    static const char with[] = WITH("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    assert_failed(with, "the server speaks an extension that was not offered");
    options.want = &deflate;
    assert_taken(with);
    assert_true(answer.terms.deflate);
    assert_taken(WITH(""));
    assert_false(answer.terms.deflate);
    assert_failed(WITH("Sec-WebSocket-Extensions:\r\n"), "the answer's Sec-WebSocket-Extensions is empty");
    assert_int_equal(read_answer(WITH("Sec-WebSocket-Extensions: x-other\r\n"), LIMIT), OPENING_FAILED);
    /* in two fields it is one list (RFC 6455, 9.1) */
    assert_int_equal(read_answer(WITH("Sec-WebSocket-Extensions: permessage-deflate\r\nX: y\r\n"
                                      "Sec-WebSocket-Extensions: x-other\r\n"),
                                 LIMIT),
                     OPENING_FAILED);
}

static void other_status_is_a_sentence(void **state) /* RFC 6455, 4.1, what the client verifies, 1 */
{
    (void)state;
    assert_failed("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!",
                  "the server answered 404 Not Found");
    assert_failed("HTTP/1.1 200 OK\r\n\r\n", "the server answered 200 OK");
    assert_failed("HTTP/1.0 503\r\n\r\n", "the server answered 503");
    assert_failed("HTTP/1.1 302 Found\r\nLocation: https://x/\r\n\r\n",
                  "the server redirects to https://x/ (302); redirects are not followed");
    assert_failed("HTTP/1.1 304 Not Modified\r\n\r\n", "the server answered 304 Not Modified");
    assert_failed("HTTP/1.0 101 Switching Protocols\r\n" UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n",
                  "the server answered in HTTP/1.0");
}

static void what_the_server_says_is_quoted_with_care(void **state)
{
    (void)state;
    char text[1024], phrase[301];
    memset(phrase, 'x', 300);
    phrase[300] = '\0';
    assert_failed("HTTP/1.1 403 N\xc3\xb6\tno\r\n\r\n", "the server answered 403 N???no");
    snprintf(text, sizeof text, "HTTP/1.1 403 %s\r\n\r\n", phrase);
    assert_int_equal(read_answer(text, LIMIT), OPENING_FAILED);
    assert_int_equal(strlen(answer.why), strlen("the server answered 403 ") + 100 + 3);
    snprintf(text, sizeof text, "HTTP/1.1 307 x\r\nLocation: %s\r\n\r\n", phrase);
    assert_int_equal(read_answer(text, LIMIT), OPENING_FAILED);
    assert_non_null(strstr(answer.why, "xx... (307); redirects are not followed"));
}

static void answer_is_refused_as_malformed(void **state) /* RFC 9112, 2.2, 4 and 5 */
{
    (void)state;
    static const char *const cases[] = {
        "HTTP/1.1 101 x\nUpgrade: websocket\n\n",
        "HTTP/1.1 101 x\rUpgrade: websocket\r\r",
        "HTTP/1.1 101 x\r\n" UPGRADES "X: a\x01\r\n\r\n",
        "HTTP/1.1 101 x\r\n" UPGRADES "X: a\r\n b\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 x\r\n" UPGRADES ": a\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 x\r\n" UPGRADES "X : a\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 x\r\n" UPGRADES "X\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 101 x\r\n Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: @\r\n\r\n",
        "HTTP/1.1 10 x\r\n\r\n",
        "HTTP/1.1 1011 x\r\n\r\n",
        "HTTP/1.1 1x1 x\r\n\r\n",
        "HTTP/1.1  101 x\r\n\r\n",
        "HTTP/1.1 011 x\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_failed(cases[i], "the server's answer is malformed");
}

static void other_protocols_are_told_at_once(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "SSH-2.0-x\r\n",      "S",           "\x15\x03\x03", "HTTP/2", "http/1.1 ", "\r\nHTTP/1.1 101 x\r\n",
        "HTTP/1.2 101 x\r\n", "220 mail\r\n"};
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_failed(cases[i], "the server does not speak HTTP/1.1 on this port");
}

static void interim_answers_are_passed_over(void **state) /* RFC 9110, 15.2 */
{
    (void)state;
#define HINTS "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    static const char taken[] = SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\n\r\n";
    char text[1024];
    snprintf(text, sizeof text, "HTTP/1.1 100 Continue\r\n\r\n" HINTS HINTS "HTTP/1.1 199 x\r\n\r\n%s",
             taken);
    assert_taken(text);
    snprintf(text, sizeof text, HINTS HINTS HINTS HINTS HINTS "%s", taken);
    assert_failed(text, "the server sent more than 4 interim answers");
    assert_failed(HINTS "HTTP/1.1 403 Forbidden\r\n\r\n", "the server answered 403 Forbidden");
}

/* Every way to cut the answer in two gives the same: where the first frame begins too. */
static void answer_comes_in_pieces(void **state)
{
    (void)state;
    char text[512];
    open_it();
    int len = snprintf(text, sizeof text, HINTS SWITCHING UPGRADES "Sec-WebSocket-Accept: %s\r\n\r\n",
                       accept_value());
    memcpy(text + len, "\x81\x02hi", 4);
    for (int cut = 0; cut <= len + 4; cut++) {
        memset(&opening.scan, 0, sizeof opening.scan);
        opening.at = opening.interim = 0;
        enum opening_state first = opening_read(&opening, text, (size_t)cut, LIMIT, &answer);
        assert_int_equal(first, cut < len ? OPENING_MORE : OPENING_DONE);
        if (first == OPENING_MORE)
            assert_int_equal(opening_read(&opening, text, (size_t)len + 4, LIMIT, &answer), OPENING_DONE);
        assert_int_equal(answer.used, len);
    }
    memset(&opening.scan, 0, sizeof opening.scan);
    opening.at = opening.interim = 0;
    for (int n = 1; n <= len; n++)
        assert_int_equal(opening_read(&opening, text, (size_t)n, LIMIT, &answer),
                         n < len ? OPENING_MORE : OPENING_DONE);
}

static void answer_has_a_bound(void **state)
{
    (void)state;
    static const char taken[] = SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\n\r\nframes";
    size_t len = strlen(taken) - 1 + UPGRADE_ACCEPT_LEN - strlen("frames");
    assert_int_equal(read_answer(taken, len), OPENING_DONE); /* what follows does not count */
    assert_int_equal(answer.used, len);
    assert_int_equal(read_answer(taken, len - 1), OPENING_FAILED);
    assert_non_null(strstr(answer.why, "the head of the server's answer is longer than"));
    assert_int_equal(read_answer(HINTS, strlen(HINTS)), OPENING_FAILED); /* those before it do */
    assert_int_equal(read_answer(HINTS, strlen(HINTS) + 1), OPENING_MORE);
}

static void answer_with_too_many_fields(void **state)
{
    (void)state;
    struct buf text = BUF_INIT;
    assert_int_equal(buf_puts(&text, SWITCHING UPGRADES "Sec-WebSocket-Accept: @\r\n"), 0);
    for (int i = 3; i < HEAD_MAX_FIELDS; i++)
        assert_int_equal(buf_puts(&text, "X: y\r\n"), 0);
    size_t most = text.len;
    assert_int_equal(buf_append(&text, "\r\n", 3), 0);
    assert_taken(text.data);
    text.len = most;
    assert_int_equal(buf_append(&text, "X: y\r\n\r\n", 9), 0);
    assert_failed(text.data, "the server's answer is malformed");
    buf_fini(&text);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(request_is_as_rfc_6455_4_1_asks),
        TEST(key_is_new_each_time),
        TEST(url_gives_target_and_host),
        TEST(where_has_the_port),
        TEST(url_is_refused),
        TEST(user_and_password_are_basic_credentials),
        TEST(long_credentials_are_refused),
        TEST(fields_replace_host_and_user_agent),
        TEST(field_is_refused),
        TEST(request_has_a_bound),
        TEST(protocols_are_different_tokens),
        TEST(extensions_are_offered_when_wanted),
        TEST(right_answer_is_taken),
        TEST(answer_must_switch_to_websocket),
        TEST(accept_must_be_right),
        TEST(protocol_must_have_been_offered),
        TEST(extensions_must_have_been_offered),
        TEST(other_status_is_a_sentence),
        TEST(what_the_server_says_is_quoted_with_care),
        TEST(answer_is_refused_as_malformed),
        TEST(other_protocols_are_told_at_once),
        TEST(interim_answers_are_passed_over),
        TEST(answer_comes_in_pieces),
        TEST(answer_has_a_bound),
        TEST(answer_with_too_many_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
