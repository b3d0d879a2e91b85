/* SPDX-License-Identifier: MIT
 * Submitted forms: the boundary, urlencoded pairs, multipart parts, what is refused and why, the limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/form.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* The data lies at the very end of a block, so that a read too far is seen. */
static char *guarded(const char *text, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    return copy;
}

/* ---- the boundary ---- */

struct boundary_case {
    const char *type;
    const char *boundary; /* NULL: refused */
};

#define TYPE     "multipart/form-data"
#define TEN      "0123456789"
#define SIXTY    TEN TEN TEN TEN TEN TEN
#define ALPHABET "'()+_,-./:=? 09azAZ"

static const struct boundary_case boundary_cases[] = {
    {TYPE "; boundary=x", "x"},
    {TYPE ";boundary=x", "x"},
    {TYPE " ;\tboundary=x ; charset=utf-8", "x"},
    {TYPE "; charset=\"utf-8\"; boundary=x", "x"},
    {TYPE "; boundary=x;", "x"},
    {TYPE ";; boundary=x", "x"},
    {"Multipart/Form-Data; BOUNDARY=Xx", "Xx"},
    {TYPE "; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", "----WebKitFormBoundary7MA4YWxkTrZu0gW"},
    {TYPE "; boundary=------------------------d74496d66958873e", "------------------------d74496d66958873e"},
    {TYPE "; boundary=\"----=_Part_1_2.3\"", "----=_Part_1_2.3"},
    {TYPE "; boundary=\"" ALPHABET "\"", ALPHABET},
    {TYPE "; boundary=\"a b\"", "a b"},
    {TYPE "; boundary=" SIXTY TEN, SIXTY TEN},
    {TYPE "; boundary=" SIXTY TEN "x", NULL},
    {TYPE "; x=\"; boundary=y\"; boundary=z", "z"},
    {TYPE "; bound=a; boundari=b; boundary=z", "z"},
    {TYPE, NULL},
    {TYPE ";", NULL},
    {"", NULL},
    {"multipart/form-dat", NULL},
    {"multipart/mixed; boundary=x", NULL},
    {"multipart/form-dato; boundary=x", NULL},
    {"application/x-www-form-urlencoded; boundary=x", NULL},
    {TYPE "x; boundary=x", NULL},
    {TYPE " boundary=x", NULL},
    {TYPE ", boundary=x", NULL},
    {" " TYPE "; boundary=x", NULL},
    {TYPE "; boundary", NULL},
    {TYPE "; boundary=", NULL},
    {TYPE "; boundary=\"\"", NULL},
    {TYPE "; boundary =x", NULL},
    {TYPE "; boundary= x", NULL},
    {TYPE "; boundary=\"x", NULL},
    {TYPE "; boundary=\"x\"y", NULL},
    {TYPE "; boundary=x y", NULL},
    {TYPE "; boundary=x; boundary=x", NULL},
    {TYPE "; boundary=x; Boundary=y", NULL},
    {TYPE "; boundary=\"x \"", NULL},
    {TYPE "; boundary=\" \"", NULL},
    {TYPE "; boundary=x*y", NULL},
    {TYPE "; boundary=*x", NULL},
    {TYPE "; boundary=a=b", NULL},
    {TYPE "; boundary=\"\xc3\xa9\"", NULL},
    {TYPE "; boundary=\"a\\b\"", NULL},
    {TYPE "; x=\"\\\"; boundary=x; y=\"", NULL},
    {TYPE "; xboundary=x", NULL},
    {TYPE "; boundaryx=x", NULL},
};

static void finds_the_boundary(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(boundary_cases); i++) {
        const struct boundary_case *c = &boundary_cases[i];
        char out[FORM_MAX_BOUNDARY + 1], *type = guarded(c->type, strlen(c->type));
        int rc = form_boundary(type, strlen(c->type), out);
        if (rc != (c->boundary != NULL ? 0 : -1) || (rc == 0 && strcmp(out, c->boundary) != 0))
            fail_msg("%d for %s", rc, c->type);
        free(type);
    }
}

static void a_boundary_has_no_other_characters(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char type[] = TYPE "; boundary=\"x?x\"", out[FORM_MAX_BOUNDARY + 1];
        type[strlen(type) - 3] = (char)byte;
        bool alnum =
            (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
        bool good = alnum || (byte != 0 && strchr(ALPHABET, byte) != NULL);
        if (form_boundary(type, sizeof type - 1, out) != (good ? 0 : -1))
            fail_msg("byte %d", byte);
    }
}

