/* SPDX-License-Identifier: MIT
 * Deliveries between workers: how they are gathered, bounded and ordered, by hand and on threads of their
 * own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/log.h"
#include "bus/courier.h"

enum { WORKERS = 3, LIMIT = 1 << 20, BATCH = 256 * 1024, SLACK = 64 /* what a delivery takes besides */ };

static struct config config;
static struct worker *workers[WORKERS];
static struct buf got[WORKERS]; /* by receiver: what came, each with a "." behind it */
static unsigned deliveries;

static void on_delivery(struct worker *w, const uint8_t *data, size_t len)
{
    assert_int_equal((uintptr_t)data % 16, 0);
    buf_append(&got[w->index - 1], data, len);
    buf_puts(&got[w->index - 1], ".");
    deliveries++;
}

static void on_other_delivery(struct worker *w, const uint8_t *data, size_t len)
{
    buf_puts(&got[w->index - 1], "!");
    on_delivery(w, data, len);
}

static void make_workers(const struct worker_hooks *hooks)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    assert_int_equal(config_init(&config), 0);
    config.inbox_limit = LIMIT;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = worker_create(i + 1, &config, hooks);
        assert_non_null(workers[i]);
        workers[i]->count = WORKERS;
        workers[i]->peers = workers;
        assert_int_equal(courier_init(workers[i]), 0);
    }
}

static int set_up(void **state)
{
    (void)state;
    deliveries = 0;
    make_workers(NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned i = 0; i < WORKERS; i++)
        courier_fini(workers[i]);
    for (unsigned i = 0; i < WORKERS; i++) {
        worker_destroy(workers[i]);
        buf_fini(&got[i]);
    }
    config_fini(&config);
    return 0;
}

static bool tell(unsigned from, unsigned to, courier_deliver *deliver, const char *text)
{
    uint8_t *room = courier_add(workers[from], workers[to], deliver, strlen(text), 0);
    if (room != NULL)
        memcpy(room, text, strlen(text));
    return room != NULL;
}

/* One delivery of `len` bytes. */
static bool tell_much(unsigned from, unsigned to, size_t len)
{
    uint8_t *room = courier_add(workers[from], workers[to], on_delivery, len, 0);
    if (room != NULL)
        memset(room, 'x', len);
    return room != NULL;
}

static void read_mail(unsigned who)
{
    mailbox_flush(&workers[who]->mailbox);
}

static unsigned mails(unsigned who)
{
    unsigned n = 0;
    for (const struct mail *m = workers[who]->mailbox.head; m != NULL; m = m->next)
        n++;
    return n;
}

static void assert_got(unsigned who, const char *want)
{
    assert_int_equal(got[who].len, strlen(want));
    assert_memory_equal(got[who].data, want, strlen(want));
    got[who].len = 0;
}

static void nothing_leaves_before_the_end_of_the_iteration(void **state)
{
    (void)state;
    assert_false(workers[0]->due);
    assert_true(tell(0, 1, on_delivery, "one"));
    assert_true(workers[0]->due); /* it asks for that end */
    assert_int_equal(mails(1), 0);
    courier_flush(workers[0]);
    assert_int_equal(mails(1), 1);
    read_mail(1);
    assert_got(1, "one.");
    courier_flush(workers[0]);
    assert_int_equal(mails(1), 0);
}

static void all_for_one_receiver_is_one_mail_in_order(void **state)
{
    (void)state;
    struct buf want = BUF_INIT;
    char text[16];
    for (int i = 0; i < 500; i++) {
        snprintf(text, sizeof text, "%d", i);
        assert_true(tell(0, 1, i % 3 ? on_delivery : on_other_delivery, text));
        buf_printf(&want, "%s%d.", i % 3 ? "" : "!", i);
        assert_true(tell(0, 2, on_delivery, ""));
    }
    courier_flush(workers[0]);
    assert_int_equal(mails(1), 1);
    assert_int_equal(mails(2), 1);
    read_mail(1);
    read_mail(2);
    assert_int_equal(got[1].len, want.len);
    assert_memory_equal(got[1].data, want.data, want.len);
    assert_int_equal(got[2].len, 500);
    assert_int_equal(deliveries, 1000);
    buf_fini(&want);
}

static void the_last_delivery_is_known_until_it_leaves(void **state)
{
    (void)state;
    assert_null(courier_last(workers[0], workers[1], on_delivery));
    assert_true(tell(0, 1, on_delivery, "one"));
    uint8_t *last = courier_last(workers[0], workers[1], on_delivery);
    assert_non_null(last);
    assert_memory_equal(last, "one", 3);
    assert_null(courier_last(workers[0], workers[1], on_other_delivery));
    assert_null(courier_last(workers[0], workers[2], on_delivery));
    assert_null(courier_last(workers[2], workers[1], on_delivery));
    assert_true(tell(0, 1, on_other_delivery, "two"));
    assert_null(courier_last(workers[0], workers[1], on_delivery));
    assert_memory_equal(courier_last(workers[0], workers[1], on_other_delivery), "two", 3);
    courier_flush(workers[0]);
    assert_null(courier_last(workers[0], workers[1], on_other_delivery));
    read_mail(1);
    assert_got(1, "one.!two.");
}

