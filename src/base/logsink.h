/* SPDX-License-Identifier: MIT
 * Where the lines of the log and of the access log go. At first the thread that logs writes them itself; once
 * logsink_start has been called they go into a bounded ring in memory, and one writer thread writes them: no
 * slow disk, and no pipe that nobody reads, holds up anybody else. Any thread, but for what says otherwise.
 * Owns the files and the rings. */
#ifndef TIDEWIRE_BASE_LOGSINK_H
#define TIDEWIRE_BASE_LOGSINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum logsink_id {
    LOGSINK_LOG,     /* standard error at first */
    LOGSINK_ACCESS,  /* nowhere at first */
    LOGSINK_CONSOLE, /* standard error, always written directly */
    LOGSINKS
};

/* How long a line that is written directly waits for somebody to read, once; then lines are lost until
 * somebody does. */
#define LOGSINK_PATIENCE_MS 200

/* How long the end of the process waits for what is left to be written. */
#define LOGSINK_LEAVE_MS 1000

struct logsink_hooks {
    /* Appends the line that tells of `lost` ones; or, leaving `line` as it is, tells elsewhere. A lock is
     * held: must not write to this sink. */
    void (*on_loss)(enum logsink_id id, uint64_t lost, struct buf *line);
    /* Now and then, on the writer thread: returns in how many milliseconds to be called again, -1: when
     * logsink_wake was. */
    int (*on_tick)(void);
    /* The writer thread has opened the files anew, all of them when `why` is NULL. */
    void (*on_reopened)(const char *path, const char *why);
};

/* Once, before the first line, or again with the same. `hooks` is static. */
void logsink_init(const struct logsink_hooks *hooks);

/* A place for lines. fd -1: nowhere. */
struct logsink_target {
    int fd;
    char *path; /* owned; NULL: a standard stream, which is not closed */
};

/* Opens a file for appending, mode 0640 less the umask. 0, or -1 with `e` filled. */
int logsink_open(struct logsink_target *t, const char *path, struct err *e);
void logsink_close(struct logsink_target *t);

/* From now on lines go there. Takes the file over. Of lines from before, those that are not written yet go
 * there too, and are lost when the sink is turned off. */
void logsink_use(enum logsink_id id, struct logsink_target *t);

/* Starts the writer thread; `size` is that of each ring, in bytes. 0, or -1 with `e` filled. */
int logsink_start(size_t size, struct err *e);
/* Writes what is left, for LOGSINK_LEAVE_MS at most, and ends the thread; from then on lines are written
 * directly, to standard error. On the thread that called logsink_start. */
void logsink_stop(void);

/* Takes whole lines. When the ring is full they are lost, and counted; a part of it is kept for those that
 * `must` be written. */
void logsink_put(enum logsink_id id, const char *lines, size_t len, bool must);

/* Opens the files anew, on the writer thread. A file that cannot be opened is kept as it is. */
void logsink_reopen(void);

/* Wakes the writer thread. Also in a signal handler. */
void logsink_wake(void);

/* Waits until all lines have been written, `ms` at most. Also in a signal handler. */
void logsink_flush(unsigned ms);

#endif
