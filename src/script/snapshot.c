/* SPDX-License-Identifier: MIT
 * The files of one generation. */
#include "script/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

struct snapshot_entry {
    struct snapshot_entry *next;
    char *path;
    struct buf data;
    const char *why;
    struct snapshot_stamp stamp;
};

struct snapshot {
    _Atomic unsigned refs;
    pthread_mutex_t lock;
    struct snapshot_entry *entries;
    unsigned count;
    size_t total;
};

struct snapshot *snapshot_create(void)
{
    struct snapshot *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->refs = 1;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

struct snapshot *snapshot_ref(struct snapshot *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void snapshot_look(const char *path, struct snapshot_stamp *out)
{
    struct stat st;
    memset(out, 0, sizeof *out);
    if (stat(path, &st) < 0)
        return;
    out->device = st.st_dev;
    out->inode = st.st_ino;
    out->mode = st.st_mode;
    if (S_ISREG(st.st_mode)) { /* a folder or a device changes all the time, and is not read */
        out->size = st.st_size;
        out->changed = st.st_mtim;
    }
}

bool snapshot_same(const struct snapshot_stamp *a, const struct snapshot_stamp *b)
{
    return a->device == b->device && a->inode == b->inode && a->mode == b->mode && a->size == b->size &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

/* NULL when all is well, else what went wrong. Devices and pipes could block or never end. */
static const char *snapshot_load(const char *path, struct buf *data)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return strerrordesc_np(errno);
    const char *why = NULL;
    if (fstat(fd, &st) < 0)
        why = strerrordesc_np(errno);
    else if (S_ISDIR(st.st_mode))
        why = "it is a directory";
    else if (!S_ISREG(st.st_mode))
        why = "it is not a regular file";
    while (why == NULL) {
        if (data->len > SNAPSHOT_FILE_MAX)
            why = "it is longer than 16 MiB";
        else if (buf_reserve(data, 64 * 1024) < 0)
            why = "out of memory";
        else {
            ssize_t n = read(fd, data->data + data->len, data->cap - data->len);
            if (n == 0)
                break;
            if (n > 0)
                data->len += (size_t)n;
            else if (errno != EINTR)
                why = strerrordesc_np(errno);
        }
    }
    close(fd);
    return why;
}

static struct snapshot_entry *snapshot_find(struct snapshot *s, const char *path)
{
    for (struct snapshot_entry *n = s->entries; n != NULL; n = n->next)
        if (strcmp(n->path, path) == 0)
            return n;
    return NULL;
}

/* A new entry with the file's contents; not under the lock, for a disk may be slow. */
static struct snapshot_entry *snapshot_new(const char *path)
{
    struct snapshot_entry *n = calloc(1, sizeof *n);
    if (n == NULL || (n->path = strdup(path)) == NULL) {
        free(n);
        return NULL;
    }
    snapshot_look(path, &n->stamp); /* before: what changes while it is read has changed since */
    n->why = snapshot_load(path, &n->data);
    return n;
}

static void snapshot_free(struct snapshot_entry *n)
{
    free(n->path);
    buf_fini(&n->data);
    free(n);
}

/* Adds `n` unless another thread was faster; returns the entry that counts, or NULL when the snapshot is
 * full. */
static struct snapshot_entry *snapshot_add(struct snapshot *s, struct snapshot_entry *n)
{
    struct snapshot_entry *first = snapshot_find(s, n->path);
    if (first == NULL && s->count < SNAPSHOT_FILES && n->data.len <= SNAPSHOT_TOTAL - s->total) {
        n->next = s->entries;
        s->entries = n;
        s->count++;
        s->total += n->data.len;
        return n;
    }
    snapshot_free(n);
    return first;
}

int snapshot_read(struct snapshot *s, const char *path, struct snapshot_file *file)
{
    pthread_mutex_lock(&s->lock);
    struct snapshot_entry *n = snapshot_find(s, path);
    pthread_mutex_unlock(&s->lock);
    if (n == NULL && (n = snapshot_new(path)) != NULL) {
        pthread_mutex_lock(&s->lock);
        n = snapshot_add(s, n);
        pthread_mutex_unlock(&s->lock);
    }
    if (n == NULL)
        *file = (struct snapshot_file){.why = "out of memory, or over 4096 files or 64 MiB in all"};
    else
        *file = (struct snapshot_file){n->data.data != NULL ? n->data.data : "", n->data.len, n->why};
    return file->why == NULL ? 0 : -1;
}

size_t snapshot_count(struct snapshot *s)
{
    pthread_mutex_lock(&s->lock);
    size_t count = s->count;
    pthread_mutex_unlock(&s->lock);
    return count;
}

struct snapshot_path *snapshot_list(struct snapshot *s, size_t *count)
{
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    struct snapshot_path *all = calloc((size_t)s->count + 1, sizeof all[0]);
    for (const struct snapshot_entry *i = s->entries; all != NULL && i != NULL; i = i->next)
        all[n++] = (struct snapshot_path){i->path, i->stamp};
    pthread_mutex_unlock(&s->lock);
    *count = n;
    return all;
}

void snapshot_unref(struct snapshot *s)
{
    if (s == NULL || atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    while (s->entries != NULL) {
        struct snapshot_entry *next = s->entries->next;
        snapshot_free(s->entries);
        s->entries = next;
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}
