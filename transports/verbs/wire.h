/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What verbs says over its control connection. Pure: bytes to values and back. docs/protocol.md
 * describes the encoding. Each message begins with its type; the engine's own follow type 0.
 */
#ifndef KVX_VERBS_WIRE_H
#define KVX_VERBS_WIRE_H

#include "verbs.h"

#define KVX_VERBS_VERSION 1u
#define KVX_VERBS_MESSAGE_MAX (KVX_MESSAGE_MAX + 1)
#define KVX_VERBS_KEYS_MAX 44u /* of one message */
#define KVX_VERBS_MEMORIES_MAX (KVX_LAYERS_MAX * KVX_PLANES_MAX)
#define KVX_VERBS_PIECES_MAX 65536u

enum kvx_verbs_message_type {
	KVX_VERBS_ENGINE, /* both ways: a message of the engine */
	KVX_VERBS_PORTS,  /* both ways, first: version, ports */
	KVX_VERBS_ASK,    /* connector: rail, rails, ports, end: make a queue pair for this rail */
	KVX_VERBS_ANSWER, /* acceptor: rail, qpn that asked, end, or text: why not */
	KVX_VERBS_READY,  /* connector: rail: it is up */
	KVX_VERBS_LINK,   /* connector: the rails were tried; the link is up */
	KVX_VERBS_KEYS,   /* acceptor: slot, generation, memories, pieces, chunk_shift, keys */
	KVX_VERBS_BROKEN, /* both ways: rail, qpn of the receiver's end, text: this end has failed
			   */
};

/* Over this rail, the chunk `piece` of all the permit's, which belongs to that memory. */
struct kvx_verbs_key {
	uint8_t rail;
	uint32_t memory, piece;
	uint64_t base;
	uint32_t rkey;
};

struct kvx_verbs_message {
	enum kvx_verbs_message_type type;
	uint32_t version;
	uint32_t count; /* of ports or keys */
	struct kvx_verbs_remote_port ports[KVX_VERBS_PORTS_MAX];
	uint32_t rail, rails, local_port, remote_port;
	uint32_t qpn;
	bool refused;
	struct kvx_verbs_end end;
	uint32_t slot, generation, memories, pieces;
	uint32_t chunk_shift;
	struct kvx_verbs_key keys[KVX_VERBS_KEYS_MAX];
	char text[256];
};

/* bytes: KVX_VERBS_MESSAGE_MAX of room. Returns the length. */
uint32_t kvx_verbs_encode(const struct kvx_verbs_message *message, uint8_t *bytes);

/* KVX_E_PROTOCOL unless every byte is as it must be and in range. Not for type ENGINE. */
int kvx_verbs_decode(struct kvx_verbs_message *message, const void *bytes, uint32_t length);

/* match.c. Which local port goes with which remote one: those of one network where there are any,
 * else those that may be routed; each port that can is used, none much more than another. pairs:
 * room for KVX_VERBS_PORTS_MAX. Returns their number, 0: none can reach another. Pure. */
struct kvx_verbs_match {
	uint32_t local, remote;
};
uint32_t kvx_verbs_match(const struct kvx_verbs_remote_port *local, uint32_t local_count,
			 const struct kvx_verbs_remote_port *remote, uint32_t remote_count,
			 struct kvx_verbs_match *pairs);

#endif
