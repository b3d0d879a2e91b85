/* SPDX-License-Identifier: MIT
 * The Sec-WebSocket-Extensions field (RFC 6455, 9.1) and what two sides agree on with it: permessage-deflate
 * (RFC 7692, 5 and 7.1), for servers and clients. Pure; any thread; owns nothing, borrows the head. */
#ifndef TIDEWIRE_WS_EXTENSIONS_H
#define TIDEWIRE_WS_EXTENSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/head.h"

/* What one side wants, or both sides have agreed on. */
struct extensions_terms {
    bool deflate;                          /* permessage-deflate is spoken; else nothing below counts */
    bool server_takeover, client_takeover; /* that side's compressor may refer to its earlier messages */
    uint8_t server_bits, client_bits;      /* log2 of that side's LZ77 window in bytes, 8 to 15 */
};

#define EXTENSIONS_MAX_LISTED 64  /* extensions; their parameters in all, too */
#define EXTENSIONS_TEXT_MAX   160 /* any text that is written here, with its NUL */

/* Whether the fields conform to RFC 6455, 9.1; when they do not, the handshake has to fail. No field is sound
 * too. Several fields are one list; its empty elements do not count (RFC 9110, 5.6.1), but at least one must
 * be there that is not empty, and at most EXTENSIONS_MAX_LISTED. Blanks may stand on both sides of every ',',
 * ';' and '=': 9.1 takes its grammar from RFC 2616 with the "implied *LWS rule". What a quoted text says must
 * be a token. */
bool extensions_valid(const struct head *h);

/* Server: takes the first offer of permessage-deflate that can be met, since the client's order decides
 * (RFC 7692, 5.1). Declined are offers with an unknown parameter, one twice, or a value that is not one
 * (7.1). `want` narrows the terms further as far as the server may; its bits are from 8 to 15. The client's
 * window stays at 15 bits when the client does not offer to change it (7.1.2.2).
 *
 * True: *agreed holds the terms and `answer` the value of the answer's field. False when there is no such
 * offer, the fields are not valid, or want->deflate is false: then agreed->deflate is false and `answer` is
 * empty, and the answer goes without the field.
 *
 * `agreed` may be `want` itself, and `offered` below. Names are compared with their case: neither RFC says
 * otherwise, and those who write other cases are not understood elsewhere either. */
bool extensions_accept(const struct head *h, const struct extensions_terms *want,
                       struct extensions_terms *agreed, char answer[EXTENSIONS_TEXT_MAX]);

/* Client: the value of the request's field: one offer, which asks for all that is in `want` and always leaves
 * the client's window to the server ("client_max_window_bits", RFC 7692, 7.1.2.2). Empty, for no field, when
 * want->deflate is false. */
void extensions_offer(const struct extensions_terms *want, char out[EXTENSIONS_TEXT_MAX]);

/* Client: checks the server's answer, the values of all its fields joined by ", ", against the offer that
 * extensions_offer made of `offered`. NULL, with the terms in *agreed; or a sentence that says what is wrong:
 * then the connection has to fail (RFC 6455, 4.1, and RFC 7692, 5 and 7.1), and agreed->deflate is false. An
 * empty value stands for no field: fine, and agreed->deflate is false. What the client itself has offered to
 * do without it does without, whatever the answer says (7.1.1.2 and 7.1.2.2). */
const char *extensions_agree(const struct extensions_terms *offered, const char *value, size_t len,
                             struct extensions_terms *agreed);

#endif
