/* SPDX-License-Identifier: MIT
 * The configuration in force. */
#include "ops/settings.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/configdiff.h"
#include "base/log.h"
#include "net/listener.h"
#include "ops/limits.h"

#define SETTINGS_LINE 1500 /* of the log, at most */

/* ---- the parts ---- */

/* What has to be done for some keys, beyond their being read: s->next is to become s->now. What cannot fail
 * is all in `commit`; then the others are NULL. */
struct settings_part {
    int (*prepare)(struct settings *s, bool back, struct err *e);
    void (*commit)(struct settings *s);
    void (*discard)(struct settings *s); /* undoes prepare */
};

static int settings_prepare_addresses(struct settings *s, bool back, struct err *e)
{
    int rc = addresses_prepare(&s->addresses, &s->next->config, back, e);
    return rc < 0 ? err_prefix(e, "listen: ") : 0;
}

static void settings_commit_addresses(struct settings *s)
{
    addresses_commit(&s->addresses);
}

static void settings_discard_addresses(struct settings *s)
{
    addresses_discard(&s->addresses);
}

static bool settings_differ(const struct settings *s, const char *key)
{
    return !configdiff_same(&s->now->config, &s->next->config, config_find(key, strlen(key)));
}

/* The files are opened only when they are others: who has started as root may not open the old ones again. */
static int settings_prepare_logs(struct settings *s, bool back, struct err *e)
{
    s->logs_move = settings_differ(s, "log_file") || settings_differ(s, "access_log");
    if (!s->logs_move || logs_prepare(&s->logs, &s->next->config, e) == 0)
        return 0;
    s->logs_move = false;
    if (!back)
        return -1;
    log_error("%s; going on with the logs there are", e->text);
    return 0;
}

static void settings_commit_logs(struct settings *s)
{
    if (s->logs_move)
        logs_commit(&s->logs, &s->next->config);
    else
        logs_adjust(&s->next->config);
}

static void settings_discard_logs(struct settings *s)
{
    if (s->logs_move)
        logs_abandon(&s->logs);
}

/* The token is read each time: its file may have changed. */
static int settings_prepare_admin(struct settings *s, bool back, struct err *e)
{
    const struct config *next = &s->next->config;
    s->admin.moves = settings_differ(s, "admin");
    int rc = s->admin.moves
                 ? admin_open(&s->admin.next, s->admin.loop, next, s->admin.answers, s->admin.user,
                              s->admin.now, e)
                 : admin_prepare_token(s->admin.now, next, !settings_differ(s, "admin_token_file"), e);
    if (rc == 0)
        return 0;
    s->admin.moves = false;
    if (!back)
        return -1;
    log_error("%s; going on with the admin listener as it is", e->text);
    return 0;
}

static void settings_commit_admin(struct settings *s)
{
    admin_commit_token(s->admin.now);
    if (!s->admin.moves)
        return;
    admin_close(s->admin.now);
    s->admin.now = s->admin.next;
    s->admin.next = NULL;
    admin_announce(s->admin.now);
}

static void settings_discard_admin(struct settings *s)
{
    admin_discard_token(s->admin.now);
    admin_close(s->admin.next);
    s->admin.next = NULL;
}

/* In the order of preparing. */
static const struct settings_part settings_parts[] = {
    {settings_prepare_addresses, settings_commit_addresses, settings_discard_addresses},
    {settings_prepare_logs, settings_commit_logs, settings_discard_logs},
    {settings_prepare_admin, settings_commit_admin, settings_discard_admin},
};
#define SETTINGS_PARTS (sizeof settings_parts / sizeof settings_parts[0])

/* ---- reading ---- */

/* An inherited socket that was given away could not be had again, and nobody can tell one that came with the
 * start from one that happens to have its number now. */
static int settings_keep_inherited(struct config *c, const struct config *start, struct buf *kept,
                                   struct err *e)
{
    for (size_t i = 0; i < start->listen.n; i++) {
        const char *spec = start->listen.item[i];
        bool there = !listener_is_inherited(spec);
        for (size_t j = 0; j < c->listen.n; j++)
            there = there || listener_same_address(spec, c->listen.item[j]);
        if (there)
            continue;
        if (config_list_add(&c->listen, spec, strlen(spec), e) < 0)
            return err_prefix(e, "listen: ");
        if (buf_printf(kept, "listen: %s stays until a restart (it is not in the file)\n", spec) < 0)
            return err_set(e, "out of memory");
    }
    for (size_t i = 0; i < c->listen.n; i++) {
        const char *spec = c->listen.item[i];
        bool known = !listener_is_inherited(spec);
        for (size_t j = 0; j < start->listen.n; j++)
            known = known || listener_same_address(spec, start->listen.item[j]);
        if (!known)
            return err_set(e, "listen: %s can be taken over only when the server starts", spec);
    }
    return 0;
}

