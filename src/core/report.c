/* SPDX-License-Identifier: Apache-2.0 */
/* The public side of src/plan/describe.h: checks, memory and words. */
#include "base/error.h"
#include "core/geometry.h"
#include "plan/describe.h"

#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES (1u << 20) /* the default of option unit_bytes */

struct kvx_plan_report {
	struct kvx_shape receiver;
	uint32_t count;
	struct {
		struct kvx_shape shape;
		struct kvx_plan_share share;
	} sender[];
};

/* What is needed only while a report is made. */
struct draft {
	struct kvx_plan_request request; /* complete */
	struct kvx_geometry receiver;    /* complete, as are the senders' */
	struct kvx_geometry geometries[KVX_SENDERS_MAX];
	struct kvx_described_end ends[KVX_SENDERS_MAX];
	struct kvx_described_end end; /* the receiver's */
	struct kvx_share shares[KVX_SENDERS_MAX];
	uint32_t token_first, token_end;
	uint64_t lengths[KVX_LENGTHS];
};

const char *kvx_plan_reason_name(enum kvx_plan_reason reason)
{
	static const char *const names[] = {"table", "heads", "tokens", "layout", "gaps", "layers"};

	return (size_t)reason < sizeof(names) / sizeof(names[0]) ? names[reason] : "?";
}

/* --- what is asked for --- */

/* Of a block with one layer's first planes. */
static uint64_t layer_bytes(const struct kvx_shape *shape)
{
	return shape->abreast ? (uint64_t)shape->abreast * shape->plane_stride
			      : shape->plane[0].block_bytes;
}

static int check_layer_stride(const char *what, const struct kvx_geometry *geometry,
			      const struct kvx_described_end *end)
{
	uint64_t least = layer_bytes(&end->shape);
	bool apart = geometry->planes > 1 && !geometry->plane_stride;

	if (!end->layer_stride ||
	    (end->layer_stride >= least && end->layer_stride % KVX_ALIGN == 0 && !apart))
		return 0;
	return kvx_fail(KVX_E_INVALID,
			"%s: layer_stride %u: must be 0 where layers lie apart, else a multiple of "
			"%u and at least the %llu bytes of a layer's planes, which have a "
			"plane_stride if there are several",
			what, end->layer_stride, KVX_ALIGN, (unsigned long long)least);
}

/* How far apart blocks of a plane lie at least. */
static uint64_t least_stride(const struct kvx_described_end *end, uint32_t plane)
{
	const struct kvx_shape *shape = &end->shape;

	if (plane && plane >= shape->abreast)
		return shape->plane[plane].block_bytes;
	return end->layer_stride ? (uint64_t)shape->layers * end->layer_stride : layer_bytes(shape);
}

static int check_strides(const char *what, uint32_t blocks, struct kvx_described_end *end)
{
	uint64_t *strides = end->strides;

	for (uint32_t i = 0; i < end->shape.planes; i++) {
		uint64_t least = least_stride(end, i);
		if (!strides[i])
			strides[i] = least;
		if (strides[i] < least || strides[i] % KVX_ALIGN ||
		    strides[i] > KVX_PLANE_BYTES_MAX / blocks)
			return kvx_fail(KVX_E_INVALID,
					"%s: plane %u: %u blocks of %llu bytes, %llu apart: must "
					"be at least so far apart, a multiple of %u, and no plane "
					"larger than 2^48 bytes",
					what, i, blocks, (unsigned long long)least,
					(unsigned long long)strides[i], KVX_ALIGN);
	}
	return 0;
}

static int check_repeated(const char *what, const struct kvx_geometry *geometry,
			  const uint32_t *blocks, uint32_t count)
{
	uint64_t *seen = calloc((size_t)geometry->blocks / 64 + 1, sizeof(*seen));
	int error = 0;

	if (!seen)
		return kvx_fail(KVX_E_MEMORY, "%s: out of memory", what);
	for (uint32_t i = 0; i < count && !error; i++) {
		uint64_t bit = UINT64_C(1) << (blocks[i] % 64);
		if (seen[blocks[i] / 64] & bit)
			error = kvx_fail(KVX_E_INVALID, "%s: block %u is repeated, at entry %u",
					 what, blocks[i], i);
		seen[blocks[i] / 64] |= bit;
	}
	free(seen);
	return error;
}

