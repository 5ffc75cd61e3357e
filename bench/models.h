/* SPDX-License-Identifier: Apache-2.0 */
/* The KV shapes of published models. */
#ifndef KVX_BENCH_MODELS_H
#define KVX_BENCH_MODELS_H

#include <stdint.h>
#include <stdio.h>

/* kv_heads and head_dim, or latent_bytes (of one token in one layer) for MLA. */
struct kvx_model {
	const char *name;
	uint32_t layers;
	uint32_t kv_heads;
	uint32_t head_dim;
	uint32_t dtype_bytes;
	uint32_t latent_bytes;
	const char *note;
};

/* NULL if there is none of that name. Static. */
const struct kvx_model *kvx_model_find(const char *name);

/* The model of that index, counted from 0; NULL past the last. Static. */
const struct kvx_model *kvx_model_at(uint32_t index);

/* 2 for K and V, 1 for a latent. */
uint32_t kvx_model_planes(const struct kvx_model *model);

/* Bytes of one token in one plane of one layer. */
uint64_t kvx_model_token_bytes(const struct kvx_model *model);

void kvx_model_list(FILE *file);

#endif
