/* SPDX-License-Identifier: MIT
 * Messages between threads: order, none lost, one wake-up for a batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/thread.h"
#include "net/mailbox.h"

enum { SENDERS = 4, LETTERS = 2000 };

struct letter {
    struct mail mail;
    unsigned sender, number;
};

/* What has arrived, on the receiving thread. */
struct inbox {
    struct mailbox box;
    struct ev_loop *loop;
    unsigned wakes, letters;
    unsigned next[SENDERS]; /* number expected */
    bool in_order;
    void (*on_wake)(struct ev_loop *loop, ev_async *wake, int revents);
};

static struct inbox inbox;

static void count_wake(struct ev_loop *loop, ev_async *wake, int revents)
{
    inbox.wakes++;
    inbox.on_wake(loop, wake, revents);
}

static int set_up(void **state)
{
    (void)state;
    inbox = (struct inbox){.loop = ev_loop_new(EVFLAG_AUTO), .in_order = true};
    mailbox_init(&inbox.box, inbox.loop, &inbox);
    inbox.on_wake = ev_cb(&inbox.box.wake);
    ev_set_cb(&inbox.box.wake, count_wake);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ev_loop_destroy(inbox.loop);
    return 0;
}

static void deliver(struct mail *m, void *receiver)
{
    struct letter *l = (struct letter *)m;
    struct inbox *in = receiver;
    in->in_order &= l->number == in->next[l->sender];
    in->next[l->sender] = l->number + 1;
    in->letters++;
    free(l);
}

static void post(unsigned sender, unsigned number, void (*how)(struct mail *m, void *receiver))
{
    struct letter *l = malloc(sizeof *l);
    if (l == NULL)
        abort();
    *l = (struct letter){.mail.deliver = how, .sender = sender, .number = number};
    mailbox_post(&inbox.box, &l->mail);
}

static void batch_wakes_once(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 100; i++)
        post(0, i, deliver);
    assert_int_equal(inbox.letters, 0);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.letters, 100);
    assert_int_equal(inbox.wakes, 1);
    assert_true(inbox.in_order);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.wakes, 1);

    post(0, 100, deliver);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.letters, 101);
    assert_int_equal(inbox.wakes, 2);
    mailbox_fini(&inbox.box);
}

static void does_not_keep_the_loop(void **state)
{
    (void)state;
    ev_run(inbox.loop, 0); /* would never end */
    mailbox_fini(&inbox.box);
}

static void *send_letters(void *arg)
{
    for (unsigned i = 0; i < LETTERS; i++)
        post(*(const unsigned *)arg, i, deliver);
    return NULL;
}

static void several_threads(void **state)
{
    (void)state;
    static unsigned numbers[SENDERS];
    pthread_t threads[SENDERS];
    for (unsigned i = 0; i < SENDERS; i++) {
        numbers[i] = i;
        assert_int_equal(thread_start(&threads[i], send_letters, &numbers[i]), 0);
    }
    ev_ref(inbox.loop); /* so that ONCE waits */
    while (inbox.letters < SENDERS * LETTERS)
        ev_run(inbox.loop, EVRUN_ONCE);
    ev_unref(inbox.loop);
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(inbox.in_order);
    assert_true(inbox.wakes >= 1 && inbox.wakes <= SENDERS * LETTERS);
    mailbox_fini(&inbox.box);
    assert_int_equal(inbox.letters, SENDERS * LETTERS);
}

static void deliver_and_answer(struct mail *m, void *receiver)
{
    const struct letter *l = (const struct letter *)m;
    post(l->sender, l->number + 1, deliver);
    deliver(m, receiver);
}

/* What a delivery posts comes with the next batch, behind all of this one. */
static void posted_while_delivering(void **state)
{
    (void)state;
    post(0, 0, deliver_and_answer);
    post(1, 0, deliver);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.letters, 2);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.letters, 3);
    assert_true(inbox.in_order);
    assert_int_equal(inbox.wakes, 2);
    mailbox_fini(&inbox.box);
}

static void fini_delivers_the_rest(void **state)
{
    (void)state;
    post(0, 0, deliver);
    post(0, 1, deliver);
    mailbox_fini(&inbox.box);
    assert_int_equal(inbox.letters, 2);
    assert_true(inbox.in_order);
    ev_run(inbox.loop, EVRUN_NOWAIT);
    assert_int_equal(inbox.wakes, 0);
}

/* Nobody else can post any more, but the deliveries themselves can. */
static void fini_delivers_what_deliveries_post(void **state)
{
    (void)state;
    post(0, 0, deliver_and_answer);
    mailbox_fini(&inbox.box);
    assert_int_equal(inbox.letters, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batch_wakes_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_keep_the_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(several_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(posted_while_delivering, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fini_delivers_the_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fini_delivers_what_deliveries_post, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
