/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every byte of every pool has a value that is known: what the application scribbled last, or what
 * belongs to a request's token. Both are computed anew, word by word, whenever they are compared,
 * so nothing that the engines do has a part in it.
 */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define GUARD 64u
#define GUARD_BYTE 0xa5

static struct kvx_geometry common;
static uint32_t block_tokens_max;
static bool halves;       /* nodes 1 and 2 hold half of the heads each */
static bool blocks_first; /* all layers of a block lie side by side */

void store_shape(void)
{
	bool divided = sim_percent(40);

	common = (struct kvx_geometry){.layers = sim_between(1, LAYERS_MAX),
				       .planes = sim_between(1, 2)};
	halves = false;
	blocks_first = sim_percent(40);
	if (!divided) {
		common.block_bytes = 64u << sim_below(6);
		block_tokens_max = 1;
		return;
	}
	common.heads_total = 1u << sim_below(3);
	common.head_bytes = 16u << sim_below(3);
	block_tokens_max = 1u << sim_below(3);
	halves = common.heads_total > 1 && sim_percent(50);
}

static void choose_geometry(struct store *store)
{
	struct kvx_geometry *geometry = &store->geometry;

	*geometry = common;
	geometry->blocks = sim_between(10, BLOCKS_MAX);
	store->block_tokens = store->heads = 1;
	store->head_first = 0;
	store->head_bytes = common.block_bytes;
	if (!common.block_bytes) {
		bool half = halves && (store->node == 1 || store->node == 2);
		geometry->layout = sim_percent(50) ? KVX_LAYOUT_HND : KVX_LAYOUT_NHD;
		geometry->block_tokens = sim_percent(50)
						 ? block_tokens_max
						 : 1u << sim_below(1 + block_tokens_max / 2);
		geometry->heads = half ? common.heads_total / 2 : common.heads_total;
		geometry->head_first = half && store->node == 2 ? geometry->heads : 0;
		store->block_tokens = geometry->block_tokens;
		store->heads = geometry->heads;
		store->head_first = geometry->head_first;
		store->head_bytes = geometry->head_bytes;
	}
	store->block_bytes = store->block_tokens * store->heads * store->head_bytes;
	uint32_t tensors = geometry->layers * geometry->planes, gap = sim_percent(30) ? 16 : 0;
	store->stride = store->block_bytes * (blocks_first ? tensors : 1) + gap;
	store->step = blocks_first ? store->block_bytes : store->stride * geometry->blocks;
}

static uint64_t tensor_offset(const struct store *store, uint32_t layer, uint32_t plane)
{
	uint64_t tensor = layer * store->geometry.planes + plane;

	return GUARD + tensor * store->step;
}

static uint32_t tail_offset(const struct store *store, uint32_t tail)
{
	const struct kvx_geometry *geometry = &store->geometry;
	uint32_t copies = blocks_first ? 1 : geometry->layers * geometry->planes;

	return GUARD + copies * store->stride * geometry->blocks + GUARD + tail * TAIL_BYTES;
}

static uint32_t *words_of(const struct store *store, uint32_t block, uint32_t layer, uint32_t plane)
{
	return (uint32_t *)(void *)(store->memory + tensor_offset(store, layer, plane) +
				    (uint64_t)block * store->stride);
}

static uint32_t *tail_words(const struct store *store, uint32_t tail)
{
	return (uint32_t *)(void *)(store->memory + tail_offset(store, tail));
}

/* --- values --- */

static uint32_t mix(uint64_t a, uint64_t b)
{
	uint64_t z = (a + UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);

	z = (z ^ z >> 29 ^ b) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)(z ^ z >> 32);
}

static inline uint32_t word(uint32_t key, uint32_t index)
{
	uint32_t x = (key ^ index * 0x9e3779b1u) * 0x85ebca6bu;

	return x ^ x >> 15;
}

static uint32_t scribble_key(const struct store *store, uint32_t epoch, uint32_t tensor)
{
	return mix((uint64_t)store->node << 56 | (uint64_t)tensor << 40 | epoch, 1);
}

static uint32_t token_key(uint64_t request, uint32_t layer, uint32_t plane, uint32_t token,
			  uint32_t head)
{
	return mix(request << 32 | (uint64_t)layer << 24 | plane << 16 | head, token + 2);
}

static uint32_t tail_key(uint64_t request)
{
	return mix(request, 0);
}

/* --- opening --- */

static void open_pool(struct store *store, struct kvx_engine *engine)
{
	struct kvx_tensor tensors[LAYERS_MAX * 2];
	uint32_t planes = store->geometry.planes;

	if (kvx_region_register(engine, store->memory, store->bytes, &store->region))
		sim_broken("region: %s", kvx_error_text());
	for (uint32_t i = 0; i < store->geometry.layers * planes; i++)
		tensors[i] =
			(struct kvx_tensor){.region = store->region,
					    .offset = tensor_offset(store, i / planes, i % planes),
					    .block_stride = store->stride};
	if (kvx_pool_open(engine, &store->geometry, tensors, &store->pool))
		sim_broken("pool: %s", kvx_error_text());
}

