/* SPDX-License-Identifier: Apache-2.0 */
#include "capacity.h"

#include <criterion/criterion.h>

#define MIB (UINT64_C(1) << 20)

static const struct kvx_capacity usual = {
	.request_bytes = 256 * MIB,
	.pool_bytes = 1024 * MIB,
	.available_bytes = 16384 * MIB,
	.pools = 2,
	.inflight = 2,
	.blocks = 4096,
	.blocks_max = UINT64_C(1) << 28,
};

static void assert_plan(const struct kvx_capacity *capacity, uint32_t slots, uint32_t inflight)
{
	uint32_t planned_slots = 0;
	uint32_t planned_inflight = 0;

	cr_assert(kvx_capacity_plan(capacity, &planned_slots, &planned_inflight));
	cr_assert_eq(planned_slots, slots);
	cr_assert_eq(planned_inflight, inflight);
}

Test(bench_capacity, pools_are_as_large_as_asked_for)
{
	struct kvx_capacity capacity = usual;

	assert_plan(&capacity, 4, 2);
	capacity.request_bytes = 300 * MIB;
	assert_plan(&capacity, 4, 2);
	capacity.request_bytes = 2048 * MIB;
	assert_plan(&capacity, 2, 2);
}

Test(bench_capacity, a_reused_buffer_has_no_more_slots_than_requests_in_flight)
{
	struct kvx_capacity capacity = usual;

	capacity.reuse_buffer = true;
	assert_plan(&capacity, 2, 2);
	capacity.inflight = 1;
	assert_plan(&capacity, 1, 1);
}

Test(bench_capacity, short_memory_takes_slots_first_and_then_requests_in_flight)
{
	struct kvx_capacity capacity = usual;

	capacity.available_bytes = 1800 * MIB;
	assert_plan(&capacity, 3, 2);
	capacity.available_bytes = 600 * MIB;
	assert_plan(&capacity, 1, 1);
	capacity.available_bytes = 500 * MIB;
	cr_assert_not(kvx_capacity_plan(&capacity, &(uint32_t){0}, &(uint32_t){0}));
}

Test(bench_capacity, a_pool_has_a_limit_of_blocks)
{
	struct kvx_capacity capacity = usual;

	capacity.request_bytes = UINT64_C(4096) * 64;
	capacity.pool_bytes = UINT64_C(1) << 40;
	capacity.available_bytes = 0;
	assert_plan(&capacity, (1u << 28) / 4096, 2);
}
