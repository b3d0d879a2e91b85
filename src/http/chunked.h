/* SPDX-License-Identifier: MIT
 * A streaming decoder of the chunked transfer coding (RFC 9112, 7.1), as strict as its grammar.
 *
 * Pure: no sockets, no Lua; any thread. A `struct chunked` owns and borrows nothing. */
#ifndef TIDEWIRE_HTTP_CHUNKED_H
#define TIDEWIRE_HTTP_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#define CHUNKED_MAX_DIGITS         15   /* of a chunk's size, zeros in front of it too */
#define CHUNKED_MAX_EXTENSION      256  /* bytes of extensions that one chunk may have */
#define CHUNKED_MAX_ALL_EXTENSIONS 4096 /* and all chunks of a body together */
#define CHUNKED_MAX_TRAILER        8192 /* bytes after the last chunk, the empty line too */

/* Zero it for a new body. */
struct chunked {
    uint64_t left; /* of the chunk being read */
    uint16_t extension_bytes, all_extension_bytes, trailer_bytes;
    uint8_t digits;
    uint8_t state;
};

enum chunked_result {
    CHUNKED_MORE,  /* everything is used, and the body goes on */
    CHUNKED_PIECE, /* *piece are bytes of the body, at least one; call again with what is left after *used */
    CHUNKED_END,   /* the body is over with its trailer section; what follows *used is not part of it */
    CHUNKED_BAD,   /* the body is malformed, or has more extensions or trailer fields than anyone needs */
};

/* Reads data[0 .. len) and says in *used how much of it is done with. A piece points into `data`. Extensions
 * and trailer fields are checked and thrown away. END and BAD are for good: every later call says them again
 * and uses nothing. */
int chunked_feed(struct chunked *c, const uint8_t *data, size_t len, size_t *used, const uint8_t **piece,
                 size_t *piece_len);

#endif
