/* SPDX-License-Identifier: MIT
 * The reaper thread: closes Lua states that nobody uses any more, which takes a third of a second for a heap
 * of 200 MiB and must not stop a worker. */
#ifndef TIDEWIRE_SCRIPT_REAPER_H
#define TIDEWIRE_SCRIPT_REAPER_H

struct reaper;
struct vm;

struct reaper *reaper_create(void); /* NULL when it cannot start */

/* Takes the VM over. Any thread. */
void reaper_bury(struct reaper *r, struct vm *vm);

/* Closes what is left and ends the thread. Nobody may call reaper_bury any more. */
void reaper_destroy(struct reaper *r);

#endif