static int check_table(const char *what, const struct kvx_geometry *geometry,
		       const uint32_t *blocks, uint32_t count)
{
	if (!blocks || !count || count > KVX_TABLE_MAX)
		return kvx_fail(blocks && count ? KVX_E_LIMIT : KVX_E_INVALID,
				"%s: a table of %u blocks: must be 1 to %u", what, count,
				KVX_TABLE_MAX);
	for (uint32_t i = 0; i < count; i++)
		if (blocks[i] >= geometry->blocks)
			return kvx_fail(KVX_E_INVALID,
					"%s: entry %u is block %u, but the pool has blocks 0 to %u",
					what, i, blocks[i], geometry->blocks - 1);
	return check_repeated(what, geometry, blocks, count);
}

static int make_end(const char *what, const struct kvx_plan_end *given,
		    struct kvx_geometry *geometry, struct kvx_described_end *end)
{
	int error = kvx_geometry_complete(&given->geometry, geometry);

	if (error)
		return error;
	kvx_shape_of(geometry, &end->shape);
	end->blocks = given->blocks;
	memcpy(end->strides, given->block_strides, sizeof(end->strides));
	end->layer_stride = given->layer_stride;
	error = check_layer_stride(what, geometry, end);
	if (!error)
		error = check_strides(what, geometry->blocks, end);
	return error ? error : check_table(what, geometry, given->blocks, given->count);
}

static int check_tokens(struct draft *draft)
{
	struct kvx_plan_request *request = &draft->request;
	uint32_t count = request->receiver.count, block_tokens = draft->end.shape.block_tokens;
	uint64_t most = (uint64_t)count * block_tokens;

	if (most > UINT32_MAX)
		return kvx_fail(KVX_E_LIMIT, "grant: %u blocks of %u tokens are more than 2^32 - 1",
				count, block_tokens);
	if (!request->tokens)
		request->tokens = (uint32_t)most;
	if (request->tokens > most || request->tokens <= most - block_tokens)
		return kvx_fail(KVX_E_INVALID,
				"grant: a request of %u tokens does not fill %u blocks of %u",
				request->tokens, count, block_tokens);
	if (request->held_blocks >= count)
		return kvx_fail(KVX_E_INVALID,
				"grant: %u of its %u blocks are held already: at least one must "
				"not be",
				request->held_blocks, count);
	draft->token_first = request->held_blocks * block_tokens;
	draft->token_end = request->tokens;
	return 0;
}

static int check_rails(struct kvx_plan_request *request)
{
	if (!request->unit_bytes)
		request->unit_bytes = UNIT_BYTES;
	if (request->rails > KVX_PLAN_RAILS_MAX)
		return kvx_fail(KVX_E_INVALID, "plan: %u rails: must be at most %u", request->rails,
				KVX_PLAN_RAILS_MAX);
	for (uint32_t i = 0; request->weights && i < request->rails; i++)
		if (!request->weights[i])
			return kvx_fail(KVX_E_INVALID,
					"plan: rail %u has weight 0: must be 1 to 255", i);
	return 0;
}

static int check_sender(struct draft *draft, uint32_t index)
{
	const struct kvx_plan_end *given = &draft->request.senders[index];
	struct kvx_geometry *geometry = &draft->geometries[index];
	int error = make_end("stream", given, geometry, &draft->ends[index]);

	if (!error)
		error = kvx_geometry_match(geometry, &draft->receiver);
	if (error)
		return error;
	uint32_t blocks = kvx_geometry_blocks(geometry, draft->token_end);
	if (given->count != blocks)
		return kvx_fail(KVX_E_INVALID,
				"stream: of %u blocks, but the grant's request of %u tokens fills "
				"%u of %u tokens",
				given->count, draft->token_end, blocks,
				draft->ends[index].shape.block_tokens);
	return 0;
}

