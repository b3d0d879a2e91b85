/* SPDX-License-Identifier: MIT
 * Close codes and the payload of a Close frame. Pure; any thread. */
#include "ws/closecode.h"

#include <string.h>

#include "base/utf8.h"

enum {
    CODE_SIZE = 2,
    PAYLOAD_MAX = CODE_SIZE + CLOSECODE_REASON_MAX,
    MANDATORY_EXTENSION = 1010,
    BAD_GATEWAY = 1014,
};

bool closecode_valid_received(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

bool closecode_valid_to_send(unsigned code)
{
    return closecode_valid_received(code) && code != MANDATORY_EXTENSION && code != BAD_GATEWAY;
}

unsigned closecode_parse(const uint8_t *payload, size_t len, struct closecode_payload *out)
{
    *out = (struct closecode_payload){.code = CLOSECODE_NO_STATUS, .reason = ""};
    if (len == 0)
        return 0;
    if (len < CODE_SIZE || len > PAYLOAD_MAX)
        return CLOSECODE_PROTOCOL_ERROR;

    unsigned code = (unsigned)payload[0] << 8 | payload[1];
    if (!closecode_valid_received(code))
        return CLOSECODE_PROTOCOL_ERROR;
    if (!utf8_valid(payload + CODE_SIZE, len - CODE_SIZE))
        return CLOSECODE_INVALID_DATA;

    out->code = (uint16_t)code;
    out->reason = (const char *)payload + CODE_SIZE;
    out->reason_len = (uint8_t)(len - CODE_SIZE);
    return 0;
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

size_t closecode_write(unsigned code, const char *reason, size_t reason_len, uint8_t out[125])
{
    if (code == CLOSECODE_NO_STATUS)
        return 0;

    size_t len = reason_len;
    if (len > CLOSECODE_REASON_MAX) {
        len = CLOSECODE_REASON_MAX;
        while (len > 0 && is_continuation(reason[len]))
            len--;
    }
    out[0] = (uint8_t)(code >> 8);
    out[1] = (uint8_t)code;
    if (len > 0) /* memcpy may not be given a NULL `reason`, even for nothing */
        memcpy(out + CODE_SIZE, reason, len);
    return CODE_SIZE + len;
}
