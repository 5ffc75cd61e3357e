/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices whose memory the CPU cannot touch, where hardware does not reach it either: bytes pass
 * through pinned memory of the host.
 *
 *   sender:   layer ready -> copies into buffers -> (copied) -> batches -> transport -> (released)
 *   receiver: transport -> ring -> (landed) -> copies into blocks -> (copied) -> unit -> counter
 *
 * The CPU starts copies and posts batches; it waits for nothing. Copies of a device are carried out
 * in the order of their start, so a buffer may be filled anew while the copy before is under way.
 */
#ifndef KVX_CORE_DEVICE_H
#define KVX_CORE_DEVICE_H

#include "base/list.h"
#include "memory/kind.h"
#include "plan/plan.h"

#include <kvxfer/kvxfer.h>

#include <pthread.h>
#include <stdatomic.h>

#define KVX_DEVICES_MAX 16u /* of one engine */

struct kvx_device;

/* The devices of an engine: any thread adds, none is taken away before the end. */
struct kvx_devices {
	pthread_mutex_t mutex; /* of those who add; the worker never takes it */
	_Atomic uint32_t count;
	struct kvx_device *list[KVX_DEVICES_MAX];
};

struct kvx_engine;
struct kvx_grant;
struct kvx_link;
struct kvx_peer;
struct kvx_rail;
struct kvx_region;
struct kvx_stream;

#define KVX_BUFFER_BYTES (256u << 10) /* that a sender fills and posts at once */
#define KVX_LIFTED_MAX 32u            /* buffers of one rail */
#define KVX_PENDING_MAX 4096u         /* calls of copy() under way, of one device */

/* Who waits for a call of copy(). */
struct kvx_pending {
	uint64_t number;
	struct kvx_stream *stream; /* whose blocks it reads; or */
	struct kvx_grant *grant;   /* whose blocks it writes, */
	uint32_t bytes;            /* out of so much of the ring, */
	bool whole;                /* and it is the last of this unit: */
	struct kvx_unit unit;
	const struct kvx_peer *peer;
	uint32_t rail;
};

/* Bytes that the transport asked for a place for, and may bring: they follow the ring's head. */
struct kvx_awaited {
	const struct kvx_link *link;
	struct kvx_unit unit;
	uint64_t place, bytes;
};

/* The ring that received bytes lie in until they are copied. head and tail count bytes. */
struct kvx_landing {
	char *begin;
	uint64_t size, head, tail;
	struct kvx_awaited awaited;
};

/* Made by the first region of its memory, freed with the engine. Owner: the worker, once it is
 * listed; what is constant then anybody may use. */
struct kvx_device {
	struct kvx_engine *engine;
	const struct kvx_memory_kind *kind;
	uint32_t number;
	char pci[KVX_PCI_TEXT_BYTES];
	struct kvx_copier *copier;
	struct kvx_region *staging; /* buffers, then the ring */

	uint64_t copied;                  /* calls that are done */
	_Atomic bool failed;              /* nothing is copied any more; any thread reads */
	char why[KVX_ERROR_TEXT_MAX + 1]; /* constant then */
	struct kvx_pending *pending;
	uint32_t pending_head, pending_tail;
	uint32_t *next_buffer; /* of each free one; numbered from 1 */
	uint32_t free_buffer;
	struct kvx_landing landing;
};

/* Not the worker: the device of that memory, which is made if need be. Fails with KVX_E_MEMORY,
 * KVX_E_UNSUPPORTED, KVX_E_TRANSPORT. */
int kvx_device_find(struct kvx_engine *engine, const struct kvx_memory_kind *kind, uint32_t number,
		    struct kvx_device **device);

/* When the worker has ended: waits for copies that are under way. Blocks are the application's from
 * here on; the memory is freed with the engine's regions. */
void kvx_devices_finish(struct kvx_engine *engine);

/* The worker: whoever waits for copies that are done by now learns of it. Returns how many calls
 * are done or under way: as long as there are any the engine does not sleep. */
int kvx_devices_progress(struct kvx_engine *engine);

/* Starts copies; what waits for them is in *pending, number apart. False: the device has failed,
 * which has ended all that it was used for. Not to be called for what a crowded device would be
 * asked for. */
bool kvx_device_copy(struct kvx_device *device, const struct kvx_copy *copies, uint32_t count,
		     const struct kvx_pending *pending);

/* No more bytes should be asked for: what came already may still take many calls of copy(). */
static inline bool kvx_device_is_crowded(const struct kvx_device *device)
{
	return device->pending_tail - device->pending_head >= KVX_PENDING_MAX / 2;
}

/* Nothing can be copied any more: ends the grants and streams of its memory. */
void kvx_device_fail(struct kvx_device *device, const char *text);

/* A free buffer's number, 0: none; its address; and back. */
uint32_t kvx_device_take_buffer(struct kvx_device *device);
char *kvx_device_buffer(const struct kvx_device *device, uint32_t buffer);
void kvx_device_give_buffer(struct kvx_device *device, uint32_t buffer);

/* --- lift.c: the sender's rails --- */

/* A batch on its way: from the device to a buffer, or from there to the peer. */
struct kvx_lifted {
	struct kvx_stream *stream; /* NULL: given up */
	struct kvx_device *device;
	uint64_t number; /* of its copies */
	uint32_t buffer;
	uint32_t layer, unit;
	uint64_t place;
	uint32_t bytes;
	bool last, posted;
};

/* Oldest first; all counted from the rail's beginning. */
struct kvx_lift {
	struct kvx_lifted entries[KVX_LIFTED_MAX];
	uint32_t begin, posted, end; /* begin..posted: the transport reads them, or given up */
	uint32_t released;           /* by the transport, of the posted ones */
	uint32_t taken_back;         /* of those */
};

/* The device that a stream's layer, or its tail, has to be lifted from; NULL: the rails's transport
 * reads the memory itself. */
struct kvx_device *kvx_lift_device(const struct kvx_stream *stream, uint32_t layer);

/* Starts the copies of the next batch of the unit that the rail carries. False: not now. */
bool kvx_lift_start(struct kvx_rail *rail, struct kvx_stream *stream, struct kvx_device *device);

/* Posts batches whose bytes have come. Returns how many. */
int kvx_lift_post(struct kvx_peer *peer, uint32_t index);

/* Is anything of the rail on its way to the transport? */
bool kvx_lift_busy(const struct kvx_rail *rail);

/* Batches that were not posted yet are not wanted any more: of a stream, or only of one layer
 * (KVX_ALL_LAYERS: all). */
void kvx_lift_give_up(struct kvx_rail *rail, const struct kvx_stream *stream, uint32_t layer);

/* The transport reads nothing of it any more. */
void kvx_lift_clear(struct kvx_rail *rail);
void kvx_lift_free(struct kvx_rail *rail);

/* --- land.c: the receiver --- */

/* As place() of the sink. */
int kvx_land_place(struct kvx_device *device, const struct kvx_awaited *asked, struct iovec *iov,
		   int iov_max);

/* Bytes of a unit have come into the ring: starts their copies to where they belong. last: the unit
 * is complete with them. */
struct kvx_arriving {
	struct kvx_grant *grant;
	const struct kvx_layer_place *layer; /* NULL: the tail, at */
	char *tail;
	const struct kvx_peer *peer;
	uint32_t rail;
	uint32_t unit_index; /* in the image */
	struct kvx_unit unit;
	uint64_t place, bytes;
	bool whole;
};
void kvx_land(struct kvx_device *device, const struct kvx_arriving *arriving);

#endif
