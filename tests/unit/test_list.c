/* SPDX-License-Identifier: MIT
 * The intrusive list: order, removal anywhere, and taking a whole list over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/list.h"

struct item {
    char name;
    struct list link; /* not first, so that LIST_ENTRY has something to subtract */
};

static struct item items[5] = {
    {.name = 'a'}, {.name = 'b'}, {.name = 'c'}, {.name = 'd'}, {.name = 'e'},
};

/* The names in order; the links backwards must say the same. */
static const char *names(const struct list *l)
{
    static char text[8];
    size_t n = 0, back = 0;
    for (const struct list *at = l->next; at != l; at = at->next) {
        assert_true(n < sizeof text - 1);
        assert_ptr_equal(at->next->prev, at);
        text[n++] = LIST_ENTRY(at, const struct item, link)->name;
    }
    text[n] = '\0';
    for (const struct list *at = l->prev; at != l; at = at->prev)
        assert_int_equal(LIST_ENTRY(at, const struct item, link)->name, text[n - ++back]);
    assert_int_equal(back, n);
    assert_int_equal(list_empty(l), n == 0);
    return text;
}

static void fill(struct list *l, const char *which)
{
    list_init(l);
    for (; *which != '\0'; which++)
        list_append(l, &items[*which - 'a'].link);
}

static void appends_in_order(void **state)
{
    (void)state;
    struct list l;
    fill(&l, "");
    assert_string_equal(names(&l), "");
    fill(&l, "a");
    assert_string_equal(names(&l), "a");
    fill(&l, "cabed");
    assert_string_equal(names(&l), "cabed");
}

static void removes_anywhere(void **state)
{
    (void)state;
    static const char *const left[] = {"bcde", "acde", "abde", "abce", "abcd"};
    for (size_t i = 0; i < 5; i++) {
        struct list l;
        fill(&l, "abcde");
        list_remove(&items[i].link);
        assert_string_equal(names(&l), left[i]);
        assert_true(list_empty(&items[i].link));
    }
}

static void removes_twice_and_appends_again(void **state)
{
    (void)state;
    struct list l;
    fill(&l, "abc");
    list_remove(&items[0].link);
    list_remove(&items[0].link);
    assert_string_equal(names(&l), "bc");
    list_append(&l, &items[0].link);
    assert_string_equal(names(&l), "bca");
    for (size_t i = 0; i < 3; i++)
        list_remove(&items[i].link);
    assert_string_equal(names(&l), "");
}

static void takes_everything(void **state)
{
    (void)state;
    static const char *const contents[] = {"", "a", "ab", "abcde"};
    for (size_t i = 0; i < 4; i++) {
        struct list from, to;
        memset(&to, 0xa5, sizeof to);
        fill(&from, contents[i]);
        list_take(&to, &from);
        assert_string_equal(names(&to), contents[i]);
        assert_true(list_empty(&from));
        list_append(&from, &(struct item){.name = 'e'}.link);
        assert_string_equal(names(&from), "e");
        assert_string_equal(names(&to), contents[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_in_order),
        cmocka_unit_test(removes_anywhere),
        cmocka_unit_test(removes_twice_and_appends_again),
        cmocka_unit_test(takes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
