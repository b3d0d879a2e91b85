/* SPDX-License-Identifier: MIT
 * The Sec-WebSocket-Extensions field, and the negotiation of permessage-deflate as server and as client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ws/extensions.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FIELD    "Sec-WebSocket-Extensions: "
#define PMD      "permessage-deflate"
#define TEN      "a,a,a,a,a,a,a,a,a,a,"
#define TEN_MORE ";p;p;p;p;p;p;p;p;p;p"
#define SNCT     "; server_no_context_takeover"
#define CNCT     "; client_no_context_takeover"
#define SMWB     "; server_max_window_bits"
#define CMWB     "; client_max_window_bits"

/* Terms: who takes its context over, and the windows. */
#define BOTH(sb, cb)    true, true, true, sb, cb
#define SERVER(sb, cb)  true, true, false, sb, cb
#define CLIENT(sb, cb)  true, false, true, sb, cb
#define NEITHER(sb, cb) true, false, false, sb, cb
#define NOTHING         false, false, false, 0, 0

static struct head *parse(const char *fields)
{
    char head[2048];
    int n = snprintf(head, sizeof head, "GET /chat HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    struct head *h = NULL;
    struct head_fault fault = {0, "none"};
    if (n >= (int)sizeof head || head_parse(head, (size_t)n, &h, &fault) < 0)
        fail_msg("%d %s for\n%s", fault.status, fault.reason, head);
    return h;
}

static struct extensions_terms noise(void)
{
    return (struct extensions_terms){true, true, true, 77, 77};
}

static bool same(const struct extensions_terms *a, const struct extensions_terms *b)
{
    return a->deflate == b->deflate &&
           (!a->deflate ||
            (a->server_takeover == b->server_takeover && a->client_takeover == b->client_takeover &&
             a->server_bits == b->server_bits && a->client_bits == b->client_bits));
}

static const char *show(const struct extensions_terms *t)
{
    static char text[80];
    snprintf(text, sizeof text, "deflate %d, server %d %u, client %d %u", t->deflate, t->server_takeover,
             t->server_bits, t->client_takeover, t->client_bits);
    return text;
}

/* ---- the grammar ---- */

struct valid_case {
    const char *fields;
    bool valid;
};

static void check_valid(const struct valid_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct head *h = parse(cases[i].fields);
        if (extensions_valid(h) != cases[i].valid)
            fail_msg("%s", cases[i].fields);
        head_unref(h);
    }
}

static void rfc6455_9_1_an_extension_is_a_token_with_parameters(void **state)
{
    (void)state;
    static const struct valid_case cases[] = {
        {"", true},
        {"X-Sec-WebSocket-Extensions: @\r\n", true},
        {"Sec-WebSocket-Extension: @\r\n", true},
        {FIELD "foo\r\n", true},
        {"SEC-WEBSOCKET-EXTENSIONS:foo\r\n", true},
        {FIELD "foo; bar; baz=2\r\n", true},
        {FIELD "foo;bar;baz=2;bar;bar=3\r\n", true},
        {FIELD "!#$%&'*+-.^_`|~09azAZ;!#$%&'*+-.^_`|~09azAZ=!#$%&'*+-.^_`|~09azAZ\r\n", true},
        {FIELD "foo/1\r\n", false},
        {FIELD "foo bar\r\n", false},
        {FIELD "f\xc3\xbc\r\n", false},
        {FIELD "foo;bar baz\r\n", false},
        {FIELD "foo;bar@\r\n", false},
        {FIELD "foo=1\r\n", false},
        {FIELD "\"foo\"\r\n", false},
        {FIELD "foo;\"bar\"\r\n", false},
        {FIELD "foo;\r\n", false},
        {FIELD "foo;;bar\r\n", false},
        {FIELD "foo;,bar\r\n", false},
        {FIELD ";foo\r\n", false},
        {FIELD "foo;bar=\r\n", false},
        {FIELD "foo;bar=;baz\r\n", false},
        {FIELD "foo;=1\r\n", false},
        {FIELD "foo;bar=1=2\r\n", false},
        {FIELD "foo;bar=1 2\r\n", false},
        {FIELD "foo;bar=@\r\n", false},
        {FIELD "good, foo;bar=@\r\n", false},
        {FIELD "foo;bar=@, good\r\n", false},
    };
    check_valid(cases, COUNT(cases));
}