/* ---- reading a form ---- */

/* Adds "label<text>". */
static size_t show(char *out, size_t size, const char *label, const char *text, size_t len)
{
    return text == NULL ? 0 : (size_t)snprintf(out, size, "%s<%.*s>", label, (int)len, text);
}

/* Each field as "name<...>filename<...>type<...>data<...>" and a LF; in *reason why it ended early. */
static void read_form(const char *body, size_t len, const char *boundary, char out[512], const char **reason)
{
    char *copy = guarded(body, len);
    struct buf text = BUF_INIT;
    struct form_part p;
    struct form f;
    size_t n = 0;
    int rc;
    form_init(&f, copy, len, boundary);
    while ((rc = form_next(&f, &text, &p)) > 0) {
        assert_non_null(p.name);
        assert_non_null(p.data);
        assert_int_equal(text.len, p.name_len + p.filename_len + (boundary == NULL ? p.data_len : 0));
        if (boundary != NULL)
            assert_true(p.data >= copy && p.data + p.data_len <= copy + len);
        n += show(out + n, 512 - n, "name", p.name, p.name_len);
        n += show(out + n, 512 - n, "filename", p.filename, p.filename_len);
        n += show(out + n, 512 - n, "type", p.type, p.type_len);
        n += show(out + n, 512 - n, "data", p.data, p.data_len);
        n += (size_t)snprintf(out + n, 512 - n, "\n");
        assert_true(n < 512);
    }
    out[n] = '\0';
    assert_int_equal(rc, f.reason != NULL ? -1 : 0);
    assert_int_equal(form_next(&f, &text, &p), rc); /* for good */
    *reason = f.reason;
    buf_fini(&text);
    free(copy);
}

struct good_case {
    const char *body;
    const char *fields;
};

static void reads(const struct good_case *cases, size_t n, const char *boundary)
{
    for (size_t i = 0; i < n; i++) {
        char got[512];
        const char *reason;
        read_form(cases[i].body, strlen(cases[i].body), boundary, got, &reason);
        if (reason != NULL)
            fail_msg("%s\n%s", reason, cases[i].body);
        assert_string_equal(got, cases[i].fields);
    }
}

/* ---- urlencoded ---- */

static const struct good_case pairs_cases[] = {
    {"", ""},
    {"&&", ""},
    {"a=1", "name<a>data<1>\n"},
    {"a=1&b=2&a=3", "name<a>data<1>\nname<b>data<2>\nname<a>data<3>\n"},
    {"a", "name<a>data<>\n"},
    {"=", "name<>data<>\n"},
    {"=v&n=", "name<>data<v>\nname<n>data<>\n"},
    {"a+b=c+d%2B", "name<a b>data<c d+>\n"},
    {"%61%3D=%26%C3%a9", "name<a=>data<&\xc3\xa9>\n"},
    {"100%=%zz%4", "name<100%>data<%zz%4>\n"},
    {"a=b=c;d", "name<a>data<b=c;d>\n"},
};

static void reads_pairs(void **state)
{
    (void)state;
    reads(pairs_cases, COUNT(pairs_cases), NULL);
}

static void a_value_may_hold_nul(void **state)
{
    (void)state;
    struct buf text = BUF_INIT;
    struct form_part p;
    struct form f;
    form_init(&f, "a%00b=%00", 9, NULL);
    assert_int_equal(form_next(&f, &text, &p), 1);
    assert_int_equal(p.name_len, 3);
    assert_memory_equal(p.name, "a\0b", 3);
    assert_int_equal(p.data_len, 1);
    assert_int_equal(*p.data, '\0');
    assert_true(p.filename == NULL && p.type == NULL);
    buf_fini(&text);
}

/* ---- multipart ---- */

#define B       "--b\r\n"
#define END     "\r\n--b--\r\n"
#define CD      "Content-Disposition: form-data; "
#define CT      "Content-Type: "
#define PART(h) B h "\r\n\r\nv" END

