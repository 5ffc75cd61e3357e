/* SPDX-License-Identifier: Apache-2.0 */
#include "support/geometry.h"

#include "support/chance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- where bytes lie, the plain way --- */

static uint32_t tokens_of(const struct kvx_geometry *geometry)
{
	return geometry->block_tokens ? geometry->block_tokens : 1;
}

/* Bytes from token to token and from head to head. */
static void steps_of(const struct kvx_geometry *geometry, uint64_t *token, uint64_t *head)
{
	*token = geometry->token_stride;
	*head = geometry->head_stride;
	if (geometry->layout == KVX_LAYOUT_HND) {
		*token = *token ? *token : geometry->head_bytes;
		*head = *head ? *head : *token * geometry->block_tokens;
	} else {
		*head = *head ? *head : geometry->head_bytes;
		*token = *token ? *token : *head * geometry->heads;
	}
}

static uint64_t bytes_of_block(const struct kvx_geometry *geometry, uint32_t plane)
{
	uint64_t token, head;

	if (plane >= geometry->planes) {
		const struct kvx_extra *extra = &geometry->extra[plane - geometry->planes];
		return extra->block_bytes ? extra->block_bytes
					  : (uint64_t)extra->token_bytes * geometry->block_tokens;
	}
	if (geometry->block_bytes)
		return geometry->block_bytes;
	steps_of(geometry, &token, &head);
	return geometry->layout == KVX_LAYOUT_HND ? head * geometry->heads
						  : token * geometry->block_tokens;
}

