/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of the data path where the transport cannot write the pool's memory: bytes
 * land in a ring, and a device's copy engines take them to their blocks. */
#include "core/device.h"
#include "core/engine.h"

#define PLACES 64

static char *ring_at(const struct kvx_landing *landing, uint64_t at)
{
	return landing->begin + at % landing->size;
}

/* How many bytes follow there until the ring's end. */
static uint64_t straight(const struct kvx_landing *landing, uint64_t at, uint64_t bytes)
{
	uint64_t left = landing->size - at % landing->size;

	return bytes < left ? bytes : left;
}

static bool follows(const struct kvx_awaited *awaited, const struct kvx_awaited *asked)
{
	return awaited->bytes && awaited->link == asked->link &&
	       awaited->unit.imm == asked->unit.imm &&
	       awaited->unit.generation == asked->unit.generation &&
	       awaited->place + awaited->bytes == asked->place;
}

int kvx_land_place(struct kvx_device *device, const struct kvx_awaited *asked, struct iovec *iov,
		   int iov_max)
{
	struct kvx_landing *landing = &device->landing;
	struct kvx_awaited *awaited = &landing->awaited;

	if (!follows(awaited, asked))
		*awaited = (struct kvx_awaited){asked->link, asked->unit, asked->place, 0};
	if (landing->head - landing->tail + awaited->bytes + asked->bytes > landing->size ||
	    kvx_device_is_crowded(device)) {
		awaited->bytes = 0;
		return KVX_PLACE_LATER;
	}
	uint64_t at = landing->head + awaited->bytes;
	uint64_t first = straight(landing, at, asked->bytes);
	awaited->bytes += asked->bytes;
	iov[0] = (struct iovec){ring_at(landing, at), first};
	if (first == asked->bytes || iov_max < 2)
		return 1;
	iov[1] = (struct iovec){landing->begin, asked->bytes - first};
	return 2;
}

/* Where the next of the bytes belong. Returns how many entries were written. */
static int resolve(const struct kvx_arriving *arriving, uint64_t done, struct iovec *iov)
{
	if (arriving->layer)
		return kvx_image_resolve(arriving->layer, arriving->unit_index,
					 arriving->place + done, arriving->bytes - done, iov,
					 PLACES);
	iov[0] = (struct iovec){arriving->tail + arriving->place + done, arriving->bytes - done};
	return 1;
}

/* From the ring, at, to a place in the device's memory: two copies where the ring ends between. */
static uint32_t add_copies(const struct kvx_landing *landing, uint64_t at,
			   const struct iovec *place, struct kvx_copy *copies)
{
	uint64_t first = straight(landing, at, place->iov_len);

	copies[0] = (struct kvx_copy){place->iov_base, ring_at(landing, at), first};
	if (first == place->iov_len)
		return 1;
	copies[1] = (struct kvx_copy){(char *)place->iov_base + first, landing->begin,
				      place->iov_len - first};
	return 2;
}

void kvx_land(struct kvx_device *device, const struct kvx_arriving *arriving)
{
	struct kvx_landing *landing = &device->landing;
	struct kvx_copy copies[KVX_COPIES_MAX];
	struct iovec places[PLACES];

	_Static_assert(KVX_COPIES_MAX >= 2 * PLACES, "each place is two copies at most");
	for (uint64_t done = 0; done < arriving->bytes;) {
		uint64_t before = done;
		uint32_t count = 0;
		int found = resolve(arriving, done, places);
		if (found <= 0)
			return;
		for (int i = 0; i < found; done += places[i++].iov_len)
			count += add_copies(landing, landing->head + (done - before), &places[i],
					    copies + count);
		const struct kvx_pending pending = {
			.grant = arriving->grant,
			.bytes = (uint32_t)(done - before),
			.whole = arriving->whole && done == arriving->bytes,
			.unit = arriving->unit,
			.peer = arriving->peer,
			.rail = arriving->rail,
		};
		landing->head += done - before;
		if (!kvx_device_copy(device, copies, count, &pending))
			return;
	}
	landing->awaited.place += arriving->bytes;
	landing->awaited.bytes -= arriving->bytes;
}
