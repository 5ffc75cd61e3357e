/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-plan: what a request's streams would do between pools that differ. See docs/plan.md. */
#include "plan.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES_MIN 4096u
#define UNIT_BYTES_MAX (1u << 30)
#define STATUS_REFUSED 2

enum {
	KEY_RECEIVER = 0x100,
	KEY_SENDER,
	KEY_TOKENS,
	KEY_HELD,
	KEY_TABLE,
	KEY_RAILS,
	KEY_CHUNK_TOKENS,
	KEY_UNIT_BYTES,
	KEY_JSON,
	KEY_MODELS
};

static const struct argp_option options[] = {
	{"receiver", KEY_RECEIVER, "POOL", 0, "the pool that a request lands in", 0},
	{"sender", KEY_SENDER, "POOL", 0,
	 "the pool that it comes from; several make one grant of several senders", 0},
	{"tokens", KEY_TOKENS, "N", 0, "of the request (default 8192)", 0},
	{"held", KEY_HELD, "N", 0, "blocks that the receiver holds already (default 0)", 0},
	{"table", KEY_TABLE, "KIND", 0,
	 "which blocks the request has at both ends: identity, runs:N or random, where no block is "
	 "followed by its neighbour (default random)",
	 0},
	{"rails", KEY_RAILS, "N|W,W,...", 0,
	 "over a transport whose rails have their units, as verbs: so many alike, or their "
	 "weights",
	 0},
	{"chunk-tokens", KEY_CHUNK_TOKENS, "N", 0,
	 "the prefill computes so many tokens of all layers at a time", 0},
	{"unit-bytes", KEY_UNIT_BYTES, "N", 0,
	 "as option unit_bytes of an engine (default 1048576)", 0},
	{"json", KEY_JSON, "FILE", 0, "write JSON in place of text; -: to stdout", 0},
	{"models", KEY_MODELS, NULL, 0, "list the models that are known by name", 0},
	{0},
};

static const char documentation[] =
	"Shows what the streams of a request would do between pools that differ: which sender "
	"moves "
	"what, in how many pieces of which sizes, and why they are not longer.\v"
	"POOL is KEY=VALUE,... or @FILE with a JSON object of the same: model=NAME, or layers=N, "
	"heads=N and head=BYTES (of one token of one head); tokens=N in a block; layout=HND, NHD "
	"or "
	"WHOLE; tp=N and pp=N for that many ranks; rank=R for this one alone, which for the "
	"receiver is 0 if it is not said. kvxfer-plan(1) lists all keys.\n\n"
	"Exit status: 0, 1 if the arguments are wrong, 2 if the library would refuse the request.";

const char *argp_program_version = "kvxfer-plan " KVX_VERSION;

int plan_fail(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "kvxfer-plan: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	return 1;
}

/* --- the command line --- */

static int read_table(struct plan *plan, const char *kind)
{
	plan->table = kind;
	plan->run = strcmp(kind, "random") == 0 ? 1 : 0;
	if (plan->run || strcmp(kind, "identity") == 0)
		return 0;
	if (strncmp(kind, "runs:", 5) == 0 && plan_number(kind + 5, 1, KVX_TABLE_MAX, &plan->run))
		return 0;
	return plan_fail("--table=%s: must be identity, random or runs:N with N from 1 to %u", kind,
			 KVX_TABLE_MAX);
}

