/* SPDX-License-Identifier: MIT
 * The keys of session tickets. */
#include "net/tickets.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define TICKETS_NAME_SIZE 16 /* of a key, as OpenSSL has it */
#define TICKETS_KEY_SIZE  32

struct tickets_key {
    unsigned char name[TICKETS_NAME_SIZE];
    unsigned char secret[TICKETS_KEY_SIZE], mac[TICKETS_KEY_SIZE];
    time_t born; /* of the clock that never jumps; 0: none */
};

static pthread_mutex_t tickets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tickets_key tickets_now, tickets_before; /* under the lock */

static time_t tickets_clock(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + 1;
}

/* Makes a new key when the one there is has sealed for long enough. Under the lock. */
static int tickets_renew(void)
{
    time_t now = tickets_clock();
    if (tickets_now.born != 0 && now - tickets_now.born < TICKETS_LIFE_S)
        return 0;
    struct tickets_key fresh = {.born = now};
    if (RAND_bytes(fresh.name, sizeof fresh.name) != 1 ||
        RAND_priv_bytes(fresh.secret, sizeof fresh.secret) != 1 ||
        RAND_priv_bytes(fresh.mac, sizeof fresh.mac) != 1)
        return -1;
    bool recent = tickets_now.born != 0 && now - tickets_now.born < 2 * TICKETS_LIFE_S;
    tickets_before = recent ? tickets_now : (struct tickets_key){.born = 0};
    tickets_now = fresh;
    return 0;
}

/* The key to seal with, or, with `name`, the one of that name. False when there is none; *old when tickets
 * that it sealed are to be replaced. */
static bool tickets_find(const unsigned char *name, struct tickets_key *out, bool *old)
{
    bool found = false;
    pthread_mutex_lock(&tickets_lock);
    if (tickets_renew() == 0) {
        *old = name != NULL && memcmp(name, tickets_now.name, TICKETS_NAME_SIZE) != 0;
        *out = *old ? tickets_before : tickets_now;
        found = !*old || (out->born != 0 && memcmp(name, out->name, TICKETS_NAME_SIZE) == 0);
    }
    pthread_mutex_unlock(&tickets_lock);
    return found;
}

/* OpenSSL's callback: 1 goes on, 2 goes on and makes a new ticket, 0 does without, -1 fails. */
static int tickets_on_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                          EVP_MAC_CTX *mac, int seal)
{
    (void)ssl;
    struct tickets_key key;
    bool old;
    if (!tickets_find(seal ? NULL : name, &key, &old))
        return 0;
    if (seal) {
        memcpy(name, key.name, sizeof key.name);
        if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1)
            return -1;
    }
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac, sizeof key.mac),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end(),
    };
    bool ok = EVP_CipherInit_ex2(cipher, EVP_aes_256_cbc(), key.secret, iv, seal, NULL) == 1 &&
              EVP_MAC_CTX_set_params(mac, params) == 1;
    OPENSSL_cleanse(&key, sizeof key);
    return !ok ? -1 : old ? 2 : 1;
}

int tickets_use(SSL_CTX *ctx)
{
    SSL_CTX_set_timeout(ctx, TICKETS_LIFE_S);
    return SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, tickets_on_key) == 1 ? 0 : -1;
}
