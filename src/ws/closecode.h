/* SPDX-License-Identifier: MIT
 * Which close codes may be on the wire (RFC 6455, 7.4) and the payload of a Close frame (5.5.1). Pure; any
 * thread. */
#ifndef TIDEWIRE_WS_CLOSECODE_H
#define TIDEWIRE_WS_CLOSECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOSECODE_NORMAL          1000
#define CLOSECODE_GOING_AWAY      1001
#define CLOSECODE_PROTOCOL_ERROR  1002
#define CLOSECODE_NO_STATUS       1005 /* never on the wire: a Close without a code */
#define CLOSECODE_ABNORMAL        1006 /* never on the wire: no Close at all */
#define CLOSECODE_INVALID_DATA    1007
#define CLOSECODE_POLICY          1008
#define CLOSECODE_TOO_BIG         1009
#define CLOSECODE_INTERNAL_ERROR  1011
#define CLOSECODE_SERVICE_RESTART 1012
#define CLOSECODE_TRY_AGAIN_LATER 1013

#define CLOSECODE_REASON_MAX 123 /* bytes of UTF-8: a control frame's 125 less the code */

/* What a peer may send: 1000-1003, 1007-1014, 3000-4999 (RFC 6455, 7.4.1 and 7.4.2 with the IANA registry).
 */
bool closecode_valid_received(unsigned code);

/* What a script may pass to ws:close: what a peer may send, less 1010 (a client's own: "mandatory extension")
 * and 1014 (a gateway's), as we are neither. */
bool closecode_valid_to_send(unsigned code);

/* A Close frame's payload taken apart. */
struct closecode_payload {
    uint16_t code;      /* CLOSECODE_NO_STATUS when the payload is empty */
    const char *reason; /* into the payload, never NULL */
    uint8_t reason_len;
};

/* Returns 0, or the code to close with: 1002 for one byte of payload, for more than a control frame holds or
 * for a code that may not be sent, 1007 for a reason that is not UTF-8. `out` then says no status. */
unsigned closecode_parse(const uint8_t *payload, size_t len, struct closecode_payload *out);

/* Writes the payload of a Close with `code` and `reason` (UTF-8, cut at a character's start to fit; may be
 * NULL when empty). Returns its length, 0 for CLOSECODE_NO_STATUS. */
size_t closecode_write(unsigned code, const char *reason, size_t reason_len, uint8_t out[125]);

#endif