static void rfc6455_9_1_a_quoted_value_is_a_token_when_unescaped(void **state)
{
    (void)state;
    static const struct valid_case cases[] = {
        {FIELD "foo;bar=\"baz\"\r\n", true},
        {FIELD "foo;bar=\"b\\a\\z\",x\r\n", true},
        {FIELD "foo;bar=\"b\\\\z\"\r\n", false},
        {FIELD "foo;bar=b\\az\r\n", false},
        {FIELD "foo;bar=\"\"\r\n", false},
        {FIELD "foo;bar=\"a b\"\r\n", false},
        {FIELD "foo;bar=\" a\"\r\n", false},
        {FIELD "foo;bar=\"a,b\"\r\n", false},
        {FIELD "foo;bar=\"a;b\"\r\n", false},
        {FIELD "foo;bar=\"a=b\"\r\n", false},
        {FIELD "foo;bar=\"a\\\"\"\r\n", false},
        {FIELD "foo;bar=\"a\\\"\r\n", false},
        {FIELD "foo;bar=\"a\\\r\n", false},
        {FIELD "foo;bar=\"a\r\n", false},
        {FIELD "foo;bar=\"\r\n", false},
        {FIELD "foo;bar=a\"\r\n", false},
        {FIELD "foo;bar=\"a\"b\r\n", false},
        {FIELD "foo;bar=\"a\"\"b\"\r\n", false},
        {FIELD "foo;bar='a b'\r\n", false},
        {FIELD "foo;bar=\"a\r\n" FIELD "b\"\r\n", false},
        {FIELD "foo;bar=\"a\\\r\n" FIELD "\"\r\n", false},
    };
    check_valid(cases, COUNT(cases));
}

/* "implied *LWS": RFC 2616, 2.1, where 6455 takes its grammar from. */
static void rfc6455_9_1_blanks_may_stand_around_separators(void **state)
{
    (void)state;
    static const struct valid_case cases[] = {
        {FIELD "foo ; bar\t;\t baz=2 , x\r\n", true},
        {FIELD "foo; bar = 2; baz =2; q= \"x\" , y\r\n", true},
        {FIELD "foo; bar = \r\n", false},
        {FIELD "foo; = 2\r\n", false},
        {FIELD "foo; bar = 2 3\r\n", false},
        {FIELD "foo; bar = \"x\" y\r\n", false},
        {FIELD "foo ; , bar\r\n", false},
    };
    check_valid(cases, COUNT(cases));
}

/* RFC 9110, 5.3 and 5.6.1. */
static void rfc6455_9_1_several_fields_are_one_list_with_an_element(void **state)
{
    (void)state;
    static const struct valid_case cases[] = {
        {FIELD "foo,bar\r\n" FIELD "baz;x\r\n", true},
        {FIELD ",, foo ,\t, bar,\r\n", true},
        {FIELD "foo\r\n" FIELD "\r\n", true},
        {FIELD ",\r\n" FIELD "foo\r\n", true},
        {FIELD "\r\n", false},
        {FIELD " , ,\t\r\n", false},
        {FIELD "\r\n" FIELD ",\r\n", false},
        {FIELD "foo\r\n" FIELD ";bar\r\n", false},
        {FIELD "foo;\r\n" FIELD "bar\r\n", false},
        {FIELD "foo;bar=\r\n" FIELD "baz\r\n", false},
        {FIELD "foo\r\n" FIELD "@\r\n", false},
    };
    check_valid(cases, COUNT(cases));
}

