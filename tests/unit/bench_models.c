/* SPDX-License-Identifier: Apache-2.0 */
#include "models.h"

#include <criterion/criterion.h>

Test(bench_models, known_models_have_their_published_sizes)
{
	static const struct {
		const char *name;
		uint32_t layers, planes, layer_token_bytes;
	} rows[] = {
		{"qwen3-4b", 36, 2, 4096},          {"qwen3-8b", 36, 2, 4096},
		{"qwen3-30b-a3b", 48, 2, 2048},     {"qwen3-32b", 64, 2, 4096},
		{"qwen3-235b-a22b", 94, 2, 2048},   {"llama-3.1-8b", 32, 2, 4096},
		{"llama-3.1-70b", 80, 2, 4096},     {"llama-3.1-405b", 126, 2, 4096},
		{"deepseek-v3", 61, 1, 1152},       {"kimi-k2", 61, 1, 1152},
		{"glm-4.5", 92, 2, 4096},           {"gpt-oss-120b", 36, 2, 2048},
		{"mistral-small-24b", 40, 2, 4096}, {"deepseek-v2-lite", 27, 1, 1152},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct kvx_model *model = kvx_model_find(rows[i].name);
		cr_assert(model, "%s", rows[i].name);
		cr_assert_eq(model->layers, rows[i].layers, "%s", rows[i].name);
		cr_assert_eq(kvx_model_planes(model), rows[i].planes, "%s", rows[i].name);
		cr_assert_eq(kvx_model_token_bytes(model) * rows[i].planes,
			     rows[i].layer_token_bytes, "%s", rows[i].name);
	}
}

Test(bench_models, what_is_not_there_is_not_found)
{
	cr_assert_null(kvx_model_find("qwen3"));
	cr_assert_null(kvx_model_find(""));
}
