/* SPDX-License-Identifier: MIT
 * The keyed hash: the same as OpenSSL's SipHash with one and three rounds, and another with each secret. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "base/hash.h"

enum { LONGEST = 70 };

static uint64_t openssl_hash(EVP_MAC *mac, const uint8_t secret[16], const uint8_t *data, size_t len)
{
    unsigned once = 1, thrice = 3;
    size_t size = 8;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_C_ROUNDS, &once),
        OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_D_ROUNDS, &thrice),
        OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
        OSSL_PARAM_construct_end(),
    };
    uint8_t out[8] = {0};
    uint64_t hash = 0;
    EVP_MAC_CTX *c = EVP_MAC_CTX_new(mac);
    assert_non_null(c);
    assert_int_equal(EVP_MAC_init(c, secret, 16, params), 1);
    assert_int_equal(EVP_MAC_update(c, data, len), 1);
    assert_int_equal(EVP_MAC_final(c, out, &size, sizeof out), 1);
    EVP_MAC_CTX_free(c);
    for (int i = 7; i >= 0; i--)
        hash = hash << 8 | out[i];
    return hash;
}

/* Every length around its words, at every place in memory. */
static void is_siphash_1_3(void **state)
{
    (void)state;
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    assert_non_null(mac);
    uint8_t secret[16], data[LONGEST + 8];
    uint32_t seed = 1;
    for (size_t round = 0; round < 8; round++) {
        struct hash_key key = {{0, 0}};
        for (size_t i = 0; i < sizeof secret; i++) {
            secret[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
            key.half[i / 8] |= (uint64_t)secret[i] << (8 * (i % 8));
        }
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
        for (size_t len = 0; len <= LONGEST; len++)
            assert_true(hash_bytes(&key, data + round, len) == openssl_hash(mac, secret, data + round, len));
    }
    EVP_MAC_free(mac);
}

static void nothing_has_a_hash(void **state)
{
    (void)state;
    struct hash_key key = {{1, 2}};
    assert_true(hash_bytes(&key, NULL, 0) == hash_bytes(&key, "", 0));
    assert_true(hash_bytes(&key, "", 0) != hash_bytes(&key, "", 1));
}

static void secrets_differ(void **state)
{
    (void)state;
    struct hash_key a, b;
    assert_int_equal(hash_key_init(&a), 0);
    assert_int_equal(hash_key_init(&b), 0);
    assert_memory_not_equal(&a, &b, sizeof a);
    assert_true(hash_bytes(&a, "key", 3) == hash_bytes(&a, "key", 3));
    assert_true(hash_bytes(&a, "key", 3) != hash_bytes(&b, "key", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_siphash_1_3),
        cmocka_unit_test(nothing_has_a_hash),
        cmocka_unit_test(secrets_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
