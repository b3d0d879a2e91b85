/* SPDX-License-Identifier: MIT
 * Threads that take no signals: those are the main thread's. */
#ifndef TIDEWIRE_BASE_THREAD_H
#define TIDEWIRE_BASE_THREAD_H

#include <pthread.h>

/* As pthread_create, with all signals blocked in the new thread. 0 or an errno. */
int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);

#endif