/* "2,1,1": these weights. False: they are not. */
static bool read_weights(struct plan *plan, const char *text)
{
	char copy[4 * KVX_PLAN_RAILS_MAX + 1];
	char *rest = copy, *one;
	uint32_t weight;

	plan->rails = 0;
	if (!strchr(text, ',') || strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	while ((one = strsep(&rest, ","))) {
		if (plan->rails == KVX_PLAN_RAILS_MAX || !plan_number(one, 1, 255, &weight))
			return false;
		plan->weights[plan->rails++] = (uint8_t)weight;
	}
	return true;
}

static int read_rails(struct plan *plan, const char *text)
{
	memset(plan->weights, 1, sizeof(plan->weights));
	if (plan_number(text, 1, KVX_PLAN_RAILS_MAX, &plan->rails) || read_weights(plan, text))
		return 0;
	return plan_fail("--rails=%s: must be 1 to %u, or as many weights from 1 to 255, as 2,1,1",
			 text, KVX_PLAN_RAILS_MAX);
}

static int read_number(const char *option, const char *text, uint32_t min, uint32_t max,
		       uint32_t *number)
{
	if (plan_number(text, min, max, number))
		return 0;
	return plan_fail("--%s=%s: must be a number from %u to %u", option, text, min, max);
}

static int read_sender(struct plan *plan, const char *text)
{
	if (plan->sender_count == KVX_SENDERS_MAX)
		return plan_fail("--sender: at most %u can be given", KVX_SENDERS_MAX);
	return plan_pool_read("--sender", text, &plan->senders[plan->sender_count++]);
}

static int take(struct plan *plan, int key, const char *argument)
{
	switch (key) {
	case KEY_RECEIVER:
		return plan_pool_read("--receiver", argument, &plan->receiver);
	case KEY_SENDER:
		return read_sender(plan, argument);
	case KEY_TOKENS:
		return read_number("tokens", argument, 1, UINT32_MAX, &plan->tokens);
	case KEY_HELD:
		return read_number("held", argument, 0, UINT32_MAX, &plan->held_blocks);
	case KEY_TABLE:
		return read_table(plan, argument);
	case KEY_RAILS:
		return read_rails(plan, argument);
	case KEY_CHUNK_TOKENS:
		return read_number("chunk-tokens", argument, 1, UINT32_MAX, &plan->chunk_tokens);
	case KEY_UNIT_BYTES:
		return read_number("unit-bytes", argument, UNIT_BYTES_MIN, UNIT_BYTES_MAX,
				   &plan->unit_bytes);
	case KEY_MODELS:
		plan_models(stdout);
		exit(fflush(stdout) != 0);
	default:
		plan->json = argument;
		return 0;
	}
}

static error_t parse(int key, char *argument, struct argp_state *state)
{
	if (key == ARGP_KEY_ARG)
		argp_error(state, "no argument is expected, but there is \"%s\"", argument);
	if (key < KEY_RECEIVER || key > KEY_MODELS)
		return ARGP_ERR_UNKNOWN;
	return take(state->input, key, argument) ? EINVAL : 0;
}

/* --- the request --- */

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

/* A stride about the golden ratio, which goes once round. Against its direction no run meets the
 * one behind it, unless it is one less than all. */
static uint32_t stride_of(uint32_t runs)
{
	uint32_t step = (uint32_t)(runs * UINT64_C(618) / 1000) | 1;

	while (common_divisor(step, runs) != 1)
		step++;
	return step + 1 < runs ? step : 1;
}

/* The numbers 0 .. count - 1, where runs of `run` blocks (0: all) stay together and none is
 * followed by its neighbour. What does not fill a run stays at the end. */
static uint32_t *make_table(uint32_t count, uint32_t run)
{
	uint32_t *table = malloc(count * sizeof(*table));
	uint32_t length = run && run < count ? run : count, runs = count / length;
	uint64_t step = stride_of(runs);

	for (uint32_t i = 0; table && i < count; i++) {
		uint32_t place = i / length;
		if (place < runs)
			place = runs - 1 - (uint32_t)(place * step % runs);
		table[i] = place * length + i % length;
	}
	return table;
}

static int make_end(const struct plan *plan, const struct plan_pool *pool, uint32_t rank,
		    struct plan_end *made)
{
	struct kvx_geometry *geometry = &made->end.geometry;
	uint32_t tokens = pool->block_tokens;

	made->rank = rank;
	plan_pool_rank(pool, rank, geometry);
	made->end.count = plan->tokens / tokens + (plan->tokens % tokens != 0);
	if (made->end.count > KVX_TABLE_MAX)
		return plan_fail("--tokens=%u: are %u blocks of %u: must be at most %u",
				 plan->tokens, made->end.count, tokens, KVX_TABLE_MAX);
	geometry->blocks = pool->blocks ? pool->blocks : made->end.count;
	for (uint32_t i = 0; i < pool->planes && i < KVX_PLANES_MAX; i++)
		made->end.block_strides[i] = pool->block_stride;
	made->end.layer_stride = pool->layer_stride;
	made->end.blocks = make_table(made->end.count, plan->run);
	return made->end.blocks ? 0 : plan_fail("out of memory for %u blocks", made->end.count);
}

static bool ranges_meet(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
	return a < b + b_count && b < a + a_count;
}

static bool holds_part(const struct kvx_geometry *a, const struct kvx_geometry *b)
{
	return ranges_meet(a->layer_first, a->layers, b->layer_first, b->layers) &&
	       (!a->heads || !b->heads ||
		ranges_meet(a->head_first, a->heads, b->head_first, b->heads));
}

/* Takes the ranks of a pool that hold part of what the receiver's rank does, or all of them. */
static int add_senders(struct plan *plan, uint32_t index, bool all)
{
	const struct plan_pool *pool = &plan->senders[index];

	for (uint32_t rank = 0; rank < pool->tp * pool->pp; rank++) {
		struct kvx_geometry geometry;
		if (pool->rank != PLAN_RANK_ALL && rank != pool->rank)
			continue;
		plan_pool_rank(pool, rank, &geometry);
		if (!all && !holds_part(&geometry, &plan->to.end.geometry))
			continue;
		if (plan->from_count == KVX_SENDERS_MAX)
			return plan_fail("more than %u ranks hold part of the receiver's pool: "
					 "name some by rank=R",
					 KVX_SENDERS_MAX);
		struct plan_end *made = &plan->from[plan->from_count++];
		made->pool = index;
		if (make_end(plan, pool, rank, made))
			return 1;
	}
	return 0;
}

static int make_ends(struct plan *plan)
{
	const struct plan_pool *receiver = &plan->receiver;
	int status = make_end(plan, receiver, receiver->rank == PLAN_RANK_ALL ? 0 : receiver->rank,
			      &plan->to);

	for (uint32_t i = 0; i < plan->sender_count && !status; i++) {
		const struct plan_pool *pool = &plan->senders[i];
		plan->from_all += pool->rank == PLAN_RANK_ALL ? pool->tp * pool->pp : 1;
		status = add_senders(plan, i, false);
	}
	/* The library says why it would refuse those that have nothing in common with it. */
	for (uint32_t i = 0; i < plan->sender_count && !plan->from_count && !status; i++)
		status = add_senders(plan, i, true);
	return status;
}

static void free_ends(struct plan *plan)
{
	free((void *)plan->to.end.blocks);
	for (uint32_t i = 0; i < plan->from_count; i++)
		free((void *)plan->from[i].end.blocks);
}

static void compile(struct plan *plan)
{
	struct kvx_plan_end senders[KVX_SENDERS_MAX];
	struct kvx_plan_request request = {
		.receiver = plan->to.end,
		.senders = senders,
		.sender_count = plan->from_count,
		.tokens = plan->tokens,
		.held_blocks = plan->held_blocks,
		.chunk_tokens = plan->chunk_tokens,
		.unit_bytes = plan->unit_bytes,
		.rails = plan->rails,
		.weights = plan->weights,
	};

	for (uint32_t i = 0; i < plan->from_count; i++)
		senders[i] = plan->from[i].end;
	plan->refused = kvx_plan_report_open(&request, &plan->report);
}

/* --- output --- */

static int write_plan(const struct plan *plan)
{
	bool is_stdout = !plan->json || strcmp(plan->json, "-") == 0;
	const char *name = is_stdout ? "stdout" : plan->json;
	FILE *file = is_stdout ? stdout : fopen(plan->json, "we");

	if (!file)
		return plan_fail("%s: %s", name, strerror(errno));
	int error = plan->json ? plan_write_json(plan, file) : plan_write_text(plan, file);
	if (is_stdout ? fflush(file) : fclose(file))
		error = 1;
	return error ? plan_fail("%s: cannot be written in full", name) : 0;
}

static int run(struct plan *plan)
{
	if (!plan->receiver.layers)
		return plan_fail("--receiver is missing, as --receiver model=llama-3.1-70b,tp=8");
	if (!plan->sender_count)
		return plan_fail("--sender is missing, as --sender model=llama-3.1-70b,tp=4");
	int status = make_ends(plan);
	if (!status) {
		compile(plan);
		status = write_plan(plan);
	}
	if (!status && plan->refused)
		status = STATUS_REFUSED;
	kvx_plan_report_close(plan->report);
	free_ends(plan);
	return status;
}

int main(int count, char **arguments)
{
	static const struct argp parser = {options, parse, NULL, documentation, NULL, NULL, NULL};
	struct plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return plan_fail("out of memory");
	plan->tokens = 8192;
	plan->unit_bytes = 1u << 20;
	read_table(plan, "random");
	int status = argp_parse(&parser, count, arguments, 0, NULL, plan) ? 1 : run(plan);
	free(plan);
	return status;
}