static void a_list_is_at_most_64_long_and_has_64_parameters(void **state)
{
    (void)state;
    static const struct valid_case cases[] = {
        {FIELD TEN TEN TEN TEN TEN TEN "a,a,a,a\r\n", true},
        {FIELD TEN TEN TEN TEN TEN TEN "a,a,a,a,a\r\n", false},
        {FIELD TEN TEN TEN "\r\n" FIELD TEN TEN TEN "a,a,a,a\r\n", true},
        {FIELD TEN TEN TEN "\r\n" FIELD TEN TEN TEN "a,a,a,a,a\r\n", false},
        {FIELD "a" TEN_MORE TEN_MORE TEN_MORE TEN_MORE TEN_MORE TEN_MORE ";p;p;p;p=1\r\n", true},
        {FIELD "a" TEN_MORE TEN_MORE TEN_MORE TEN_MORE TEN_MORE TEN_MORE ";p;p;p;p=1;p\r\n", false},
        {FIELD "a" TEN_MORE TEN_MORE TEN_MORE ",b" TEN_MORE "\r\n" FIELD "c" TEN_MORE TEN_MORE ";p;p;p;p\r\n",
         true},
        {FIELD "a" TEN_MORE TEN_MORE TEN_MORE ",b" TEN_MORE "\r\n" FIELD "c" TEN_MORE TEN_MORE
               ";p;p;p;p;p\r\n",
         false},
    };
    check_valid(cases, COUNT(cases));
}

/* ---- the server ---- */

struct accept_case {
    const char *fields;
    struct extensions_terms want;
    const char *answer; /* "" when nothing is accepted */
    struct extensions_terms agreed;
};

static void check_accept(const struct accept_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct accept_case *c = &cases[i];
        struct head *h = parse(c->fields);
        struct extensions_terms agreed = noise();
        char answer[EXTENSIONS_TEXT_MAX];
        memset(answer, 'x', sizeof answer);
        bool accepted = extensions_accept(h, &c->want, &agreed, answer);
        if (memchr(answer, '\0', sizeof answer) == NULL || strcmp(answer, c->answer) != 0)
            fail_msg("answers \"%.*s\" to\n%s", (int)sizeof answer, answer, c->fields);
        if (accepted != c->agreed.deflate || !same(&agreed, &c->agreed))
            fail_msg("%d: %s for\n%s", accepted, show(&agreed), c->fields);
        head_unref(h);
    }
}

