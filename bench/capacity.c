/* SPDX-License-Identifier: Apache-2.0 */
#include "capacity.h"

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

bool kvx_capacity_plan(const struct kvx_capacity *capacity, uint32_t *slots, uint32_t *inflight)
{
	uint64_t bytes = capacity->request_bytes;
	uint64_t wanted = capacity->reuse_buffer ? 0 : (capacity->pool_bytes + bytes - 1) / bytes;

	if (wanted < capacity->inflight)
		wanted = capacity->inflight;
	wanted = least(wanted, capacity->blocks_max / capacity->blocks);
	if (capacity->available_bytes)
		wanted = least(wanted, capacity->available_bytes / capacity->pools / bytes);
	if (!wanted)
		return false;
	*slots = (uint32_t)wanted;
	*inflight = (uint32_t)least(wanted, capacity->inflight);
	return true;
}
