/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer made by hand over the seam: it says what no engine would say. It is driven by its calls
 * alone. Sees the library's internals.
 */
#ifndef KVX_TESTS_STRANGER_H
#define KVX_TESTS_STRANGER_H

#include "core/message.h"
#include "core/ticket.h"
#include "plan/plan.h"
#include "support/drive.h"
#include "transport.h"

#define STRANGER_INCARNATION UINT64_C(0x57a)
#define STRANGER_TENSORS_MAX 64u

struct stranger {
	struct kvx_options *options;
	struct kvx_poller poller;
	struct kvx_waker waker;
	struct kvx_log log;
	struct kvx_transport_context context;
	const struct kvx_transport_ops *ops;
	struct kvx_transport *transport;
	struct kvx_link *link;
	bool serves; /* others connect to it */
	bool up, down;
	struct kvx_message heard; /* the last message but PING, HELLO and LAYOUT */
	uint32_t heard_count;     /* of them */

	/* One-sided: what it writes from and by, and where the grant's tensors lie. */
	struct kvx_memory memory;
	struct kvx_flow flow;
	uint32_t units; /* of a layer, as its OPEN said */
	struct kvx_target targets[STRANGER_TENSORS_MAX];
	uint32_t target_count;
};

/* Connects to an engine: address is kvx_engine_address()'s. The engines in drive are driven. */
void stranger_connect(struct stranger *stranger, struct drive *drive, const char *transport,
		      const char *address);
void stranger_close(struct stranger *stranger);

/* Or waits for one that connects, at an address as an engine's, and greets it. */
void stranger_serve(struct stranger *stranger, const char *transport, char *address, size_t size);
void stranger_greet(struct stranger *stranger, struct drive *drive);

void stranger_say(struct stranger *stranger, const struct kvx_message *message);
void stranger_say_bytes(struct stranger *stranger, const void *bytes, uint32_t length);
void stranger_hello(struct stranger *stranger);

/* What a stream of this ticket would send, right in every field. */
struct kvx_message stranger_open_message(const struct kvx_ticket *ticket, uint64_t stream,
					 uint32_t units);

/* Posts bytes of a unit, all zero, to the slot and generation of a ticket; and says that they end
 * the unit, to a receiver that would not see it. */
void stranger_post(struct stranger *stranger, struct drive *drive, const struct kvx_ticket *ticket,
		   uint32_t layer, uint32_t unit, uint64_t place, uint32_t bytes);

/* Lets what was said and posted leave; no engine is driven. */
void stranger_flush(struct stranger *stranger);

/* Waits for the next message; false: none came. Or for the link to go down. */
bool stranger_listen(struct stranger *stranger, struct drive *drive, uint32_t count);
bool stranger_sees_end(struct stranger *stranger, struct drive *drive);

/* The ticket of a grant, read. kvx_ticket_finish() frees it. */
struct kvx_ticket ticket_of(struct kvx_grant *grant);

#endif
