/* SPDX-License-Identifier: MIT
 * The command line. */
#include "ops/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>
#include <llhttp.h>
#include <lua.h>
#include <openssl/crypto.h>
#include <wslay/wslay.h>

struct cli_verb {
    const char *name;
    enum cli_command command;
    bool takes_script;
    const char *usage, *help;
};

static const struct cli_verb cli_verbs[] = {
    {"run", CLI_RUN, true, "[run] SCRIPT|DIR", "serve; DIR means DIR/main.lua"},
    {"check", CLI_CHECK, true, "check SCRIPT|DIR", "load it without serving; exit 1 on a fault"},
    {"routes", CLI_ROUTES, true, "routes SCRIPT|DIR", "print the route table"},
    {"health", CLI_HEALTH, false, "health", "exit 0 when the server answers on its control socket"},
    {"version", CLI_VERSION, false, "version", "print its own and its libraries' versions"},
    {"help", CLI_HELP, false, "help", "print this"},
};
#define CLI_VERBS (sizeof cli_verbs / sizeof cli_verbs[0])

static const struct cli_verb *cli_find_verb(const char *name)
{
    for (size_t i = 0; i < CLI_VERBS; i++)
        if (strcmp(cli_verbs[i].name, name) == 0)
            return &cli_verbs[i];
    return NULL;
}

/* ---- help and version ---- */

void cli_print_help(void)
{
    printf("Tidewire " TIDEWIRE_VERSION ": a real-time server scripted in Lua.\n\nUsage:\n");
    for (size_t i = 0; i < CLI_VERBS; i++)
        printf("  tidewire %-20s %s\n", cli_verbs[i].usage, cli_verbs[i].help);
    printf("\nOptions (each is also TIDEWIRE_NAME in the environment; the command line wins):\n");
    for (size_t i = 0; i < config_nkeys; i++) {
        const struct config_key *k = &config_keys[i];
        char flag[64], value[64] = "";
        size_t n = (size_t)snprintf(flag, sizeof flag, "%s--%s", k->flag ? "    " : "      ", k->name);
        if (k->flag)
            memcpy(flag, (char[]){' ', ' ', '-', k->flag, ',', ' '}, 6),
                n = (size_t)snprintf(flag + 6, sizeof flag - 6, "--%s", k->name) + 6;
        for (size_t j = 6; j < n; j++)
            flag[j] = flag[j] == '_' ? '-' : flag[j];
        if (k->initial != NULL)
            snprintf(value, sizeof value, " [%s]", k->initial);
        printf("%-28s %s%s%s%s%s\n", flag, k->help, k->type == CONFIG_CHOICE ? ": " : "",
               k->type == CONFIG_CHOICE ? k->choices : "", value,
               k->type == CONFIG_BOOL ? " (a switch)" : "");
    }
    printf("\nTimes are in seconds (500ms, 10s, 2m), sizes in bytes (64k, 1m).\n"
           "Signals: SIGHUP loads the script anew; SIGTERM and SIGINT end it politely, twice at once.\n");
}

void cli_print_version(void)
{
    printf("tidewire " TIDEWIRE_VERSION "\n%s\nlibev %d.%d\nwslay %s\nllhttp %d.%d.%d\n%s\n", LUA_RELEASE,
           ev_version_major(), ev_version_minor(), WSLAY_VERSION, LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR,
           LLHTTP_VERSION_PATCH, OpenSSL_version(OPENSSL_VERSION));
}

/* ---- parsing ---- */

struct cli_parse {
    struct cli *cli;
    char **argv;
    int argc, at;
    bool seen[64]; /* by key: a repeated --listen adds */
};

static int cli_unknown_option(const char *arg, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "%s", arg + strspn(arg, "-"));
    name[strcspn(name, "=")] = '\0';
    const char *near = config_nearest(name);
    char flag[64] = "";
    for (size_t i = 0; near != NULL && i < sizeof flag - 1 && near[i] != '\0'; i++)
        flag[i] = near[i] == '_' ? '-' : near[i], flag[i + 1] = '\0';
    return err_set(e, "unknown option %s%s%s%s", arg,
                   near != NULL ? "; did you mean --" : "; see tidewire --help", flag,
                   near != NULL ? "?" : "");
}

