/* SPDX-License-Identifier: MIT
 * The command line: what to do, with which configuration. */
#ifndef TIDEWIRE_OPS_CLI_H
#define TIDEWIRE_OPS_CLI_H

#include "base/config.h"
#include "base/err.h"
#include "net/cidr.h"

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
    struct cidr_list trusted_proxies; /* those of the configuration */
    enum cli_command command;
    struct config config; /* flags over environment over file over defaults */
    char *script;         /* the file; for a folder its main.lua; NULL when the command takes none */
    char *config_file;    /* that was read; NULL: none */
};

/* 0, or -1 with `e` filled (exit code 2). */
int cli_parse(struct cli *cli, int argc, char **argv, char **environment, struct err *e);
void cli_fini(struct cli *cli);

/* To standard output. */
void cli_print_help(void);
void cli_print_version(void);

#endif
