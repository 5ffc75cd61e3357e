/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/unit.h"

#include <criterion/criterion.h>

static void expect_packed(uint32_t slot, uint32_t generation, uint32_t layer, uint32_t unit)
{
	uint32_t imm = kvx_imm_pack(slot, generation, layer, unit);

	cr_assert_eq(kvx_imm_slot(imm), slot);
	cr_assert_eq(kvx_imm_generation(imm), generation % 32);
	cr_assert_eq(kvx_imm_layer(imm), layer);
	cr_assert_eq(kvx_imm_unit(imm), unit);
}

Test(unit, what_is_packed_comes_back)
{
	for (uint32_t slot = 0; slot < KVX_GRANTS_MAX; slot += 91)
		for (uint32_t generation = 0; generation < 32; generation += 3)
			for (uint32_t layer = 0; layer <= KVX_LAYERS_MAX; layer += 7)
				for (uint32_t unit = 0; unit < KVX_UNITS_MAX; unit += 9)
					expect_packed(slot, generation, layer, unit);
}

Test(unit, limits_fit_and_leave_their_neighbours_alone)
{
	expect_packed(KVX_GRANTS_MAX - 1, 0, 0, 0);
	expect_packed(0, 31, 0, 0);
	expect_packed(0, 0, KVX_LAYERS_MAX - 1, 0);
	expect_packed(0, 0, 0, KVX_UNITS_MAX - 1);
	expect_packed(KVX_GRANTS_MAX - 1, 31, KVX_LAYERS_MAX, KVX_UNITS_MAX - 1);
	cr_assert_eq(kvx_imm_pack(KVX_GRANTS_MAX - 1, 31, KVX_LAYERS_MAX, KVX_UNITS_MAX - 1),
		     UINT32_MAX);
}

Test(unit, only_the_low_bits_of_a_generation_are_packed)
{
	expect_packed(5, 32, 1, 2);
	expect_packed(5, UINT32_MAX, 1, 2);
	cr_assert_eq(kvx_imm_pack(5, 33, 1, 2), kvx_imm_pack(5, 1, 1, 2));
}
