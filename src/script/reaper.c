/* SPDX-License-Identifier: MIT
 * The reaper thread. */
#include "script/reaper.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/thread.h"
#include "script/vm.h"

struct reaper {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vm *dead;
    bool stop;
};

static void *reaper_main(void *arg)
{
    struct reaper *r = arg;
    pthread_setname_np(pthread_self(), "tidewire/reap");
    pthread_mutex_lock(&r->lock);
    while (!r->stop || r->dead != NULL) {
        struct vm *vm = r->dead;
        if (vm == NULL) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        r->dead = vm->next;
        pthread_mutex_unlock(&r->lock);
        vm_destroy(vm);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct reaper *reaper_create(void)
{
    struct reaper *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (thread_start(&r->thread, reaper_main, r) != 0) {
        free(r);
        return NULL;
    }
    return r;
}

void reaper_bury(struct reaper *r, struct vm *vm)
{
    pthread_mutex_lock(&r->lock);
    vm->next = r->dead;
    r->dead = vm;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void reaper_destroy(struct reaper *r)
{
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r);
}
