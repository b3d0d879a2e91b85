/* SPDX-License-Identifier: MIT
 * Whose rights the server has. */
#include "ops/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define PRIVILEGES_RECORD 65536 /* bytes of an entry of the user database; groups may have many members */

/* A number in all of `text`: 0, else -1. The highest one means "no change" to the system. */
static int privileges_number(const char *text, unsigned *out)
{
    size_t len = strlen(text);
    if (len == 0 || len > 10 || strspn(text, "0123456789") != len || strtoull(text, NULL, 10) >= 0xffffffffu)
        return -1;
    *out = (unsigned)strtoull(text, NULL, 10);
    return 0;
}

static int privileges_find_user(struct privileges *p, const char *user, bool has_group, struct err *e)
{
    char *record = malloc(PRIVILEGES_RECORD);
    struct passwd entry, *found = NULL;
    unsigned number;
    if (record == NULL)
        return err_set(e, "out of memory");
    bool numeric = privileges_number(user, &number) == 0;
    getpwnam_r(user, &entry, record, PRIVILEGES_RECORD, &found);
    if (found == NULL && numeric)
        getpwuid_r((uid_t)number, &entry, record, PRIVILEGES_RECORD, &found);
    int rc = 0;
    if (found != NULL) {
        p->uid = found->pw_uid;
        p->gid = found->pw_gid;
        snprintf(p->name, sizeof p->name, "%s", found->pw_name);
    } else if (!numeric)
        rc = err_set(e, "user: there is no user %s on this machine", user);
    else if (!has_group)
        rc = err_set(e, "user: %s has no entry in the user database, so name its group too, as %s:%s", user,
                     user, user);
    else
        p->uid = (uid_t)number;
    free(record);
    return rc;
}

static int privileges_find_group(struct privileges *p, const char *group, struct err *e)
{
    char *record = malloc(PRIVILEGES_RECORD);
    struct group entry, *found = NULL;
    unsigned number;
    if (record == NULL)
        return err_set(e, "out of memory");
    getgrnam_r(group, &entry, record, PRIVILEGES_RECORD, &found);
    int rc = 0;
    if (found != NULL)
        p->gid = found->gr_gid;
    else if (privileges_number(group, &number) == 0)
        p->gid = (gid_t)number;
    else
        rc = err_set(e, "user: there is no group %s on this machine", group);
    free(record);
    return rc;
}

/* Whether this process may become, or is already, what was asked for. */
static int privileges_check(struct privileges *p, const char *user, bool has_group, struct err *e)
{
    bool same = p->uid == geteuid() && (!has_group || p->gid == getegid());
    p->drop = !same;
    if (same)
        return 0;
    if (geteuid() != 0)
        return err_set(
            e,
            "user: this process runs as user %u, group %u, and only root can become %s; start it as root, "
            "or without `user`",
            (unsigned)geteuid(), (unsigned)getegid(), user);
    if (p->uid == 0)
        return err_set(e, "user: %s is root with another group, which drops nothing; name another user",
                       user);
    return 0;
}

int privileges_find(struct privileges *p, const char *user, struct err *e)
{
    *p = (struct privileges){.drop = false};
    if (user == NULL)
        return 0;
    char name[PRIVILEGES_NAME];
    const char *colon = strchr(user, ':');
    size_t len = colon != NULL ? (size_t)(colon - user) : strlen(user);
    if (len == 0 || len >= sizeof name || (colon != NULL && colon[1] == '\0'))
        return err_set(e, "user: \"%s\" is neither NAME nor NAME:GROUP", user);
    memcpy(name, user, len);
    name[len] = '\0';
    if (privileges_find_user(p, name, colon != NULL, e) < 0 ||
        (colon != NULL && privileges_find_group(p, colon + 1, e) < 0))
        return -1;
    return privileges_check(p, user, colon != NULL, e);
}

void privileges_give_socket(const struct privileges *p, const char *path)
{
    struct stat st;
    if (!p->drop || path == NULL)
        return;
    /* By what is opened, not by the path: who may write to the folder could put a link there meanwhile. */
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) ||
        fchownat(fd, "", p->uid, p->gid, AT_EMPTY_PATH) < 0)
        log_warn("cannot give %s to the user that the server becomes: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

/* Neither of the three ids may be another, and none may lead back to root. */
static bool privileges_are_gone(const struct privileges *p)
{
    uid_t u[3];
    gid_t g[3];
    if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0)
        return false;
    for (int i = 0; i < 3; i++)
        if (u[i] != p->uid || g[i] != p->gid)
            return false;
    return setuid(0) < 0 && seteuid(0) < 0;
}

int privileges_drop(const struct privileges *p, struct err *e)
{
    if (!p->drop)
        return 0;
    int groups = p->name[0] != '\0' ? initgroups(p->name, p->gid) : setgroups(1, &p->gid);
    if (groups < 0 || setresgid(p->gid, p->gid, p->gid) < 0 || setresuid(p->uid, p->uid, p->uid) < 0)
        return err_set(e, "cannot become user %u, group %u: %s", (unsigned)p->uid, (unsigned)p->gid,
                       strerror(errno));
    if (!privileges_are_gone(p))
        return err_set(
            e,
            "has become user %u, but could become root again (by capabilities or secure bits); start it "
            "as that user",
            (unsigned)p->uid);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* As for a process that the user has started: else /proc/self would be root's, and unreadable. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    log_info("runs as user %u%s%s%s, group %u", (unsigned)p->uid, p->name[0] != '\0' ? " (" : "", p->name,
             p->name[0] != '\0' ? ")" : "", (unsigned)p->gid);
    return 0;
}

void privileges_tell(const char *user)
{
    if (user == NULL && geteuid() == 0)
        log_warn("runs as root, and so do its scripts; name a user to become with --user");
}
