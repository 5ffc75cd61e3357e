/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the receiver counts, in 32 bits: slot 12, generation 5, layer 9, unit 6. Hence the limits of
 * kvxfer.h: 4096 grants, 512 layers (511 and one kept back for a request's tail), 64 units.
 * The generation has only its low bits here; where a transport carries more than an immediate, it
 * carries the whole generation beside it.
 */
#ifndef KVX_PLAN_UNIT_H
#define KVX_PLAN_UNIT_H

#include <kvxfer/kvxfer.h>

#define KVX_IMM_UNIT_BITS 6
#define KVX_IMM_LAYER_BITS 9
#define KVX_IMM_GENERATION_BITS 5
#define KVX_IMM_SLOT_BITS 12

_Static_assert(KVX_IMM_UNIT_BITS + KVX_IMM_LAYER_BITS + KVX_IMM_GENERATION_BITS +
			       KVX_IMM_SLOT_BITS ==
		       32,
	       "an immediate has 32 bits");
_Static_assert(KVX_UNITS_MAX == 1u << KVX_IMM_UNIT_BITS, "units");
_Static_assert(KVX_LAYERS_MAX == (1u << KVX_IMM_LAYER_BITS) - 1, "layers");
_Static_assert(KVX_GRANTS_MAX == 1u << KVX_IMM_SLOT_BITS, "grants");

static inline uint32_t kvx_imm_pack(uint32_t slot, uint32_t generation, uint32_t layer,
				    uint32_t unit)
{
	generation &= (1u << KVX_IMM_GENERATION_BITS) - 1;
	return ((slot << KVX_IMM_GENERATION_BITS | generation) << KVX_IMM_LAYER_BITS | layer)
		       << KVX_IMM_UNIT_BITS |
	       unit;
}

static inline uint32_t kvx_imm_unit(uint32_t imm)
{
	return imm & (KVX_UNITS_MAX - 1);
}

static inline uint32_t kvx_imm_layer(uint32_t imm)
{
	return imm >> KVX_IMM_UNIT_BITS & KVX_LAYERS_MAX;
}

static inline uint32_t kvx_imm_generation(uint32_t imm)
{
	return imm >> (KVX_IMM_UNIT_BITS + KVX_IMM_LAYER_BITS) &
	       ((1u << KVX_IMM_GENERATION_BITS) - 1);
}

static inline uint32_t kvx_imm_slot(uint32_t imm)
{
	return imm >> (32 - KVX_IMM_SLOT_BITS);
}

#endif
