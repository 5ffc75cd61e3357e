/* SPDX-License-Identifier: Apache-2.0 */
#include "models.h"

#include <string.h>

#define BF16 2u

static const struct kvx_model models[] = {
	{"qwen3-4b", 36, 8, 128, BF16, 0, ""},
	{"qwen3-8b", 36, 8, 128, BF16, 0, ""},
	{"qwen3-30b-a3b", 48, 4, 128, BF16, 0, ""},
	{"qwen3-32b", 64, 8, 128, BF16, 0, ""},
	{"qwen3-235b-a22b", 94, 4, 128, BF16, 0, ""},
	{"llama-3.1-8b", 32, 8, 128, BF16, 0, ""},
	{"llama-3.1-70b", 80, 8, 128, BF16, 0, ""},
	{"llama-3.1-405b", 126, 8, 128, BF16, 0, ""},
	{"deepseek-v3", 61, 0, 0, BF16, 1152, "MLA: 512 + 64 per token; also R1"},
	{"kimi-k2", 61, 0, 0, BF16, 1152, "MLA: 512 + 64 per token"},
	{"deepseek-v2-lite", 27, 0, 0, BF16, 1152, "MLA: 512 + 64 per token"},
	{"glm-4.5", 92, 8, 128, BF16, 0, ""},
	{"gpt-oss-120b", 36, 8, 64, BF16, 0, "all layers whole, without the 128-token windows"},
	{"mistral-small-24b", 40, 8, 128, BF16, 0, ""},
};

#define MODEL_COUNT (sizeof(models) / sizeof(models[0]))

const struct kvx_model *kvx_model_at(uint32_t index)
{
	return index < MODEL_COUNT ? &models[index] : NULL;
}

const struct kvx_model *kvx_model_find(const char *name)
{
	for (size_t i = 0; i < MODEL_COUNT; i++)
		if (strcmp(models[i].name, name) == 0)
			return &models[i];
	return NULL;
}

uint32_t kvx_model_planes(const struct kvx_model *model)
{
	return model->latent_bytes ? 1 : 2;
}

uint64_t kvx_model_token_bytes(const struct kvx_model *model)
{
	if (model->latent_bytes)
		return model->latent_bytes;
	return (uint64_t)model->kv_heads * model->head_dim * model->dtype_bytes;
}

void kvx_model_list(FILE *file)
{
	fprintf(file, "%-18s %6s %8s %8s %22s\n", "model", "layers", "kv heads", "head dim",
		"bytes per token, layer");
	for (size_t i = 0; i < MODEL_COUNT; i++) {
		const struct kvx_model *model = &models[i];
		fprintf(file, "%-18s %6u ", model->name, model->layers);
		if (model->latent_bytes)
			fprintf(file, "%8s %8s ", "-", "-");
		else
			fprintf(file, "%8u %8u ", model->kv_heads, model->head_dim);
		uint64_t bytes = kvx_model_token_bytes(model) * kvx_model_planes(model);
		fprintf(file, "%22llu%s%s\n", (unsigned long long)bytes, model->note[0] ? "  " : "",
			model->note);
	}
}