static const struct good_case parts_cases[] = {
    {"--b--", ""},
    {"--b--\r\n", ""},
    {"--b-- \t\r\n", ""},
    {"\r\n--b--\r\n", ""},
    {PART(CD "name=\"a\""), "name<a>data<v>\n"},
    {"\r\n" PART(CD "name=\"a\""), "name<a>data<v>\n"},
    {"--b \t\r\n" CD "name=\"a\"\r\n\r\nv\r\n--b-- ", "name<a>data<v>\n"},
    {B CD "name=\"a\"\r\n\r\n" END, "name<a>data<>\n"},
    {B CD "name=\"a\"\r\n\r\n1\r\n" B CD "name=\"b\"\r\n\r\n2\r\n" B CD "name=\"a\"\r\n\r\n3" END,
     "name<a>data<1>\nname<b>data<2>\nname<a>data<3>\n"},
    /* data is what it is */
    {B CD "name=a\r\n\r\n\r\n\r\n" END, "name<a>data<\r\n\r\n>\n"},
    {B CD "name=a\r\n\r\nx--b\n--b\r--b \r\n-b\r\n--c\r\n--" END,
     "name<a>data<x--b\n--b\r--b \r\n-b\r\n--c\r\n-->\n"},
    {B CD "name=a\r\n\r\n\r" END, "name<a>data<\r>\n"},
    {B CD "name=a\r\n\r\nA: b\r\n c\x01\n" END, "name<a>data<A: b\r\n c\x01\n>\n"},
    /* headers */
    {PART("content-disposition:form-data;name=a"), "name<a>data<v>\n"},
    {PART("CONTENT-DISPOSITION: \tForm-Data \t;\tNAME=a \t"), "name<a>data<v>\n"},
    {PART(CD "name=\"a\"; filename=\"b.txt\"\r\n" CT "text/plain"),
     "name<a>filename<b.txt>type<text/plain>data<v>\n"},
    {PART(CT " text/plain; charset=utf-8 \r\n" CD "filename=b; name=a"),
     "name<a>filename<b>type<text/plain; charset=utf-8>data<v>\n"},
    {PART(CT "\r\n" CD "name=a"), "name<a>type<>data<v>\n"},
    {PART("X-Other: 1\r\nX-Other: 2\r\nContent-Transfer-Encoding: binary\r\n" CD "name=a"),
     "name<a>data<v>\n"},
    {PART("Content-Typo: text/plain\r\n" CD "name=a"), "name<a>data<v>\n"},
    {PART(CD "name=a;"), "name<a>data<v>\n"},
    {PART(CD "na=b; nome=c; filenames=d; name=a"), "name<a>data<v>\n"},
    {PART(CD "; name=a"), "name<a>data<v>\n"},
    {PART(CD "name=a; x=y; z=\"name=b; filename=c\""), "name<a>data<v>\n"},
    {PART(CD "name=a; filename=\"b\"; filename*=utf-8''c"), "name<a>filename<b>data<v>\n"},
    {PART(CD "name=a; filename*=utf-8''c"), "name<a>data<v>\n"},
    {PART(CD "name=\"\"; filename=\"\""), "name<>filename<>data<v>\n"},
    /* names as they are written */
    {PART(CD "name=\"a;b=c, d\""), "name<a;b=c, d>data<v>\n"},
    {PART(CD "name=\"%22%0D%0A%22\"; filename=\"a%22b\""), "name<\"\r\n\">filename<a\"b>data<v>\n"},
    {PART(CD "name=\"100% %41 %0d %0a %2 %\"; filename=\"%2522%%22\""),
     "name<100% %41 %0d %0a %2 %>filename<%2522%\">data<v>\n"},
    {PART(CD "name=%22; filename=%0A"), "name<\">filename<\n>data<v>\n"},
    {PART(CD "name=\"a\\b\"; filename=\"C:\\dir\\\""), "name<a\\b>filename<C:\\dir\\>data<v>\n"},
    {PART(CD "name=\"a\\\\b\""), "name<a\\\\b>data<v>\n"},
    {PART(CD "name=\"\xc3\xa9\t\"; filename=\"\xf0\x9f\x8c\x8a.png\""),
     "name<\xc3\xa9\t>filename<\xf0\x9f\x8c\x8a.png>data<v>\n"},
};

static void reads_parts(void **state)
{
    (void)state;
    reads(parts_cases, COUNT(parts_cases), "b");
}

