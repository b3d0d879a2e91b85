/* SPDX-License-Identifier: MIT
 * The pid file. */
#include "ops/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* Opens and locks the pid file; -1 when that fails. A server that was leaving may have removed the file
 * between our open and our lock: then the path is another file's, or nobody's. */
static int pidfile_lock(const char *path)
{
    for (;;) {
        struct stat ours, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &ours) < 0) {
            int why = errno;
            close(fd);
            errno = why;
            return -1;
        }
        if (stat(path, &there) == 0 && there.st_ino == ours.st_ino && there.st_dev == ours.st_dev)
            return fd;
        close(fd);
    }
}

int pidfile_write(const char *path, int *out, struct err *e)
{
    *out = -1;
    if (path == NULL)
        return 0;
    int fd = pidfile_lock(path);
    if (fd < 0 && errno == EWOULDBLOCK)
        return err_set(
            e, "the pid file %s belongs to a running server; stop that or name another with --pid-file",
            path);
    if (fd < 0 || ftruncate(fd, 0) < 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0) {
        err_set(e, "cannot write the pid file %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *out = fd;
    return 0;
}

void pidfile_remove(const char *path, int *fd)
{
    if (*fd < 0)
        return;
    /* Who is not root any more may not remove it from root's folder: then it names nobody. */
    if (unlink(path) < 0 && ftruncate(*fd, 0) < 0)
        log_warn("cannot remove the pid file %s: %s", path, strerror(errno));
    close(*fd);
    *fd = -1;
}
