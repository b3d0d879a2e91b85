/* SPDX-License-Identifier: MIT
 * The command line: what to do, with which configuration. */
#ifndef TIDEWIRE_OPS_CLI_H
#define TIDEWIRE_OPS_CLI_H

#include <stdbool.h>
#include <stddef.h>

#include "base/config.h"
#include "base/err.h"
#include "net/setup.h"
#include "script/snapshot.h"

enum cli_command {
    CLI_RUN,
    CLI_CHECK,
    CLI_ROUTES,
    CLI_HEALTH,
    CLI_METRICS,
    CLI_RELOAD,
    CLI_VERSION,
    CLI_HELP
};

struct cli {
    enum cli_command command;
    struct config config; /* as it was at the start: flags over environment over file over defaults */
    struct setup *setup;  /* the same; a reference */
    char *script;         /* the file; for a folder its main.lua; NULL when there is none */
    char *config_file;    /* that was read, or would be if it were there; NULL: none */
    bool config_named;    /* it must be there */
    bool config_read;
    bool config_once;       /* it is a pipe or the like, whose contents are gone */
    struct snapshot *files; /* what was read for it; a reference */
    /* What goes over the file; borrowed from argv and the environment. */
    struct cli_setting *settings;
    size_t nsettings;
    char **environment;
    long activated; /* sockets that socket activation has passed */
};

/* 0, or -1 with `e` filled (exit code 2). */
int cli_parse(struct cli *cli, int argc, char **argv, char **environment, struct err *e);
void cli_fini(struct cli *cli);

/* Reads the configuration into *out, which holds nothing yet: as cli_parse has, the file through `files`
 * (NULL: from the disk). *read says whether there was a file. 0, or -1 with `e` filled (then *out holds
 * nothing). Any thread. */
int cli_read(const struct cli *cli, struct snapshot *files, struct config *out, bool *read, struct err *e);

/* To standard output. */
void cli_print_help(void);
void cli_print_version(void);

#endif
