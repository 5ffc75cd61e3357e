/* SPDX-License-Identifier: Apache-2.0 */
/* What the plan makes and transports move. */
#ifndef KVX_BASE_SLICE_H
#define KVX_BASE_SLICE_H

#include <stdbool.h>
#include <stdint.h>

#define KVX_BATCH_SLICES_MAX 128u /* slices of one batch */
#define KVX_TRANSPORTS_MAX 8u     /* of one engine */
#define KVX_DEVICE_MAX 63u        /* characters of a device's name */
#define KVX_NEAR_MAX 32u
#define KVX_BATCH_BYTES_MAX \
	(1u << 20) /* bytes of one batch, so that no stream holds a rail for long */

/* A port of an RDMA device that is near some memory. */
struct kvx_near {
	char device[KVX_DEVICE_MAX + 1];
	uint8_t port;   /* from 1 */
	uint8_t weight; /* of the bytes, relative to the others; 0: only if those are down */
};

struct kvx_device;
struct kvx_memory_kind;

/* Registered memory, as far as transports care. Owned by the engine's region; outlives every batch
 * that refers to it. */
struct kvx_memory {
	char *address;
	uint64_t bytes;
	int fd;         /* a memfd sealed against shrinking that others may map read-only, or -1 */
	uint32_t index; /* unique in the engine, never reused */
	bool touchable; /* the CPU may read and write it */
	const struct kvx_memory_kind *kind; /* NULL: not known, but not the CPU's */
	struct kvx_device *device; /* that copies it for transports which cannot; NULL: the CPU */
	const char *gpudirect;     /* by what hardware reaches a device's; NULL: it does not */
	int dmabuf;                /* a dma-buf that holds it from dmabuf_offset on, or -1 */
	uint64_t dmabuf_offset;
	void *registered[KVX_TRANSPORTS_MAX]; /* what each transport's hardware knows it by */
	uint32_t near_count;                  /* 0: all ports are alike */
	struct kvx_near near[KVX_NEAR_MAX];   /* the ports to use for it */
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
	uint32_t target; /* one-sided: index of the remote memory in the permit, and the offset */
	uint64_t offset; /* there, in bytes */
};

#endif