static uint64_t mixed(uint64_t value)
{
	value = (value ^ value >> 31) * UINT64_C(0x9e3779b97f4a7c15);
	return (value ^ value >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

static uint32_t value_of(uint32_t layer, uint32_t plane, uint32_t token, uint32_t head,
			 uint32_t word)
{
	uint64_t where = mixed(mixed(layer * UINT64_C(64) + plane) + token);

	return (uint32_t)(mixed(mixed(where + head) + word) >> 32);
}

/* Writes the values of one token of one head (or of a whole block) into memory laid out as pool's.
 */
static uint64_t write_words(char *at, uint64_t bytes, uint32_t layer, uint32_t plane,
			    uint32_t token, uint32_t head)
{
	for (uint32_t word = 0; word < bytes / 4; word++) {
		uint32_t value = value_of(layer, plane, token, head, word);
		memcpy(at + word * UINT64_C(4), &value, 4);
	}
	return bytes;
}

/* One token of one plane of one layer. */
static uint64_t write_token(const struct drawn_pool *pool, char *memory, uint32_t layer,
			    uint32_t plane, uint32_t token)
{
	const struct kvx_geometry *geometry = &pool->geometry;
	uint32_t per_block = tokens_of(geometry), number = geometry->layer_first + layer;
	uint32_t tensor = layer * (geometry->planes + geometry->extra_planes) + plane;
	uint64_t bytes = 0, token_step, head_step;
	char *block = memory + pool->tensors[tensor].offset +
		      pool->table[token / per_block] * pool->tensors[tensor].stride;

	if (plane >= geometry->planes) {
		uint32_t of_token = geometry->extra[plane - geometry->planes].token_bytes;
		if (of_token)
			return write_words(block + (uint64_t)(token % per_block) * of_token,
					   of_token, number, plane, token, 0);
	} else if (geometry->layout != KVX_LAYOUT_WHOLE) {
		steps_of(geometry, &token_step, &head_step);
		for (uint32_t head = 0; head < geometry->heads; head++)
			bytes += write_words(block + token % per_block * token_step +
						     head * head_step,
					     geometry->head_bytes, number, plane, token,
					     geometry->head_first + head);
		return bytes;
	}
	/* The block is one thing: it is there when its first token is. */
	if (token % per_block)
		return 0;
	return write_words(block, bytes_of_block(geometry, plane), number, plane, token, 0);
}

static uint64_t write_tokens(const struct drawn_pool *pool, char *memory, uint32_t first,
			     uint32_t end)
{
	const struct kvx_geometry *geometry = &pool->geometry;
	uint64_t bytes = 0;

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes + geometry->extra_planes; plane++)
			for (uint32_t token = first; token < end; token++)
				bytes += write_token(pool, memory, layer, plane, token);
	return bytes;
}

void drawn_compute(const struct drawn_pool *pool, uint32_t first, uint32_t end)
{
	write_tokens(pool, pool->memory, first, end);
}

char *drawn_expected(const struct drawn_request *request, uint64_t *bytes)
{
	const struct drawn_pool *pool = &request->receiver;
	char *memory = malloc(pool->bytes);

	memcpy(memory, pool->memory, pool->bytes);
	*bytes = write_tokens(pool, memory, request->held_blocks * tokens_of(&pool->geometry),
			      request->tokens);
	return memory;
}

/* --- memory --- */

static uint32_t padding(uint64_t *random)
{
	return random_between(random, 0, 1) ? 0 : 4 * random_between(random, 0, 5);
}

/* Blocks of `together` neighbouring tensors lie side by side, each after a gap, the next block of
 * all of them after that. Returns the end. */
static uint64_t place_tensors(struct drawn_pool *pool, uint32_t first, uint32_t together,
			      uint32_t gap, uint64_t offset, uint64_t *random)
{
	const struct kvx_geometry *geometry = &pool->geometry;
	uint32_t planes = geometry->planes + geometry->extra_planes;
	uint64_t stride = 0;

	for (uint32_t i = first; i < first + together; i++) {
		pool->tensors[i].offset = offset + stride;
		stride += bytes_of_block(geometry, i % planes) + gap;
	}
	stride += padding(random);
	for (uint32_t i = first; i < first + together; i++)
		pool->tensors[i].stride = stride;
	return offset + stride * geometry->blocks;
}

/* Any blocks, or neighbours, or something of both. */
static void draw_table(struct drawn_pool *pool, uint64_t *random)
{
	uint32_t blocks = pool->geometry.blocks;
	uint32_t *all = malloc(blocks * sizeof(*all)), longest = random_between(random, 0, 2) * 3;

	random_table(random, all, 0, blocks);
	for (uint32_t i = 1; i < pool->count; i++) {
		if (!random_between(random, 0, longest))
			continue;
		for (uint32_t k = i; k < blocks; k++)
			if (all[k] == all[i - 1] + 1) {
				all[k] = all[i];
				all[i] = all[i - 1] + 1;
			}
	}
	pool->table = all;
}

/* Of so many neighbouring tensors the blocks lie side by side. */
static void make_pool(struct drawn_pool *pool, const struct kvx_geometry *geometry, uint32_t tokens,
		      uint32_t together, uint32_t gap, uint64_t *random)
{
	uint32_t tensors = (geometry->planes + geometry->extra_planes) * geometry->layers;
	uint64_t end = 64;

	*pool = (struct drawn_pool){.geometry = *geometry};
	pool->count = (tokens + tokens_of(geometry) - 1) / tokens_of(geometry);
	pool->geometry.blocks = pool->count + random_between(random, 0, 8);
	for (uint32_t first = 0; first < tensors; first += together)
		end = place_tensors(pool, first, together, gap, end, random) + padding(random);
	if (together > 1 && geometry->planes > 1)
		pool->plane_stride = (uint32_t)(pool->tensors[1].offset - pool->tensors[0].offset);
	pool->geometry.plane_stride = random_between(random, 0, 1) ? pool->plane_stride : 0;
	pool->bytes = end + 64;
	pool->memory = malloc(pool->bytes);
	for (uint64_t i = 0; i < pool->bytes; i++)
		pool->memory[i] = (char)random_next(random);
	draw_table(pool, random);
}

void drawn_pool(struct drawn_pool *pool, const struct kvx_geometry *geometry, uint32_t tokens,
		uint64_t *random)
{
	uint32_t planes = geometry->planes + geometry->extra_planes;
	uint32_t kind = random_between(random, 0, 3);
	uint32_t together = kind == 0 ? planes * geometry->layers : kind == 1 ? planes : 1;

	make_pool(pool, geometry, tokens, together, padding(random), random);
}

/* [block][layer][plane], without gaps in a block. */
static void draw_packed_pool(struct drawn_pool *pool, const struct kvx_geometry *geometry,
			     uint32_t tokens, uint64_t *random)
{
	uint32_t planes = geometry->planes + geometry->extra_planes;

	make_pool(pool, geometry, tokens, planes * geometry->layers, 0, random);
}

void drawn_pool_free(struct drawn_pool *pool)
{
	free(pool->memory);
	free(pool->table);
}

/* --- drawing --- */

/* What the made-up model has, and where its ranks divide it. */
struct model {
	struct kvx_geometry common; /* what all ranks have alike */
	uint32_t layers;
	uint32_t tokens; /* of a block, from which others are made */
	bool alike;      /* ranks divide no heads, and hold blocks of these tokens in this layout */
	bool packed;     /* and leave no gaps in them */
	enum kvx_layout layout;
};

static void draw_extra(struct model *model, uint64_t *random)
{
	struct kvx_geometry *common = &model->common;

	common->extra_planes =
		random_between(random, 0, 2) || model->packed ? 0 : random_between(random, 1, 2);
	for (uint32_t i = 0; i < common->extra_planes; i++) {
		bool by_token = model->tokens && random_between(random, 0, 1);
		common->extra[i].token_bytes = by_token ? 4 * random_between(random, 1, 6) : 0;
		if (!by_token)
			common->extra[i].block_bytes = 4 * random_between(random, 1, 40);
	}
}

static void draw_model(struct model *model, uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 6, 8, 16};
	struct kvx_geometry *common = &model->common;
	bool whole = !random_between(random, 0, 9);

	*model = (struct model){.layers = random_between(random, 1, DRAWN_LAYERS_MAX)};
	model->alike = !random_between(random, 0, 2);
	model->packed = model->alike && random_between(random, 0, 1);
	model->layout = random_between(random, 0, 1) ? KVX_LAYOUT_HND : KVX_LAYOUT_NHD;
	model->tokens = sizes[random_between(random, 0, sizeof(sizes) / sizeof(sizes[0]) - 1)];
	if (whole && random_between(random, 0, 1))
		model->tokens = 0;
	common->planes = random_between(random, 1, 3);
	common->model = random_between(random, 0, 1);
	strcpy(common->dtype, "bf16");
	if (whole) {
		common->block_bytes = 4 * random_between(random, 1, 100);
	} else {
		common->heads_total = random_between(random, 1, 12);
		common->head_bytes = 4 * random_between(random, 1, 12);
	}
	draw_extra(model, random);
}

