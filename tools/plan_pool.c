/* SPDX-License-Identifier: Apache-2.0 */
/* Pools as the command line describes them. */
#include "plan.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BF16 2u
#define TEXT_MAX 4096u

struct model {
	const char *name;
	uint32_t layers, heads, head_bytes, planes;
	enum kvx_layout layout;
};

static const struct model models[] = {
	{"qwen3-8b", 36, 8, 128 * BF16, 2, KVX_LAYOUT_HND},
	{"llama-3.1-8b", 32, 8, 128 * BF16, 2, KVX_LAYOUT_HND},
	{"llama-3.1-70b", 80, 8, 128 * BF16, 2, KVX_LAYOUT_HND},
	{"deepseek-v3", 61, 1, (512 + 64) * BF16, 1, KVX_LAYOUT_NHD}, /* a latent */
	{"gpt-oss-120b", 36, 8, 64 * BF16, 2, KVX_LAYOUT_HND},
};

#define MODEL_COUNT (sizeof(models) / sizeof(models[0]))

void plan_models(FILE *file)
{
	fprintf(file, "%-14s %6s %8s %10s %6s\n", "model", "layers", "kv heads", "head bytes",
		"planes");
	for (size_t i = 0; i < MODEL_COUNT; i++)
		fprintf(file, "%-14s %6u %8u %10u %6u\n", models[i].name, models[i].layers,
			models[i].heads, models[i].head_bytes, models[i].planes);
}

static int set_model(const char *what, struct plan_pool *pool, const char *name)
{
	for (size_t i = 0; i < MODEL_COUNT; i++) {
		const struct model *model = &models[i];
		if (strcasecmp(model->name, name) != 0)
			continue;
		pool->layer_first = pool->head_first = 0;
		pool->layers = model->layers;
		pool->heads = pool->heads_total = model->heads;
		pool->head_bytes = model->head_bytes;
		pool->planes = model->planes;
		pool->layout = model->layout;
		return 0;
	}
	return plan_fail("%s: no model \"%s\" is known: --models lists them; or give layers, "
			 "heads and head",
			 what, name);
}

bool plan_number(const char *text, uint32_t min, uint32_t max, uint32_t *number)
{
	size_t digits = strspn(text, "0123456789");

	if (!digits || digits > 10 || text[digits])
		return false;
	unsigned long long value = strtoull(text, NULL, 10);
	if (value < min || value > max)
		return false;
	*number = (uint32_t)value;
	return true;
}

/* "8": 0 to 7. "2-3": these. */
static bool read_range(const char *text, uint32_t *first, uint32_t *count)
{
	char begin[16];
	size_t length = strcspn(text, "-");
	uint32_t from = 0, to;

	if (!text[length]) {
		*first = 0;
		return plan_number(text, 1, UINT32_MAX, count);
	}
	if (length >= sizeof(begin))
		return false;
	memcpy(begin, text, length);
	begin[length] = 0;
	if (!plan_number(begin, 0, UINT32_MAX - 1, &from) ||
	    !plan_number(text + length + 1, from, UINT32_MAX - 1, &to))
		return false;
	*first = from;
	*count = to - from + 1;
	return true;
}

/* "8": a model of 8. "2-3/8": two of 8. "2-3" alone: of as many as were said before. */
static bool read_heads(const char *text, struct plan_pool *pool)
{
	char range[32];
	size_t length = strcspn(text, "/");

	if (length >= sizeof(range))
		return false;
	memcpy(range, text, length);
	range[length] = 0;
	if (!read_range(range, &pool->head_first, &pool->heads))
		return false;
	if (text[length])
		return plan_number(text + length + 1, 1, UINT32_MAX, &pool->heads_total);
	if (!strchr(range, '-'))
		pool->heads_total = pool->heads;
	return pool->heads_total > 0;
}

/* "BLOCK" or "BLOCK/TOKEN" bytes; a block of 0: as its tokens fill it. */
static bool read_extra(const char *text, struct plan_pool *pool)
{
	char block[16];
	size_t length = strcspn(text, "/");
	struct kvx_extra extra = {0};

	if (length >= sizeof(block) || pool->extra_planes == KVX_EXTRA_MAX)
		return false;
	memcpy(block, text, length);
	block[length] = 0;
	if (!plan_number(block, 0, UINT32_MAX, &extra.block_bytes) ||
	    (text[length] && !plan_number(text + length + 1, 1, UINT32_MAX, &extra.token_bytes)))
		return false;
	pool->extra[pool->extra_planes++] = extra;
	return true;
}

