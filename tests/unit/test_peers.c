/* SPDX-License-Identifier: MIT
 * Connections counted by client address: limits, what is one address, many of them, reuse, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "base/thread.h"
#include "net/peers.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

static union address address_of(const char *text)
{
    union address a = {.any.sa_family = AF_INET};
    if (inet_pton(AF_INET, text, &a.in.sin_addr) == 1)
        return a;
    a.any.sa_family = AF_INET6;
    if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) != 1)
        fail_msg("%s", text);
    return a;
}

static union address numbered(uint32_t number, bool ip6)
{
    union address a = {.any.sa_family = ip6 ? AF_INET6 : AF_INET};
    if (ip6)
        a.in6.sin6_addr = (struct in6_addr){.s6_addr = {0x20, 1, 0xd, 0xb8, (uint8_t)(number >> 24),
                                                        (uint8_t)(number >> 16), (uint8_t)(number >> 8),
                                                        (uint8_t)number, 1}};
    else
        a.in.sin_addr.s_addr = htonl(number);
    return a;
}

static uint32_t enter(const char *text, uint64_t limit)
{
    union address a = address_of(text);
    return peers_enter(&a.any, limit);
}

static uint32_t counted(uint32_t handle)
{
    assert_int_not_equal(handle, 0);
    assert_int_not_equal(handle, PEERS_UNLIMITED);
    return handle;
}

static void limits(void **state)
{
    (void)state;
    uint32_t a[3], b;
    for (size_t i = 0; i < COUNT(a); i++)
        a[i] = counted(enter("192.0.2.1", 3));
    for (int i = 0; i < 10; i++)
        assert_int_equal(enter("192.0.2.1", 3), 0);
    b = counted(enter("192.0.2.2", 3));
    peers_leave(a[1]);
    a[1] = counted(enter("192.0.2.1", 3));
    assert_int_equal(enter("192.0.2.1", 3), 0);
    assert_int_equal(enter("192.0.2.1", 2), 0);
    uint32_t more = counted(enter("192.0.2.1", 4));
    assert_int_equal(enter("192.0.2.3", 0), 0);
    for (size_t i = 0; i < COUNT(a); i++)
        peers_leave(a[i]);
    peers_leave(more);
    peers_leave(b);
    peers_leave(counted(enter("192.0.2.1", 1)));
}

static void not_counted(void **state)
{
    (void)state;
    union address local = {.un = {.sun_family = AF_UNIX, .sun_path = "/run/x"}};
    union address none = {.any.sa_family = AF_UNSPEC};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(peers_enter(&local.any, 1), PEERS_UNLIMITED);
        assert_int_equal(peers_enter(&none.any, 1), PEERS_UNLIMITED);
    }
    uint32_t handle = counted(enter("192.0.2.1", 1));
    peers_leave(0);
    peers_leave(PEERS_UNLIMITED);
    assert_int_equal(enter("192.0.2.1", 1), 0);
    peers_leave(handle);
    peers_leave(0); /* with no table at all */
    peers_leave(PEERS_UNLIMITED);
}

