/* SPDX-License-Identifier: MIT
 * Accept and Accept-Encoding: weights, wildcards, and who prefers JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/accept.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* The field lies at the very end of a block, so that a read too far is seen. */
static char *guarded(const char *text)
{
    size_t len = strlen(text);
    char *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    return copy;
}

struct quality_case {
    const char *field;
    int thousandths; /* of gzip */
};

static const struct quality_case quality_cases[] = {
    {"", 0},
    {",", 0},
    {";q=1", 0},
    {" ;q=1", 0},
    {"br", 0},
    {"gzip", 1000},
    {"GZip", 1000},
    {"gzip, deflate, br, zstd", 1000},
    {"deflate,gzip", 1000},
    {"x-gzip, gzi, gzipp", 0},
    {"identity", 0},
    /* weights */
    {"gzip;q=0", 0},
    {"gzip;q=0.0", 0},
    {"gzip;q=0.000", 0},
    {"gzip;q=0.001", 1},
    {"gzip;q=0.5", 500},
    {"gzip;q=0.25", 250},
    {"gzip;q=0.125", 125},
    {"gzip;q=0.9", 900},
    {"gzip;q=0.", 0},
    {"gzip;q=1", 1000},
    {"gzip;q=1.", 1000},
    {"gzip;q=1.000", 1000},
    {"gzip;Q=0.5", 500},
    {"br;q=1.0, gzip;q=0.8, *;q=0.1", 800},
    {"gzip ; q=0.5", 500},
    {"gzip\t;\tq=0.5\t", 500},
    {"gzip;a=b;q=0.5", 500},
    {"gzip;a=b ; q=0.5 ;c", 500},
    {"gzip;a=q=0;", 1000},
    {"gzip;;q=0.5", 500},
    {"gzip;", 1000},
    {"gzip;q", 1000},
    {"gzip;qq=0", 1000},
    /* a weight that is none */
    {"gzip;q=", 0},
    {"gzip;q=1.001", 0},
    {"gzip;q=2", 0},
    {"gzip;q=10", 0},
    {"gzip;q=0.1234", 0},
    {"gzip;q=.5", 0},
    {"gzip;q=-1", 0},
    {"gzip;q=+1", 0},
    {"gzip;q=0,5", 0},
    {"gzip;q=x", 0},
    {"gzip;q=0.5x", 0},
    {"gzip;q=0.:", 0},
    {"gzip;q=\"1\"", 0},
    {"gzip;q= 1", 0},
    /* everything */
    {"*", 1000},
    {"*;q=0.5", 500},
    {"*;q=0", 0},
    {"*, gzip;q=0", 0},
    {"gzip;q=0, *", 0},
    {"*;q=0, gzip", 1000},
    {"gzip;q=0.3, gzip;q=0.7", 300},
    {"**", 0},
};

static void weighs_a_coding(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(quality_cases); i++) {
        const struct quality_case *c = &quality_cases[i];
        char *field = guarded(c->field);
        double quality = accept_quality(field, strlen(c->field), "gzip");
        if (quality != c->thousandths / 1000.0)
            fail_msg("%f for %s", quality, c->field);
        free(field);
    }
    assert_true(accept_quality("gzip;q=0.5, br;q=0.7", 20, "br") == 0.7);
}

struct prefers_case {
    const char *field;
    bool json;
};

static const struct prefers_case prefers_cases[] = {
    {"", false},
    {"*/*", false},
    {"application/*", false},
    {"text/*", false},
    {"image/png", false},
    {"application/json", true},
    {"Application/JSON", true},
    {"application/json; charset=utf-8", true},
    {"application/problem+json", true},
    {"application/vnd.api+JSON;q=0.2", true},
    {"model/gltf+json", true},
    {"application/json;q=0", false},
    {"application/jsonx, xapplication/json, json, application/+jso", false},
    {"application/jsonp", false},
    {"+json", false},
    /* what clients send */
    {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", false},
    {"application/json, text/plain, */*", true},
    {"application/json, text/javascript, */*; q=0.01", true},
    {"application/json, */*;q=0.5", true},
    {"text/html, application/json", false},
    {"application/json, text/html", true},
    /* weights */
    {"text/html, application/json;q=0.9", false},
    {"text/html;q=0.9, application/json", true},
    {"text/plain;q=0.9, application/json", true},
    {"text/plain;q=0.5, application/json;q=0.4", false},
    {"text/*;q=0.5, application/json;q=0.4", false},
    {"text/*;q=0.3, application/json;q=0.4", true},
    {"application/json;q=0.4, text/html;q=0.5", false},
    {"application/json;q=0.4, text/html;q=0.3", true},
    {"application/json;q=0.4, text/html;q=0.3, text/plain;q=0.6", false},
    {"application/json;q=0.4, text/html;q=0.6, text/plain;q=0.3", false},
    {"application/json;q=0.4, text/html;q=0.6, application/problem+json;q=0.7", true},
    {"application/problem+json;q=0.7, text/html;q=0.6, application/json;q=0.4", true},
    {"text/html;q=0.6, application/json;q=0.4, application/problem+json;q=0.6", false},
    {"application/json;q=0.6, text/html;q=0.6, application/problem+json;q=0.6", true},
    {"text/html;q=0, application/json;q=0.1", true},
    {"text/html;q=0, application/json;q=0", false},
    {"text/html;q=0", false},
    {"text/css, application/json;q=0.1", true},
    /* a wildcard speaks for a text that is not named */
    {"*/*, application/json", true},
    {"application/json;q=0.5, */*;q=0.8", false},
    {"*/*;q=0.8, application/json;q=0.5", false},
    {"application/json;q=0.5, */*;q=0.8, text/html;q=0.1", true},
};

static void knows_who_prefers_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(prefers_cases); i++) {
        const struct prefers_case *c = &prefers_cases[i];
        char *field = guarded(c->field);
        if (accept_prefers_json(field, strlen(c->field)) != c->json)
            fail_msg("%s", c->field);
        free(field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weighs_a_coding),
        cmocka_unit_test(knows_who_prefers_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
