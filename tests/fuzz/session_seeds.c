/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of session.c: requests that come to their end, from which the fuzzer strays. */
#include "target.h"

#define LINK(number) (number)

/* Of enum operation. */
enum {
	ACCEPT_LINK,
	LINK_UP,
	LINK_DOWN,
	RAIL,
	HELLO,
	RAW,
	FIELD,
	OPEN,
	ACCEPT,
	LAYOUT,
	PULL,
	FRAME,
	ARRIVED,
	SETTLE,
	CREDIT,
	GRANT,
	STREAM
};

#define GIVE(name, ...)                                       \
	do {                                                  \
		static const uint8_t bytes[] = {__VA_ARGS__}; \
		take(name, bytes, sizeof(bytes));             \
	} while (0)

/* The stream of the engine takes link 0 at its first step; who connects gets link 1. */
#define IN ACCEPT_LINK, 0, HELLO, LINK(1), 0
#define OUT LINK_UP, LINK(0), HELLO, LINK(0), 0
/* grant 0, stream 9, one unit, all heads */
#define OPEN_1 OPEN, LINK(1), 0, 9, 0, 0, 0
#define OPEN_2 OPEN, LINK(1), 0, 9, 1, 0, 0
#define ACCEPT_1 ACCEPT, LINK(0), 0, 0, 0

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("receive", 0, 15, IN, OPEN_1, FRAME, 1, 0, 0, 0, 0, FRAME, 1, 0, 1, 0, 0);
	GIVE("receive-heads", 2, 13, IN, OPEN_2, FRAME, 1, 0, 0, 0, 0, FRAME, 1, 0, 0, 1, 32, FRAME,
	     1, 0, 1, 0, 0, FRAME, 1, 0, 1, 1, 0);
	GIVE("receive-tail", 4, 15, IN, OPEN, LINK(1), 0, 9, 64, 0, 0, FRAME, 1, 0, 255, 0, 0,
	     FRAME, 1, 0, 0, 0, 0, FRAME, 1, 0, 1, 0, 0);
	GIVE("two-senders", 18, 15, IN, ACCEPT_LINK, 1, HELLO, LINK(2), 0, OPEN, LINK(1), 0, 9, 0,
	     2, 0, OPEN, LINK(2), 0, 8, 0, 1, 0, FRAME, 1, 0, 0, 0, 0, FRAME, 2, 0, 0, 1, 0);
	GIVE("send", 0, 15, OUT, ACCEPT_1, STREAM, 6, STREAM, 9, FIELD, LINK(0), 0, 0, 0, 2, 0, 0);
	GIVE("send-staged", 14, 13, OUT, ACCEPT_1, STREAM, 6, STREAM, 9, STREAM, 12, FIELD, LINK(0),
	     0, 0, 0, 2, 0, 0, FIELD, LINK(0), 0, 0, 255, 1, 0, 0);
	GIVE("one-sided", 1, 15, IN, OPEN_1, SETTLE, 1, ARRIVED, 1, 0, 0, 0, ARRIVED, 1, 0, 1, 0,
	     GRANT, 0, SETTLE, 1);
	GIVE("one-sided-send", 1, 15, OUT, LAYOUT, LINK(0), 0, 1, 4, 0, 0, 0, 4, 0, 0, 128, 0, 0,
	     ACCEPT_1, STREAM, 6, STREAM, 9, STREAM, 0, SETTLE, 0);
	GIVE("pulled", 0, 15, IN, PULL, LINK(1), 0, 0, 0, LINK_UP, LINK(2), HELLO, LINK(2), 0,
	     ACCEPT, LINK(2), 0, 0, 0, STREAM, 7);
	GIVE("pull", 0, 15, GRANT, 6, HELLO, LINK(0), 0, IN, OPEN_1, FRAME, 1, 0, 0, 0, 0);
	GIVE("revoked", 0, 15, IN, OPEN_1, FRAME, 1, 0, 0, 0, 0, GRANT, 0, FRAME, 1, 0, 1, 0, 0,
	     GRANT, 2, GRANT, 4, OPEN_1);
	GIVE("rails", 0, 15, OUT, RAIL, 0, ACCEPT_1, STREAM, 6, RAIL, 4, RAIL, 128, LINK_DOWN, 0);
	/* Parts that overlap, of as many bytes as the unit has. */
	GIVE("overlap", 0, 15, IN, OPEN_1, FRAME, 1, 0, 0, 0, 2, 100, 0, FRAME, 1, 0, 0, 0, 3, 50,
	     156, 3);
	/* Bytes of a unit that another link feeds. */
	GIVE("stranger", 0, 15, IN, OPEN_1, ACCEPT_LINK, 0, HELLO, LINK(2), 0, FRAME, 2, 0, 0, 0,
	     0);
	GIVE("raw", 0, 15, ACCEPT_LINK, 0, RAW, LINK(1), 1, 8);
}
