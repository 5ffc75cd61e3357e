/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures on a GPU, each beside what it is compared with, measured by turns in the same run.
 *
 *   gpu-figures FIGURE TRANSPORT SENDER_DEVICE RECEIVER_DEVICE
 *
 * Writes one line of JSON for each figure; tests/gpu/run shows them. Both processes are on one host
 * and read the same clock. All times are medians of RUNS, but for reactions, which have quantiles.
 */
#include "cache.cuh"
#include "copies.cuh"
#include "gemm.cuh"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUNS 9u
#define LEASE_MS 600000u
#define LIMIT_S 300u
#define COMPUTE_NS 500000u /* of one layer of the prefill stand-in */
#define SAMPLES_MAX 4096u
#define GEMM_NS 300000000 /* that one measurement of products takes */

static const struct shape bulk = {32, 2, 61, 262144, 24};
static const struct shape model = {32, 2, 61, 65536, 24};
static const struct shape signals = {KVX_LAYERS_MAX, 1, 61, 4096, 1};

struct samples {
	double values[SAMPLES_MAX];
	uint32_t count;
};

struct bench {
	const char *transport;
	int sender_device, receiver_device;
	struct peer peer;
	struct side side;
	uint32_t requests; /* so far */
};

static void add(struct samples *samples, double value)
{
	check_true(samples->count < SAMPLES_MAX, "too many samples");
	samples->values[samples->count++] = value;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double quantile(struct samples *samples, double part)
{
	check_true(samples->count, "nothing was measured");
	qsort(samples->values, samples->count, sizeof(double), compare);
	return samples->values[(uint32_t)(part * (samples->count - 1) + 0.5)];
}

static double median(struct samples *samples)
{
	return quantile(samples, 0.5);
}

/* -------------------------------------------------------------------------- requests, any figure
 */

static uint32_t *next_blocks(struct bench *bench, uint32_t side)
{
	uint32_t *blocks = (uint32_t *)calloc(bench->side.shape.count, sizeof(*blocks));

	check_true(blocks, "out of memory");
	bench->requests++;
	for (uint32_t i = 0; i < bench->side.shape.count; i++)
		blocks[i] = block_of(&bench->side.shape, side, bench->requests, i);
	return blocks;
}

static struct kvx_grant *open_grant(struct bench *bench)
{
	uint32_t *blocks = next_blocks(bench, RECEIVER);
	struct kvx_grant *grant;
	size_t bytes;

	check_kvx(kvx_grant_open(bench->side.pool, blocks, bench->side.shape.count, NULL, LEASE_MS,
				 &grant));
	free(blocks);
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	check_true(ticket, "kvx_grant_ticket(): %s", kvx_error_text());
	peer_send(&bench->peer, ticket, bytes);
	return grant;
}

static struct kvx_stream *open_stream(struct bench *bench)
{
	static char ticket[PACKET_MAX];
	struct kvx_stream *stream;

	size_t bytes = peer_receive(&bench->peer, ticket, sizeof(ticket));
	uint32_t *blocks = next_blocks(bench, SENDER);
	check_kvx(kvx_stream_open(bench->side.pool, blocks, bench->side.shape.count, NULL, ticket,
				  bytes, &stream));
	free(blocks);
	return stream;
}

/* When all of a grant is there, by this process's clock; looks all the time. */
static int64_t whole_at(struct kvx_grant *grant)
{
	int whole;

	while (!(whole = kvx_grant_poll(grant, KVX_ALL_LAYERS)))
		;
	check_kvx(whole);
	return clock_ns();
}

/* From the sender's beginning, of which it tells, to the receiver's end. */
static int64_t receive_request(struct bench *bench)
{
	struct kvx_grant *grant = open_grant(bench);

	int64_t end_ns = whole_at(grant);
	int64_t begin_ns = peer_hear(&bench->peer);
	kvx_grant_close(grant);
	return end_ns - begin_ns;
}

static void send_request(struct bench *bench)
{
	struct kvx_stream *stream = open_stream(bench);

	int64_t begin_ns = clock_ns();
	check_kvx(kvx_stream_layers_ready(stream, 0, bench->side.shape.layers));
	check_kvx(kvx_stream_wait(stream, KVX_ALL_LAYERS, WAIT_MS));
	peer_tell(&bench->peer, begin_ns);
	kvx_stream_close(stream);
}

/* ------------------------------------------------------------------------------------ bandwidth */

static void send_bandwidth(struct bench *bench)
{
	for (uint32_t run = 0; run <= RUNS; run++)
		send_request(bench);
}

static void receive_bandwidth(struct bench *bench)
{
	static struct samples moved, direct, in_turn, overlapped;
	struct copies copies;

	copies_open(&copies, bench->sender_device, bench->receiver_device,
		    request_bytes(&bench->side.shape), bench->side.shape.layers);
	double gigabytes = (double)copies.bytes; /* a byte for each nanosecond is one in a second */
	for (uint32_t run = 0; run <= RUNS; run++) {
		double moved_ns = (double)receive_request(bench);
		double direct_ns = (double)copied_directly(&copies);
		double in_turn_ns = (double)copied_in_turn(&copies);
		double overlapped_ns = (double)copied_overlapped(&copies);
		if (!run)
			continue; /* the first one connects, and warms the rest */
		add(&moved, gigabytes / moved_ns);
		add(&direct, gigabytes / direct_ns);
		add(&in_turn, gigabytes / in_turn_ns);
		add(&overlapped, gigabytes / overlapped_ns);
	}
	printf("{\"figure\": \"bandwidth\", \"transport\": \"%s\", \"unit\": \"GB/s\", "
	       "\"value\": %.3f, \"beside\": {\"device to device\": %.3f, "
	       "\"through pinned memory, in turn\": %.3f, "
	       "\"through pinned memory, overlapped\": %.3f}, \"bytes\": %zu}\n",
	       bench->transport, median(&moved), median(&direct), median(&in_turn),
	       median(&overlapped), copies.bytes);
}

/* ------------------------------------------------------------------------------------- reaction */

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static uint64_t bytes_sent(const struct bench *bench)
{
	struct kvx_stats stats;

	kvx_engine_stats(bench->side.engine, &stats);
	return stats.bytes_sent;
}

/* From when this thread sees the layer told, by the GPU or by itself, to when the layer was given
 * to the transport. */
static int64_t reaction(const struct bench *bench, struct kvx_stream *stream, uint32_t layer,
			uint32_t *word)
{
	uint64_t before = bytes_sent(bench);
	uint32_t value = word ? load(word) : 0;
	int64_t begin_ns = clock_ns();

	if (word) {
		check_kvx(kvx_cuda_signal_ready(bench->side.stream, word));
		while (load(word) == value)
			;
		begin_ns = clock_ns();
	} else {
		check_kvx(kvx_stream_layers_ready(stream, layer, 1));
	}
	while (bytes_sent(bench) == before)
		;
	return clock_ns() - begin_ns;
}

static void send_signals(struct bench *bench, uint32_t *word, struct samples *samples)
{
	struct kvx_stream *stream = open_stream(bench);

	if (word)
		check_kvx(kvx_stream_watch(stream, word));
	for (uint32_t layer = 0; layer < bench->side.shape.layers; layer++) {
		int64_t ns = reaction(bench, stream, layer, word);
		check_kvx(kvx_stream_wait(stream, layer, WAIT_MS));
		if (layer) /* the first one connects */
			add(samples, (double)ns / 1e3);
		usleep(200 + layer % 37); /* the engine comes to rest, and is met at any moment */
	}
	kvx_stream_close(stream);
	peer_tell(&bench->peer, 0);
}

static void send_reaction(struct bench *bench)
{
	static struct samples by_gpu, by_cpu;
	uint32_t *word;

	check_kvx(kvx_cuda_words_alloc(1, &word));
	for (uint32_t i = 0; i < 3; i++) {
		send_signals(bench, word, &by_gpu);
		send_signals(bench, NULL, &by_cpu);
	}
	printf("{\"figure\": \"reaction\", \"transport\": \"%s\", \"memory\": \"%s\", "
	       "\"unit\": \"us\", \"value\": %.2f, \"p99\": %.2f, \"beside\": "
	       "{\"told by the CPU, p50\": %.2f, \"told by the CPU, p99\": %.2f}, "
	       "\"samples\": %u}\n",
	       bench->transport, bench->side.memory, median(&by_gpu), quantile(&by_gpu, 0.99),
	       median(&by_cpu), quantile(&by_cpu, 0.99), by_gpu.count);
}

static void receive_reaction(struct bench *bench)
{
	for (uint32_t i = 0; i < 6; i++) {
		struct kvx_grant *grant = open_grant(bench);
		peer_hear(&bench->peer);
		kvx_grant_close(grant);
	}
}

/* -------------------------------------------------------------------------------------- exposed */

static cudaGraphExec_t capture_prefill(const struct bench *bench, const struct cache *cache,
				       uint32_t *word)
{
	cudaStream_t stream = bench->side.stream;
	cudaGraphExec_t executable;
	cudaGraph_t graph;

	check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	cache_begin(cache, stream);
	for (uint32_t layer = 0; layer < cache->shape.layers; layer++) {
		cache_compute(COMPUTE_NS, stream);
		cache_fill(cache, layer, stream);
		check_kvx(kvx_cuda_signal_ready(stream, word));
	}
	check_cuda(cudaStreamEndCapture(stream, &graph));
	check_cuda(cudaGraphInstantiateWithFlags(&executable, graph, 0));
	check_cuda(cudaGraphDestroy(graph));
	return executable;
}

/* Layers are told as they get ready, or all at the end. */
static void send_computed(struct bench *bench, cudaGraphExec_t prefill, uint32_t *word, bool early)
{
	struct kvx_stream *stream = open_stream(bench);
	uint32_t layers = bench->side.shape.layers, last = load(word) + layers;

	if (early)
		check_kvx(kvx_stream_watch(stream, word));
	check_cuda(cudaGraphLaunch(prefill, bench->side.stream));
	while (load(word) != last)
		;
	int64_t computed_ns = clock_ns();
	if (!early)
		check_kvx(kvx_stream_layers_ready(stream, 0, layers));
	check_kvx(kvx_stream_wait(stream, KVX_ALL_LAYERS, WAIT_MS));
	peer_tell(&bench->peer, computed_ns);
	stream_finish(bench->side.stream, WAIT_MS, "prefill");
	kvx_stream_close(stream);
}

static void send_exposed(struct bench *bench)
{
	struct cache cache;
	uint32_t *word;

	cache_open(&cache, &bench->side, SENDER);
	check_kvx(kvx_cuda_words_alloc(1, &word));
	cudaGraphExec_t prefill = capture_prefill(bench, &cache, word);
	for (uint32_t run = 0; run <= RUNS; run++) {
		send_computed(bench, prefill, word, true);
		send_computed(bench, prefill, word, false);
	}
}

static void receive_exposed(struct bench *bench)
{
	static struct samples early, late;

	for (uint32_t run = 0; run <= RUNS; run++) {
		double early_ms = (double)receive_request(bench) / 1e6;
		double late_ms = (double)receive_request(bench) / 1e6;
		if (!run)
			continue;
		add(&early, early_ms);
		add(&late, late_ms);
	}
	printf("{\"figure\": \"exposed\", \"transport\": \"%s\", \"unit\": \"ms\", "
	       "\"value\": %.4f, \"beside\": {\"all layers told at the end\": %.4f}, "
	       "\"bytes\": %llu, \"computed ms\": %.1f}\n",
	       bench->transport, median(&early), median(&late),
	       (unsigned long long)request_bytes(&bench->side.shape),
	       COMPUTE_NS / 1e6 * bench->side.shape.layers);
}

/* ------------------------------------------------------------------------------------- slowdown */

/* In ms; requests run beside the products until these are done, if they should. */
static double products_ms(struct bench *bench, uint32_t count, bool beside, uint32_t *requests)
{
	cudaStream_t stream = bench->side.stream;
	cudaEvent_t begin, end;
	float ms;

	check_cuda(cudaEventCreate(&begin));
	check_cuda(cudaEventCreate(&end));
	check_cuda(cudaEventRecord(begin, stream));
	for (uint32_t i = 0; i < count; i++)
		gemm_run(stream);
	check_cuda(cudaEventRecord(end, stream));
	while (beside && !stream_is_done(stream, "products")) {
		peer_tell(&bench->peer, 1);
		send_request(bench);
		*requests += 1;
	}
	stream_finish(stream, WAIT_MS, "products");
	check_cuda(cudaEventElapsedTime(&ms, begin, end));
	check_cuda(cudaEventDestroy(begin));
	check_cuda(cudaEventDestroy(end));
	return ms;
}

static void send_slowdown(struct bench *bench)
{
	static struct samples alone, beside, slowdown, moved;
	uint32_t requests = 0;

	gemm_open(bench->side.stream);
	products_ms(bench, 3, false, NULL);
	double each_ms = products_ms(bench, 10, false, NULL) / 10;
	uint32_t count = (uint32_t)(GEMM_NS / 1e6 / each_ms) + 1;
	products_ms(bench, count, true, &requests);
	for (uint32_t run = 0; run < RUNS; run++) {
		requests = 0;
		double alone_ms = products_ms(bench, count, false, NULL);
		double beside_ms = products_ms(bench, count, true, &requests);
		add(&alone, alone_ms);
		add(&beside, beside_ms);
		add(&slowdown, (beside_ms / alone_ms - 1) * 100);
		add(&moved, (double)request_bytes(&bench->side.shape) * requests / beside_ms / 1e6);
	}
	peer_tell(&bench->peer, 0);
	printf("{\"figure\": \"slowdown\", \"transport\": \"%s\", \"unit\": \"%%\", "
	       "\"value\": %.2f, \"beside\": {\"product alone, ms\": %.3f, "
	       "\"product beside, ms\": %.3f, \"moved beside, GB/s\": %.3f}, "
	       "\"product\": \"%s\"}\n",
	       bench->transport, median(&slowdown), median(&alone) / count, median(&beside) / count,
	       median(&moved), gemm_name());
}

static void receive_slowdown(struct bench *bench)
{
	while (peer_hear(&bench->peer))
		receive_request(bench);
}

/* ----------------------------------------------------------------------------------------- both */

struct figure {
	const char *name;
	const struct shape *shape;
	const char *memory;
	void (*send)(struct bench *bench);
	void (*receive)(struct bench *bench);
};

static const struct figure figures[] = {
	{"bandwidth", &bulk, "malloc", send_bandwidth, receive_bandwidth},
	{"reaction", &signals, "malloc", send_reaction, receive_reaction},
	{"reaction-host", &signals, "host", send_reaction, receive_reaction},
	{"exposed", &model, "malloc", send_exposed, receive_exposed},
	{"slowdown", &bulk, "malloc", send_slowdown, receive_slowdown},
};

int main(int argc, char **argv)
{
	const struct figure *figure = NULL;
	static struct bench bench;

	check_true(argc == 5, "four arguments, as the first lines of tests/gpu/figures.cu say");
	for (const struct figure &each : figures)
		if (strcmp(each.name, argv[1]) == 0)
			figure = &each;
	check_true(figure, "no figure is called %s", argv[1]);
	peer_start(&bench.peer, argv, LIMIT_S);
	bool is_sender = !bench.peer.pid;
	bench.transport = argv[2];
	bench.sender_device = atoi(argv[3]);
	bench.receiver_device = atoi(argv[4]);
	side_open(&bench.side, is_sender ? bench.sender_device : bench.receiver_device,
		  bench.transport, figure->memory, figure->shape);
	peer_meet(&bench.peer);
	phase("measuring");
	(is_sender ? figure->send : figure->receive)(&bench);
	side_close(&bench.side);
	if (!is_sender)
		peer_finish(&bench.peer);
	return 0;
}