void store_open(struct store *store, uint32_t node, struct kvx_engine *engine)
{
	*store = (struct store){.node = node, .epoch = store->epoch};
	choose_geometry(store);
	store->bytes = tail_offset(store, TAILS_MAX) + GUARD;
	store->memory = aligned_alloc(64, (store->bytes + 63) / 64 * 64);
	if (!store->memory)
		sim_broken("the simulator is out of memory");
	memset(store->memory, GUARD_BYTE, store->bytes);
	for (uint32_t block = 0; block < store->geometry.blocks; block++)
		store_scribble(store, block);
	for (uint32_t tail = 0; tail < TAILS_MAX; tail++)
		store_scribble_tail(store, tail);
	open_pool(store, engine);
}

void store_close(struct store *store)
{
	if (kvx_pool_close(store->pool) || kvx_region_close(store->region))
		sim_broken("node %u: its pool cannot be closed: %s", store->node, kvx_error_text());
}

void store_vanish(struct store *store)
{
	free(store->memory);
	store->memory = NULL;
}

bool store_covers(const struct store *from, const struct store *to)
{
	return from->head_first <= to->head_first &&
	       from->head_first + from->heads >= to->head_first + to->heads;
}

uint32_t store_blocks(const struct store *store, uint32_t tokens)
{
	return (tokens + store->block_tokens - 1) / store->block_tokens;
}

/* --- taking --- */

bool store_take(struct store *store, uint32_t count, uint32_t *blocks)
{
	uint32_t first = sim_below(store->geometry.blocks), stride = sim_percent(50) ? 1 : 3;
	uint32_t taken = 0;

	for (uint32_t i = 0; i < 3 * store->geometry.blocks && taken < count; i++) {
		uint32_t block = (first + i * stride) % store->geometry.blocks;
		if (store->blocks[block].busy)
			continue;
		store->blocks[block].busy = true;
		blocks[taken++] = block;
	}
	if (taken < count) {
		for (uint32_t i = 0; i < taken; i++)
			store->blocks[blocks[i]].busy = false;
		return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t layer = 0; layer < store->geometry.layers; layer++)
			store_check(store, blocks[i], layer, SCRIBBLED, NULL, "a free block");
		store->blocks[blocks[i]].untouched = false;
	}
	return true;
}

void store_give(struct store *store, const uint32_t *blocks, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		store_scribble(store, blocks[i]);
		store->blocks[blocks[i]].busy = false;
	}
}

bool store_take_tail(struct store *store, uint32_t *tail)
{
	for (uint32_t i = 0; i < TAILS_MAX; i++) {
		if (store->tails[i].busy)
			continue;
		store_check_tail(store, i, SCRIBBLED, 0, "a free tail");
		store->tails[i].busy = true;
		store->tails[i].untouched = false;
		*tail = i;
		return true;
	}
	return false;
}

void store_give_tail(struct store *store, uint32_t tail)
{
	store_scribble_tail(store, tail);
	store->tails[tail].busy = false;
}

struct kvx_tail store_tail(const struct store *store, uint32_t tail)
{
	return (struct kvx_tail){store->region, tail_offset(store, tail), TAIL_BYTES};
}

/* --- writing --- */

void store_scribble(struct store *store, uint32_t block)
{
	uint32_t planes = store->geometry.planes, epoch = ++store->epoch;

	store->blocks[block].epoch = epoch;
	store->blocks[block].untouched = true;
	for (uint32_t i = 0; i < store->geometry.layers * planes; i++) {
		uint32_t *words = words_of(store, block, i / planes, i % planes);
		uint32_t key = scribble_key(store, epoch, i);
		for (uint32_t w = 0; w < store->block_bytes / 4; w++)
			words[w] = word(key, w);
	}
}

void store_scribble_tail(struct store *store, uint32_t tail)
{
	uint32_t *words = tail_words(store, tail), epoch = ++store->epoch;

	store->tails[tail].epoch = epoch;
	store->tails[tail].untouched = true;
	for (uint32_t w = 0; w < TAIL_BYTES / 4; w++)
		words[w] = word(scribble_key(store, epoch, 255), w);
}

/* Piece i of a block is one head of one token. Returns its token; *head: the model's number. */
static uint32_t locate(const struct store *store, uint32_t piece, uint32_t *head)
{
	bool by_head = store->geometry.layout == KVX_LAYOUT_HND;
	uint32_t inner = by_head ? store->block_tokens : store->heads;
	uint32_t major = piece / inner, minor = piece % inner;

	*head = store->head_first + (by_head ? major : minor);
	return by_head ? minor : major;
}