static void reads_what_browsers_and_curl_send(void **state)
{
    (void)state;
    static const struct good_case chromium[] = {
        {"------WebKitFormBoundaryA1\r\n"
         "Content-Disposition: form-data; name=\"text\"\r\n\r\n"
         "one\r\ntwo\r\n"
         "------WebKitFormBoundaryA1\r\n"
         "Content-Disposition: form-data; name=\"file\"; filename=\"a %22b%22 \\.txt\"\r\n"
         "Content-Type: text/plain\r\n\r\n"
         "\xff\r\n"
         "------WebKitFormBoundaryA1\r\n"
         "Content-Disposition: form-data; name=\"none\"; filename=\"\"\r\n"
         "Content-Type: application/octet-stream\r\n\r\n"
         "\r\n"
         "------WebKitFormBoundaryA1--\r\n",
         "name<text>data<one\r\ntwo>\n"
         "name<file>filename<a \"b\" \\.txt>type<text/plain>data<\xff>\n"
         "name<none>filename<>type<application/octet-stream>data<>\n"},
    };
    static const struct good_case curl[] = {
        {"--------------------------d74496d66958873e\r\n"
         "Content-Disposition: form-data; name=\"a%22b\\\"\r\n\r\n"
         "v\r\n"
         "--------------------------d74496d66958873e--\r\n",
         "name<a\"b\\>data<v>\n"},
    };
    reads(chromium, 1, "----WebKitFormBoundaryA1");
    reads(curl, 1, "------------------------d74496d66958873e");
}

struct bad_case {
    const char *body;
    const char *reason; /* a part of it */
};

static const struct bad_case bad_cases[] = {
    /* the boundaries */
    {"", "does not begin"},
    {"--", "does not begin"},
    {"-b", "does not begin"},
    {"--c\r\n", "does not begin"},
    {"x" PART(CD "name=a"), "does not begin"},
    {"x\r\n" PART(CD "name=a"), "does not begin"},
    {"\r\n\r\n" PART(CD "name=a"), "does not begin"},
    {"\n" PART(CD "name=a"), "does not begin"},
    {"--b", "goes on differently"},
    {"--b\n" CD "name=a\r\n\r\nv" END, "goes on differently"},
    {"--b\r" CD "name=a\r\n\r\nv" END, "goes on differently"},
    {"--bx\r\n" CD "name=a\r\n\r\nv" END, "goes on differently"},
    {"--b-\r\n" CD "name=a\r\n\r\nv" END, "goes on differently"},
    {"--b -- \r\n", "goes on differently"},
    {"--b--x", "goes on differently"},
    {"--b--\n", "goes on differently"},
    {"--b--\r", "goes on differently"},
    {"--b---\r\n", "goes on differently"},
    {B CD "name=a\r\n\r\nv\r\n--bb" END, "goes on differently"},
    {B CD "name=a\r\n\r\nv\r\n--b", "goes on differently"},
    {"--b--\r\n\r\n", "Something follows"},
    {"--b--\r\nepilogue", "Something follows"},
    {"--b--\r\n--b--\r\n", "Something follows"},
    {B, "ends before its last"},
    {B CD "name=a\r\n\r\nv", "ends before its last"},
    {B CD "name=a\r\n\r\nv\r\n", "ends before its last"},
    {B CD "name=a\r\n\r\nv\n--b--\r\n", "ends before its last"},
    {B CD "name=a\r\n\r\nv\r--b--\r\n", "ends before its last"},
    {B CD "name=a\r\n\r\nv--b--\r\n", "ends before its last"},
    {B CD "name=a\r\n\r\nv\r\n--B--\r\n", "ends before its last"},
    {B "--b--\r\n", "is empty"},
    {B B CD "name=a\r\n\r\nv" END, "is empty"},
    /* the headers */
    {B CD "name=a" END, "empty line"},
    {B CD "name=a\r\n--b--\r\n", "empty line"},
    {B CD "name=a\r\n\r\n--b--\r\n", "empty line"}, /* the empty line is the boundary's */
    {B CD "name=a\r\nv" END, "empty line"},
    {B END, "empty line"},
    {B "\r\nv" END, "no Content-Disposition"},
    {B CD "name=a\n\nv" END, "control character"},
    {PART(CD "name=a\nA: b"), "control character"},
    {PART(CD "name=a\rA: b"), "control character"},
    {PART(CD "name=\"a\r\""), "control character"},
    {PART(CD "name=\"\x01\""), "control character"},
    {PART(CD "name=\"\x7f\""), "control character"},
    {PART("A: \x1f\r\n" CD "name=a"), "control character"},
    {PART(CD "name=a\r\n b"), "malformed"},
    {PART(CD "\r\n name=a"), "malformed"},
    {PART("Content-Disposition : form-data; name=a"), "malformed"},
    {PART(" Content-Disposition: form-data; name=a"), "malformed"},
    {PART(CD "name=a\r\nb"), "malformed"},
    {PART(CD "name=a\r\n: b"), "malformed"},
    {PART(CD "name=a\r\n(b): c"), "malformed"},
    {PART(CD "name=a\r\n" CD "name=a"), "same header twice"},
    {PART(CT "a/b\r\n" CT "a/b\r\n" CD "name=a"), "same header twice"},
    /* the disposition */
    {PART(CT "text/plain"), "no Content-Disposition"},
    {PART("Content-Disposition:"), "is not \"form-data\""},
    {PART("Content-Disposition: file; name=a"), "is not \"form-data\""},
    {PART("Content-Disposition: form-dato; name=a"), "is not \"form-data\""},
    {PART("Content-Disposition: form-datax; name=a"), "is not \"form-data\""},
    {PART("Content-Disposition: form-data"), "no name"},
    {PART(CD "filename=a"), "no name"},
    {PART(CD "name*=a"), "no name"},
    {PART(CD "name=a; name=a"), "two names"},
    {PART(CD "name=a; NAME=\"b\""), "two names"},
    {PART(CD "name=a; filename=b; filename=c"), "two names"},
    {PART(CD "name"), "malformed"},
    {PART(CD "name="), "malformed"},
    {PART(CD "name =a"), "malformed"},
    {PART(CD "name= a"), "malformed"},
    {PART(CD "name=\"a"), "malformed"},
    {PART(CD "name=\"a\"b"), "malformed"},
    {PART(CD "name=\"a\\\"b\""), "malformed"}, /* a backslash escapes nothing */
    {PART(CD "name=a b"), "malformed"},
    {PART(CD "name=a, filename=b"), "malformed"},
    {PART("Content-Disposition: form-data name=a"), "malformed"},
    {PART(CD "name=\xc3\xa9"), "malformed"},
    {PART(CD "name=a; filename=b c.txt"), "malformed"},
};

