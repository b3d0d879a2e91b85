/* SPDX-License-Identifier: MIT
 * What the machine lets the process have. */
#include "ops/limits.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"

/* Descriptors kept for what is not a connection: loops and listeners of each worker, logs, files being read,
 * refusals on their way out. */
#define LIMITS_FILE_RESERVE            160
#define LIMITS_FILE_RESERVE_PER_WORKER (4 + CONFIG_LIST_MAX)

/* Processors that the quota of the control group at `path`, or of one that it is in, is worth: rounded up, at
 * most `n`. Of version 2 only. A container sees its own group as "/". */
static int limits_by_quota(char *path, int n)
{
    for (;;) {
        char name[PATH_MAX + 32];
        long long quota, period;
        snprintf(name, sizeof name, "/sys/fs/cgroup%s/cpu.max", path);
        FILE *f = fopen(name, "re");
        /* "max 100000" is none */
        if (f != NULL && fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0 &&
            (quota - 1) / period + 1 < n)
            n = (int)((quota - 1) / period) + 1;
        if (f != NULL)
            fclose(f);
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return n;
        *slash = '\0';
    }
}

/* As many as the process has processors, by its affinity and its group's quota. */
static int limits_processors(void)
{
    cpu_set_t set;
    char line[PATH_MAX];
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            n = limits_by_quota(line + 3, n);
        }
    if (f != NULL)
        fclose(f);
    return n;
}

size_t limits_workers(const struct config *config)
{
    if (config->workers > 0)
        return (size_t)config->workers;
    int n = limits_processors();
    return n < 1 ? 1 : n > CONFIG_WORKERS_MAX ? CONFIG_WORKERS_MAX : (size_t)n;
}

int limits_processor_of(unsigned index)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return -1;
    int left = (int)(index - 1) % CPU_COUNT(&set);
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &set) || left-- > 0)
        cpu++;
    return (int)cpu;
}

/* Connections that the file limit has room for. */
static int64_t limits_room(const struct config *config, rlim_t files)
{
    int64_t reserve = LIMITS_FILE_RESERVE + LIMITS_FILE_RESERVE_PER_WORKER * (int64_t)limits_workers(config);
    return (int64_t)files > 2 * reserve ? (int64_t)files - reserve : 1;
}

void limits_set(struct config *config)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        getrlimit(RLIMIT_NOFILE, &files);
    }
    if (config->max_connections == 0 && files.rlim_cur != RLIM_INFINITY)
        config->max_connections = limits_room(config, files.rlim_cur);
}

void limits_tell(const struct config *config)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur == RLIM_INFINITY)
        return;
    unsigned long long limit = (unsigned long long)files.rlim_cur;
    int64_t room = limits_room(config, files.rlim_cur);
    if (config->max_connections > room)
        log_warn("max_connections is %lld, but a file limit of %llu has room for %lld: raise it (ulimit -n, "
                 "LimitNOFILE= of systemd, docker run --ulimit nofile=%lld) or lower max_connections",
                 (long long)config->max_connections, limit, (long long)room,
                 (long long)(config->max_connections + (int64_t)limit - room));
    else
        log_info("up to %lld connections (file limit %llu)", (long long)config->max_connections, limit);
}
