/* SPDX-License-Identifier: MIT
 * What every fuzz target needs: its entry, and a check that stops the run and says where. */
#ifndef TIDEWIRE_TESTS_FUZZ_CHECK_H
#define TIDEWIRE_TESTS_FUZZ_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "line %d: %s\n", __LINE__, #x);                                                  \
            __builtin_trap();                                                                                \
        }                                                                                                    \
    } while (0)

#endif
