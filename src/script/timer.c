/* SPDX-License-Identifier: MIT
 * Timers of a VM. */
#include "script/timer.h"

#include "net/worker.h"
#include "script/vm.h"

static void timer_on_ev(struct ev_loop *loop, ev_timer *ev, int revents)
{
    (void)loop;
    (void)revents;
    struct timer *t = LIST_ENTRY(ev, struct timer, ev);
    if (!t->repeats) {
        list_remove(&t->link);
        vm_release_task(t->vm, METRIC_TIMERS);
    }
    t->on_fire(t);
}

static void timer_start(struct timer *t)
{
    ev_now_update(t->vm->home->loop); /* the script may have run for a while since the loop looked */
    ev_timer_set(&t->ev, t->seconds, t->repeats ? t->seconds : 0);
    ev_timer_start(t->vm->home->loop, &t->ev);
}

void timer_set(struct timer *t, struct vm *vm)
{
    t->vm = vm;
    ev_init(&t->ev, timer_on_ev);
    list_append(&vm->timers, &t->link);
    vm_hold_task(vm, METRIC_TIMERS);
    if (vm->home != NULL)
        timer_start(t);
}

void timer_stop(struct timer *t)
{
    if (!timer_is_set(t))
        return;
    list_remove(&t->link);
    if (t->vm->home != NULL)
        ev_timer_stop(t->vm->home->loop, &t->ev);
    vm_release_task(t->vm, METRIC_TIMERS);
    t->on_stop(t);
}

void timer_start_all(struct vm *vm)
{
    for (struct list *l = vm->timers.next; l != &vm->timers; l = l->next)
        timer_start(LIST_ENTRY(l, struct timer, link));
}

void timer_stop_all(struct vm *vm, bool only_repeating)
{
    for (struct list *l = vm->timers.next, *next; l != &vm->timers; l = next) {
        struct timer *t = LIST_ENTRY(l, struct timer, link);
        next = l->next;
        if (t->repeats || !only_repeating)
            timer_stop(t);
    }
}
