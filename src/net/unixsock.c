/* SPDX-License-Identifier: MIT
 * Unix sockets that leave a file behind. */
#include "net/unixsock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

void unixsock_remove_stale(const char *path)
{
    struct stat st;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof un.sun_path || lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    memcpy(un.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)&un, sizeof un) < 0 && errno == ECONNREFUSED)
        unlink(path);
    close(fd);
}
