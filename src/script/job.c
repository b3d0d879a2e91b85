/* SPDX-License-Identifier: MIT
 * What a VM has to do at the end of the loop iteration. */
#include "script/job.h"

#include "base/clock.h"
#include "net/worker.h"
#include "script/vm.h"

void job_init(struct job *j, struct vm *vm, void (*run)(struct job *j), void (*drop)(struct job *j))
{
    list_init(&j->link);
    j->vm = vm;
    j->run = run;
    j->drop = drop;
}

void job_post(struct job *j)
{
    list_append(&j->vm->jobs, &j->link);
    if (j->vm->home != NULL)
        j->vm->home->due = true;
}

static struct job *job_take(struct list *from)
{
    struct job *j = LIST_ENTRY(from->next, struct job, link);
    list_remove(&j->link);
    return j;
}

bool job_run_some(struct vm *vm, uint64_t until_ms)
{
    struct list now; /* what these post comes next time: the connections are to have their turn too */
    list_take(&now, &vm->jobs);
    while (!list_empty(&now)) {
        struct job *j = job_take(&now);
        j->run(j);
        if (clock_coarse_ms() > until_ms)
            break;
    }
    list_prepend_all(&vm->jobs, &now);
    return !list_empty(&vm->jobs);
}

void job_drop_all(struct vm *vm)
{
    while (!list_empty(&vm->jobs)) {
        struct job *j = job_take(&vm->jobs);
        j->drop(j);
    }
}