static void rfc7692_7_1_an_offer_without_parameters_is_taken_as_the_server_wants(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD "\r\n", {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
        {FIELD PMD "\r\n", {NOTHING}, "", {NOTHING}},
        {"", {BOTH(15, 15)}, "", {NOTHING}},
        /* 7.1.1.1 and 7.1.1.2: both may be said unasked */
        {FIELD PMD "\r\n", {CLIENT(15, 15)}, PMD SNCT, {CLIENT(15, 15)}},
        {FIELD PMD "\r\n", {SERVER(15, 15)}, PMD CNCT, {SERVER(15, 15)}},
        /* 7.1.2.1: this one too; 7.1.2.2: not the client's window */
        {FIELD PMD "\r\n", {BOTH(10, 15)}, PMD SMWB "=10", {BOTH(10, 15)}},
        {FIELD PMD "\r\n", {BOTH(15, 10)}, PMD, {BOTH(15, 15)}},
        {FIELD PMD "\r\n", {NEITHER(8, 9)}, PMD SNCT CNCT SMWB "=8", {NEITHER(8, 15)}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc7692_7_1_1_no_context_takeover_is_granted_to_who_asks(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD SNCT "\r\n", {BOTH(15, 15)}, PMD SNCT, {CLIENT(15, 15)}},
        {FIELD PMD CNCT "\r\n", {BOTH(15, 15)}, PMD CNCT, {SERVER(15, 15)}},
        {FIELD PMD CNCT SNCT "\r\n", {BOTH(15, 15)}, PMD SNCT CNCT, {NEITHER(15, 15)}},
        {FIELD PMD SNCT "\r\n", {CLIENT(15, 15)}, PMD SNCT, {CLIENT(15, 15)}},
        {FIELD PMD SNCT "\r\n", {SERVER(15, 15)}, PMD SNCT CNCT, {NEITHER(15, 15)}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc7692_7_1_2_1_the_servers_window_is_the_smaller_one_and_is_named(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD SMWB "=10\r\n", {BOTH(15, 15)}, PMD SMWB "=10", {BOTH(10, 15)}},
        {FIELD PMD SMWB "=10\r\n", {BOTH(12, 15)}, PMD SMWB "=10", {BOTH(10, 15)}},
        {FIELD PMD SMWB "=12\r\n", {BOTH(10, 15)}, PMD SMWB "=10", {BOTH(10, 15)}},
        {FIELD PMD SMWB "=15\r\n", {BOTH(15, 15)}, PMD SMWB "=15", {BOTH(15, 15)}},
        {FIELD PMD SMWB "=8\r\n", {BOTH(15, 15)}, PMD SMWB "=8", {BOTH(8, 15)}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc7692_7_1_2_2_the_clients_window_is_the_smaller_one_when_it_lets_the_server(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD CMWB "\r\n", {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
        {FIELD PMD CMWB "\r\n", {BOTH(15, 11)}, PMD CMWB "=11", {BOTH(15, 11)}},
        {FIELD PMD CMWB "=10\r\n", {BOTH(15, 15)}, PMD CMWB "=10", {BOTH(15, 10)}},
        {FIELD PMD CMWB "=10\r\n", {BOTH(15, 12)}, PMD CMWB "=10", {BOTH(15, 10)}},
        {FIELD PMD CMWB "=12\r\n", {BOTH(15, 10)}, PMD CMWB "=10", {BOTH(15, 10)}},
        {FIELD PMD CMWB "=15\r\n", {BOTH(15, 15)}, PMD CMWB "=15", {BOTH(15, 15)}},
        {FIELD PMD SNCT CNCT SMWB "=15" CMWB "=14\r\n",
         {BOTH(13, 15)},
         PMD SNCT CNCT SMWB "=13" CMWB "=14",
         {NEITHER(13, 14)}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc7692_7_1_offers_with_bad_parameters_are_declined(void **state)
{
    (void)state;
    static const char *const params[] = {
        /* not defined, also by its case */
        "; x",
        "; x=1",
        "; server_no_context_takeover_",
        "; server_max_window_bit=9",
        "; Server_no_context_takeover",
        "; CLIENT_MAX_WINDOW_BITS",
        /* twice */
        SNCT SNCT,
        CNCT CNCT,
        SMWB "=9" SMWB "=9",
        SMWB "=9" SMWB "=10",
        CMWB CMWB,
        CMWB CMWB "=9",
        CMWB "=9" SNCT CMWB,
        /* 7.1.1: no value */
        SNCT "=1",
        SNCT "=true",
        CNCT "=\"x\"",
        CNCT "=8",
        SNCT "=15",
        /* 7.1.2.1: a value */
        SMWB,
        /* 7.1.2: 8 to 15, decimal, without leading zeros */
        SMWB "=7",
        SMWB "=16",
        SMWB "=0",
        SMWB "=08",
        SMWB "=010",
        SMWB "=+9",
        SMWB "=-9",
        SMWB "=9.",
        SMWB "=9a",
        SMWB "=1a",
        SMWB "=a",
        SMWB "=1",
        SMWB "=100",
        SMWB "=150",
        SMWB "=\"10\\0\"",
        SMWB "=0x9",
        SMWB "=4294967305",
        SMWB "=18446744073709551625",
        CMWB "=7",
        CMWB "=16",
        CMWB "=010",
        CMWB "=4294967305",
    };
    for (size_t i = 0; i < COUNT(params); i++) {
        char bad[200], then_good[300], good_first[300], elsewhere[300];
        snprintf(bad, sizeof bad, FIELD PMD "%s\r\n", params[i]);
        snprintf(then_good, sizeof then_good, FIELD PMD "%s, " PMD SNCT "\r\n", params[i]);
        snprintf(good_first, sizeof good_first, FIELD PMD ", " PMD "%s\r\n", params[i]);
        snprintf(elsewhere, sizeof elsewhere, FIELD "x%s\r\n" FIELD PMD "\r\n", params[i]);
        const struct accept_case cases[] = {
            {bad, {BOTH(15, 15)}, "", {NOTHING}},
            {then_good, {BOTH(15, 15)}, PMD SNCT, {CLIENT(15, 15)}}, /* 5.1: the fallback */
            {good_first, {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
            {elsewhere, {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
        };
        check_accept(cases, COUNT(cases));
    }
}

static void rfc7692_7_1_2_windows_are_from_8_to_15(void **state)
{
    (void)state;
    for (uint8_t bits = 8; bits <= 15; bits++) {
        char fields[200], answer[200];
        snprintf(fields, sizeof fields, FIELD PMD SMWB "=%u" CMWB "=\"%u\"\r\n", bits, bits);
        snprintf(answer, sizeof answer, PMD SMWB "=%u" CMWB "=%u", bits, bits);
        const struct accept_case c = {fields, {BOTH(15, 15)}, answer, {BOTH(bits, bits)}};
        check_accept(&c, 1);
    }
}

static void rfc7692_5_1_the_first_offer_that_can_be_met_is_taken(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD SMWB "=10, " PMD "\r\n", {BOTH(15, 15)}, PMD SMWB "=10", {BOTH(10, 15)}},
        {FIELD PMD ", " PMD SMWB "=10\r\n", {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
        {FIELD PMD ";x\r\n" FIELD PMD SMWB ", y\r\n" FIELD PMD CNCT "\r\n",
         {BOTH(15, 15)},
         PMD CNCT,
         {SERVER(15, 15)}},
        {FIELD PMD ";x, " PMD SNCT "=1\r\n", {BOTH(15, 15)}, "", {NOTHING}},
        {FIELD "x-webkit-deflate-frame; no_context_takeover, " PMD CMWB "\r\n",
         {BOTH(15, 15)},
         PMD,
         {BOTH(15, 15)}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc7692_7_names_are_compared_with_their_case(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD "Permessage-Deflate, permessage-deflat, permessage-deflate2\r\n",
         {BOTH(15, 15)},
         "",
         {NOTHING}},
        {FIELD "PERMESSAGE-DEFLATE;x, " PMD "\r\n", {BOTH(15, 15)}, PMD, {BOTH(15, 15)}},
    };
    check_accept(cases, COUNT(cases));
}

/* RFC 6455, 9.1: for the reader it is the token; and blanks mean nothing. */
static void rfc6455_9_1_a_quoted_value_means_the_same(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD SMWB "=\"10\"" CMWB "=\"\\1\\1\"\r\n",
         {BOTH(15, 15)},
         PMD SMWB "=10" CMWB "=11",
         {BOTH(10, 11)}},
        {FIELD PMD " ; server_max_window_bits = 10\t;client_max_window_bits\r\n",
         {BOTH(15, 15)},
         PMD SMWB "=10",
         {BOTH(10, 15)}},
        {FIELD "x;y=\"permessage-deflate\"\r\n", {BOTH(15, 15)}, "", {NOTHING}},
    };
    check_accept(cases, COUNT(cases));
}

static void rfc6455_9_1_nothing_is_accepted_from_a_malformed_list(void **state)
{
    (void)state;
    static const struct accept_case cases[] = {
        {FIELD PMD ", @\r\n", {BOTH(15, 15)}, "", {NOTHING}},
        {FIELD PMD ";\r\n", {BOTH(15, 15)}, "", {NOTHING}},
        {FIELD PMD "\r\n" FIELD "@\r\n", {BOTH(15, 15)}, "", {NOTHING}},
        {FIELD "\r\n", {BOTH(15, 15)}, "", {NOTHING}},
    };
    check_accept(cases, COUNT(cases));
}

/* ---- the client ---- */

static void rfc7692_7_1_the_offer_asks_for_what_is_wanted(void **state)
{
    (void)state;
    static const struct {
        struct extensions_terms want;
        const char *offer;
    } cases[] = {
        {{NOTHING}, ""},
        {{BOTH(15, 15)}, PMD CMWB},
        {{CLIENT(15, 15)}, PMD SNCT CMWB},
        {{SERVER(15, 15)}, PMD CNCT CMWB},
        {{BOTH(10, 15)}, PMD SMWB "=10" CMWB},
        {{BOTH(15, 9)}, PMD CMWB "=9"},
        {{NEITHER(14, 14)}, PMD SNCT CNCT SMWB "=14" CMWB "=14"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char offer[EXTENSIONS_TEXT_MAX];
        memset(offer, 'x', sizeof offer);
        extensions_offer(&cases[i].want, offer);
        assert_non_null(memchr(offer, '\0', sizeof offer));
        assert_string_equal(offer, cases[i].offer);
    }
}

struct agree_case {
    struct extensions_terms offered;
    const char *answer;
    const char *fault; /* a part of it; NULL for none */
    struct extensions_terms agreed;
};

static void check_agree(const struct agree_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct agree_case *c = &cases[i];
        size_t len = strlen(c->answer);
        char *exact = malloc(len + 1); /* no NUL behind it; one byte before, for an answer that is empty */
        assert_non_null(exact);
        memcpy(exact + 1, c->answer, len);
        struct extensions_terms agreed = noise();
        const char *fault = extensions_agree(&c->offered, exact + 1, len, &agreed);
        if ((fault == NULL) != (c->fault == NULL) || (fault != NULL && strstr(fault, c->fault) == NULL))
            fail_msg("\"%s\" for %s", fault, c->answer);
        if (!same(&agreed, &c->agreed))
            fail_msg("%s for %s", show(&agreed), c->answer);
        free(exact);
    }
}

static void rfc6455_4_1_the_server_may_answer_without_extensions(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, "", NULL, {NOTHING}},
        {{NEITHER(8, 8)}, "", NULL, {NOTHING}},
        {{NOTHING}, "", NULL, {NOTHING}},
    };
    check_agree(cases, COUNT(cases));
    struct extensions_terms offered = {BOTH(15, 15)}, agreed = noise();
    assert_null(extensions_agree(&offered, NULL, 0, &agreed));
    assert_false(agreed.deflate);
}

static void rfc6455_4_1_an_extension_that_was_not_offered_fails_the_connection(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{NOTHING}, PMD, "not offered", {NOTHING}},
        {{BOTH(15, 15)}, "foo", "not offered", {NOTHING}},
        {{BOTH(15, 15)}, "foo, " PMD, "not offered", {NOTHING}},
        {{BOTH(15, 15)}, PMD ", foo", "not offered", {NOTHING}},
        {{BOTH(15, 15)}, "Permessage-deflate", "not offered", {NOTHING}},
        {{BOTH(15, 15)}, "x-webkit-deflate-frame", "not offered", {NOTHING}},
    };
    check_agree(cases, COUNT(cases));
}

static void rfc7692_5_an_extension_accepted_twice_fails_the_connection(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, PMD ", " PMD, "twice", {NOTHING}},
        {{BOTH(15, 15)}, PMD CNCT "," PMD SNCT, "twice", {NOTHING}},
    };
    check_agree(cases, COUNT(cases));
}

static void rfc6455_9_1_a_malformed_answer_fails_the_connection(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, PMD ";", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD " x", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD ", @", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=\"1", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=\"1\\", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, PMD "\r\n", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, ", ", "malformed", {NOTHING}},
        {{NOTHING}, ", ", "malformed", {NOTHING}},
        {{BOTH(15, 15)}, " , " PMD " ,, ", NULL, {BOTH(15, 15)}},
        {{BOTH(15, 15)}, PMD "; server_max_window_bits = \"\\9\"", NULL, {BOTH(9, 15)}},
    };
    check_agree(cases, COUNT(cases));
}

static void rfc7692_7_1_an_answer_with_bad_parameters_fails_the_connection(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, PMD "; x", "does not exist", {NOTHING}},
        {{BOTH(15, 15)}, PMD "; Server_no_context_takeover", "does not exist", {NOTHING}},
        {{BOTH(15, 15)}, PMD SNCT SNCT, "twice", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=9" SMWB "=9", "twice", {NOTHING}},
        {{BOTH(15, 15)}, PMD SNCT "=1", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD CNCT "=9", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB, "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=7", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=16", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=09", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD CMWB "=7", "wrong value", {NOTHING}},
        {{BOTH(15, 15)}, PMD CMWB, "without a value", {NOTHING}}, /* 7.1.2.2 */
        {{BOTH(15, 15)}, PMD CMWB "; x", "does not exist", {NOTHING}},
        {{BOTH(15, 15)}, PMD "; x" CNCT, "does not exist", {NOTHING}},
    };
    check_agree(cases, COUNT(cases));
}

static void rfc7692_7_1_1_what_was_asked_of_the_servers_context_is_in_its_answer(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, PMD, NULL, {BOTH(15, 15)}},
        {{CLIENT(15, 15)}, PMD SNCT, NULL, {CLIENT(15, 15)}},
        {{CLIENT(15, 15)}, PMD, "lacks server_no_context_takeover", {NOTHING}},
        {{NEITHER(15, 15)}, PMD CNCT, "lacks server_no_context_takeover", {NOTHING}},
        /* both may come unasked */
        {{BOTH(15, 15)}, PMD SNCT, NULL, {CLIENT(15, 15)}},
        {{BOTH(15, 15)}, PMD CNCT, NULL, {SERVER(15, 15)}},
        {{BOTH(15, 15)}, PMD CNCT SNCT, NULL, {NEITHER(15, 15)}},
        /* 7.1.1.2: the client keeps to its hint when the server is silent about it */
        {{SERVER(15, 15)}, PMD, NULL, {SERVER(15, 15)}},
        {{SERVER(15, 15)}, PMD CNCT, NULL, {SERVER(15, 15)}},
    };
    check_agree(cases, COUNT(cases));
}