/* Gives the fixed keys the values that they have, and notes which are other than they should be. */
static int settings_keep(struct config *c, const struct config *start, struct buf *kept, struct err *e)
{
    for (size_t i = 0; i < config_nkeys; i++) {
        const struct config_key *key = &config_keys[i];
        char old[256], new[256];
        if (!key->fixed || configdiff_same(c, start, key))
            continue;
        configdiff_show(start, key, old, sizeof old);
        configdiff_show(c, key, new, sizeof new);
        if (config_copy_key(c, start, key) < 0 ||
            buf_printf(kept, "%s: %s stays until a restart (the file says %s)\n", key->name, old, new) < 0)
            return err_set(e, "out of memory");
    }
    return settings_keep_inherited(c, start, kept, e);
}

static int settings_check(const struct config *c, struct err *e)
{
    for (size_t i = 0; i < c->listen.n; i++)
        if (listener_check(c->listen.item[i], e) < 0)
            return -1;
    return 0;
}

/* Only the file can have changed, so it is at fault; a message may say so already. */
static void settings_blame(const struct cli *cli, struct err *e)
{
    if (cli->config_file != NULL && strstr(e->text, cli->config_file) == NULL)
        err_prefix(e, "%s: ", cli->config_file);
}

struct setup *settings_read(void *settings, struct snapshot *files, struct err *e)
{
    struct settings *s = settings;
    const struct cli *cli = s->cli;
    struct config c;
    struct buf kept = BUF_INIT;
    struct setup *setup = NULL;
    bool read = true;
    int rc = cli->config_once ? config_copy(&c, &cli->config) : cli_read(cli, files, &c, &read, e);
    if (rc < 0)
        settings_blame(cli, e);
    else if (s->had_file && !read)
        err_set(e, "%s is gone; one that says `return {}` gives the defaults", cli->config_file);
    else if (settings_keep(&c, &cli->config, &kept, e) < 0 || settings_check(&c, e) < 0)
        settings_blame(cli, e);
    else {
        limits_set(&c);
        setup = setup_create(&c, e);
        if (setup == NULL)
            settings_blame(cli, e);
    }
    if (setup != NULL) {
        setup->kept = kept.data;
        kept = (struct buf)BUF_INIT;
        s->had_file = read;
    }
    buf_fini(&kept);
    config_fini(&c);
    return setup;
}

/* ---- replacing ---- */

void settings_init(struct settings *s, const struct cli *cli)
{
    memset(s, 0, sizeof *s);
    s->cli = cli;
    s->now = setup_ref(cli->setup);
    s->had_file = cli->config_read;
}

void settings_fini(struct settings *s)
{
    addresses_fini(&s->addresses);
    setup_unref(s->now);
    s->now = NULL;
}

/* What the first `parts` of them have prepared. */
static void settings_discard(struct settings *s, size_t parts)
{
    while (parts-- > 0)
        if (settings_parts[parts].discard != NULL)
            settings_parts[parts].discard(s);
    setup_unref(s->next);
    s->next = NULL;
}

int settings_prepare(struct settings *s, struct setup *next, bool back, struct err *e)
{
    s->next = setup_ref(next);
    for (size_t i = 0; i < SETTINGS_PARTS; i++)
        if (settings_parts[i].prepare != NULL && settings_parts[i].prepare(s, back, e) < 0) {
            settings_discard(s, i);
            settings_blame(s->cli, e);
            return -1;
        }
    return 0;
}

static void settings_tell(const struct config *from, const struct setup *to)
{
    char line[SETTINGS_LINE];
    if (configdiff_tell(from, &to->config, line, sizeof line) > 0)
        log_info("configuration: %s", line);
    for (const char *kept = to->kept; kept != NULL && *kept != '\0';) {
        size_t len = strcspn(kept, "\n");
        log_warn("%.*s", (int)len, kept);
        kept += len + (kept[len] == '\n');
    }
}

void settings_commit(struct settings *s)
{
    struct setup *before = s->now;
    bool quieter = s->next->config.log_level > before->config.log_level;
    if (quieter)
        settings_tell(&before->config, s->next);
    for (size_t i = 0; i < SETTINGS_PARTS; i++)
        settings_parts[i].commit(s);
    if (!quieter)
        settings_tell(&before->config, s->next);
    s->now = s->next;
    s->next = NULL;
    setup_unref(before);
}

void settings_print(const struct cli *cli)
{
    struct config initial;
    char value[1024];
    if (config_init(&initial) < 0)
        return;
    printf("%s: fine\n", cli->config_file);
    for (size_t i = 0; i < config_nkeys; i++) {
        if (configdiff_same(&initial, &cli->config, &config_keys[i]))
            continue;
        configdiff_show(&cli->config, &config_keys[i], value, sizeof value);
        printf("  %-32s  %s\n", config_keys[i].name, value);
    }
    config_fini(&initial);
}
