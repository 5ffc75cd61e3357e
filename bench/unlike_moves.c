/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth between pools that are not alike, in turns with something that moves the same bytes. */
#include "unlike.h"

#include <stdio.h>

#define LAYERS 80u /* of Llama-3.1-70B */
#define HEADS 8u
#define HEAD_BYTES 256u /* 128 elements of bf16 */
#define WORST_BYTES 128u
#define TOKENS 8192u
#define PAIRS 7u
#define POOL_BYTES (UINT64_C(1) << 30)
#define GIGA 1e9

/* Two ways to move the same bytes to the same blocks. */
struct comparison {
	const char *name, *beside;
	struct kvx_unlike_way way, other;
	bool bare; /* beside the bare copy of the first way's bytes too */
};

/* What was measured of a way. */
struct outcome {
	struct kvx_samples gbytes_per_s;
	uint64_t slices; /* of a request */
	char explain[KVX_UNLIKE_EXPLAIN_MAX];
};

/* The way, the other, and the bare copy; ratios of the way to these two. */
enum { WAY, OTHER, BARE, WAYS };

struct results {
	struct outcome outcomes[WAYS];
	struct kvx_samples ratios[WAYS];
	uint64_t bytes;
};

static uint64_t or_default(uint64_t value, uint64_t initial)
{
	return value ? value : initial;
}

static struct kvx_geometry rank_of(const struct kvx_unlike_settings *settings,
				   enum kvx_layout layout, uint32_t ranks, uint32_t rank)
{
	return (struct kvx_geometry){
		.layers = (uint32_t)or_default(settings->layers, LAYERS),
		.planes = 2,
		.block_tokens = KVX_UNLIKE_BLOCK_TOKENS,
		.dtype = "bf16",
		.layout = layout,
		.heads = HEADS / ranks,
		.head_first = HEADS / ranks * rank,
		.heads_total = HEADS,
		.head_bytes = HEAD_BYTES,
	};
}

static uint64_t request_bytes(const struct kvx_unlike_settings *settings,
			      const struct kvx_geometry *geometry)
{
	return or_default(settings->tokens, TOKENS) * geometry->heads * geometry->head_bytes *
	       geometry->layers * geometry->planes;
}

/* As many requests as it takes to go through enough memory at the receiver. */
static uint32_t slots_of(const struct kvx_unlike_settings *settings,
			 const struct kvx_geometry *receiver)
{
	uint64_t bytes = request_bytes(settings, receiver);

	return (uint32_t)((or_default(settings->pool_bytes, POOL_BYTES) + bytes - 1) / bytes);
}

static void open_beside(struct kvx_unlike_end *end, const struct kvx_unlike_settings *settings,
			const char *staging, struct kvx_geometry geometry, uint32_t slots,
			uint32_t together)
{
	geometry.blocks =
		(uint32_t)(or_default(settings->tokens, TOKENS) / KVX_UNLIKE_BLOCK_TOKENS * slots);
	kvx_unlike_end_open(end, settings, staging, &geometry, slots, together);
}

static void open_end(struct kvx_unlike_end *end, const struct kvx_unlike_settings *settings,
		     const char *staging, struct kvx_geometry geometry, uint32_t slots)
{
	open_beside(end, settings, staging, geometry, slots, 1);
}

/* All its requests once. Returns 10^9 bytes per second. */
static double send_all(const struct kvx_unlike_way *way, uint64_t bytes)
{
	uint32_t slots = way->receiver->slots;
	double seconds = 0;

	for (uint32_t slot = 0; slot < slots; slot++)
		seconds += kvx_unlike_way_send(way, slot, NULL);
	return (double)bytes / seconds / GIGA;
}

/* Sends everything once before the clock runs, so that all pages are there. Returns the bytes. */
static uint64_t verify(const struct kvx_unlike_way *way, bool corrupt, struct outcome *outcome)
{
	uint64_t before = kvx_unlike_way_slices(way);
	uint64_t bytes = kvx_unlike_way_verify(way, corrupt, outcome->explain);

	outcome->slices = (kvx_unlike_way_slices(way) - before) / way->receiver->slots;
	return bytes;
}

static void print_spread(const struct kvx_samples *samples)
{
	printf(" %7.2f (%.2f..%.2f)", kvx_samples_median(samples),
	       kvx_samples_percentile(samples, 0), kvx_samples_percentile(samples, 1));
}

static void print_bare(const struct results *results)
{
	printf("; bare copy");
	print_spread(&results->outcomes[BARE].gbytes_per_s);
	printf(" GB/s, ratio");
	print_spread(&results->ratios[BARE]);
}