static void refuses_what_is_malformed(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_cases); i++) {
        char got[512];
        const char *reason;
        read_form(bad_cases[i].body, strlen(bad_cases[i].body), "b", got, &reason);
        if (reason == NULL || strstr(reason, bad_cases[i].reason) == NULL)
            fail_msg("%s\n%s", reason != NULL ? reason : "accepted", bad_cases[i].body);
        assert_int_equal(reason[strlen(reason) - 1], '.');
    }
}

static void an_empty_body_may_be_null(void **state)
{
    (void)state;
    struct buf text = BUF_INIT;
    struct form_part p;
    struct form f;
    form_init(&f, NULL, 0, NULL);
    assert_int_equal(form_next(&f, &text, &p), 0);
    form_init(&f, NULL, 0, "b");
    assert_int_equal(form_next(&f, &text, &p), -1);
    buf_fini(&text);
}

static void no_cut_form_is_accepted(void **state)
{
    (void)state;
    static const char whole[] =
        "\r\n" B CD "name=\"a\"; filename=\"b\"\r\n" CT "c\r\n\r\n1\r\n" B CD "name=c\r\n\r\n2\r\n--b--";
    char got[512];
    const char *reason;
    read_form(whole, sizeof whole - 1, "b", got, &reason);
    assert_null(reason);
    for (size_t len = 0; len < sizeof whole - 1; len++) {
        read_form(whole, len, "b", got, &reason);
        if (reason == NULL)
            fail_msg("accepted at %zu", len);
    }
}

static void data_may_be_any_bytes(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char body[] = PART(CD "name=a");
        struct buf text = BUF_INIT;
        struct form_part p;
        struct form f;
        body[sizeof body - sizeof END - 1] = (char)byte;
        form_init(&f, body, sizeof body - 1, "b");
        assert_int_equal(form_next(&f, &text, &p), 1);
        assert_int_equal(p.data_len, 1);
        assert_int_equal((uint8_t)*p.data, byte);
        assert_int_equal(form_next(&f, &text, &p), 0);
        buf_fini(&text);
    }
}

