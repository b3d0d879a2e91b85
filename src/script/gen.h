/* SPDX-License-Identifier: MIT
 * A generation: one version of the code, as one VM per worker. Built whole or not at all. */
#ifndef TIDEWIRE_SCRIPT_GEN_H
#define TIDEWIRE_SCRIPT_GEN_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "script/vm.h"

struct gen {
    uint64_t number;           /* from 1, only rises */
    struct snapshot *snapshot; /* the files it was made from; a reference */
    struct setup *setup;       /* the configuration that it was loaded under; a reference */
    bool back;                 /* both are older, to roll back */
    size_t nvms;
    struct vm *vms[]; /* by worker index - 1; NULL once handed out */
};

struct gen_options {
    struct setup *setup;    /* it takes a reference of either */
    struct snapshot *files; /* what has been read so far */
    const char *script;
    size_t workers;
    uint64_t number;
    bool back;
    const struct vm_bindings *bindings;
    struct budget *budget;
};

/* Runs the script once for every worker, from one snapshot. On the thread of `budget`. NULL with `e` filled
 * when any of them fails or their route tables differ. */
struct gen *gen_build(const struct gen_options *o, struct err *e);

/* Frees the generation and the VMs that were not handed out. */
void gen_destroy(struct gen *g);

#endif
