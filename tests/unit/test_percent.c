/* SPDX-License-Identifier: MIT
 * Percent-decoding and the pairs of query strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/percent.h"

struct decode_case {
    const char *in;
    const char *strict; /* NULL: refused */
    const char *lax;
    bool plus;
};

static const struct decode_case decode_cases[] = {
    {"", "", "", false},
    {"plain", "plain", "plain", false},
    {"a%20b", "a b", "a b", false},
    {"%41%5a%7A", "AZz", "AZz", false},
    {"%c3%A9", "\xc3\xa9", "\xc3\xa9", false},
    {"%2525", "%25", "%25", false}, /* once, not twice */
    {"a+b", "a+b", "a+b", false},
    {"a+b", "a b", "a b", true},
    {"a%2Bb", "a+b", "a+b", true},
    {"%", NULL, "%", false},
    {"%4", NULL, "%4", false},
    {"100%", NULL, "100%", false},
    {"%zz", NULL, "%zz", false},
    {"%4g", NULL, "%4g", false},
    {"%g4", NULL, "%g4", false},
    {"%%41", NULL, "%A", false},
    {"%4%41", NULL, "%4A", false},
    {"%-1", NULL, "%-1", false},
    {"%+1", NULL, "% 1", true},
    {"% 1", NULL, "% 1", false},
    {"%0x", NULL, "%0x", false},
};

static bool result_is(long n, const char *out, const char *expected)
{
    if (expected == NULL)
        return n == -1;
    return n == (long)strlen(expected) && memcmp(out, expected, (size_t)n) == 0;
}

static void decodes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof decode_cases / sizeof decode_cases[0]; i++) {
        const struct decode_case *c = &decode_cases[i];
        size_t len = strlen(c->in);
        char *buf = malloc(len + (len == 0)); /* decoded in place; the sanitizer guards its end */
        memcpy(buf, c->in, len);
        if (!result_is(percent_decode(buf, len, buf, c->plus), buf, c->strict))
            fail_msg("strict: %s", c->in);
        memcpy(buf, c->in, len);
        if (!result_is((long)percent_decode_lax(buf, len, buf, c->plus), buf, c->lax))
            fail_msg("lax: %s", c->in);
        free(buf);
    }
}

static void decodes_nul_and_every_byte(void **state)
{
    (void)state;
    char in[3], out[3];
    for (int byte = 0; byte < 256; byte++) {
        static const char upper[] = "0123456789ABCDEF", lower[] = "0123456789abcdef";
        const char *digits = byte & 1 ? upper : lower;
        in[0] = '%';
        in[1] = digits[byte / 16];
        in[2] = digits[byte % 16];
        assert_int_equal(percent_decode(in, 3, out, false), 1);
        assert_int_equal((unsigned char)out[0], byte);
        assert_int_equal(percent_decode(in, 2, out, false), -1);
    }
}

static void only_hex_digits_count(void **state)
{
    (void)state;
    char out[3];
    for (int byte = 0; byte < 256; byte++) {
        char in[3] = {'%', '0', (char)byte};
        bool hex = byte != 0 && strchr("0123456789abcdefABCDEF", byte) != NULL;
        assert_int_equal(percent_decode(in, 3, out, false), hex ? 1 : -1);
    }
}

struct pairs_case {
    const char *in;
    const char *pairs; /* "name=value;" for each */
};

static const struct pairs_case pairs_cases[] = {
    {"", ""},
    {"a=1", "a=1;"},
    {"a=1&b=2", "a=1;b=2;"},
    {"a", "a=;"},
    {"a&b", "a=;b=;"},
    {"a=", "a=;"},
    {"=v", "=v;"},
    {"=", "=;"},
    {"a=b=c", "a=b=c;"},
    {"&", ""},
    {"&&&&", ""},
    {"&a=1&&b=2&", "a=1;b=2;"},
    {"a=%26&b=+", "a=%26;b=+;"},
    {"a&=b", "a=;=b;"},
    {"a=1&a=2", "a=1;a=2;"},
};

static void splits_pairs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pairs_cases / sizeof pairs_cases[0]; i++) {
        const struct pairs_case *c = &pairs_cases[i];
        size_t len = strlen(c->in), at = 0, n = 0;
        char *in = malloc(len + (len == 0)), got[64];
        struct percent_pair pair;
        memcpy(in, c->in, len);
        while (percent_next_pair(in, len, &at, &pair)) {
            memcpy(got + n, pair.name, pair.name_len);
            n += pair.name_len;
            got[n++] = '=';
            memcpy(got + n, pair.value, pair.value_len);
            n += pair.value_len;
            got[n++] = ';';
        }
        got[n] = '\0';
        assert_string_equal(got, c->pairs);
        assert_false(percent_next_pair(in, len, &at, &pair));
        free(in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes),
        cmocka_unit_test(decodes_nul_and_every_byte),
        cmocka_unit_test(only_hex_digits_count),
        cmocka_unit_test(splits_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
