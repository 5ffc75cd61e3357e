/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prefill and a decode process with pools in a device's memory; tests/gpu/run says what it tries.
 *
 *   gpu-flow CASE TRANSPORT MEMORY WAY SENDER_DEVICE RECEIVER_DEVICE
 *
 * case: whole, stress, kill, lease, revoke; probe runs one kernel in one process.
 * way: "stream": signals and waits are operations of streams; "kernel": the kernels that write and
 * check signal and wait by themselves; "late": as "stream", but the decode stream begins when all
 * has come, for tools that run one kernel at a time.
 *
 * Exit status: 0 right, 1 wrong, 77 cannot be tried here, with a line "skip: why".
 */
#include "cache.cuh"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 600000u
#define SHORT_LEASE_MS 3000u /* of the case that lets it end */
#define END_MS 10000u        /* until a wait must have seen that the sender is gone */
#define REVOKES 15u
#define SETTLE_MS 200u /* in which a byte that comes too late would come */

static const struct shape model = {32, 2, 61, 16384, 24};
static const struct shape tiny = {4, 1, 61, 1024, 16};
static const struct shape large = {32, 2, 61, 131072, 24};

struct job;

/* What a case does. */
struct plan {
	const char *name;
	const struct shape *shape;
	uint32_t requests;
	unsigned limit_s; /* of each process */
	void (*send)(const struct job *job);
	void (*receive)(const struct job *job);
};

/* One end of it. */
struct job {
	const struct plan *plan;
	const struct shape *shape; /* the plan's */
	const char *way;
	struct peer peer;
	struct side side;
	struct cache cache;
	uint32_t *words; /* sender: the one that is watched; receiver: the mirrored ones */
};

static bool is_way(const struct job *job, const char *way)
{
	return strcmp(job->way, way) == 0;
}

static cudaStream_t stream_of(const struct job *job)
{
	return job->side.stream;
}

/* Other threads of the process, as the engine's, may do what a capture forbids this one. */
static void capture_begin(const struct job *job)
{
	check_cuda(cudaStreamBeginCapture(stream_of(job), cudaStreamCaptureModeThreadLocal));
}

static cudaGraphExec_t capture_end(const struct job *job)
{
	cudaGraphExec_t executable;
	cudaGraph_t graph;

	check_cuda(cudaStreamEndCapture(stream_of(job), &graph));
	check_cuda(cudaGraphInstantiateWithFlags(&executable, graph, 0));
	check_cuda(cudaGraphDestroy(graph));
	return executable;
}

/* ------------------------------------------------------------------------------------- sender */

static void prefill_layer(const struct job *job, uint32_t layer)
{
	if (is_way(job, "kernel")) {
		cache_fill_and_signal(&job->cache, layer, job->words, stream_of(job));
		return;
	}
	cache_fill(&job->cache, layer, stream_of(job));
	check_kvx(kvx_cuda_signal_ready(stream_of(job), job->words));
}

