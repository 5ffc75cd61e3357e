/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine itself costs: CPU time per slice at both ends, from layers ready to layers whole,
 * over loop without copies. One thread drives both engines, so nothing else is in the figure.
 *
 * usage: kvxfer-slice-cost SLICES OPEN READY
 *
 * OPEN streams are open, READY of them have layers to send; each layer is SLICES slices, whose size
 * does not matter since nothing is copied.
 * Prints the median of 5 rounds.
 */
#include <kvxfer/kvxfer.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 5
#define SLICES_AIM 100000u /* of a round, so that the clock's own cost does not show */
#define LEASE_MS 60000

#define CHECK(call)                                                            \
	do {                                                                   \
		if ((call) < 0) {                                              \
			fprintf(stderr, "slice cost: %s\n", kvx_error_text()); \
			exit(1);                                               \
		}                                                              \
	} while (0)

struct ends {
	struct kvx_engine *sender, *receiver;
	struct kvx_pool *from, *to;
	struct kvx_grant **grants;
	struct kvx_stream **streams;
	uint32_t layers, slices, open, ready;
	uint32_t *table;
};

static double cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void drive(struct ends *ends)
{
	CHECK(kvx_engine_progress(ends->sender));
	CHECK(kvx_engine_progress(ends->receiver));
}

static struct kvx_engine *open_engine(void)
{
	struct kvx_options *options;
	struct kvx_engine *engine;

	CHECK(kvx_options_new(&options));
	CHECK(kvx_options_set(options, "transports", "loop"));
	CHECK(kvx_options_set(options, "progress", "caller"));
	CHECK(kvx_options_set(options, "loop_copy", "off"));
	CHECK(kvx_engine_open(options, &engine));
	kvx_options_free(options);
	return engine;
}

/* Every second block, so that no two slices are neighbours. All streams send the same blocks. */
static void open_ends(struct ends *ends)
{
	struct kvx_geometry geometry = {.layers = ends->layers, .planes = 1, .block_bytes = 64};

	ends->sender = open_engine();
	ends->receiver = open_engine();
	geometry.blocks = 2 * ends->slices;
	CHECK(kvx_pool_alloc(ends->sender, &geometry, &ends->from));
	geometry.blocks = 2 * ends->slices * ends->open;
	CHECK(kvx_pool_alloc(ends->receiver, &geometry, &ends->to));
	ends->grants = calloc(ends->open, sizeof(struct kvx_grant *));
	ends->streams = calloc(ends->open, sizeof(struct kvx_stream *));
	ends->table = calloc(ends->slices, sizeof(*ends->table));
	if (!ends->grants || !ends->streams || !ends->table)
		exit(1);
}

static void open_stream(struct ends *ends, uint32_t index)
{
	uint32_t arrived, target = 0;
	size_t bytes;

	for (uint32_t i = 0; i < ends->slices; i++)
		ends->table[i] = 2 * (index * ends->slices + i);
	CHECK(kvx_grant_open(ends->to, ends->table, ends->slices, LEASE_MS, &ends->grants[index]));
	const void *ticket = kvx_grant_ticket(ends->grants[index], &bytes);
	for (uint32_t i = 0; i < ends->slices; i++)
		ends->table[i] = 2 * i;
	CHECK(kvx_stream_open(ends->from, ends->table, ends->slices, ticket, bytes,
			      &ends->streams[index]));
	while (!target) {
		drive(ends);
		CHECK(kvx_grant_count(ends->grants[index], 0, &arrived, &target));
	}
	drive(ends);
}

static double round_ns(struct ends *ends)
{
	for (uint32_t i = 0; i < ends->open; i++)
		open_stream(ends, i);
	double began_ns = cpu_ns();
	for (uint32_t i = 0; i < ends->ready; i++)
		CHECK(kvx_stream_layers_ready(ends->streams[i], 0, ends->layers));
	for (uint32_t i = 0; i < ends->ready; i++)
		while (kvx_grant_poll(ends->grants[i], KVX_ALL_LAYERS) == 0)
			drive(ends);
	double took_ns = cpu_ns() - began_ns;
	for (uint32_t i = 0; i < ends->open; i++) {
		kvx_stream_close(ends->streams[i]);
		kvx_grant_close(ends->grants[i]);
	}
	return took_ns / ((double)ends->slices * ends->layers * ends->ready);
}

static int compare(const void *a, const void *b)
{
	double difference = *(const double *)a - *(const double *)b;

	return difference < 0 ? -1 : difference > 0;
}

int main(int argc, char **argv)
{
	struct ends ends = {0};
	double rounds_ns[ROUNDS];

	if (argc == 4) {
		ends.slices = (uint32_t)strtoul(argv[1], NULL, 10);
		ends.open = (uint32_t)strtoul(argv[2], NULL, 10);
		ends.ready = (uint32_t)strtoul(argv[3], NULL, 10);
	}
	if (!ends.slices || !ends.ready || ends.ready > ends.open ||
	    (uint64_t)ends.slices * ends.open > 1000000) {
		fprintf(stderr, "usage: kvxfer-slice-cost SLICES OPEN READY; at most a million "
				"slices in all, READY at most OPEN\n");
		return 2;
	}
	ends.layers = SLICES_AIM / (ends.slices * ends.ready);
	ends.layers = ends.layers < 1 ? 1 : ends.layers > 100 ? 100 : ends.layers;
	open_ends(&ends);
	round_ns(&ends); /* warm-up */
	for (int i = 0; i < ROUNDS; i++)
		rounds_ns[i] = round_ns(&ends);
	qsort(rounds_ns, ROUNDS, sizeof(*rounds_ns), compare);
	printf("%u slices a layer, %u layers, %u of %u streams ready: %.1f ns per slice\n",
	       ends.slices, ends.layers, ends.ready, ends.open, rounds_ns[ROUNDS / 2]);
	kvx_engine_close(ends.sender);
	kvx_engine_close(ends.receiver);
	free(ends.grants);
	free(ends.streams);
	free(ends.table);
	return 0;
}
