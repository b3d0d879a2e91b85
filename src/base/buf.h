/* SPDX-License-Identifier: MIT
 * A growing byte buffer. One thread at a time; owns its memory. */
#ifndef TIDEWIRE_BASE_BUF_H
#define TIDEWIRE_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
};

#define BUF_INIT                                                                                             \
    {                                                                                                        \
        NULL, 0, 0                                                                                           \
    }

/* Appends; 0, or -1 when memory runs out (the buffer is then unchanged). */
int buf_append(struct buf *b, const void *data, size_t len);
int buf_puts(struct buf *b, const char *text);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes room for `extra` more bytes at data + len, growing by doubling; 0 or -1. */
int buf_reserve(struct buf *b, size_t extra);

/* The same without doubling: `cap` is then what is needed. */
int buf_reserve_exact(struct buf *b, size_t extra);

/* Frees the memory; the buffer is empty and usable again. */
void buf_fini(struct buf *b);

#endif
