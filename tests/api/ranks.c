/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prefill of many ranks to a decode of many ranks: tensor parallel, pipeline parallel, with heads
 * that several ranks hold. One request is a grant of each decode rank, fed by all prefill ranks
 * that hold something of it; all grants are open at once.
 */
#include "support/drive.h"
#include "support/geometry.h"

#include <stdlib.h>
#include <string.h>

#define RANKS_MAX 8u
#define TOKENS 333u
#define LEASE_MS 60000u

static const char *const options[] = {"unit_bytes=16384", "spin_us=0", NULL};

/* How one side divides the model. */
struct division {
	uint32_t tensor, pipeline; /* ranks: of each stage, and stages */
	enum kvx_layout layout;
	uint32_t block_tokens;
};

struct model {
	uint32_t layers, planes, heads, head_bytes;
};

struct rank {
	struct kvx_engine *engine;
	struct drawn_pool drawn;
	struct kvx_region *region;
	struct kvx_pool *pool;
	/* Of decode. */
	struct kvx_grant *grant;
	char *expected;
	uint64_t bytes;
};

struct cluster {
	struct drive drive;
	struct rank prefill[RANKS_MAX], decode[RANKS_MAX];
	uint32_t prefills, decodes;
	struct kvx_stream *streams[RANKS_MAX * RANKS_MAX];
	uint32_t stream_count;
};

/* Part `index` of `parts` of a whole; where there are more parts than things, neighbours have the
 * same one. */
static void part_of(uint32_t whole, uint32_t parts, uint32_t index, uint32_t *first,
		    uint32_t *count)
{
	*first = whole * index / parts;
	*count = parts > whole ? 1 : whole * (index + 1) / parts - *first;
}

static void open_rank(struct cluster *cluster, struct rank *rank, const struct way *way,
		      const struct model *model, const struct division *division, uint32_t index)
{
	struct kvx_geometry geometry = {
		.planes = model->planes,
		.blocks = 1,
		.block_tokens = division->block_tokens,
		.layout = division->layout,
		.heads_total = model->heads,
		.head_bytes = model->head_bytes,
	};
	struct kvx_tensor tensors[DRAWN_TENSORS_MAX];
	uint64_t random = random_seed();

	part_of(model->layers, division->pipeline, index / division->tensor, &geometry.layer_first,
		&geometry.layers);
	part_of(model->heads, division->tensor, index % division->tensor, &geometry.head_first,
		&geometry.heads);
	rank->engine = engine_open(&cluster->drive, way, "rank", options);
	drawn_pool(&rank->drawn, &geometry, TOKENS, &random);
	expect_ok(kvx_region_register(rank->engine, rank->drawn.memory, rank->drawn.bytes,
				      &rank->region));
	for (uint32_t i = 0; i < geometry.layers * geometry.planes; i++)
		tensors[i] = (struct kvx_tensor){rank->region, rank->drawn.tensors[i].offset,
						 rank->drawn.tensors[i].stride};
	expect_ok(kvx_pool_open(rank->engine, &rank->drawn.geometry, tensors, &rank->pool));
}

static bool meets(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
	return a < b + b_count && b < a + a_count;
}

static bool have_in_common(const struct rank *prefill, const struct rank *decode)
{
	const struct kvx_geometry *a = &prefill->drawn.geometry, *b = &decode->drawn.geometry;

	return meets(a->layer_first, a->layers, b->layer_first, b->layers) &&
	       meets(a->head_first, a->heads, b->head_first, b->heads);
}

static void open_grant(struct cluster *cluster, struct rank *decode)
{
	struct kvx_grant_options special = {.tokens = TOKENS};
	struct drawn_request request = {.receiver = decode->drawn, .tokens = TOKENS};

	for (uint32_t i = 0; i < cluster->prefills; i++)
		special.senders += have_in_common(&cluster->prefill[i], decode);
	decode->expected = drawn_expected(&request, &decode->bytes);
	expect_ok(kvx_grant_open(decode->pool, decode->drawn.table, decode->drawn.count, &special,
				 LEASE_MS, &decode->grant));
}

static void open_streams(struct cluster *cluster, const struct rank *prefill)
{
	for (uint32_t i = 0; i < cluster->decodes; i++) {
		struct kvx_stream **stream = &cluster->streams[cluster->stream_count];
		size_t bytes;
		if (!have_in_common(prefill, &cluster->decode[i]))
			continue;
		const void *ticket = kvx_grant_ticket(cluster->decode[i].grant, &bytes);
		expect_ok(kvx_stream_open(prefill->pool, prefill->drawn.table, prefill->drawn.count,
					  NULL, ticket, bytes, stream));
		expect_ok(kvx_stream_layers_ready(*stream, 0, prefill->drawn.geometry.layers));
		cluster->stream_count++;
	}
}