/* By every length, so over every growth of the batch and every padding. */
static void the_last_delivery_can_be_made_longer(void **state)
{
    (void)state;
    struct buf want = BUF_INIT;
    for (size_t more = 1; more < 200; more++) {
        char bytes[200];
        memset(bytes, (int)('a' + more % 26), more);
        if (more % 50 == 1) {
            assert_true(tell(0, 1, on_other_delivery, "new"));
            buf_puts(&want, more > 1 ? ".!new" : "!new");
        }
        uint8_t *room = courier_extend(workers[0], workers[1], more);
        assert_non_null(room);
        memcpy(room, bytes, more);
        buf_append(&want, bytes, more);
    }
    buf_puts(&want, ".");
    assert_true(tell(0, 1, on_delivery, "behind"));
    buf_puts(&want, "behind.");
    courier_flush(workers[0]);
    read_mail(1);
    assert_int_equal(got[1].len, want.len);
    assert_memory_equal(got[1].data, want.data, want.len);
    assert_int_equal(deliveries, 5);
    buf_fini(&want);
}

static void a_large_batch_leaves_early(void **state)
{
    (void)state;
    size_t sent = 0;
    do {
        assert_true(tell_much(0, 1, 1000));
        assert_int_equal(mails(1), 0);
        sent += 1000;
    } while (courier_last(workers[0], workers[1], on_delivery) != NULL); /* it can be made longer */
    assert_true(sent > BATCH - BATCH / 10 && sent <= BATCH + 1000);
    assert_true(tell(0, 1, on_delivery, "next"));
    assert_int_equal(mails(1), 1);
    assert_non_null(courier_last(workers[0], workers[1], on_delivery));
    courier_flush(workers[0]);
    assert_int_equal(mails(1), 2);
    read_mail(1);
    assert_memory_equal(got[1].data + got[1].len - 6, ".next.", 6);
}

/* How many deliveries of `len` bytes there is room for. */
static unsigned fill(unsigned from, unsigned to, size_t len)
{
    unsigned n = 0;
    while (tell_much(from, to, len)) {
        n++;
        assert_true(n * len <= LIMIT);
    }
    return n;
}

static void the_inbox_is_bounded_and_empties(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        unsigned n = fill(0, 1, 10000);
        assert_true(n * (10000 + SLACK) > LIMIT - 10000 - SLACK);
        assert_true(tell(0, 1, on_delivery, "a little")); /* that has room */
        assert_false(tell_much(0, 1, 10000));
        assert_true(tell_much(0, 2, 10000)); /* another's inbox is another's */
        courier_flush(workers[0]);
        assert_false(tell_much(0, 1, 10000)); /* on its way it counts as well */
        assert_false(tell_much(2, 1, 10000)); /* for whoever sends */
        deliveries = 0;
        read_mail(1);
        assert_int_equal(deliveries, n + 1); /* what was refused does not come */
        read_mail(2);
    }
}

static void what_would_be_longer_than_the_last_is_bounded_too(void **state)
{
    (void)state;
    size_t len = 100;
    assert_true(tell_much(0, 1, len));
    for (uint8_t *room; (room = courier_extend(workers[0], workers[1], 1000)) != NULL; len += 1000) {
        memset(room, 'y', 1000);
        assert_true(len <= LIMIT);
    }
    assert_true(len > LIMIT - 10000);
    courier_flush(workers[0]);
    read_mail(1);
    assert_int_equal(got[1].len, len + 1);
    assert_int_equal(got[1].data[99], 'x');
    assert_int_equal(got[1].data[len - 1], 'y');
    assert_true(tell_much(0, 1, LIMIT / 2));
}

static void weight_counts_like_bytes(void **state)
{
    (void)state;
    assert_non_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT / 2));
    assert_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT / 2));
    assert_non_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT / 4));
    courier_flush(workers[0]);
    assert_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT / 2));
    read_mail(1);
    assert_non_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT / 2));
}

static void more_than_the_limit_never_fits(void **state)
{
    (void)state;
    assert_null(courier_add(workers[0], workers[1], on_delivery, LIMIT, 0));
    assert_null(courier_add(workers[0], workers[1], on_delivery, 0, LIMIT));
    assert_null(courier_add(workers[0], workers[1], on_delivery, 0, SIZE_MAX / 2));
    courier_flush(workers[0]);
    assert_int_equal(mails(1), 0);
}

