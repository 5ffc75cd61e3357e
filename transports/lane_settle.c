/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side of a lane whose copies are only begun: what was taken from the ring, until
 * they are done. */
#include "lane.h"

bool kvx_lane_is_full(const struct kvx_lane *lane)
{
	return lane->taken_tail - lane->taken_head == KVX_LANE_TAKEN_MAX;
}

void kvx_lane_set_aside(struct kvx_lane *lane, const struct kvx_lane_taken *taken)
{
	lane->ahead += taken->entries;
	lane->taken[lane->taken_tail++ % KVX_LANE_TAKEN_MAX] = *taken;
}

/* Nothing of it is written any more. Once the link has failed nothing counts. */
static void finish(struct kvx_lane *lane, const struct kvx_lane_taken *taken)
{
	const struct kvx_transport_context *context = lane->context;

	if (!taken->state)
		return;
	bool counts = atomic_exchange_explicit(taken->state, KVX_LANE_DONE, memory_order_acq_rel) ==
		      KVX_LANE_BUSY;
	if (taken->answers)
		context->sink->settled(context->engine, &taken->unit, taken->answers);
	if (counts && taken->bytes && !lane->failure)
		context->sink->landed(context->engine, &lane->link, 0, &taken->unit, taken->place,
				      taken->bytes);
}

int kvx_lane_settle(struct kvx_lane *lane)
{
	uint32_t before = lane->taken_tail - lane->taken_head;

	while (lane->taken_head != lane->taken_tail) {
		const struct kvx_lane_taken *taken =
			&lane->taken[lane->taken_head % KVX_LANE_TAKEN_MAX];
		if (taken->mark.copier && taken->mark.number > taken->mark.copier->done)
			break;
		finish(lane, taken);
		lane->ahead -= taken->entries;
		lane->taken_head++;
		if (kvx_ring_release(&lane->in, taken->entries))
			lane->ops->bell(lane);
	}
	return (int)before;
}