static cudaGraphExec_t capture_prefill(const struct job *job)
{
	capture_begin(job);
	cache_begin(&job->cache, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		prefill_layer(job, layer);
	return capture_end(job);
}

/* Takes the ticket of the next request. */
static struct kvx_stream *open_stream(const struct job *job, uint32_t request)
{
	static char ticket[PACKET_MAX];
	struct kvx_stream *stream;

	phase("waiting for a ticket");
	size_t bytes = peer_receive(&job->peer, ticket, sizeof(ticket));
	uint32_t *blocks = cache_blocks(&job->cache, request);
	phase("opening a stream");
	check_side(&job->side, kvx_stream_open(job->side.pool, blocks, job->shape->count, NULL,
					       ticket, bytes, &stream));
	free(blocks);
	return stream;
}

static void explain(const struct kvx_stream *stream)
{
	static char text[4096];

	kvx_stream_explain(stream, text, sizeof(text));
	fprintf(stderr, "%s\n", text);
}

static void send_requests(const struct job *job)
{
	cudaGraphExec_t prefill = capture_prefill(job);

	for (uint32_t request = 1; request <= job->plan->requests; request++) {
		struct kvx_stream *stream = open_stream(job, request);
		check_kvx(kvx_stream_watch(stream, job->words));
		phase("prefill");
		check_cuda(cudaGraphLaunch(prefill, stream_of(job)));
		check_side(&job->side, kvx_stream_wait(stream, KVX_ALL_LAYERS, WAIT_MS));
		stream_finish(stream_of(job), WAIT_MS, "prefill");
		if (request == 1)
			explain(stream);
		kvx_stream_close(stream);
		peer_tell(&job->peer, request);
	}
	check_cuda(cudaGraphExecDestroy(prefill));
}

/* Stops in the middle, and is killed there. */
static void send_half(const struct job *job)
{
	uint32_t half = job->shape->layers / 2;
	struct kvx_stream *stream = open_stream(job, 1);

	check_kvx(kvx_stream_watch(stream, job->words));
	cache_begin(&job->cache, stream_of(job));
	for (uint32_t layer = 0; layer < half; layer++)
		prefill_layer(job, layer);
	phase("the first half of the layers");
	check_side(&job->side, kvx_stream_wait(stream, half - 1, WAIT_MS));
	peer_tell(&job->peer, half);
	phase("waiting to be killed");
	sleep_ms(job->plan->limit_s * 1000);
}

/* All at once, so that as much as can be is under way. */
static void send_revoked(const struct job *job)
{
	for (uint32_t request = 1; request <= job->plan->requests; request++) {
		struct kvx_stream *stream = open_stream(job, request);
		cache_begin(&job->cache, stream_of(job));
		for (uint32_t layer = 0; layer < job->shape->layers; layer++)
			cache_fill(&job->cache, layer, stream_of(job));
		phase("filling");
		stream_finish(stream_of(job), WAIT_MS, "filling");
		phase("sending what is revoked");
		check_kvx(kvx_stream_layers_ready(stream, 0, job->shape->layers));
		int error = kvx_stream_wait(stream, KVX_ALL_LAYERS, WAIT_MS);
		if (error != KVX_E_REVOKED)
			check_side(&job->side, error);
		kvx_stream_close(stream);
		peer_tell(&job->peer, request);
	}
}

/* ----------------------------------------------------------------------------------- receiver */

static void decode_layer(const struct job *job, uint32_t layer)
{
	if (is_way(job, "kernel")) {
		cache_wait_and_check(&job->cache, layer, job->words, stream_of(job));
		return;
	}
	check_kvx(kvx_cuda_wait_layer(stream_of(job), job->words, layer));
	cache_check(&job->cache, layer, job->words, stream_of(job));
}

static void decode(const struct job *job)
{
	cache_begin(&job->cache, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		decode_layer(job, layer);
}

static cudaGraphExec_t capture_decode(const struct job *job)
{
	capture_begin(job);
	decode(job);
	return capture_end(job);
}

static struct kvx_grant *open_grant(const struct job *job, uint32_t request, uint32_t lease_ms)
{
	uint32_t *blocks = cache_blocks(&job->cache, request);
	struct kvx_grant *grant;
	size_t bytes;

	phase("opening a grant");
	check_kvx(
		kvx_grant_open(job->side.pool, blocks, job->shape->count, NULL, lease_ms, &grant));
	free(blocks);
	check_kvx(kvx_grant_mirror(grant, job->words, job->shape->layers + 1));
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	check_true(ticket, "kvx_grant_ticket(): %s", kvx_error_text());
	peer_send(&job->peer, ticket, bytes);
	return grant;
}

static void expect_layer(const struct job *job, const struct verdict *verdict, uint32_t request,
			 uint32_t layer, uint32_t state)
{
	check_true(verdict->states[layer] == 1u << state,
		   "request %u, layer %u: kernels behind the wait found the states 0x%x in its "
		   "word, not 0x%x alone (bits of pending, whole, failed)",
		   request, layer, verdict->states[layer], 1u << state);
	check_true(!verdict->wrong[layer],
		   "request %u, layer %u: %u of %u words are wrong; word %u is 0x%08x, not 0x%08x",
		   request, layer, verdict->wrong[layer], layer_words(job->shape),
		   verdict->at[layer], verdict->is[layer],
		   value_of(request, layer, verdict->at[layer]));
}

static void expect_all(const struct job *job, uint32_t request)
{
	static struct verdict verdict;

	cache_verdict(&job->cache, &verdict, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		expect_layer(job, &verdict, request, layer, KVX_WORD_WHOLE);
}

/* What was right has to be wrong for another request. */
static void expect_checks_to_find(const struct job *job)
{
	static struct verdict verdict;
	uint32_t words = layer_words(job->shape);

	phase("checking the check");
	decode(job); /* of a request that nobody has sent: the words still say whole */
	stream_finish(stream_of(job), WAIT_MS, "checking the check");
	cache_verdict(&job->cache, &verdict, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		check_true(verdict.wrong[layer] > words / 10 * 9,
			   "layer %u: only %u of %u words were found to be of another request",
			   layer, verdict.wrong[layer], words);
}

static void receive_requests(const struct job *job)
{
	cudaGraphExec_t graph = capture_decode(job);

	for (uint32_t request = 1; request <= job->plan->requests; request++) {
		struct kvx_grant *grant = open_grant(job, request, LEASE_MS);
		bool late = is_way(job, "late");
		phase("a request");
		if (late)
			peer_hear(&job->peer);
		if (request % 2)
			check_cuda(cudaGraphLaunch(graph, stream_of(job)));
		else
			decode(job);
		if (!late)
			peer_hear(&job->peer);
		check_kvx(kvx_grant_wait(grant, KVX_ALL_LAYERS, END_MS));
		phase("decode");
		stream_finish(stream_of(job), WAIT_MS, "decode");
		expect_all(job, request);
		kvx_grant_close(grant);
	}
	expect_checks_to_find(job);
	check_cuda(cudaGraphExecDestroy(graph));
}

/* The waits for the second half end with an error, whatever ends the grant. */
static void receive_half(const struct job *job, uint32_t lease_ms, bool dies, int expected)
{
	static struct verdict verdict;
	struct kvx_grant *grant = open_grant(job, 1, lease_ms);

	decode(job);
	phase("the first half of the layers");
	uint32_t half = (uint32_t)peer_hear(&job->peer);
	check_true(!stream_is_done(stream_of(job), "decode"),
		   "the decode stream has not waited for the layers that did not come");
	phase("the end of the waits");
	int64_t begin_ns = clock_ns();
	if (dies)
		peer_kill(&job->peer);
	stream_finish(stream_of(job), END_MS, "waits of a grant that has failed");
	fprintf(stderr, "the waits have ended after %.1f ms\n",
		(double)(clock_ns() - begin_ns) / 1e6);
	cache_verdict(&job->cache, &verdict, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		expect_layer(job, &verdict, 1, layer,
			     layer < half ? KVX_WORD_WHOLE : KVX_WORD_FAILED);
	int error = kvx_grant_poll(grant, KVX_ALL_LAYERS);
	check_true(error == expected, "the grant ended with %s: %s; %s was expected",
		   kvx_error_name(error), kvx_error_text(), kvx_error_name(expected));
	kvx_grant_close(grant);
	if (!dies)
		peer_kill(&job->peer);
}

static void receive_from_killed(const struct job *job)
{
	receive_half(job, LEASE_MS, true, KVX_E_PEER_LOST);
}

static void receive_until_lease_ends(const struct job *job)
{
	receive_half(job, SHORT_LEASE_MS, false, KVX_E_LEASE);
}

/* Other work takes the blocks at once; it must find them as it left them. */
static void expect_no_late_byte(const struct job *job, uint32_t request)
{
	static struct verdict verdict;

	cache_begin(&job->cache, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		cache_mark(&job->cache, layer, stream_of(job));
	stream_finish(stream_of(job), WAIT_MS, "marking");
	sleep_ms(SETTLE_MS);
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		cache_check_marks(&job->cache, layer, stream_of(job));
	stream_finish(stream_of(job), WAIT_MS, "looking at the marks");
	cache_verdict(&job->cache, &verdict, stream_of(job));
	for (uint32_t layer = 0; layer < job->shape->layers; layer++)
		check_true(!verdict.wrong[layer],
			   "request %u, layer %u: %u of %u words changed after the revoke had "
			   "returned; word %u is 0x%08x, which the sender had as 0x%08x",
			   request, layer, verdict.wrong[layer], layer_words(job->shape),
			   verdict.at[layer], verdict.is[layer],
			   value_of(request, layer, verdict.at[layer]));
}

static void receive_and_revoke(const struct job *job)
{
	uint32_t cut = 0;

	for (uint32_t request = 1; request <= job->plan->requests; request++) {
		struct kvx_grant *grant = open_grant(job, request, LEASE_MS);
		phase("waiting for a layer before the revoke");
		check_side(&job->side, kvx_grant_wait(grant, request % 4, WAIT_MS));
		phase("the revoke");
		check_kvx(kvx_grant_revoke(grant, 1000));
		cut += kvx_grant_poll(grant, KVX_ALL_LAYERS) != 1;
		phase("after the revoke");
		expect_no_late_byte(job, request);
		peer_hear(&job->peer);
		kvx_grant_close(grant);
	}
	fprintf(stderr, "%u of %u requests were cut in the middle\n", cut, job->plan->requests);
	if (!cut)
		skip("all requests were whole before they could be revoked");
}

/* --------------------------------------------------------------------------------------- both */

static const struct plan plans[] = {
	{"whole", &model, 6, 200, send_requests, receive_requests},
	{"stress", &tiny, 2000, 400, send_requests, receive_requests},
	{"kill", &model, 1, 120, send_half, receive_from_killed},
	{"lease", &model, 1, 120, send_half, receive_until_lease_ends},
	{"revoke", &large, REVOKES, 180, send_revoked, receive_and_revoke},
};

/* Whether tools that look into the device work here. */
static int probe(int device)
{
	cudaStream_t stream;

	check_cuda(cudaSetDevice(device));
	check_cuda(cudaStreamCreate(&stream));
	cache_compute(1000, stream);
	check_cuda(cudaStreamSynchronize(stream));
	return 0;
}

static const struct plan *find_plan(const char *name)
{
	for (const struct plan &plan : plans)
		if (strcmp(plan.name, name) == 0)
			return &plan;
	give_up(__FILE__, __LINE__, "no case is called %s", name);
}

int main(int argc, char **argv)
{
	static struct job job;

	check_true(argc == 7, "six arguments, as the first lines of tests/gpu/flow.cu say");
	if (strcmp(argv[1], "probe") == 0)
		return probe(atoi(argv[5]));
	job.plan = find_plan(argv[1]);
	job.shape = job.plan->shape;
	job.way = argv[4];
	peer_start(&job.peer, argv, job.plan->limit_s);
	bool is_sender = !job.peer.pid;
	side_open(&job.side, atoi(argv[is_sender ? 5 : 6]), argv[2], argv[3], job.shape);
	cache_open(&job.cache, &job.side, is_sender ? SENDER : RECEIVER);
	check_kvx(kvx_cuda_words_alloc(job.shape->layers + 1, &job.words));
	peer_meet(&job.peer);
	(is_sender ? job.plan->send : job.plan->receive)(&job);
	side_close(&job.side);
	check_kvx(kvx_cuda_words_free(job.words));
	if (!is_sender && job.plan->send != send_half)
		peer_finish(&job.peer);
	return 0;
}
