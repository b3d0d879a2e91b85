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

#include <curl/curl.h>
#include <ev.h>
#include <llhttp.h>
#include <lua.h>
#include <openssl/crypto.h>
#include <wslay/wslay.h>

#include "script/conffile.h"
#include "ws/origin.h"

#define CLI_ACTIVATION_FIRST 3L /* the first descriptor that socket activation passes */

struct cli_verb {
    const char *name;
    enum cli_command command;
    bool takes_script;
    const char *usage, *help;
};

static const struct cli_verb cli_verbs[] = {
    {"run", CLI_RUN, true, "[run] SCRIPT|DIR", "serve; DIR means DIR/main.lua"},
    {"check", CLI_CHECK, true, "check [SCRIPT|DIR]", "load it, or only what --config names, without serving"},
    {"routes", CLI_ROUTES, true, "routes SCRIPT|DIR", "print the route table"},
    {"health", CLI_HEALTH, false, "health", "exit 0 when the server answers on its control socket"},
    {"metrics", CLI_METRICS, false, "metrics", "print the metrics of a running server"},
    {"reload", CLI_RELOAD, false, "reload", "reload a running server; exit 1 when the code was refused"},
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

static void cli_print_option(const struct config_key *k)
{
    char flag[64], initial[64] = "";
    if (k->flag != '\0')
        snprintf(flag, sizeof flag, "  -%c, --%s", k->flag, k->name);
    else
        snprintf(flag, sizeof flag, "      --%s", k->name);
    for (char *p = flag; *p != '\0'; p++)
        *p = *p == '_' ? '-' : *p;
    if (k->initial != NULL)
        snprintf(initial, sizeof initial, " [%s]", k->initial);
    printf("%-36s %s%s%s%s%s\n", flag, k->help, k->type == CONFIG_CHOICE ? ": " : "",
           k->type == CONFIG_CHOICE ? k->choices : "", initial, k->fixed ? " *" : "");
}

void cli_print_help(void)
{
    printf("Tidewire " TIDEWIRE_VERSION ": a real-time server scripted in Lua.\n\nUsage:\n");
    for (size_t i = 0; i < CLI_VERBS; i++)
        printf("  tidewire %-20s %s\n", cli_verbs[i].usage, cli_verbs[i].help);
    printf("\nOptions (each is also TIDEWIRE_NAME in the environment; command line over environment over "
           "file):\n");
    printf("%-36s Lua file that returns a table of the options below, with _ for -\n"
           "%-36s [tidewire.conf.lua beside the script, when there]\n",
           "  -c, --config FILE", "");
    for (size_t i = 0; i < config_nkeys; i++)
        cli_print_option(&config_keys[i]);
    printf(
        "\nTimes are in seconds (500ms, 10s, 2m), sizes in bytes (64k, 1m).\n"
        "A reload applies what has changed in the file, but for options with *, which need a restart.\n"
        "Signals: SIGHUP loads script and file anew; SIGTERM and SIGINT end it politely, twice at once.\n");
}

void cli_print_version(void)
{
    printf("tidewire " TIDEWIRE_VERSION "\n%s\nlibev %d.%d\nwslay %s\nllhttp %d.%d.%d\n%s\nlibcurl %s\n",
           LUA_RELEASE, ev_version_major(), ev_version_minor(), WSLAY_VERSION, LLHTTP_VERSION_MAJOR,
           LLHTTP_VERSION_MINOR, LLHTTP_VERSION_PATCH, OpenSSL_version(OPENSSL_VERSION),
           curl_version_info(CURLVERSION_NOW)->version);
}

/* ---- parsing ---- */

/* Flags in their order; they are applied last. */
struct cli_setting {
    const struct config_key *key;
    const char *arg, *value;
};

struct cli_parse {
    struct cli *cli;
    char **argv;
    int argc, at;
    const char *config_file;
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
    if (strcmp(arg, "-c") == 0 || strcmp(arg, "--config") == 0) {
        p->config_file = p->at + 1 < p->argc ? p->argv[++p->at] : NULL;
        return p->config_file != NULL ? 0 : err_set(e, "%s needs a value: the configuration file", arg);
    }
    if (strncmp(arg, "--config=", 9) == 0) {
        p->config_file = arg + 9;
        return 0;
    }
    const struct config_key *key = cli_key(arg, &value);
    if (key == NULL)
        return cli_unknown_option(arg, e);
    if (value == NULL && key->type == CONFIG_BOOL)
        value = "true";
    else if (value == NULL && p->at + 1 < p->argc)
        value = p->argv[++p->at];
    if (value == NULL)
        return err_set(e, "%s needs a value: %s", arg, key->help);
    p->cli->settings[p->cli->nsettings++] = (struct cli_setting){key, arg, value};
    return 0;
}

/* What the layers below config know about its values. */
static int cli_check_origins(const struct config *config, struct err *e)
{
    for (size_t i = 0; i < config->origins.n; i++) {
        const char *pattern = config->origins.item[i];
        if (origin_check_pattern(pattern, strlen(pattern), e) < 0)
            return err_prefix(e, "origins: \"%s\": ", pattern);
    }
    return 0;
}

static int cli_check_proxies(const struct config *config, struct err *e)
{
    struct cidr_list scratch = {.n = 0};
    const struct config_list *list = &config->trusted_proxies;
    for (size_t i = 0; i < list->n; i++)
        if (cidr_list_add(&scratch, list->item[i], strlen(list->item[i]), e) < 0)
            return err_prefix(e, "trusted_proxies: ");
    return 0;
}

static int cli_check(const struct config *config, struct err *e)
{
    return cli_check_origins(config, e) < 0 ? -1 : cli_check_proxies(config, e);
}

/* The sockets that systemd passes with socket activation. The variables are for this process alone, and go.
 */
static void cli_take_activation(struct cli *cli)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (pid != NULL && count != NULL && strtol(pid, NULL, 10) == (long)getpid())
        cli->activated = strtol(count, NULL, 10);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

/* They are the default of `listen`. */
static int cli_apply_activation(const struct cli *cli, struct config *config, struct err *e)
{
    int rc = 0;
    for (long i = 0; i < cli->activated && rc == 0; i++) {
        char spec[32];
        snprintf(spec, sizeof spec, "fd:%ld", CLI_ACTIVATION_FIRST + i);
        rc = config_set(config, config_find("listen", strlen("listen")), "LISTEN_FDS", spec, i > 0, e);
    }
    return rc;
}

/* A file that is only looked for may not be there. Asked for in any case, for those who watch it. */
static bool cli_has_file(const struct cli *cli, struct snapshot *files)
{
    struct snapshot_file file;
    if (cli->config_file == NULL)
        return false;
    if (files != NULL)
        snapshot_read(files, cli->config_file, &file);
    return cli->config_named || access(cli->config_file, F_OK) == 0;
}

static int cli_apply_file(const struct cli *cli, struct snapshot *files, struct config *config, struct err *e)
{
    if (conffile_load_from(config, cli->config_file, files, e) == 0 && cli_check(config, e) == 0)
        return 0;
    /* Lua cuts long names in its messages */
    return strstr(e->text, cli->config_file) == NULL ? err_prefix(e, "%s: ", cli->config_file) : -1;
}

static int cli_apply_settings(const struct cli *cli, struct config *config, struct err *e)
{
    for (size_t i = 0; i < cli->nsettings; i++) {
        const struct cli_setting *s = &cli->settings[i];
        bool again = false; /* a repeated --listen or --origins adds */
        for (size_t j = 0; j < i; j++)
            again = again || cli->settings[j].key == s->key;
        if (config_set(config, s->key, s->arg, s->value, again, e) < 0)
            return -1;
    }
    return 0;
}

int cli_read(const struct cli *cli, struct snapshot *files, struct config *out, bool *read, struct err *e)
{
    *read = cli_has_file(cli, files);
    int rc = config_init(out);
    if (rc < 0)
        err_set(e, "out of memory");
    else if (cli_apply_activation(cli, out, e) < 0 || (*read && cli_apply_file(cli, files, out, e) < 0) ||
             config_set_env(out, cli->environment, e) < 0 || cli_apply_settings(cli, out, e) < 0 ||
             cli_check(out, e) < 0)
        rc = -1;
    if (rc < 0)
        config_fini(out);
    return rc;
}

/* Which file: the one that is named, or the one beside the script. */
static int cli_set_config_file(struct cli *cli, const char *named, struct err *e)
{
    const char *slash = cli->script != NULL ? strrchr(cli->script, '/') : NULL;
    int folder = slash != NULL ? (int)(slash - cli->script) + 1 : 0, rc = 0;
    cli->config_named = named != NULL;
    if (named != NULL)
        rc = asprintf(&cli->config_file, "%s", named);
    else if (cli->script != NULL)
        rc = asprintf(&cli->config_file, "%.*stidewire.conf.lua", folder, cli->script);
    if (rc >= 0)
        return 0;
    cli->config_file = NULL;
    return err_set(e, "out of memory");
}

static int cli_apply(const struct cli_parse *p, struct err *e)
{
    struct cli *cli = p->cli;
    struct config copy;
    struct stat st;
    const char *named = p->config_file != NULL ? p->config_file : getenv("TIDEWIRE_CONFIG");
    cli_take_activation(cli);
    if (cli_set_config_file(cli, named, e) < 0)
        return -1;
    cli->files = snapshot_create();
    cli->config_once = named != NULL && stat(named, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
    if (cli->files == NULL)
        return err_set(e, "out of memory");
    if (cli_read(cli, cli->config_once ? NULL : cli->files, &cli->config, &cli->config_read, e) < 0)
        return -1;
    if (config_copy(&copy, &cli->config) < 0)
        return err_set(e, "out of memory");
    cli->setup = setup_create(&copy, e);
    config_fini(&copy);
    return cli->setup != NULL ? 0 : -1;
}

/* The file of SCRIPT|DIR. */
static int cli_set_script(struct cli *cli, const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(
            e,
            "cannot read %s: %s (commands are run, check, routes, health, metrics, reload, version and help)",
            path, strerror(errno));
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

static int cli_parse_words(struct cli_parse *p, struct err *e)
{
    const struct cli_verb *verb = NULL;
    for (; p->at < p->argc; p->at++) {
        const char *arg = p->argv[p->at];
        if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
            p->cli->command = CLI_HELP;
            return 0;
        }
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            p->cli->command = CLI_VERSION;
            return 0;
        }
        if ((arg[0] == '-' && arg[1] != '\0' ? cli_option(p, e) : cli_word(p, &verb, e)) < 0)
            return -1;
    }
    if (verb == NULL)
        return err_set(e, "nothing to serve: tidewire SCRIPT.lua, or tidewire --help");
    bool only_config =
        verb->command == CLI_CHECK && (p->config_file != NULL || getenv("TIDEWIRE_CONFIG") != NULL);
    if (verb->takes_script && p->cli->script == NULL && !only_config)
        return err_set(e, "%s needs a script: tidewire %s", verb->name, verb->usage);
    p->cli->command = verb->command;
    return 0;
}

int cli_parse(struct cli *cli, int argc, char **argv, char **environment, struct err *e)
{
    struct cli_parse p = {.cli = cli, .argv = argv, .argc = argc, .at = 1};
    memset(cli, 0, sizeof *cli);
    cli->environment = environment;
    cli->settings = calloc((size_t)argc + 1, sizeof cli->settings[0]);
    if (cli->settings == NULL)
        return err_set(e, "out of memory");
    if (cli_parse_words(&p, e) < 0)
        return -1;
    return cli->command != CLI_HELP && cli->command != CLI_VERSION ? cli_apply(&p, e)
                                                                   : config_init(&cli->config);
}

void cli_fini(struct cli *cli)
{
    config_fini(&cli->config);
    setup_unref(cli->setup);
    snapshot_unref(cli->files);
    free(cli->script);
    free(cli->config_file);
    free(cli->settings);
    cli->script = cli->config_file = NULL;
    cli->settings = NULL;
    cli->setup = NULL;
    cli->files = NULL;
}