/* Are there planes whose blocks move whole? They ask for blocks of equal tokens. */
static bool has_whole(const struct model *model)
{
	const struct kvx_geometry *common = &model->common;

	for (uint32_t i = 0; i < common->extra_planes; i++)
		if (!common->extra[i].token_bytes)
			return true;
	return !common->heads_total;
}

/* A rank's geometry: how it holds its tokens and heads is its own matter. */
static struct kvx_geometry draw_rank(const struct model *model, uint32_t block_tokens,
				     uint32_t layer, uint32_t layers, uint32_t head, uint32_t heads,
				     uint64_t *random)
{
	struct kvx_geometry rank = model->common;
	uint64_t token_step, head_step;

	rank.layer_first = layer;
	rank.layers = layers;
	rank.block_tokens = block_tokens;
	for (uint32_t i = 0; i < rank.extra_planes; i++)
		if (rank.extra[i].token_bytes && random_between(random, 0, 1))
			rank.extra[i].block_bytes =
				rank.extra[i].token_bytes * block_tokens + padding(random);
	if (!rank.heads_total)
		return rank;
	rank.layout = random_between(random, 0, 1) ? KVX_LAYOUT_HND : KVX_LAYOUT_NHD;
	if (model->alike)
		rank.layout = model->layout;
	rank.head_first = head;
	rank.heads = heads;
	if (model->packed)
		return rank;
	bool by_head = rank.layout == KVX_LAYOUT_HND;
	uint32_t *inner = by_head ? &rank.token_stride : &rank.head_stride;
	uint32_t *outer = by_head ? &rank.head_stride : &rank.token_stride;
	if (!random_between(random, 0, 3))
		*inner = rank.head_bytes + padding(random);
	if (!random_between(random, 0, 3))
		*outer = (*inner ? *inner : rank.head_bytes) * (by_head ? block_tokens : heads) +
			 padding(random);
	steps_of(&rank, &token_step, &head_step);
	if (!random_between(random, 0, 3))
		rank.block_bytes = (uint32_t)bytes_of_block(&rank, 0) + padding(random);
	return rank;
}

#define BLOCK_TOKENS_MAX 64u /* so that requests stay small */

/* Tokens of a block: theirs are the receiver's, or 0 where the receiver is drawn. Of a sender's and
 * the receiver's one is a multiple of the other; two senders' may be any. */
static uint32_t draw_tokens(const struct model *model, uint32_t theirs, uint64_t *random)
{
	static const uint32_t factors[] = {1, 2, 3, 4, 5, 6, 8, 12, 24};
	uint32_t tokens;

	if (model->alike || has_whole(model) || !random_between(random, 0, 2))
		return model->tokens;
	do
		tokens = model->tokens *
			 factors[random_between(random, 0,
						sizeof(factors) / sizeof(factors[0]) - 1)];
	while (tokens > BLOCK_TOKENS_MAX || (theirs % tokens && tokens % theirs));
	return tokens;
}

/* Divides 0 .. whole - 1 into parts. Returns their number; part i ends where ends[i] says. */
static uint32_t divide(uint32_t whole, uint32_t most, uint32_t *ends, uint64_t *random)
{
	uint32_t parts = random_between(random, 1, whole < most ? whole : most);

	for (uint32_t i = 0, end = 0; i < parts; i++) {
		uint32_t spare = whole - end - (parts - i);
		end += 1 + (i + 1 < parts ? random_between(random, 0, spare) : spare);
		ends[i] = end;
	}
	return parts;
}