static void print(const struct comparison *comparison, const struct results *results)
{
	const struct outcome *outcome = &results->outcomes[WAY];
	const struct outcome *other = &results->outcomes[OTHER];

	printf("%-28s", comparison->name);
	print_spread(&outcome->gbytes_per_s);
	printf(" GB/s, %llu slices a request; %s", (unsigned long long)outcome->slices,
	       comparison->beside);
	print_spread(&other->gbytes_per_s);
	printf(" GB/s, %llu slices; ratio", (unsigned long long)other->slices);
	print_spread(&results->ratios[OTHER]);
	if (comparison->bare)
		print_bare(results);
	printf("\n");
	fflush(stdout);
}

static json_t *row_of(const struct comparison *comparison, const struct results *results)
{
	const struct outcome *outcome = &results->outcomes[WAY];
	const struct outcome *other = &results->outcomes[OTHER];
	json_t *row = json_pack(
		"{ss, ss, sI, sI, sI, so, so, so, sI, sI, ss, ss}", "name", comparison->name,
		"beside", comparison->beside, "verified_bytes", (json_int_t)results->bytes,
		"requests", (json_int_t)comparison->way.receiver->slots, "pairs",
		(json_int_t)results->ratios[OTHER].count, "gbytes_per_s",
		kvx_unlike_spread(&outcome->gbytes_per_s), "beside_gbytes_per_s",
		kvx_unlike_spread(&other->gbytes_per_s), "ratio",
		kvx_unlike_spread(&results->ratios[OTHER]), "slices", (json_int_t)outcome->slices,
		"beside_slices", (json_int_t)other->slices, "explain", outcome->explain,
		"beside_explain", other->explain);

	if (comparison->bare) {
		json_object_set_new(row, "bare_gbytes_per_s",
				    kvx_unlike_spread(&results->outcomes[BARE].gbytes_per_s));
		json_object_set_new(row, "bare_ratio", kvx_unlike_spread(&results->ratios[BARE]));
	}
	return row;
}

/* All ways once. */
static void take_turns(const struct kvx_unlike_way *ways, size_t count, struct results *results)
{
	double rates[WAYS];

	for (size_t i = 0; i < count; i++) {
		rates[i] = send_all(&ways[i], results->bytes);
		kvx_samples_add(&results->outcomes[i].gbytes_per_s, rates[i]);
		kvx_samples_add(&results->ratios[i], rates[WAY] / rates[i]);
	}
}

static void compare(const struct kvx_unlike_settings *settings, const struct comparison *comparison,
		    json_t *rows)
{
	struct kvx_unlike_way ways[WAYS] = {comparison->way, comparison->other, comparison->way};
	size_t count = comparison->bare ? WAYS : BARE;
	uint64_t pairs = or_default(settings->pairs, PAIRS);
	struct results results = {0};

	ways[BARE].bare = true;
	for (size_t i = 0; i < count; i++)
		results.bytes = verify(&ways[i], settings->corrupt, &results.outcomes[i]);
	for (uint64_t i = 0; i < pairs; i++)
		take_turns(ways, count, &results);
	print(comparison, &results);
	json_array_append_new(rows, row_of(comparison, &results));
	for (size_t i = 0; i < WAYS; i++) {
		kvx_samples_free(&results.outcomes[i].gbytes_per_s);
		kvx_samples_free(&results.ratios[i]);
	}
}

/* A rank of two holds twice the heads of a rank of four, so it has two senders. */
static void gather_heads(const struct kvx_unlike_settings *settings, json_t *rows)
{
	struct kvx_unlike_end receiver, senders[2], alike;
	struct kvx_geometry of_two = rank_of(settings, KVX_LAYOUT_HND, 2, 0);
	uint32_t slots = slots_of(settings, &of_two);

	open_end(&receiver, settings, NULL, of_two, slots);
	open_end(&alike, settings, NULL, of_two, slots);
	for (uint32_t rank = 0; rank < 2; rank++) {
		open_end(&senders[rank], settings, NULL, rank_of(settings, KVX_LAYOUT_HND, 4, rank),
			 slots);
		kvx_unlike_end_fill(&senders[rank]);
	}
	kvx_unlike_end_fill(&alike);
	const struct comparison comparison = {
		.name = "two of TP4 to one of TP2",
		.beside = "TP2 to TP2",
		.way = {.receiver = &receiver,
			.senders = {&senders[0], &senders[1]},
			.sender_count = 2},
		.other = {.receiver = &receiver, .senders = {&alike}, .sender_count = 1},
	};
	compare(settings, &comparison, rows);
	kvx_unlike_end_close(&senders[0]);
	kvx_unlike_end_close(&senders[1]);
	kvx_unlike_end_close(&alike);
	kvx_unlike_end_close(&receiver);
}

