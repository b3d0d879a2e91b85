/* SPDX-License-Identifier: MIT
 * The files of one generation, each read once: all workers get the same code even in the middle of a deploy,
 * and a module that is first required in a handler is the same in all of them. Any thread (its own lock);
 * counted. */
#ifndef TIDEWIRE_SCRIPT_SNAPSHOT_H
#define TIDEWIRE_SCRIPT_SNAPSHOT_H

#include <stddef.h>

#define SNAPSHOT_FILE_MAX (16u << 20) /* bytes of one file */
#define SNAPSHOT_FILES    4096
#define SNAPSHOT_TOTAL    (64u << 20) /* bytes of all files */

struct snapshot;

struct snapshot_file {
    const char *data; /* lives as long as the snapshot */
    size_t len;
    const char *why; /* when it could not be read */
};

/* With one reference; NULL when memory runs out. */
struct snapshot *snapshot_create(void);
struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unref(struct snapshot *s);

/* The contents of `path`, as they were when anyone first asked. 0, or -1 with file->why set; that too is
 * remembered. */
int snapshot_read(struct snapshot *s, const char *path, struct snapshot_file *file);

#endif
