/* SPDX-License-Identifier: MIT
 * Transfers of libcurl on a worker's loop: one multi handle per worker, made when it is first needed. The
 * thread of its worker. Knows nothing of what is transferred.
 *
 * libcurl's callbacks come from within its own functions and only start and stop watchers here. How a
 * transfer ended is told outside of them, so that whoever is told may add and remove any transfer.
 *
 * A transfer that is removed while its host's name is being resolved would wait for the resolver; so every
 * easy handle gets CURLOPT_QUICK_EXIT, and CURLOPT_NOSIGNAL as threads need it. */
#ifndef TIDEWIRE_CLIENT_MULTI_H
#define TIDEWIRE_CLIENT_MULTI_H

#include <curl/curl.h>

#include "net/worker.h"

/* Begins the transfer; borrows `easy`, of which CURLOPT_PRIVATE is taken, until multi_remove. on_done is
 * called once, never from within multi_add: it must call multi_remove, before which libcurl still has what
 * belongs to the transfer, and may free the handle then. 0, or -1 when memory runs out or the worker has
 * ended. */
int multi_add(struct worker *w, CURL *easy, void (*on_done)(void *to, CURLcode result), void *to);

/* Takes the handle back, whether or not on_done has been called; it will not be any more. Also from the
 * on_done of others; not from a callback that libcurl itself calls, such as CURLOPT_WRITEFUNCTION. */
void multi_remove(struct worker *w, CURL *easy);

/* Ends every transfer with CURLE_ABORTED_BY_CALLBACK and frees; nothing when there never was one. For
 * worker_hooks.on_exit. No transfer can begin after it. */
void multi_fini(struct worker *w);

#endif
