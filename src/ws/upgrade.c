/* SPDX-License-Identifier: MIT
 * The server's side of the opening handshake (RFC 6455, 4.2). */
#include "ws/upgrade.h"

#include <openssl/evp.h>
#include <string.h>

#include "ws/extensions.h"
#include "ws/subprotocol.h"
#include <llhttp.h>

#define KEY_LEN  24
#define SHA1_LEN 20
#define GUID     "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

bool upgrade_wanted(const struct head *h)
{
    return head_has_token(h, "Upgrade", "websocket");
}

/* 16 bytes make 22 digits and two signs of padding. What the last digit's unused bits hold does not matter:
 * the key is never decoded. */
static bool key_is_base64(const char *key, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (len != KEY_LEN || key[22] != '=' || key[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++)
        if (memchr(digits, key[i], sizeof digits - 1) == NULL)
            return false;
    return true;
}

static int refuse(const char **reason, int status, const char *text)
{
    *reason = text;
    return status;
}

int upgrade_check(const struct head *h, const char **reason)
{
    const char *value;
    size_t len;

    if (h->method != HTTP_GET)
        return refuse(reason, 400, "A WebSocket is opened with GET.");
    if (h->minor < 1)
        return refuse(reason, 400, "A WebSocket is opened with HTTP/1.1, not HTTP/1.0.");
    if (h->flags & (HEAD_CONTENT_LENGTH | HEAD_CHUNKED))
        return refuse(reason, 400, "A request that opens a WebSocket has no body.");
    if (!(h->flags & HEAD_UPGRADE))
        return refuse(reason, 400, "The Connection header does not say \"upgrade\".");
    if (!head_single(h, "Sec-WebSocket-Version", &value, &len))
        return refuse(reason, 426, "The Sec-WebSocket-Version header is missing or repeated.");
    if (len != 2 || memcmp(value, "13", 2) != 0)
        return refuse(reason, 426, "Only version 13 of the WebSocket protocol is spoken here.");
    if (!head_single(h, "Sec-WebSocket-Key", &value, &len))
        return refuse(reason, 400, "The Sec-WebSocket-Key header is missing or repeated.");
    if (!key_is_base64(value, len))
        return refuse(reason, 400, "The Sec-WebSocket-Key is not the base64 form of 16 bytes.");
    if (!subprotocol_offers_valid(h))
        return refuse(reason, 400, "The Sec-WebSocket-Protocol header is malformed.");
    if (!extensions_valid(h))
        return refuse(reason, 400, "The Sec-WebSocket-Extensions header is malformed.");
    return 0;
}

static EVP_MD *sha1;

int upgrade_init(void)
{
    if (sha1 == NULL)
        sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
    return sha1 != NULL ? 0 : -1;
}

int upgrade_accept(const struct head *h, char out[UPGRADE_ACCEPT_LEN + 1])
{
    const char *key;
    size_t len;
    unsigned char text[KEY_LEN + sizeof GUID - 1], digest[SHA1_LEN];

    if (!head_single(h, "Sec-WebSocket-Key", &key, &len) || len != KEY_LEN)
        return -1;
    memcpy(text, key, KEY_LEN);
    memcpy(text + KEY_LEN, GUID, sizeof GUID - 1);
    if (EVP_Digest(text, sizeof text, digest, NULL, sha1, NULL) != 1)
        return -1;
    EVP_EncodeBlock((unsigned char *)out, digest, SHA1_LEN);
    return 0;
}