/* What it refers to has to be released, also when the receiver's layers are gone. */
static void it_is_delivered_after_the_receivers_end(void **state)
{
    (void)state;
    assert_true(tell(0, 1, on_delivery, "late"));
    courier_flush(workers[0]);
    courier_fini(workers[1]);
    assert_null(workers[1]->layer[WORKER_COURIER]);
    read_mail(1);
    assert_got(1, "late.");
}

/* ---- on threads of their own ---- */

enum { NUMBERS = 20000 };

/* What each worker has told each other, and heard. */
static struct {
    uint32_t told[WORKERS], heard[WORKERS];
    bool wrong;
} life[WORKERS];

struct number {
    uint32_t from, n;
    uint32_t filler[30];
};

static void stop_if_done(struct worker *w)
{
    unsigned me = w->index - 1;
    for (unsigned i = 0; i < WORKERS; i++)
        if (i != me && (life[me].told[i] < NUMBERS || life[me].heard[i] < NUMBERS))
            return;
    worker_stop(w);
}

static void on_number(struct worker *w, const uint8_t *data, size_t len)
{
    const struct number *n = (const struct number *)data;
    unsigned me = w->index - 1;
    for (size_t at = 0; at < len; at += sizeof *n, n++) {
        if (n->n != life[me].heard[n->from] || n->filler[n->n % 30] != n->n)
            life[me].wrong = true;
        life[me].heard[n->from]++;
    }
    w->due = true;
}

/* Some more numbers for everybody, as far as there is room; every third lengthens what was told before. */
static void tell_some(struct worker *w)
{
    unsigned me = w->index - 1;
    bool left = false;
    for (unsigned i = 0; i < WORKERS; i++) {
        if (i == me)
            continue;
        for (int burst = 0; burst < 700 && life[me].told[i] < NUMBERS; burst++) {
            uint32_t k = life[me].told[i];
            uint8_t *room = k % 3 == 1 && courier_last(w, workers[i], on_number) != NULL
                                ? courier_extend(w, workers[i], sizeof(struct number))
                                : courier_add(w, workers[i], on_number, sizeof(struct number), 0);
            if (room == NULL)
                break;
            struct number n = {.from = me, .n = k};
            n.filler[k % 30] = k;
            memcpy(room, &n, sizeof n);
            life[me].told[i]++;
        }
        left = left || life[me].told[i] < NUMBERS;
    }
    courier_flush(w);
    w->due = left;
    if (!left)
        stop_if_done(w);
}

static void on_start(struct worker *w)
{
    w->due = true;
}

static void on_exit_hook(struct worker *w)
{
    (void)w;
}

static const struct worker_hooks hooks = {.on_start = on_start, .on_due = tell_some, .on_exit = on_exit_hook};

static int set_up_threads(void **state)
{
    (void)state;
    memset(life, 0, sizeof life);
    make_workers(&hooks);
    return 0;
}

static void count_finished(struct mail *m, void *receiver)
{
    (void)m;
    ++*(unsigned *)receiver;
}

static void workers_tell_each_other_everything_in_order(void **state)
{
    (void)state;
    struct ev_loop *loop = ev_loop_new(0);
    struct mailbox mailbox;
    struct mail finished[WORKERS];
    unsigned count = 0;
    alarm(120); /* or what is lost would be waited for */
    mailbox_init(&mailbox, loop, &count);
    for (unsigned i = 0; i < WORKERS; i++) {
        finished[i].deliver = count_finished;
        assert_int_equal(worker_start(workers[i], &mailbox, &finished[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        worker_join(workers[i]);
    alarm(0);
    mailbox_flush(&mailbox);
    assert_int_equal(count, WORKERS);
    mailbox_fini(&mailbox);
    ev_loop_destroy(loop);
    for (unsigned me = 0; me < WORKERS; me++) {
        assert_false(life[me].wrong);
        for (unsigned i = 0; i < WORKERS; i++)
            assert_int_equal(life[me].heard[i], i != me ? NUMBERS : 0);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nothing_leaves_before_the_end_of_the_iteration),
        TEST(all_for_one_receiver_is_one_mail_in_order),
        TEST(the_last_delivery_is_known_until_it_leaves),
        TEST(the_last_delivery_can_be_made_longer),
        TEST(a_large_batch_leaves_early),
        TEST(the_inbox_is_bounded_and_empties),
        TEST(what_would_be_longer_than_the_last_is_bounded_too),
        TEST(weight_counts_like_bytes),
        TEST(more_than_the_limit_never_fits),
        TEST(it_is_delivered_after_the_receivers_end),
        cmocka_unit_test_setup_teardown(workers_tell_each_other_everything_in_order, set_up_threads,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