void store_fill(struct store *store, uint32_t block, uint32_t layer, const struct part *part)
{
	uint32_t pieces = store->block_tokens * store->heads, count = store->head_bytes / 4;

	for (uint32_t plane = 0; plane < store->geometry.planes; plane++) {
		uint32_t *words = words_of(store, block, layer, plane);
		for (uint32_t piece = 0; piece < pieces; piece++, words += count) {
			uint32_t head;
			uint32_t token =
				part->ordinal * store->block_tokens + locate(store, piece, &head);
			if (token < part->token_first || token >= part->token_end)
				continue;
			uint32_t key = token_key(part->request, layer, plane, token, head);
			for (uint32_t w = 0; w < count; w++)
				words[w] = word(key, w);
		}
	}
}

void store_fill_tail(struct store *store, uint32_t tail, uint64_t request)
{
	uint32_t *words = tail_words(store, tail);

	for (uint32_t w = 0; w < TAIL_BYTES / 4; w++)
		words[w] = word(tail_key(request), w);
}

void store_spoil(struct store *store, uint32_t block, uint32_t layer)
{
	for (uint32_t plane = 0; plane < store->geometry.planes; plane++)
		memset(words_of(store, block, layer, plane), (int)(++store->epoch & 0xff),
		       store->block_bytes);
}

/* --- comparing --- */

static void compare(const uint32_t *words, uint32_t count, uint32_t index, uint32_t scribbled,
		    uint32_t wanted, enum content content, const struct store *store,
		    const char *what)
{
	for (uint32_t w = 0; w < count; w++) {
		bool old = words[w] == word(scribbled, index + w);
		bool new = words[w] == word(wanted, w);
		if (content == SCRIBBLED ? old : content == WHOLE ? new : old || new)
			continue;
		sim_broken("node %u: %s holds a wrong word %08x at byte %u of its memory (%s)",
			   store->node, what, words[w],
			   (uint32_t)((const uint8_t *)&words[w] - store->memory),
			   content == SCRIBBLED ? "it should be as it was scribbled"
			   : content == WHOLE   ? "it should be the request's"
						: "it is neither the request's nor the old one");
	}
	sim_counts.bytes_checked += 4 * (uint64_t)count;
}

void store_check(const struct store *store, uint32_t block, uint32_t layer, enum content content,
		 const struct part *part, const char *what)
{
	uint32_t pieces = store->block_tokens * store->heads, count = store->head_bytes / 4;

	for (uint32_t plane = 0; plane < store->geometry.planes; plane++) {
		const uint32_t *words = words_of(store, block, layer, plane);
		uint32_t scribbled = scribble_key(store, store->blocks[block].epoch,
						  layer * store->geometry.planes + plane);
		if (!part) {
			compare(words, store->block_bytes / 4, 0, scribbled, 0, SCRIBBLED, store,
				what);
			continue;
		}
		for (uint32_t piece = 0; piece < pieces; piece++) {
			uint32_t head;
			uint32_t token =
				part->ordinal * store->block_tokens + locate(store, piece, &head);
			bool in = token >= part->token_first && token < part->token_end;
			compare(words + piece * count, count, piece * count, scribbled,
				token_key(part->request, layer, plane, token, head),
				in ? content : SCRIBBLED, store, what);
		}
	}
}

void store_check_tail(const struct store *store, uint32_t tail, enum content content,
		      uint64_t request, const char *what)
{
	compare(tail_words(store, tail), TAIL_BYTES / 4, 0,
		scribble_key(store, store->tails[tail].epoch, 255), tail_key(request), content,
		store, what);
}

static void check_untouched(const struct store *store, uint32_t block)
{
	if (!store->blocks[block].untouched)
		return;
	for (uint32_t layer = 0; layer < store->geometry.layers; layer++)
		store_check(store, block, layer, SCRIBBLED, NULL, "a block that was taken back");
}

void store_check_some(const struct store *store)
{
	check_untouched(store, sim_below(store->geometry.blocks));
}

void store_check_all(const struct store *store)
{
	for (uint32_t block = 0; block < store->geometry.blocks; block++)
		check_untouched(store, block);
	for (uint32_t tail = 0; tail < TAILS_MAX; tail++)
		if (store->tails[tail].untouched)
			store_check_tail(store, tail, SCRIBBLED, 0, "a tail that was taken back");
	for (uint32_t i = 0; i < GUARD; i++)
		if (store->memory[i] != GUARD_BYTE ||
		    store->memory[store->bytes - 1 - i] != GUARD_BYTE)
			sim_broken("node %u: bytes landed beside its pool", store->node);
}
