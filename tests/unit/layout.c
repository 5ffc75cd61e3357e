/* SPDX-License-Identifier: Apache-2.0 */
/* How a receiver tells where the tensors of its pool lie. */
#include "core/message.h"
#include "core/pool.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define TENSORS_MAX 64u

/* A pool of one plane in each layer; nothing but its targets is looked at. */
static struct kvx_pool pool_of(struct kvx_target *targets, uint32_t tensors)
{
	return (struct kvx_pool){.shape = {.layers = tensors, .planes = 1}, .targets = targets};
}

/* What the sender makes of the runs is what the pool has. Returns how many runs there are. */
static uint32_t expect_told(struct kvx_target *targets, uint32_t tensors)
{
	struct kvx_pool pool = pool_of(targets, tensors);
	struct kvx_layout_run run;
	uint32_t runs = 0, next;

	for (uint32_t first = 0; first < tensors; first = next, runs++) {
		next = kvx_pool_layout_run(&pool, first, &run);
		cr_assert(next > first && next <= tensors);
		cr_assert_eq(run.tensors, next - first);
		for (uint32_t i = 0; i < run.tensors; i++) {
			cr_assert_eq(run.memory, targets[first + i].memory);
			cr_assert_eq(run.base + i * run.step, targets[first + i].base);
			cr_assert_eq(run.stride, targets[first + i].stride);
		}
	}
	return runs;
}

Test(layout, tensors_at_equal_distances_are_one_run)
{
	struct kvx_target targets[TENSORS_MAX];

	for (uint32_t i = 0; i < TENSORS_MAX; i++)
		targets[i] = (struct kvx_target){.base = 4096 + 65536 * i, .stride = 64};
	cr_assert_eq(expect_told(targets, TENSORS_MAX), 1);
	cr_assert_eq(expect_told(targets, 1), 1);
	for (uint32_t i = 0; i < TENSORS_MAX; i++) /* from the end to the begin */
		targets[i].base = 65536 * (TENSORS_MAX - i);
	cr_assert_eq(expect_told(targets, TENSORS_MAX), 1);
}

Test(layout, a_run_ends_where_memory_stride_or_distance_changes)
{
	struct kvx_target targets[9];

	for (uint32_t i = 0; i < 9; i++)
		targets[i] = (struct kvx_target){.base = 1000 * i, .stride = 64};
	targets[3].memory = targets[4].memory = targets[5].memory = 1;
	cr_assert_eq(expect_told(targets, 9), 3);
	targets[4].stride = 128;
	cr_assert_eq(expect_told(targets, 9), 5);
	targets[8].base += 4;
	cr_assert_eq(expect_told(targets, 9), 6);
}

Test(layout, each_tensor_in_a_memory_of_its_own_is_a_run)
{
	struct kvx_target targets[TENSORS_MAX];

	for (uint32_t i = 0; i < TENSORS_MAX; i++)
		targets[i] = (struct kvx_target){.base = 0, .stride = 64, .memory = i};
	cr_assert_eq(expect_told(targets, TENSORS_MAX), TENSORS_MAX);
}

Test(layout, whatever_the_tensors_are_they_are_told_right)
{
	uint64_t random = random_seed();
	struct kvx_target targets[TENSORS_MAX];

	for (int round = 0; round < 2000; round++) {
		uint32_t tensors = random_between(&random, 1, TENSORS_MAX);
		struct kvx_target next = {0, 64, 0};
		uint64_t step = 4096;
		for (uint32_t i = 0; i < tensors; i++) {
			if (!random_between(&random, 0, 5))
				step = random_next(&random);
			if (!random_between(&random, 0, 5))
				next.stride = 4 * random_between(&random, 1, 100);
			if (!random_between(&random, 0, 5))
				next.memory = random_between(&random, 0, 3);
			next.base += step;
			targets[i] = next;
		}
		expect_told(targets, tensors);
	}
}
