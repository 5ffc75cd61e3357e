/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tcp says on the wire. Pure: bytes to values and back, no I/O.
 *
 * Each connection begins with a preamble of the connecting side. The accepting side answers on the
 * control connection when the link is whole, and on a data connection that replaces a lost one.
 * Then a control connection carries messages (length, bytes) both ways, and a data connection
 * carries frames (header, payload) from the connecting side to the accepting one.
 */
#ifndef KVX_TCP_FRAME_H
#define KVX_TCP_FRAME_H

#include "../transport.h"

#define KVX_TCP_VERSION 1u
#define KVX_TCP_PREAMBLE_BYTES 24u
#define KVX_TCP_HEADER_BYTES 28u
#define KVX_TCP_LENGTH_BYTES 2u
/* A transport that has its messages carried by this one puts something in front of them. */
#define KVX_TCP_MESSAGE_MAX (KVX_MESSAGE_MAX + 64u)

enum kvx_tcp_role { KVX_TCP_CONTROL = 1, KVX_TCP_DATA = 2, KVX_TCP_ANSWER = 3 };

struct kvx_tcp_preamble {
	uint16_t version;
	uint8_t role;
	bool encrypt;   /* the side that says so wants data connections encrypted */
	uint16_t index; /* of the data connection; 0 for control */
	uint16_t count; /* data connections of the link; 0: it carries only messages */
	uint64_t token; /* names the link; random, of the connecting side */
};

struct kvx_tcp_header {
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes; /* of payload */
};

/* bytes: KVX_TCP_PREAMBLE_BYTES. The version is KVX_TCP_VERSION. */
void kvx_tcp_preamble_encode(const struct kvx_tcp_preamble *preamble, uint8_t *bytes);

/* Returns 0, KVX_E_PROTOCOL (not kvxfer, or fields out of range) or KVX_E_VERSION (only the version
 * is set). Leaves no error text. Magic and version keep their places in all versions. */
int kvx_tcp_preamble_decode(const uint8_t *bytes, struct kvx_tcp_preamble *preamble);

/* bytes: KVX_TCP_HEADER_BYTES. */
void kvx_tcp_header_encode(const struct kvx_batch *batch, uint8_t *bytes);

/* False: not a header, or its sizes are out of range. */
bool kvx_tcp_header_decode(const uint8_t *bytes, struct kvx_tcp_header *header);

#endif