static void rfc7692_7_1_2_1_the_servers_window_is_not_larger_than_asked_for(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(12, 15)}, PMD SMWB "=12", NULL, {BOTH(12, 15)}},
        {{BOTH(12, 15)}, PMD SMWB "=8", NULL, {BOTH(8, 15)}},
        {{BOTH(12, 15)}, PMD SMWB "=13", "larger server_max_window_bits", {NOTHING}},
        {{BOTH(12, 15)}, PMD, "lacks server_max_window_bits", {NOTHING}},
        {{BOTH(15, 15)}, PMD SMWB "=15", NULL, {BOTH(15, 15)}},
        {{BOTH(15, 15)}, PMD SMWB "=9", NULL, {BOTH(9, 15)}}, /* unasked */
    };
    check_agree(cases, COUNT(cases));
}

static void rfc7692_7_1_2_2_the_clients_window_is_the_smaller_one(void **state)
{
    (void)state;
    static const struct agree_case cases[] = {
        {{BOTH(15, 15)}, PMD CMWB "=10", NULL, {BOTH(15, 10)}},
        {{BOTH(15, 12)}, PMD CMWB "=10", NULL, {BOTH(15, 10)}},
        {{BOTH(15, 12)}, PMD CMWB "=12", NULL, {BOTH(15, 12)}},
        {{BOTH(15, 12)}, PMD CMWB "=14", NULL, {BOTH(15, 12)}},
        {{BOTH(15, 12)}, PMD, NULL, {BOTH(15, 12)}},
        {{BOTH(15, 15)}, PMD CMWB "=15", NULL, {BOTH(15, 15)}},
    };
    check_agree(cases, COUNT(cases));
}

