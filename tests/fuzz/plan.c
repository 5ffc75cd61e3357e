/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools as kvxfer-plan takes them, of one receiver and up to four senders, and the plan between
 * them: the arithmetic that a peer's geometry goes through too. Eight bytes of numbers, then a line
 * for each pool; or, if the first of them is odd, a JSON object for the receiver.
 */
#include "content.h"
#include "target.h"

#include <kvxfer/plan.h>
#include <plan.h>

#define SENDERS_MAX 4u
#define BLOCKS_MAX 256u
#define HEADS_MAX 1024u /* more take long to count, and show nothing new */

/* In place of the tool's, which prints. */
int plan_fail(const char *format, ...)
{
	fuzz_require(format && *format, "no text");
	return 1;
}

/* Blocks 0 to count - 1. False: too many. */
static bool make_end(const struct plan_pool *pool, uint32_t tokens, struct kvx_plan_end *end)
{
	static uint32_t blocks[BLOCKS_MAX];
	uint32_t rank = pool->rank == PLAN_RANK_ALL ? 0 : pool->rank;

	for (uint32_t i = 0; i < BLOCKS_MAX; i++)
		blocks[i] = i;
	*end = (struct kvx_plan_end){.blocks = blocks};
	plan_pool_rank(pool, rank, &end->geometry);
	uint64_t count = ((uint64_t)tokens + pool->block_tokens - 1) / pool->block_tokens;
	end->count = (uint32_t)count;
	end->geometry.blocks = pool->blocks ? pool->blocks : end->count;
	for (uint32_t i = 0; i < KVX_PLANES_MAX; i++)
		end->block_strides[i] = pool->block_stride;
	end->layer_stride = pool->layer_stride;
	return count && count <= BLOCKS_MAX && end->geometry.heads <= HEADS_MAX;
}

static void look_at_report(const struct kvx_plan_report *report, uint32_t senders)
{
	struct kvx_plan_share share;
	char text[4096];

	for (uint32_t i = 0; i < senders; i++) {
		fuzz_require(kvx_plan_report_share(report, i, &share) == 0, "%s", kvx_error_text());
		fuzz_require(share.units <= KVX_UNITS_MAX, "%u units", share.units);
		fuzz_require((share.slices.count == 0) == (share.layer_bytes == 0),
			     "%llu slices of %llu bytes", (unsigned long long)share.slices.count,
			     (unsigned long long)share.layer_bytes);
		fuzz_require(share.slices.min_bytes <= share.slices.median_bytes &&
				     share.slices.median_bytes <= share.slices.max_bytes,
			     "median of slices");
		fuzz_require(share.layers_joined >= 1 &&
				     share.posted_together <= share.posted * share.layers,
			     "%llu slices together", (unsigned long long)share.posted_together);
		fuzz_require(kvx_plan_report_explain(report, i, text, sizeof(text)), "no words");
	}
	fuzz_require(kvx_plan_report_share(report, senders, &share) == KVX_E_INVALID, "one more");
}

static void plan(const struct plan_pool *pools, uint32_t count, struct fuzz_input *numbers)
{
	static const uint8_t weights[KVX_PLAN_RAILS_MAX] = {1, 255, 3, 7, 1, 1, 1, 1};
	struct kvx_plan_end senders[SENDERS_MAX];
	struct kvx_plan_request request = {.senders = senders, .sender_count = count - 1};
	struct kvx_plan_report *report;

	request.tokens = fuzz_u8(numbers) + 1u;
	request.held_blocks = fuzz_u8(numbers) & 3;
	request.chunk_tokens = fuzz_u8(numbers);
	request.rails = fuzz_u8(numbers) % 9;
	request.unit_bytes = fuzz_u16(numbers);
	if (request.rails)
		request.weights = weights;
	if (!make_end(&pools[0], request.tokens, &request.receiver))
		return;
	for (uint32_t i = 0; i + 1 < count; i++)
		if (!make_end(&pools[1 + i], request.tokens, &senders[i]))
			return;
	if (kvx_plan_report_open(&request, &report)) {
		fuzz_require(kvx_error_text()[0], "an error without a text");
		return;
	}
	look_at_report(report, count - 1);
	kvx_plan_report_close(report);
}

/* Reads as many pools as there are lines. Returns how many, or 0 if one is refused. */
static uint32_t read_pools(char *text, bool json, struct plan_pool *pools)
{
	char *line, path[80];
	uint32_t count = 0;

	if (json) {
		char *end = strchr(text, '}'); /* of the object; nested ones are refused anyway */
		size_t length = end ? (size_t)(end - text) + 1 : strlen(text);
		snprintf(path, sizeof(path), "@%s", fuzz_file(text, length));
		if (plan_pool_read("--receiver", path, &pools[count++]))
			return 0;
		text += length + (text[length] == '\n');
	}
	while (text && *text && count < 1 + SENDERS_MAX && (line = strsep(&text, "\n")))
		if (line[0] == '@' || plan_pool_read("--sender", line, &pools[count++]))
			return 0;
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_input input = fuzz_input_over(bytes, size);
	struct plan_pool pools[1 + SENDERS_MAX];

	uint8_t flags = fuzz_u8(&input);
	struct fuzz_input numbers = input;
	(void)fuzz_u32(&input);
	(void)fuzz_u16(&input);
	(void)fuzz_u8(&input);
	char *text = fuzz_text(input.next, fuzz_left(&input));
	uint32_t count = read_pools(text, flags & 1, pools);
	if (count > 1)
		plan(pools, count, &numbers);
	free(text);
	return 0;
}

/* --- seeds --- */

#define GIVE(name, text) take(name, text, sizeof(text) - 1)

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("models", "\0\77\0\0\0\0\0\0model=llama-3.1-8b\nmodel=llama-3.1-8b,layout=NHD");
	GIVE("ranks", "\0\377\1\0\3\0\1\0layers=2,heads=8,head=64\n"
		      "layers=2,heads=8,head=64,tp=2,rank=0\nlayers=2,heads=8,head=64,tp=2,rank=1");
	GIVE("ranges", "\0\40\0\20\2\0\0\0layers=0-3,heads=2-3/8,head=32,tokens=8,extra=0/8,"
		       "extra=64\nlayers=0-3,heads=0-7/8,head=32,tokens=16,extra=0/8,extra=64");
	GIVE("whole",
	     "\0\40\0\0\0\0\0\0layers=2,layout=WHOLE,block=4096,dtype=fp8,id=7\n"
	     "layers=2,layout=WHOLE,block=4096,dtype=fp8,id=7,block_stride=8192,blocks=99");
	GIVE("strides", "\0\40\0\0\0\0\0\0layers=1,heads=2,head=8,head_stride=256,token_stride=8\n"
			"layers=1,heads=2,head=8,planes=2,token_stride=32,layout=NHD");
	GIVE("planes", "\0\40\0\0\0\0\0\0layers=1,heads=2,head=8,plane_stride=256\n"
		       "layers=1,heads=2,head=8,plane_stride=256");
	GIVE("layers",
	     "\0\40\0\0\1\0\0\0layers=9,heads=2,head=8,plane_stride=256,"
	     "layer_stride=512\nlayers=9,heads=2,head=8,plane_stride=256,layer_stride=512");
	GIVE("json",
	     "\1\40\0\0\0\0\0\0{\"layers\":2,\"heads\":\"8\",\"head\":64,\"extra\":[\"64\"]}\n"
	     "layers=2,heads=8,head=64,extra=64,pp=2,rank=1\n"
	     "layers=2,heads=8,head=64,extra=64,pp=2,rank=0");
}