/* In the order in which a grant and its streams would find out. */
static int check_all(struct draft *draft)
{
	const struct kvx_plan_request *request = &draft->request;
	int error = make_end("grant", &request->receiver, &draft->receiver, &draft->end);

	if (!error)
		error = check_tokens(draft);
	if (!error)
		error = check_rails(&draft->request);
	for (uint32_t i = 0; i < request->sender_count && !error; i++)
		error = check_sender(draft, i);
	return error ? error
		     : kvx_share_out(&draft->receiver, draft->token_first, draft->token_end,
				     draft->geometries, request->sender_count, draft->shares);
}

/* --- plans --- */

static int describe_sender(struct draft *draft, uint32_t index, struct kvx_plan_share *share)
{
	struct kvx_described described = {
		.sender = draft->ends[index],
		.receiver = draft->end,
		.share = draft->shares[index],
	};
	struct kvx_plan *plan = &described.plan;
	const uint32_t *ours = described.sender.blocks, *theirs = draft->end.blocks;

	kvx_describe_cut(&described.cut, &described, &draft->request, draft->token_first,
			 draft->token_end);
	kvx_describe_plan(&described, draft->token_first, draft->token_end);
	uint32_t tokens = plan->image.chunk_tokens;
	uint32_t from = described.sender.shape.block_tokens / tokens;
	uint32_t to = draft->end.shape.block_tokens / tokens;
	plan->run_count = kvx_plan_runs(ours, from, theirs, to, described.chunks, NULL);
	struct kvx_run *runs = calloc(plan->run_count, sizeof(*runs));
	if (!runs)
		return kvx_fail(KVX_E_MEMORY, "plan: out of memory for %u runs of blocks",
				plan->run_count);
	kvx_plan_runs(ours, from, theirs, to, described.chunks, runs);
	plan->runs = runs;
	kvx_describe_share(&described, draft->lengths, share);
	free(runs);
	return 0;
}

static int make_report(struct draft *draft, struct kvx_plan_report **report)
{
	uint32_t count = draft->request.sender_count;
	struct kvx_plan_report *made = calloc(1, sizeof(*made) + count * sizeof(made->sender[0]));
	int error = made ? 0 : kvx_fail(KVX_E_MEMORY, "plan: out of memory");

	for (uint32_t i = 0; i < count && !error; i++) {
		made->sender[i].shape = draft->ends[i].shape;
		error = describe_sender(draft, i, &made->sender[i].share);
	}
	if (error) {
		free(made);
		return error;
	}
	made->receiver = draft->end.shape;
	made->count = count;
	*report = made;
	return 0;
}

int kvx_plan_report_open(const struct kvx_plan_request *request, struct kvx_plan_report **report)
{
	if (!request || !report || !request->senders)
		return kvx_fail(KVX_E_INVALID, "plan: NULL argument");
	if (!request->sender_count || request->sender_count > KVX_SENDERS_MAX)
		return kvx_fail(KVX_E_INVALID, "plan: %u senders: must be 1 to %u",
				request->sender_count, KVX_SENDERS_MAX);
	struct draft *draft = calloc(1, sizeof(*draft));
	if (!draft)
		return kvx_fail(KVX_E_MEMORY, "plan: out of memory");
	draft->request = *request;
	int error = check_all(draft);
	if (!error)
		error = make_report(draft, report);
	free(draft);
	return error;
}

void kvx_plan_report_close(struct kvx_plan_report *report)
{
	free(report);
}

int kvx_plan_report_share(const struct kvx_plan_report *report, uint32_t sender,
			  struct kvx_plan_share *share)
{
	if (sender >= report->count)
		return kvx_fail(KVX_E_INVALID, "plan: no sender %u: there are %u", sender,
				report->count);
	*share = report->sender[sender].share;
	return 0;
}

size_t kvx_plan_report_explain(const struct kvx_plan_report *report, uint32_t sender, char *text,
			       size_t size)
{
	if (sender >= report->count)
		return 0;
	return kvx_describe_words(&report->sender[sender].share, &report->sender[sender].shape,
				  &report->receiver, text, size);
}