/* ---- both ---- */

static struct extensions_terms terms_of(unsigned n)
{
    return (struct extensions_terms){true, n & 1, n >> 1 & 1, (uint8_t)(8 + (n >> 2 & 7)),
                                     (uint8_t)(8 + (n >> 5 & 7))};
}

static void a_client_and_a_server_of_ours_agree_whatever_they_want(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        struct extensions_terms client = terms_of(c), at_server, at_client;
        char offer[EXTENSIONS_TEXT_MAX], answer[EXTENSIONS_TEXT_MAX], fields[300];
        extensions_offer(&client, offer);
        snprintf(fields, sizeof fields, FIELD "%s\r\n", offer);
        struct head *h = parse(fields);
        for (unsigned s = 0; s < 256; s++) {
            struct extensions_terms server = terms_of(s);
            assert_true(extensions_accept(h, &server, &at_server, answer));
            assert_null(extensions_agree(&client, answer, strlen(answer), &at_client));
            struct extensions_terms expected = terms_of(c & s & 3);
            expected.server_bits =
                client.server_bits < server.server_bits ? client.server_bits : server.server_bits;
            expected.client_bits =
                client.client_bits < server.client_bits ? client.client_bits : server.client_bits;
            if (!same(&at_server, &expected) || !same(&at_client, &expected))
                fail_msg("%s to %s", answer, offer);
        }
        head_unref(h);
    }
}

