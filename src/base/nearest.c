/* SPDX-License-Identifier: MIT
 * The name that was probably meant. */
#include "base/nearest.h"

#include <ctype.h>
#include <string.h>

#define NEAREST_NAME 64 /* longer names are near to nothing */

static char nearest_fold(char c)
{
    return c == '-' ? '_' : (char)tolower((unsigned char)c);
}

/* Levenshtein distance of two short names; two letters that changed places are one step. */
static size_t nearest_distance(const char *a, const char *b)
{
    size_t rows[3][NEAREST_NAME], n = strlen(b);
    size_t *before = rows[0], *last = rows[1], *row = rows[2];
    if (n >= NEAREST_NAME)
        return NEAREST_NAME;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t *spare = before;
        before = last;
        last = row;
        row = spare;
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            char ca = nearest_fold(a[i - 1]), cb = nearest_fold(b[j - 1]);
            size_t best = last[j - 1] + (ca != cb);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && ca == nearest_fold(b[j - 2]) && nearest_fold(a[i - 2]) == cb &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

void nearest_init(struct nearest *n, const char *wanted)
{
    n->wanted = wanted;
    n->name = NULL;
    size_t len = strlen(wanted);
    n->distance = len < NEAREST_NAME ? len / 2 + 1 : 0;
}

void nearest_try(struct nearest *n, const char *name)
{
    if (n->distance == 0)
        return;
    size_t distance = nearest_distance(n->wanted, name);
    if (distance >= n->distance)
        return;
    n->distance = distance;
    n->name = name;
}