static bool meets(uint32_t first, uint32_t end, uint32_t other, uint32_t count)
{
	return first < other + count && other < end;
}

/* The ranks of a prefill: stages of layers, in each parts of the heads, each held by one or
 * several. Those that hold nothing of the receiver's stay away. */
static bool draw_senders(struct drawn_request *request, const struct model *model,
			 const struct kvx_geometry *receiver, uint64_t *random)
{
	uint32_t stage_ends[3], part_ends[4], heads = model->common.heads_total;
	uint32_t stages = divide(model->layers, 3, stage_ends, random), count = 0;
	uint32_t parts = divide(heads ? heads : 1, model->alike ? 1 : 4, part_ends, random);

	for (uint32_t i = 0; i < stages * parts; i++) {
		uint32_t stage = i / parts, part = i % parts;
		uint32_t layer = stage ? stage_ends[stage - 1] : 0;
		uint32_t head = part ? part_ends[part - 1] : 0;
		uint32_t holders = random_between(random, 0, 1) ? 1 : random_between(random, 1, 8);
		if (!meets(layer, stage_ends[stage], receiver->layer_first, receiver->layers) ||
		    (heads && !meets(head, part_ends[part], receiver->head_first, receiver->heads)))
			continue;
		for (; holders; holders--) {
			if (count == DRAWN_SENDERS_MAX)
				return false;
			request->senders[count++].geometry = draw_rank(
				model, draw_tokens(model, receiver->block_tokens, random), layer,
				stage_ends[stage] - layer, head, part_ends[part] - head, random);
		}
	}
	request->sender_count = count;
	return true;
}

void drawn_request(struct drawn_request *request, uint64_t *random)
{
	struct kvx_geometry receiver;
	struct model model;

	do {
		*request = (struct drawn_request){0};
		draw_model(&model, random);
		uint32_t layer = random_between(random, 0, model.layers - 1);
		uint32_t heads = model.common.heads_total ? model.common.heads_total : 1;
		uint32_t head = model.alike ? 0 : random_between(random, 0, heads - 1);
		uint32_t held = model.alike ? heads : random_between(random, 1, heads - head);
		receiver = draw_rank(&model, draw_tokens(&model, 0, random), layer,
				     random_between(random, 1, model.layers - layer), head, held,
				     random);
	} while (!draw_senders(request, &model, &receiver, random));
	uint32_t blocks = random_between(random, 1, 12);
	request->tokens = blocks * tokens_of(&receiver);
	request->tokens -= random_between(random, 0, tokens_of(&receiver) - 1);
	if (random_between(random, 0, 1))
		request->held_blocks = random_between(random, 0, blocks - 1);
	void (*draw)(struct drawn_pool *, const struct kvx_geometry *, uint32_t, uint64_t *) =
		model.packed ? draw_packed_pool : drawn_pool;
	for (uint32_t i = 0; i < request->sender_count; i++) {
		struct kvx_geometry geometry = request->senders[i].geometry;
		draw(&request->senders[i], &geometry, request->tokens, random);
	}
	draw(&request->receiver, &receiver, request->tokens, random);
}

void drawn_free(struct drawn_request *request)
{
	for (uint32_t i = 0; i < request->sender_count; i++)
		drawn_pool_free(&request->senders[i]);
	drawn_pool_free(&request->receiver);
}

static void print_pool(const char *who, const struct drawn_pool *pool)
{
	const struct kvx_geometry *geometry = &pool->geometry;

	fprintf(stderr,
		"%s: layers %u+%u, planes %u+%u, %u tokens, layout %d, heads %u+%u of %u of %u "
		"bytes, strides %u %u, block_bytes %u\n",
		who, geometry->layer_first, geometry->layers, geometry->planes,
		geometry->extra_planes, geometry->block_tokens, (int)geometry->layout,
		geometry->head_first, geometry->heads, geometry->heads_total, geometry->head_bytes,
		geometry->head_stride, geometry->token_stride, geometry->block_bytes);
	for (uint32_t i = 0; i < geometry->extra_planes; i++)
		fprintf(stderr, "  extra plane: blocks of %u, tokens of %u bytes\n",
			geometry->extra[i].block_bytes, geometry->extra[i].token_bytes);
	for (uint32_t i = 0; i < pool->count; i++)
		fprintf(stderr, "%s%u", i ? "," : "  table: ", pool->table[i]);
	fprintf(stderr, "\n");
}

void drawn_print(const struct drawn_request *request)
{
	fprintf(stderr, "%u tokens, %u blocks held\n", request->tokens, request->held_blocks);
	print_pool("receiver", &request->receiver);
	for (uint32_t i = 0; i < request->sender_count; i++)
		print_pool("sender", &request->senders[i]);
}
