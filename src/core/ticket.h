/* SPDX-License-Identifier: Apache-2.0 */
/* Tickets. docs/protocol.md describes the bytes. */
#ifndef KVX_CORE_TICKET_H
#define KVX_CORE_TICKET_H

#include "transport.h"

#include <kvxfer/kvxfer.h>

#include <stdbool.h>

#define KVX_TICKET_VERSION 4u

/* A grant on its way to the sender, or an offer on its way to the receiver. */
enum kvx_ticket_kind { KVX_TICKET_GRANT, KVX_TICKET_OFFER };

/* An offer's has no table, and of the numbers before `geometry` only the key and the lease. */
struct kvx_ticket {
	enum kvx_ticket_kind kind;
	uint64_t offer; /* of an offer only: its name in the engine */
	uint64_t incarnation;
	char name[KVX_NAME_MAX + 1];
	uint32_t slot, generation;
	uint64_t key; /* random; who presents it has seen the ticket */
	uint32_t lease_ms;
	int64_t expires_ms;              /* wall clock of the receiver, for the error's text only */
	struct kvx_geometry geometry;    /* complete */
	uint32_t token_first, token_end; /* of the request; those before are held already */
	uint32_t senders;
	uint32_t tail_bytes; /* 0: no tail */
	uint8_t hint_bytes;  /* of the one-sided transport that is used */
	uint8_t hint[KVX_HINT_MAX];
	char *address;   /* the receiver's kvx_engine_address(); owned by the ticket when decoded */
	uint32_t count;  /* of the block table */
	uint32_t *table; /* owned by the ticket when decoded */
};

/* *bytes and *size are the caller's to free. KVX_E_MEMORY. */
int kvx_ticket_encode(const struct kvx_ticket *ticket, uint8_t **bytes, size_t *size);

/* kind: that is expected. KVX_E_TICKET, KVX_E_VERSION, KVX_E_MEMORY; on success kvx_ticket_finish()
 * frees what it owns. */
int kvx_ticket_decode(struct kvx_ticket *ticket, enum kvx_ticket_kind kind, const void *bytes,
		      size_t size);
void kvx_ticket_finish(struct kvx_ticket *ticket);

#endif
