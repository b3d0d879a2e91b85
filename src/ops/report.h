/* SPDX-License-Identifier: MIT
 * What the server says of itself in numbers: all metrics, in Prometheus' text format 0.0.4. The main thread.
 */
#ifndef TIDEWIRE_OPS_REPORT_H
#define TIDEWIRE_OPS_REPORT_H

#include "base/buf.h"

#define REPORT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Appends everything. 0, or -1 when memory runs out. */
int report_write(struct buf *out);

#endif
