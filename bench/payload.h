/* SPDX-License-Identifier: Apache-2.0 */
/* What a block holds, at the sender and, verified, at the receiver. */
#ifndef KVX_BENCH_PAYLOAD_H
#define KVX_BENCH_PAYLOAD_H

#include "pattern.h"

#include <stdbool.h>

enum kvx_payload_kind { KVX_PAYLOAD_PATTERN, KVX_PAYLOAD_ZERO, KVX_PAYLOAD_FILE };

struct kvx_payload {
	enum kvx_payload_kind kind;
	const char *file; /* mapped */
	size_t file_bytes;
};

/* Of "pattern", "zero", a file's name, or NULL for the default. */
enum kvx_payload_kind kvx_payload_kind(const char *text);

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_payload_open(struct kvx_payload *payload, const char *text);
void kvx_payload_close(struct kvx_payload *payload);

/* position: of the block's first byte in the request; where a file's bytes are taken from. */
void kvx_payload_fill(const struct kvx_payload *payload, const struct kvx_pattern_place *place,
		      uint64_t position, void *bytes, size_t size);

/* As kvx_pattern_verify(). *expected receives the byte that should be at *first. */
size_t kvx_payload_verify(const struct kvx_payload *payload, const struct kvx_pattern_place *place,
			  uint64_t position, const void *bytes, size_t size, size_t *first,
			  uint8_t *expected);

#endif
