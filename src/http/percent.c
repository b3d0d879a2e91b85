/* SPDX-License-Identifier: MIT
 * Percent-decoding and the pairs of a query string. */
#include "http/percent.h"

#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The byte that the escape at in[0 .. len) stands for, or -1. */
static int escape_value(const char *in, size_t len)
{
    if (len < 3)
        return -1;
    int high = hex_value(in[1]), low = hex_value(in[2]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static long decode(const char *in, size_t len, char *out, bool plus_is_space, bool lax)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = in[i];
        if (c == '%') {
            int value = escape_value(in + i, len - i);
            if (value >= 0) {
                c = (char)value;
                i += 2;
            } else if (!lax) {
                return -1;
            }
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        out[n++] = c;
    }
    return (long)n;
}

long percent_decode(const char *in, size_t len, char *out, bool plus_is_space)
{
    return decode(in, len, out, plus_is_space, false);
}

size_t percent_decode_lax(const char *in, size_t len, char *out, bool plus_is_space)
{
    return (size_t)decode(in, len, out, plus_is_space, true);
}

bool percent_next_pair(const char *in, size_t len, size_t *at, struct percent_pair *pair)
{
    while (*at < len && in[*at] == '&')
        ++*at;
    if (*at >= len)
        return false;
    const char *name = in + *at;
    const char *amp = memchr(name, '&', len - *at);
    const char *end = amp != NULL ? amp : in + len;
    const char *equals = memchr(name, '=', (size_t)(end - name));
    const char *value = equals != NULL ? equals + 1 : end;
    pair->name = name;
    pair->name_len = (size_t)((equals != NULL ? equals : end) - name);
    pair->value = value;
    pair->value_len = (size_t)(end - value);
    *at = (size_t)(end - in);
    return true;
}