/* The second rank of four: its heads are in the middle of the sender's blocks. */
static void scatter_heads(const struct kvx_unlike_settings *settings, json_t *rows)
{
	struct kvx_unlike_end receiver, sender, alike;
	struct kvx_geometry of_four = rank_of(settings, KVX_LAYOUT_HND, 4, 1);
	uint32_t slots = slots_of(settings, &of_four);

	open_end(&receiver, settings, NULL, of_four, slots);
	open_end(&alike, settings, NULL, of_four, slots);
	open_end(&sender, settings, NULL, rank_of(settings, KVX_LAYOUT_HND, 2, 0), slots);
	kvx_unlike_end_fill(&sender);
	kvx_unlike_end_fill(&alike);
	const struct comparison comparison = {
		.name = "one of TP2 to one of TP4",
		.beside = "TP4 to TP4",
		.way = {.receiver = &receiver, .senders = {&sender}, .sender_count = 1},
		.other = {.receiver = &receiver, .senders = {&alike}, .sender_count = 1},
	};
	compare(settings, &comparison, rows);
	kvx_unlike_end_close(&sender);
	kvx_unlike_end_close(&alike);
	kvx_unlike_end_close(&receiver);
}

void kvx_unlike_tp(const struct kvx_unlike_settings *settings, json_t *rows)
{
	gather_heads(settings, rows);
	scatter_heads(settings, rows);
}

/* A rank of eight has one head: 8 KiB of a block, with K and V, in each layer. */
void kvx_unlike_layers(const struct kvx_unlike_settings *settings, json_t *rows)
{
	struct kvx_unlike_end ends[2][2]; /* layers side by side, or apart; sender, receiver */
	struct kvx_geometry rank = rank_of(settings, KVX_LAYOUT_HND, HEADS, 0);
	uint32_t slots = slots_of(settings, &rank), together = rank.planes * rank.layers;

	for (uint32_t i = 0; i < 2; i++) {
		for (uint32_t k = 0; k < 2; k++)
			open_beside(&ends[i][k], settings, NULL, rank, slots,
				    i ? rank.planes : together);
		kvx_unlike_end_fill(&ends[i][0]);
	}
	const struct comparison comparison = {
		.name = "all layers in a block",
		.beside = "one layer in a block",
		.way = {.receiver = &ends[0][1], .senders = {&ends[0][0]}, .sender_count = 1},
		.other = {.receiver = &ends[1][1], .senders = {&ends[1][0]}, .sender_count = 1},
	};
	compare(settings, &comparison, rows);
	for (uint32_t i = 0; i < 4; i++)
		kvx_unlike_end_close(&ends[i / 2][i % 2]);
}

/* One sender of TP2 in NHD, one receiver of TP4 in HND. */
struct worst {
	struct kvx_unlike_end sender, receiver;
};

static void open_worst(struct worst *worst, const struct kvx_unlike_settings *settings,
		       const char *staging)
{
	struct kvx_geometry from = rank_of(settings, KVX_LAYOUT_NHD, 2, 0);
	struct kvx_geometry to = rank_of(settings, KVX_LAYOUT_HND, 4, 1);

	from.head_bytes = to.head_bytes = WORST_BYTES;
	uint32_t slots = slots_of(settings, &to);
	open_end(&worst->receiver, settings, staging, to, slots);
	open_end(&worst->sender, settings, staging, from, slots);
	kvx_unlike_end_fill(&worst->sender);
}

static void close_worst(struct worst *worst)
{
	kvx_unlike_end_close(&worst->sender);
	kvx_unlike_end_close(&worst->receiver);
}

/* Each piece as a block of a pool of its own: what a caller would do without a layout, and nothing
 * that the engine could put together. */
void kvx_unlike_worst(const struct kvx_unlike_settings *settings, json_t *rows)
{
	static const struct {
		const char *name, *staging;
	} modes[] = {
		{"as the engine decides", NULL},
		{"staging off", "off"},
		{"staging on", "on"},
	};
	struct worst pieces, whole;

	open_worst(&pieces, settings, "off");
	uint32_t first = pieces.receiver.geometry.head_first,
		 heads = pieces.receiver.geometry.heads;
	kvx_unlike_end_cut(&pieces.sender, first, heads);
	kvx_unlike_end_cut(&pieces.receiver, first, heads);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		open_worst(&whole, settings, modes[i].staging);
		const struct comparison comparison = {
			.name = modes[i].name,
			.beside = "a slice a piece",
			.way = {.receiver = &whole.receiver,
				.senders = {&whole.sender},
				.sender_count = 1},
			.other = {.receiver = &pieces.receiver,
				  .senders = {&pieces.sender},
				  .sender_count = 1,
				  .by_pieces = true},
			.bare = true,
		};
		compare(settings, &comparison, rows);
		close_worst(&whole);
	}
	close_worst(&pieces);
}