static bool read_layout(const char *text, enum kvx_layout *layout)
{
	static const char *const names[] = {"WHOLE", "HND", "NHD"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcasecmp(text, names[i]) == 0) {
			*layout = (enum kvx_layout)i;
			return true;
		}
	}
	return false;
}

/* The field of a key whose value is a number and may be anything, or NULL. */
static uint32_t *number_of(struct plan_pool *pool, const char *key)
{
	const struct {
		const char *key;
		uint32_t *number;
	} numbers[] = {
		{"planes", &pool->planes},
		{"head", &pool->head_bytes},
		{"tokens", &pool->block_tokens},
		{"block", &pool->block_bytes},
		{"head_stride", &pool->head_stride},
		{"token_stride", &pool->token_stride},
		{"plane_stride", &pool->plane_stride},
		{"layer_stride", &pool->layer_stride},
		{"block_stride", &pool->block_stride},
		{"blocks", &pool->blocks},
		{"id", &pool->id},
		{"tp", &pool->tp},
		{"pp", &pool->pp},
		{"rank", &pool->rank},
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (strcmp(numbers[i].key, key) == 0)
			return numbers[i].number;
	return NULL;
}

int plan_pool_set(const char *what, struct plan_pool *pool, const char *key, const char *value)
{
	uint32_t *number = number_of(pool, key);
	const char *wanted = "a number below 2^32";
	bool good = false;

	if (strcmp(key, "model") == 0)
		return set_model(what, pool, value);
	if (number) {
		good = plan_number(value, 0, UINT32_MAX - 1, number);
	} else if (strcmp(key, "layers") == 0) {
		wanted = "\"80\", or \"20-39\" for these";
		good = read_range(value, &pool->layer_first, &pool->layers);
	} else if (strcmp(key, "heads") == 0) {
		wanted = "\"8\", or \"2-3/8\" for these of 8";
		good = read_heads(value, pool);
	} else if (strcmp(key, "layout") == 0) {
		wanted = "HND, NHD or WHOLE";
		good = read_layout(value, &pool->layout);
	} else if (strcmp(key, "extra") == 0) {
		wanted = "BLOCK or BLOCK/TOKEN, in bytes, of at most 4 extra planes";
		good = read_extra(value, pool);
	} else if (strcmp(key, "dtype") == 0) {
		wanted = "at most 11 characters";
		good = strlen(value) < sizeof(pool->dtype);
		snprintf(pool->dtype, sizeof(pool->dtype), "%s", value);
	} else {
		return plan_fail("%s: no key \"%s\": known are model, layers, heads, head, planes, "
				 "tokens, layout, dtype, block, block_stride, head_stride, "
				 "token_stride, plane_stride, layer_stride, blocks, extra, id, tp, "
				 "pp, rank",
				 what, key);
	}
	return good ? 0 : plan_fail("%s: %s=%s: must be %s", what, key, value, wanted);
}

/* --- from a file --- */

static int set_json(const char *what, struct plan_pool *pool, const char *key, const json_t *value)
{
	char text[TEXT_MAX];

	if (json_is_string(value))
		return plan_pool_set(what, pool, key, json_string_value(value));
	if (!json_is_integer(value))
		return plan_fail("%s: %s: must be a string or a whole number", what, key);
	snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
	return plan_pool_set(what, pool, key, text);
}

int plan_pool_read_file(const char *what, const char *path, struct plan_pool *pool)
{
	json_error_t error;
	json_t *object = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
	const char *key;
	json_t *value;
	int status = 0;

	if (!object)
		return plan_fail("%s: %s: line %d: %s", what, path, error.line, error.text);
	if (!json_is_object(object))
		status = plan_fail("%s: %s: holds no JSON object of keys and values", what, path);
	value = json_object_get(object, "model"); /* others change what it says */
	if (value)
		status = set_json(what, pool, "model", value);
	json_object_foreach(object, key, value)
	{
		size_t index;
		json_t *each;
		if (status || strcmp(key, "model") == 0)
			continue;
		if (!json_is_array(value))
			status = set_json(what, pool, key, value);
		json_array_foreach(value, index, each) status =
			status ? status : set_json(what, pool, key, each);
	}
	json_decref(object);
	return status;
}

/* --- the whole --- */

static int read_pairs(const char *what, const char *text, struct plan_pool *pool)
{
	char copy[TEXT_MAX];
	char *rest = copy, *pair;

	if (strlen(text) >= sizeof(copy))
		return plan_fail("%s: longer than %u characters", what, TEXT_MAX - 1);
	strcpy(copy, text);
	while ((pair = strsep(&rest, ","))) {
		char *equals = strchr(pair, '=');
		if (!equals)
			return plan_fail("%s: \"%s\" is not KEY=VALUE", what, pair);
		*equals = 0;
		if (plan_pool_set(what, pool, pair, equals + 1))
			return 1;
	}
	return 0;
}

/* Heads that are fewer than the ranks are held by several. */
static bool divides(uint32_t heads, uint32_t ranks)
{
	return heads % ranks == 0 || ranks % heads == 0;
}

static int check(const char *what, const struct plan_pool *pool)
{
	bool whole = pool->layout == KVX_LAYOUT_WHOLE;

	if (!pool->layers || !pool->block_tokens || !pool->planes)
		return plan_fail("%s: it has no layers, tokens or planes: give model=NAME, or "
				 "layers=N",
				 what);
	if (!(whole && pool->block_bytes) && (!pool->heads || !pool->head_bytes))
		return plan_fail("%s: give model=NAME, or heads=N and head=BYTES", what);
	if (!pool->tp || !pool->pp || pool->tp > PLAN_RANKS_MAX ||
	    pool->pp > PLAN_RANKS_MAX / pool->tp)
		return plan_fail("%s: tp=%u,pp=%u: must make 1 to %u ranks", what, pool->tp,
				 pool->pp, PLAN_RANKS_MAX);
	if (whole && !pool->block_bytes &&
	    (uint64_t)pool->heads * pool->head_bytes > UINT32_MAX / pool->block_tokens)
		return plan_fail("%s: a block of %u tokens of %u heads of %u bytes is 4 GiB or "
				 "more",
				 what, pool->block_tokens, pool->heads, pool->head_bytes);
	if (pool->heads && !divides(pool->heads, pool->tp))
		return plan_fail("%s: tp=%u does not divide %u heads: one must be a multiple of "
				 "the other",
				 what, pool->tp, pool->heads);
	if (pool->pp > pool->layers)
		return plan_fail("%s: pp=%u: there are %u layers", what, pool->pp, pool->layers);
	if (pool->rank != PLAN_RANK_ALL && pool->rank >= pool->tp * pool->pp)
		return plan_fail("%s: rank=%u: there are ranks 0 to %u", what, pool->rank,
				 pool->tp * pool->pp - 1);
	return 0;
}

int plan_pool_read(const char *what, const char *text, struct plan_pool *pool)
{
	*pool = (struct plan_pool){
		.planes = 2,
		.block_tokens = 16,
		.layout = KVX_LAYOUT_HND,
		.dtype = "bf16",
		.tp = 1,
		.pp = 1,
		.rank = PLAN_RANK_ALL,
	};
	int status = text[0] == '@' ? plan_pool_read_file(what, text + 1, pool)
				    : read_pairs(what, text, pool);
	return status ? status : check(what, pool);
}

/* Stages that get one layer more than the others come first. */
static void divide_layers(const struct plan_pool *pool, uint32_t stage,
			  struct kvx_geometry *geometry)
{
	uint32_t each = pool->layers / pool->pp, more = pool->layers % pool->pp;

	geometry->layers = each + (stage < more);
	geometry->layer_first = pool->layer_first + stage * each + (stage < more ? stage : more);
}

static void divide_heads(const struct plan_pool *pool, uint32_t rank, struct kvx_geometry *geometry)
{
	uint32_t heads = pool->heads > pool->tp ? pool->heads / pool->tp : 1;

	geometry->heads = heads;
	geometry->head_first =
		pool->head_first + (uint32_t)((uint64_t)rank * pool->heads / pool->tp);
	geometry->heads_total = pool->heads_total;
	geometry->head_bytes = pool->head_bytes;
	geometry->head_stride = pool->head_stride;
	geometry->token_stride = pool->token_stride;
}

void plan_pool_rank(const struct plan_pool *pool, uint32_t rank, struct kvx_geometry *geometry)
{
	*geometry = (struct kvx_geometry){
		.planes = pool->planes,
		.block_bytes = pool->block_bytes,
		.block_tokens = pool->block_tokens,
		.model = pool->id,
		.layout = pool->layout,
		.plane_stride = pool->plane_stride,
		.extra_planes = pool->extra_planes,
	};
	memcpy(geometry->dtype, pool->dtype, sizeof(geometry->dtype));
	memcpy(geometry->extra, pool->extra, sizeof(geometry->extra));
	divide_layers(pool, rank / pool->tp, geometry);
	if (pool->layout != KVX_LAYOUT_WHOLE)
		divide_heads(pool, rank % pool->tp, geometry);
	else if (!pool->block_bytes)
		geometry->block_bytes = pool->heads * pool->head_bytes * pool->block_tokens;
}
