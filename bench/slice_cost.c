/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine itself costs: time per slice at both ends and at the sender alone, from layers
 * ready to layers whole. One thread drives both engines, so nothing else is in the figure.
 *
 * usage: kvxfer-slice-cost SLICES OPEN READY [verbs]
 *
 * OPEN streams are open, READY of them have layers to send; each layer is SLICES slices of 4 KiB,
 * none of which touches another. The transport is loop without copies; or verbs, then a slice is a
 * write, and the devices should cost nothing: the tests' libibverbs in its mode null
 * (docs/bench.md). Prints medians of 5 rounds.
 */
#include <kvxfer/kvxfer.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 5
#define SLICES_AIM 100000u /* of a round, so that the clock's own cost does not show */
#define LEASE_MS 60000
#define BLOCK_BYTES 4096u
#define QUIET_STEPS 1000 /* steps that did nothing: all that was under way is over */

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
	const char *transport;
	uint32_t layers, slices, open, ready;
	uint32_t *table;
};

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int drive(struct ends *ends)
{
	int sent = kvx_engine_progress(ends->sender);
	int received = kvx_engine_progress(ends->receiver);

	CHECK(sent);
	CHECK(received);
	return sent + received;
}

/* A function of its own, and the only thing that is timed at the sender: profilers can tell it from
 * the rest by its name. */
__attribute__((noinline)) static void step_sender(struct ends *ends)
{
	CHECK(kvx_engine_progress(ends->sender));
}

static struct kvx_engine *open_engine(const char *transport)
{
	struct kvx_options *options;
	struct kvx_engine *engine;

	CHECK(kvx_options_new(&options));
	CHECK(kvx_options_set(options, "transports", transport));
	CHECK(kvx_options_set(options, "progress", "caller"));
	CHECK(kvx_options_set(options, "loop_copy", "off"));
	CHECK(kvx_engine_open(options, &engine));
	kvx_options_free(options);
	return engine;
}

/* Every second block, so that no two slices are neighbours. All streams send the same blocks. */
static void open_ends(struct ends *ends)
{
	struct kvx_geometry geometry = {
		.layers = ends->layers, .planes = 1, .block_bytes = BLOCK_BYTES};

	ends->sender = open_engine(ends->transport);
	ends->receiver = open_engine(ends->transport);
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
	CHECK(kvx_grant_open(ends->to, ends->table, ends->slices, NULL, LEASE_MS,
			     &ends->grants[index]));
	const void *ticket = kvx_grant_ticket(ends->grants[index], &bytes);
	for (uint32_t i = 0; i < ends->slices; i++)
		ends->table[i] = 2 * i;
	CHECK(kvx_stream_open(ends->from, ends->table, ends->slices, NULL, ticket, bytes,
			      &ends->streams[index]));
	while (!target) {
		drive(ends);
		CHECK(kvx_grant_count(ends->grants[index], 0, &arrived, &target));
	}
	drive(ends);
}

/* Per slice. */
struct cost {
	double both_ns, sender_ns;
};

static void settle(struct ends *ends)
{
	for (int quiet = 0; quiet < QUIET_STEPS; quiet++)
		if (drive(ends))
			quiet = 0;
}

/* Until all that is ready is whole. Returns the time at the sender. */
static double send_all(struct ends *ends)
{
	double sender_ns = 0;

	for (uint32_t i = 0; i < ends->ready; i++)
		while (kvx_grant_poll(ends->grants[i], KVX_ALL_LAYERS) == 0) {
			double began_ns = now_ns();
			step_sender(ends);
			sender_ns += now_ns() - began_ns;
			CHECK(kvx_engine_progress(ends->receiver));
		}
	return sender_ns;
}

static struct cost run_round(struct ends *ends)
{
	double slices = (double)ends->slices * ends->layers * ends->ready;
	struct cost cost;

	for (uint32_t i = 0; i < ends->open; i++)
		open_stream(ends, i);
	settle(ends);
	double began_ns = now_ns();
	for (uint32_t i = 0; i < ends->ready; i++)
		CHECK(kvx_stream_layers_ready(ends->streams[i], 0, ends->layers));
	cost.sender_ns = send_all(ends) / slices;
	cost.both_ns = (now_ns() - began_ns) / slices;
	for (uint32_t i = 0; i < ends->open; i++) {
		kvx_stream_close(ends->streams[i]);
		kvx_grant_close(ends->grants[i]);
	}
	return cost;
}

static int compare(const void *a, const void *b)
{
	double difference = *(const double *)a - *(const double *)b;

	return difference < 0 ? -1 : difference > 0;
}

static double median(double *rounds_ns)
{
	qsort(rounds_ns, ROUNDS, sizeof(*rounds_ns), compare);
	return rounds_ns[ROUNDS / 2];
}

static void measure(struct ends *ends)
{
	double both_ns[ROUNDS], sender_ns[ROUNDS];
	struct kvx_stats stats;

	run_round(ends); /* warm-up */
	for (int i = 0; i < ROUNDS; i++) {
		struct cost cost = run_round(ends);
		both_ns[i] = cost.both_ns;
		sender_ns[i] = cost.sender_ns;
	}
	kvx_engine_stats(ends->sender, &stats);
	printf("%s, %u slices a layer, %u layers, %u of %u streams ready: %.1f ns per slice, %.1f "
	       "of "
	       "them at the sender; %llu slices in all\n",
	       ends->transport, ends->slices, ends->layers, ends->ready, ends->open,
	       median(both_ns), median(sender_ns), (unsigned long long)stats.slices_sent);
}

int main(int argc, char **argv)
{
	struct ends ends = {.transport = argc == 5 ? argv[4] : "loop"};

	if (argc == 4 || argc == 5) {
		ends.slices = (uint32_t)strtoul(argv[1], NULL, 10);
		ends.open = (uint32_t)strtoul(argv[2], NULL, 10);
		ends.ready = (uint32_t)strtoul(argv[3], NULL, 10);
	}
	if (!ends.slices || !ends.ready || ends.ready > ends.open ||
	    (uint64_t)ends.slices * ends.open > 1000000) {
		fprintf(stderr, "usage: kvxfer-slice-cost SLICES OPEN READY [verbs]; at most a "
				"million slices in all, READY at most OPEN\n");
		return 2;
	}
	ends.layers = SLICES_AIM / (ends.slices * ends.ready);
	ends.layers = ends.layers < 1 ? 1 : ends.layers > 100 ? 100 : ends.layers;
	open_ends(&ends);
	measure(&ends);
	kvx_engine_close(ends.sender);
	kvx_engine_close(ends.receiver);
	free(ends.grants);
	free(ends.streams);
	free(ends.table);
	return 0;
}