static const struct config_key *cli_key(const char *arg, const char **value)
{
    if (arg[1] != '-') {
        for (size_t i = 0; i < config_nkeys; i++)
            if (config_keys[i].flag != '\0' && config_keys[i].flag == arg[1]) {
                *value = arg[2] != '\0' ? arg + 2 : NULL;
                return &config_keys[i];
            }
        return NULL;
    }
    size_t len = strcspn(arg + 2, "=");
    *value = arg[2 + len] == '=' ? arg + 2 + len + 1 : NULL;
    return config_find(arg + 2, len);
}

static int cli_option(struct cli_parse *p, struct err *e)
{
    const char *arg = p->argv[p->at], *value = NULL;
    const struct config_key *key = cli_key(arg, &value);
    if (key == NULL)
        return cli_unknown_option(arg, e);
    if (value == NULL && key->type == CONFIG_BOOL)
        value = "true";
    else if (value == NULL && p->at + 1 < p->argc)
        value = p->argv[++p->at];
    if (value == NULL)
        return err_set(e, "%s needs a value: %s", arg, key->help);
    bool *seen = &p->seen[key - config_keys];
    int rc = config_set(&p->cli->config, key, arg, value, *seen, e);
    *seen = true;
    return rc;
}

/* The file of SCRIPT|DIR. */
static int cli_set_script(struct cli *cli, const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(e, "cannot read %s: %s", path, strerror(errno));
    const char *tail = S_ISDIR(st.st_mode) ? (path[strlen(path) - 1] == '/' ? "main.lua" : "/main.lua") : "";
    if (asprintf(&cli->script, "%s%s", path, tail) < 0) {
        cli->script = NULL;
        return err_set(e, "out of memory");
    }
    if (access(cli->script, R_OK) < 0)
        return err_set(e, "cannot read %s: %s", cli->script, strerror(errno));
    return 0;
}

/* Words that are not options: the verb (first), then the script. */
static int cli_word(struct cli_parse *p, const struct cli_verb **verb, struct err *e)
{
    const char *word = p->argv[p->at];
    if (*verb == NULL) {
        *verb = cli_find_verb(word);
        if (*verb != NULL)
            return 0;
        *verb = &cli_verbs[0];
    }
    if ((*verb)->takes_script && p->cli->script == NULL)
        return cli_set_script(p->cli, word, e);
    return err_set(e, "unexpected argument %s; see tidewire --help", word);
}

int cli_parse(struct cli *cli, int argc, char **argv, char **environment, struct err *e)
{
    struct cli_parse p = {.cli = cli, .argv = argv, .argc = argc, .at = 1};
    const struct cli_verb *verb = NULL;
    memset(cli, 0, sizeof *cli);
    if (config_init(&cli->config) < 0)
        return err_set(e, "out of memory");
    if (config_set_env(&cli->config, environment, e) < 0)
        return -1;
    for (; p.at < argc; p.at++) {
        const char *arg = argv[p.at];
        if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
            cli->command = CLI_HELP;
            return 0;
        }
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            cli->command = CLI_VERSION;
            return 0;
        }
        if ((arg[0] == '-' && arg[1] != '\0' ? cli_option(&p, e) : cli_word(&p, &verb, e)) < 0)
            return -1;
    }
    if (verb == NULL)
        return err_set(e, "nothing to serve: tidewire SCRIPT.lua, or tidewire --help");
    if (verb->takes_script && cli->script == NULL)
        return err_set(e, "%s needs a script: tidewire %s", verb->name, verb->usage);
    cli->command = verb->command;
    return 0;
}

void cli_fini(struct cli *cli)
{
    config_fini(&cli->config);
    free(cli->script);
    cli->script = NULL;
}
