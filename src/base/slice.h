/* SPDX-License-Identifier: Apache-2.0 */
/* What the plan makes and transports move. */
#ifndef KVX_BASE_SLICE_H
#define KVX_BASE_SLICE_H

#include <stdint.h>

#define KVX_BATCH_SLICES_MAX 128u /* slices of one batch */
#define KVX_BATCH_BYTES_MAX \
	(1u << 20) /* bytes of one batch, so that no stream holds a rail for long */

/* Registered memory, as far as transports care. Owned by the engine's region; outlives every batch
 * that refers to it. */
struct kvx_memory {
	char *address;
	uint64_t bytes;
	int fd;         /* a memfd sealed against shrinking that others may map read-only, or -1 */
	uint32_t index; /* unique in the engine, never reused */
};

/* What the receiver counts. imm carries slot, low generation bits, layer and unit (plan/unit.h);
 * generation is the whole of it, so that a late arrival cannot hit a reused slot. */
struct kvx_unit {
	uint32_t imm;
	uint32_t generation;
};

/* One contiguous piece of the sender's memory. */
struct kvx_slice {
	const char *local;
	const struct kvx_memory *memory; /* that local lies in */
	uint32_t length;                 /* bytes, 1 to KVX_BATCH_BYTES_MAX */
};

#endif
