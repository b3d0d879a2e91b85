/* SPDX-License-Identifier: MIT
 * What was published, once more for subscribers that speak permessage-deflate: each message is compressed
 * once for everybody with the same window and the same compression_min, however many they are. Such a message
 * refers to nothing before it; and since it is not in the window of a subscriber's own stream, that begins
 * anew after it. The thread of its worker. */
#ifndef TIDEWIRE_BUS_ENCODING_H
#define TIDEWIRE_BUS_ENCODING_H

#include "bus/feed.h"
#include "ws/session.h"

/* The feed to send to the session instead of `f`: the same messages under the same numbers. `f` itself when
 * nothing of it is worth compressing, or memory runs out. Made, and brought up to date, when asked for. */
struct feed *encoding_for(const struct session *s, struct feed *f);

#endif