/* ---- limits ---- */

/* How a form of `n` times `field` between two texts ends, and after how many fields. */
static const char *read_many(const char *first, const char *field, unsigned n, const char *last,
                             const char *boundary, unsigned *fields)
{
    struct buf body = BUF_INIT, text = BUF_INIT;
    struct form_part p;
    struct form f;
    buf_puts(&body, first);
    for (unsigned i = 0; i < n; i++)
        buf_puts(&body, field);
    buf_puts(&body, last);
    form_init(&f, body.data, body.len, boundary);
    for (*fields = 0; form_next(&f, &text, &p) > 0;)
        ++*fields;
    buf_fini(&text);
    buf_fini(&body);
    return f.reason;
}

static void a_form_has_at_most_1024_fields(void **state)
{
    (void)state;
    unsigned fields;
    assert_null(read_many("", "a&", FORM_MAX_PARTS, "", NULL, &fields));
    assert_int_equal(fields, FORM_MAX_PARTS);
    assert_non_null(strstr(read_many("", "a&", FORM_MAX_PARTS + 1, "", NULL, &fields), "too many"));
    assert_int_equal(fields, FORM_MAX_PARTS);

    static const char part[] = "\r\n" B CD "name=a\r\n\r\nv";
    assert_null(read_many("", part, FORM_MAX_PARTS, END, "b", &fields));
    assert_int_equal(fields, FORM_MAX_PARTS);
    assert_non_null(strstr(read_many("", part, FORM_MAX_PARTS + 1, END, "b", &fields), "too many"));
    assert_int_equal(fields, FORM_MAX_PARTS);
}

static void a_part_has_at_most_16_headers(void **state)
{
    (void)state;
    unsigned fields;
    assert_null(read_many(B, "A: b\r\n", FORM_MAX_HEADERS - 1, CD "name=a\r\n\r\nv" END, "b", &fields));
    assert_int_equal(fields, 1);
    assert_non_null(strstr(read_many(B, "A: b\r\n", FORM_MAX_HEADERS, CD "name=a\r\n\r\nv" END, "b", &fields),
                           "too many headers"));
}

static void the_headers_of_a_part_have_at_most_8_kib(void **state)
{
    (void)state;
    static const char first[] = B CD "name=a\r\nA: ", last[] = "\r\n\r\nv\r\n--b--";
    unsigned fixed = (unsigned)(strlen(first) - strlen(B)) + 4, fields;
    assert_null(read_many(first, "x", FORM_MAX_HEADER_BYTES - fixed, last, "b", &fields));
    assert_int_equal(fields, 1);
    for (unsigned extra = 1; extra < 6; extra++) /* wherever the limit cuts them */
        assert_non_null(strstr(
            read_many(first, "x", FORM_MAX_HEADER_BYTES - fixed + extra, last, "b", &fields), "too long"));
}

static void names_of_one_part_fit_whatever_their_length(void **state)
{
    (void)state;
    unsigned fields;
    for (unsigned n = 0; n < 200; n++) { /* the buffer is grown to just what is needed */
        assert_null(read_many(B CD "name=\"", "x", n, "\"; filename=\"y\"\r\n\r\n" END, "b", &fields));
        assert_null(read_many("x=", "y", n, "", NULL, &fields));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_boundary),
        cmocka_unit_test(a_boundary_has_no_other_characters),
        cmocka_unit_test(reads_pairs),
        cmocka_unit_test(a_value_may_hold_nul),
        cmocka_unit_test(reads_parts),
        cmocka_unit_test(reads_what_browsers_and_curl_send),
        cmocka_unit_test(refuses_what_is_malformed),
        cmocka_unit_test(an_empty_body_may_be_null),
        cmocka_unit_test(no_cut_form_is_accepted),
        cmocka_unit_test(data_may_be_any_bytes),
        cmocka_unit_test(a_form_has_at_most_1024_fields),
        cmocka_unit_test(a_part_has_at_most_16_headers),
        cmocka_unit_test(the_headers_of_a_part_have_at_most_8_kib),
        cmocka_unit_test(names_of_one_part_fit_whatever_their_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
