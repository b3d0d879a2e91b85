/* SPDX-License-Identifier: MIT
 * All metrics. */
#include "ops/report.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/metrics.h"
#include "base/tally.h"
#include "script/live.h"

/* A family of one sample. */
static int report_one(struct buf *out, enum metrics_family id, double value)
{
    if (metrics_begin(out, id) < 0)
        return -1;
    return buf_printf(out, "%s %.15g\n", metrics_name(id), value);
}

/* ---- generations ---- */

static int report_generations(struct buf *out)
{
    uint64_t newest = metrics_sum(METRIC_GENERATION);
    uint64_t oldest = newest > LIVE_GENERATIONS ? newest - LIVE_GENERATIONS + 1 : 1;
    unsigned alive = 0;
    int rc = metrics_begin(out, METRICS_GENERATION_WEBSOCKETS);
    for (uint64_t g = oldest; rc == 0 && g <= newest; g++) {
        alive += live_is_alive(g);
        if (live_is_alive(g) || g == newest)
            rc =
                buf_printf(out, "%s{generation=\"%llu\"} %lld\n", metrics_name(METRICS_GENERATION_WEBSOCKETS),
                           (unsigned long long)g, (long long)live_sockets(g));
    }
    return rc == 0 ? report_one(out, METRICS_GENERATIONS, alive) : rc;
}

/* ---- the process; what the system does not tell is left out ---- */

/* The first bytes of a file, as a string. */
static bool report_read(const char *path, char *to, size_t size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    size_t n = fread(to, 1, size - 1, file);
    fclose(file);
    to[n] = '\0';
    return n > 0;
}

static int report_memory(struct buf *out)
{
    char text[256];
    unsigned long long pages, resident;
    double page = (double)sysconf(_SC_PAGESIZE);
    if (!report_read("/proc/self/statm", text, sizeof text) ||
        sscanf(text, "%llu %llu", &pages, &resident) != 2)
        return 0;
    int rc = report_one(out, METRICS_PROCESS_RESIDENT, (double)resident * page);
    return rc == 0 ? report_one(out, METRICS_PROCESS_VIRTUAL, (double)pages * page) : rc;
}

/* In Unix time; 0 when it cannot be told. */
static double report_find_start(void)
{
    static char text[65536]; /* /proc/stat has a line for each processor first */
    unsigned long long ticks = 0, boot = 0;
    if (!report_read("/proc/self/stat", text, sizeof text))
        return 0;
    const char *at = strrchr(text, ')'); /* the name before it may have blanks */
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at == NULL || sscanf(at, "%llu", &ticks) != 1 || !report_read("/proc/stat", text, sizeof text))
        return 0;
    at = strstr(text, "\nbtime ");
    if (at == NULL || sscanf(at, " btime %llu", &boot) != 1)
        return 0;
    return (double)boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/* Found once: the time of the boot is not quite steady. */
static int report_start(struct buf *out)
{
    static double start;
    if (start == 0)
        start = report_find_start();
    return start != 0 ? report_one(out, METRICS_PROCESS_START, start) : 0;
}

static int report_cpu(struct buf *out)
{
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) < 0)
        return 0;
    return report_one(out, METRICS_PROCESS_CPU,
                      (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                          (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static int report_files(struct buf *out)
{
    struct rlimit limit;
    DIR *folder = opendir("/proc/self/fd");
    int rc = 0;
    if (folder != NULL) {
        int n = -3; /* ".", "..", and the folder itself */
        while (readdir(folder) != NULL)
            n++;
        closedir(folder);
        rc = report_one(out, METRICS_PROCESS_FDS, n);
    }
    if (rc == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0)
        rc = report_one(out, METRICS_PROCESS_MAX_FDS, (double)limit.rlim_cur);
    return rc;
}

/* ---- all ---- */

static int report_build(struct buf *out)
{
    if (metrics_begin(out, METRICS_BUILD_INFO) < 0)
        return -1;
    return buf_printf(out, "%s{version=\"%s\"} 1\n", metrics_name(METRICS_BUILD_INFO), TIDEWIRE_VERSION);
}

int report_write(struct buf *out)
{
    static int (*const parts[])(struct buf *) = {
        metrics_render, tally_render, report_generations, report_build,
        report_cpu,     report_start, report_memory,      report_files,
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i](out) < 0)
            return -1;
    return 0;
}
