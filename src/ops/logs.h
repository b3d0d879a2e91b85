/* SPDX-License-Identifier: MIT
 * The log and the access log as the configuration wants them. The main thread. */
#ifndef TIDEWIRE_OPS_LOGS_H
#define TIDEWIRE_OPS_LOGS_H

#include "base/config.h"
#include "base/err.h"
#include "base/logsink.h"

/* Level, format and colours, for every command: lines go to standard error. */
void logs_setup(const struct config *config);

/* For a server: opens the files, starts the thread that writes. What must be seen, errors too, goes to
 * standard error besides, until logs_on_serving. 0, or -1 with `e` filled. */
int logs_start(const struct config *config, struct err *e);
void logs_on_serving(void);

/* Other settings while it runs, in two steps: logs_prepare opens what log_file and access_log name (0, or -1
 * with `e` filled: nothing has changed); then logs_commit lets them, and log_level, log_format and
 * log_repeat, hold from now on, or logs_abandon closes the files. Other threads may log meanwhile. log_buffer
 * is fixed when the server starts. */
struct logs {
    struct logsink_target log, access;
};
int logs_prepare(struct logs *l, const struct config *config, struct err *e);
void logs_commit(struct logs *l, const struct config *config);
void logs_abandon(struct logs *l);

#endif
