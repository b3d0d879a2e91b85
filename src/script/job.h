/* SPDX-License-Identifier: MIT
 * What a VM has to do at the end of the loop iteration: resume what waited, tell what is done. A way out of
 * callbacks that must not enter Lua, since entries do not nest. The thread that has the VM. */
#ifndef TIDEWIRE_SCRIPT_JOB_H
#define TIDEWIRE_SCRIPT_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct vm;

/* Part of whatever is to be done. */
struct job {
    struct list link; /* an empty list while it is not posted */
    struct vm *vm;
    void (*run)(struct job *j);  /* outside of Lua; may enter it; owns `j` */
    void (*drop)(struct job *j); /* instead of run, when the VM ends: only release what it holds */
};

void job_init(struct job *j, struct vm *vm, void (*run)(struct job *j), void (*drop)(struct job *j));

/* Once; jobs run in the order they were posted. */
void job_post(struct job *j);

/* Runs what is posted until all of it is done or the clock says `until_ms`. True when something is left. */
bool job_run_some(struct vm *vm, uint64_t until_ms);

void job_drop_all(struct vm *vm);

#endif