static void expect_whole(struct cluster *cluster, struct rank *decode)
{
	expect_ok(wait_grant(&cluster->drive, decode->grant, KVX_ALL_LAYERS, PATIENCE_MS));
	for (uint64_t i = 0; i < decode->drawn.bytes; i++)
		cr_assert(decode->drawn.memory[i] == decode->expected[i], "byte %llu is wrong",
			  (unsigned long long)i);
	cr_assert_eq(stats_of(decode->engine).bytes_received, decode->bytes);
	free(decode->expected);
}

static void close_rank(struct cluster *cluster, struct rank *rank)
{
	engine_close(&cluster->drive, rank->engine);
	drawn_pool_free(&rank->drawn);
}

static void run(const struct way *way, const struct model *model, const struct division *prefill,
		const struct division *decode)
{
	struct cluster cluster = {
		.prefills = prefill->tensor * prefill->pipeline,
		.decodes = decode->tensor * decode->pipeline,
	};

	for (uint32_t i = 0; i < cluster.prefills; i++) {
		open_rank(&cluster, &cluster.prefill[i], way, model, prefill, i);
		drawn_compute(&cluster.prefill[i].drawn, 0, TOKENS);
	}
	for (uint32_t i = 0; i < cluster.decodes; i++) {
		open_rank(&cluster, &cluster.decode[i], way, model, decode, i);
		open_grant(&cluster, &cluster.decode[i]);
	}
	for (uint32_t i = 0; i < cluster.prefills; i++)
		open_streams(&cluster, &cluster.prefill[i]);
	for (uint32_t i = 0; i < cluster.decodes; i++)
		expect_whole(&cluster, &cluster.decode[i]);
	for (uint32_t i = 0; i < cluster.stream_count; i++)
		expect_ok(wait_stream(&cluster.drive, cluster.streams[i], KVX_ALL_LAYERS,
				      PATIENCE_MS));
	for (uint32_t i = 0; i < cluster.prefills; i++)
		close_rank(&cluster, &cluster.prefill[i]);
	for (uint32_t i = 0; i < cluster.decodes; i++)
		close_rank(&cluster, &cluster.decode[i]);
}

static const struct model grouped = {.layers = 4, .planes = 2, .heads = 8, .head_bytes = 128};

EACH_WAY_TEST(tensor_parallel_of_one_to_eight_in_both_directions)
{
	for (uint32_t from = 1; from <= 8; from *= 2)
		for (uint32_t to = 1; to <= 8; to *= 2)
			run(way, &grouped, &(struct division){from, 1, KVX_LAYOUT_HND, 16},
			    &(struct division){to, 1, KVX_LAYOUT_HND, 16});
}

EACH_WAY_TEST(other_layouts_and_blocks_at_each_end)
{
	run(way, &grouped, &(struct division){4, 1, KVX_LAYOUT_NHD, 16},
	    &(struct division){8, 1, KVX_LAYOUT_HND, 64});
	run(way, &grouped, &(struct division){8, 1, KVX_LAYOUT_HND, 64},
	    &(struct division){4, 1, KVX_LAYOUT_NHD, 16});
	run(way, &grouped, &(struct division){2, 1, KVX_LAYOUT_NHD, 32},
	    &(struct division){1, 1, KVX_LAYOUT_NHD, 8});
}

EACH_WAY_TEST(heads_that_do_not_divide_evenly)
{
	run(way, &grouped, &(struct division){3, 1, KVX_LAYOUT_NHD, 16},
	    &(struct division){5, 1, KVX_LAYOUT_HND, 16});
}

EACH_WAY_TEST(more_ranks_than_heads)
{
	const struct model few = {.layers = 3, .planes = 2, .heads = 2, .head_bytes = 64};

	run(way, &few, &(struct division){8, 1, KVX_LAYOUT_HND, 16},
	    &(struct division){4, 1, KVX_LAYOUT_HND, 16});
	run(way, &few, &(struct division){1, 1, KVX_LAYOUT_NHD, 16},
	    &(struct division){8, 1, KVX_LAYOUT_HND, 16});
}

EACH_WAY_TEST(a_latent_that_every_rank_holds)
{
	const struct model latent = {.layers = 5, .planes = 1, .heads = 1, .head_bytes = 1152};

	run(way, &latent, &(struct division){8, 1, KVX_LAYOUT_NHD, 16},
	    &(struct division){2, 1, KVX_LAYOUT_NHD, 64});
	run(way, &latent, &(struct division){2, 1, KVX_LAYOUT_NHD, 64},
	    &(struct division){8, 1, KVX_LAYOUT_NHD, 64});
}

EACH_WAY_TEST(pipelines_of_unequal_stages)
{
	const struct model deep = {.layers = 6, .planes = 2, .heads = 4, .head_bytes = 64};

	run(way, &deep, &(struct division){2, 4, KVX_LAYOUT_HND, 16},
	    &(struct division){1, 3, KVX_LAYOUT_HND, 16});
	run(way, &deep, &(struct division){1, 1, KVX_LAYOUT_HND, 16},
	    &(struct division){2, 4, KVX_LAYOUT_NHD, 32});
	run(way, &deep, &(struct division){1, 5, KVX_LAYOUT_NHD, 16},
	    &(struct division){4, 1, KVX_LAYOUT_HND, 16});
}
