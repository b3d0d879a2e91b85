/* SPDX-License-Identifier: MIT
 * The files of one generation, each read once: all workers get the same code even in the middle of a deploy,
 * and a module that is first required in a handler is the same in all of them. Any thread (its own lock);
 * counted. */
#ifndef TIDEWIRE_SCRIPT_SNAPSHOT_H
#define TIDEWIRE_SCRIPT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#define SNAPSHOT_FILE_MAX (16u << 20) /* bytes of one file */
#define SNAPSHOT_FILES    4096
#define SNAPSHOT_TOTAL    (64u << 20) /* bytes of all files */

struct snapshot;

struct snapshot_file {
    const char *data; /* lives as long as the snapshot */
    size_t len;
    const char *why; /* when it could not be read */
};

/* What tells one state of a file from another: equal when nothing was saved in between. All zero for what
 * cannot be looked at. */
struct snapshot_stamp {
    dev_t device;
    ino_t inode;
    mode_t mode;
    off_t size;
    struct timespec changed;
};

/* With one reference; NULL when memory runs out. */
struct snapshot *snapshot_create(void);
struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unref(struct snapshot *s);

/* The contents of `path`, as they were when anyone first asked. 0, or -1 with file->why set; that too is
 * remembered. */
int snapshot_read(struct snapshot *s, const char *path, struct snapshot_file *file);

/* How many paths were asked for so far; it only rises. */
size_t snapshot_count(struct snapshot *s);

/* All paths that were asked for, also those where nothing was, each with its file's state of just before it
 * was read. Returns an array for free(), NULL when memory runs out; the paths live as long as the snapshot.
 */
struct snapshot_path {
    const char *path;
    struct snapshot_stamp stamp;
};
struct snapshot_path *snapshot_list(struct snapshot *s, size_t *count);

/* The state of the file at `path` now; links are followed. */
void snapshot_look(const char *path, struct snapshot_stamp *out);
bool snapshot_same(const struct snapshot_stamp *a, const struct snapshot_stamp *b);

#endif