static void what_is_one_address(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second;
        bool same;
    } cases[] = {
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.1", "193.0.2.1", false},
        {"192.0.2.1", "::ffff:192.0.2.1", true},
        {"::ffff:192.0.2.1", "192.0.2.1", true},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
        {"::ffff:192.0.2.1", "::1", false},
        {"192.0.2.1", "::192.0.2.1", false},
        {"192.0.2.1", "0:0:c000:201::1", false},
        {"0.0.0.1", "::1", false},
        {"2001:db8:1:2::1", "2001:db8:1:2::2", true},
        {"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
        {"2001:db8:1:2:8000::", "2001:db8:1:2::", true},
        {"2001:db8:1:2::1", "2001:db8:1:3::1", false},
        {"2001:db8:1:2::1", "2001:db8:1:202::1", false},
        {"2001:db8:1:2::1", "a001:db8:1:2::1", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint32_t first = counted(enter(cases[i].first, 1)), second = enter(cases[i].second, 1);
        if ((second == 0) != cases[i].same)
            fail_msg("%s and %s", cases[i].first, cases[i].second);
        peers_leave(second);
        peers_leave(first);
    }
}

static void the_port_does_not_matter(void **state)
{
    (void)state;
    union address a = address_of("192.0.2.1"), b = a;
    a.in.sin_port = 1;
    b.in.sin_port = 2;
    uint32_t handle = counted(peers_enter(&a.any, 1));
    assert_int_equal(peers_enter(&b.any, 1), 0);
    peers_leave(handle);
    a = b = address_of("2001:db8::1");
    a.in6.sin6_port = 1;
    a.in6.sin6_scope_id = a.in6.sin6_flowinfo = 1;
    handle = counted(peers_enter(&a.any, 1));
    assert_int_equal(peers_enter(&b.any, 1), 0);
    peers_leave(handle);
}

/* ---- many ---- */

enum { MANY = 20000 };

static void check_all(const uint32_t (*handles)[2], uint64_t limit, bool full)
{
    for (uint32_t i = 0; i < MANY; i++) {
        union address a = numbered(i * 2654435761u, i % 2 == 1);
        uint32_t handle = peers_enter(&a.any, limit);
        if ((handle == 0) != full)
            fail_msg("address %u with %u and %u", i, handles[i][0], handles[i][1]);
        peers_leave(handle);
    }
}

static void thousands(void **state)
{
    (void)state;
    static uint32_t handles[MANY][2];
    for (size_t k = 0; k < 2; k++)
        for (uint32_t i = 0; i < MANY; i++) {
            union address a = numbered(i * 2654435761u, i % 2 == 1);
            handles[i][k] = counted(peers_enter(&a.any, 2));
        }
    check_all(handles, 2, true);
    check_all(handles, 3, false);
    for (uint32_t i = 0; i < MANY; i++)
        peers_leave(handles[i][i % 2]);
    check_all(handles, 1, true);
    check_all(handles, 2, false);
    for (uint32_t i = MANY; i-- > 0;)
        peers_leave(handles[i][1 - i % 2]);
    check_all(handles, 1, false);
}

/* Memory is for those that are there: the slots of the others are used again. */
static void slots_are_used_again(void **state)
{
    (void)state;
    enum { AT_ONCE = 100 };
    uint32_t handles[AT_ONCE] = {0};
    for (uint32_t i = 0; i < 50000; i++) {
        uint32_t *handle = &handles[i * 31 % AT_ONCE];
        peers_leave(*handle);
        union address a = numbered(i, i % 3 == 0);
        *handle = counted(peers_enter(&a.any, 1));
        assert_true(*handle <= AT_ONCE);
        assert_int_equal(peers_enter(&a.any, 1), 0);
    }
    for (size_t i = 0; i < AT_ONCE; i++)
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(handles[i], handles[j]);
    for (size_t i = 0; i < AT_ONCE; i++)
        peers_leave(handles[i]);
}

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 20000, SHARED = 8, LIMIT = 2 };

static _Atomic int inside[SHARED];
static _Atomic int entered, refused;

static void go(uint32_t handle, size_t where)
{
    if (handle != 0)
        atomic_fetch_sub(&inside[where], 1);
    peers_leave(handle);
}

/* In and out; the number inside is counted here as well, between entering and leaving. */
static void *come_and_go(void *arg)
{
    uint32_t seed = *(const uint32_t *)arg;
    uint32_t mine[2] = {0};
    size_t where[2] = {0};
    for (uint32_t i = 0; i < ROUNDS; i++) {
        size_t k = i % 2;
        go(mine[k], where[k]);
        seed = seed * 1664525 + 1013904223;
        where[k] = seed >> 29;
        union address a = numbered((uint32_t)where[k], false), own = numbered(seed, true);
        mine[k] = peers_enter(&a.any, LIMIT);
        if (mine[k] == 0)
            refused++;
        else if (atomic_fetch_add(&inside[where[k]], 1) >= LIMIT)
            abort();
        else
            entered++;
        peers_leave(peers_enter(&own.any, 1)); /* keeps slots coming and going */
    }
    for (size_t k = 0; k < 2; k++)
        go(mine[k], where[k]);
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    pthread_t thread[THREADS];
    uint32_t seeds[THREADS] = {1, 22, 333, 4444};
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&thread[i], come_and_go, &seeds[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(entered + refused, THREADS * ROUNDS);
    assert_true(entered > 0);
    for (uint32_t i = 0; i < SHARED; i++) {
        union address a = numbered(i, false);
        uint32_t handles[LIMIT];
        for (size_t k = 0; k < LIMIT; k++)
            handles[k] = counted(peers_enter(&a.any, LIMIT));
        assert_int_equal(peers_enter(&a.any, LIMIT), 0);
        for (size_t k = 0; k < LIMIT; k++)
            peers_leave(handles[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits),
        cmocka_unit_test(not_counted),
        cmocka_unit_test(what_is_one_address),
        cmocka_unit_test(the_port_does_not_matter),
        cmocka_unit_test(thousands),
        cmocka_unit_test(slots_are_used_again),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
