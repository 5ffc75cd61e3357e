/* SPDX-License-Identifier: Apache-2.0 */
/* What engines say to each other beside the bytes. docs/protocol.md describes the encoding. */
#ifndef KVX_CORE_MESSAGE_H
#define KVX_CORE_MESSAGE_H

#include "plan/shape.h"
#include "transport.h"

#include <kvxfer/kvxfer.h>

#define KVX_PROTOCOL_VERSION 4u
#define KVX_LAYOUT_RUNS_MAX 28u /* of one message */
#define KVX_PART_MAX 960u       /* bytes of a ticket in one message */

enum kvx_message_type {
	KVX_MESSAGE_HELLO =
		1,          /* both ways, first: version, incarnation, heartbeat_ms, text: name */
	KVX_MESSAGE_OPEN,   /* sender: stream, slot, generation, key, units, weights, tail,
			       hash, geometry */
	KVX_MESSAGE_ACCEPT, /* receiver: stream, unit_first, share, hash */
	KVX_MESSAGE_REFUSE, /* receiver: stream, code, text */
	KVX_MESSAGE_WHOLE,  /* receiver: stream, first, count: the stream's part of these layers has
			       arrived */
	KVX_MESSAGE_REVOKE, /* receiver: stream, code, text: the grant has ended */
	KVX_MESSAGE_CANCEL, /* sender: slot, generation, text: the stream has ended */
	KVX_MESSAGE_PING,   /* both ways: still here */
	KVX_MESSAGE_BYE,    /* both ways, last: text: why the engine closes the link */
	KVX_MESSAGE_LAYOUT, /* receiver, before ACCEPT over one-sided transports: stream, layout */
	KVX_MESSAGE_DRAINED, /* sender, over those: slot, generation: nothing is under way any more
			      */
	KVX_MESSAGE_PULL, /* receiver: stream (the offer), key, count, first, part: of the grant's
			     ticket of `count` bytes those from `first` on */
	KVX_MESSAGE_RELEASE, /* receiver: stream (the offer), key: it is not pulled any more */
	KVX_MESSAGE_DECLINE, /* sender: stream (the offer), code, text: it cannot be pulled */
};

/* Tensors (layer by layer, plane fastest) that lie alike: their first offset in a memory of the
 * permit, from each to the next, and from block to block. */
struct kvx_layout_run {
	uint32_t tensors;
	uint32_t memory;
	uint64_t base, step, stride;
};

struct kvx_message {
	enum kvx_message_type type;
	uint32_t version;
	uint64_t incarnation;
	uint32_t heartbeat_ms;
	uint64_t stream;
	uint32_t slot, generation;
	uint64_t key;
	uint32_t first, count, units;
	bool weighted; /* weights holds one for each unit */
	uint8_t weights[KVX_UNITS_MAX];
	struct kvx_layout_run layout[KVX_LAYOUT_RUNS_MAX];
	bool tail;           /* the sender has the request's tail */
	uint32_t unit_first; /* the number of the sender's first unit */
	uint32_t planes;     /* of the share */
	struct kvx_share share;
	uint64_t hash;
	struct kvx_geometry geometry;
	uint32_t part_bytes;
	uint8_t part[KVX_PART_MAX];
	int code;
	char text[KVX_ERROR_TEXT_MAX + 1];
};

/* bytes: KVX_MESSAGE_MAX of room. Returns the length. Texts that do not fit are cut. */
uint32_t kvx_message_encode(const struct kvx_message *message, uint8_t *bytes);

/* KVX_E_PROTOCOL unless every byte is as it must be. */
int kvx_message_decode(struct kvx_message *message, const void *bytes, uint32_t length);

#endif
