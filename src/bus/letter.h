/* SPDX-License-Identifier: MIT
 * To one WebSocket by its connection id, whichever worker has it. On the thread of the worker that asks. */
#ifndef TIDEWIRE_BUS_LETTER_H
#define TIDEWIRE_BUS_LETTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ws/session.h"

/* Sends a message. To another worker it only starts its way, which inbox_limit bounds: SESSION_SENT says
 * nothing of what becomes of it. */
enum session_sent letter_send(struct worker *w, uint64_t id, bool text, const char *data, size_t len);

/* Starts the close handshake in the same way. */
enum session_sent letter_close(struct worker *w, uint64_t id, unsigned code, const char *reason, size_t len);

#endif
