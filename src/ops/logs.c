/* SPDX-License-Identifier: MIT
 * The log and the access log as the configuration wants them. */
#include "ops/logs.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "http/access.h"

/* no-color.org; and a terminal that says that it has none. */
static bool logs_may_colour(void)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDERR_FILENO) && (no == NULL || no[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

static bool logs_is_standard(const char *path)
{
    return path == NULL || strcmp(path, "-") == 0;
}

void logs_setup(const struct config *config)
{
    log_set_colour(logs_may_colour());
    log_setup((enum log_level)config->log_level, (enum log_format)config->log_format);
}

int logs_prepare(struct logs *l, const struct config *config, struct err *e)
{
    const char *access = config->access_log;
    l->log = (struct logsink_target){.fd = STDERR_FILENO};
    l->access = (struct logsink_target){.fd = access != NULL ? STDOUT_FILENO : -1};
    if (!logs_is_standard(config->log_file) && logsink_open(&l->log, config->log_file, e) < 0)
        return err_prefix(e, "log_file: ");
    if (!logs_is_standard(access) && logsink_open(&l->access, access, e) < 0) {
        logsink_close(&l->log);
        return err_prefix(e, "access_log: ");
    }
    return 0;
}

void logs_commit(struct logs *l, const struct config *config)
{
    log_set_colour(l->log.path == NULL && logs_may_colour());
    log_setup((enum log_level)config->log_level, (enum log_format)config->log_format);
    log_limit_repeats((unsigned)config->log_repeat);
    logsink_use(LOGSINK_LOG, &l->log);
    access_use(&l->access);
}

void logs_abandon(struct logs *l)
{
    logsink_close(&l->log);
    logsink_close(&l->access);
}

int logs_start(const struct config *config, struct err *e)
{
    struct logs l;
    if (logs_prepare(&l, config, e) < 0)
        return -1;
    if (log_start((size_t)config->log_buffer, e) < 0) {
        logs_abandon(&l);
        return -1;
    }
    log_set_echo(l.log.path != NULL);
    logs_commit(&l, config);
    return 0;
}

void logs_on_serving(void)
{
    log_set_echo(false);
}