static void terms_may_be_replaced_by_what_comes_of_them(void **state)
{
    (void)state;
    struct head *h = parse(FIELD PMD "\r\n");
    struct extensions_terms terms = {NEITHER(10, 11)}, expected = {NEITHER(10, 15)};
    char answer[EXTENSIONS_TEXT_MAX];
    assert_true(extensions_accept(h, &terms, &terms, answer));
    assert_string_equal(answer, PMD SNCT CNCT SMWB "=10");
    assert_true(same(&terms, &expected));
    assert_null(extensions_agree(&terms, answer, strlen(answer), &terms));
    assert_true(same(&terms, &expected));
    head_unref(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc6455_9_1_an_extension_is_a_token_with_parameters),
        cmocka_unit_test(rfc6455_9_1_a_quoted_value_is_a_token_when_unescaped),
        cmocka_unit_test(rfc6455_9_1_blanks_may_stand_around_separators),
        cmocka_unit_test(rfc6455_9_1_several_fields_are_one_list_with_an_element),
        cmocka_unit_test(a_list_is_at_most_64_long_and_has_64_parameters),
        cmocka_unit_test(rfc7692_7_1_an_offer_without_parameters_is_taken_as_the_server_wants),
        cmocka_unit_test(rfc7692_7_1_1_no_context_takeover_is_granted_to_who_asks),
        cmocka_unit_test(rfc7692_7_1_2_1_the_servers_window_is_the_smaller_one_and_is_named),
        cmocka_unit_test(rfc7692_7_1_2_2_the_clients_window_is_the_smaller_one_when_it_lets_the_server),
        cmocka_unit_test(rfc7692_7_1_offers_with_bad_parameters_are_declined),
        cmocka_unit_test(rfc7692_7_1_2_windows_are_from_8_to_15),
        cmocka_unit_test(rfc7692_5_1_the_first_offer_that_can_be_met_is_taken),
        cmocka_unit_test(rfc7692_7_names_are_compared_with_their_case),
        cmocka_unit_test(rfc6455_9_1_a_quoted_value_means_the_same),
        cmocka_unit_test(rfc6455_9_1_nothing_is_accepted_from_a_malformed_list),
        cmocka_unit_test(rfc7692_7_1_the_offer_asks_for_what_is_wanted),
        cmocka_unit_test(rfc6455_4_1_the_server_may_answer_without_extensions),
        cmocka_unit_test(rfc6455_4_1_an_extension_that_was_not_offered_fails_the_connection),
        cmocka_unit_test(rfc7692_5_an_extension_accepted_twice_fails_the_connection),
        cmocka_unit_test(rfc6455_9_1_a_malformed_answer_fails_the_connection),
        cmocka_unit_test(rfc7692_7_1_an_answer_with_bad_parameters_fails_the_connection),
        cmocka_unit_test(rfc7692_7_1_1_what_was_asked_of_the_servers_context_is_in_its_answer),
        cmocka_unit_test(rfc7692_7_1_2_1_the_servers_window_is_not_larger_than_asked_for),
        cmocka_unit_test(rfc7692_7_1_2_2_the_clients_window_is_the_smaller_one),
        cmocka_unit_test(a_client_and_a_server_of_ours_agree_whatever_they_want),
        cmocka_unit_test(terms_may_be_replaced_by_what_comes_of_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
