/* SPDX-License-Identifier: Apache-2.0 */
/* Whole requests between pools in plain memory: every byte is where the naive account of
 * support/geometry.h has it. */
#include "plan/plan.h"
#include "plan/locate.h"

#include "support/chance.h"
#include "support/geometry.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define SHIFT 24u /* where the second of the receiver's two memories begins, in the first one */

/* One sender's part of a request, as both ends compute it. */
struct part {
	const struct drawn_pool *from, *to;
	struct kvx_geometry geometry; /* the sender's, complete */
	struct kvx_share share;
	struct kvx_plan plan;
	struct kvx_run *runs;
	struct kvx_memory memories[2]; /* nothing of them but their addresses is looked at */
	uint32_t seen_memories;
	uint8_t *landed; /* how often each of the receiver's bytes was written */
};

static void cut(struct kvx_image *image, uint64_t *random)
{
	uint8_t weights[KVX_UNITS_MAX];
	uint32_t most = random_between(random, 0, 1) ? 3 : KVX_UNITS_MAX;
	uint32_t units = random_between(random, 1, random_between(random, 1, most));

	for (uint32_t unit = 0; unit < units; unit++)
		weights[unit] = (uint8_t)random_between(random, 1, 255);
	kvx_image_cut(image, units, random_between(random, 0, 1) ? weights : NULL);
}

static void make_part(struct part *part, const struct drawn_request *request,
		      const struct kvx_geometry *receiver, uint64_t *random)
{
	struct kvx_plan *plan = &part->plan;
	struct kvx_image *image = &plan->image;
	struct kvx_shape ours, theirs;

	kvx_shape_of(&part->geometry, &ours);
	kvx_shape_of(receiver, &theirs);
	kvx_image_make(image, &ours, &theirs, &part->share,
		       request->held_blocks * theirs.block_tokens, request->tokens);
	cut(image, random);
	kvx_lay_out(image, &ours, &part->share, plan->from);
	kvx_lay_out(image, &theirs, &part->share, plan->to);
	uint32_t chunks = (request->tokens + image->chunk_tokens - 1) / image->chunk_tokens;
	uint32_t from_chunks = ours.block_tokens / image->chunk_tokens;
	uint32_t to_chunks = theirs.block_tokens / image->chunk_tokens;
	plan->run_count = kvx_plan_runs(part->from->table, from_chunks, part->to->table, to_chunks,
					chunks, NULL);
	part->runs = calloc(plan->run_count, sizeof(*part->runs));
	plan->runs = part->runs;
	cr_assert_eq(kvx_plan_runs(part->from->table, from_chunks, part->to->table, to_chunks,
				   chunks, part->runs),
		     plan->run_count);
	part->seen_memories = random_between(random, 1, 2);
}

static const void *tensor_of(const struct drawn_pool *pool, uint32_t layer, uint32_t plane,
			     uint64_t *offset, uint64_t *stride)
{
	uint32_t planes = pool->geometry.planes + pool->geometry.extra_planes;

	*offset = pool->tensors[layer * planes + plane].offset;
	*stride = pool->tensors[layer * planes + plane].stride;
	return pool->memory;
}

/* The layer is counted as the receiver's pool does. */
static void find_sources(const struct part *part, uint32_t layer, struct kvx_source *sources)
{
	uint32_t own = part->to->geometry.layer_first + layer - part->from->geometry.layer_first;
	uint64_t offset;

	for (uint32_t i = 0; i < part->plan.image.planes; i++) {
		tensor_of(part->from, own, i, &offset, &sources[i].stride);
		sources[i].base = part->from->memory + offset;
		sources[i].memory = &part->memories[i % part->seen_memories];
	}
}

static void find_places(const struct part *part, uint32_t layer, struct kvx_source *places)
{
	uint64_t offset;

	for (uint32_t i = 0; i < part->plan.image.planes; i++) {
		tensor_of(part->to, layer, i, &offset, &places[i].stride);
		places[i].base = part->to->memory + offset;
	}
}

/* The same as offsets into two memories. */
static void find_targets(const struct part *part, uint32_t layer, struct kvx_target *targets)
{
	for (uint32_t i = 0; i < part->plan.image.planes; i++) {
		tensor_of(part->to, layer, i, &targets[i].base, &targets[i].stride);
		targets[i].memory = i % part->seen_memories;
		targets[i].base -= targets[i].memory * SHIFT;
	}
}

/* --- moving a unit --- */

static void write_bytes(struct part *part, char *to, const char *from, uint64_t bytes)
{
	uint64_t first = (uint64_t)(to - part->to->memory);

	cr_assert(to >= part->to->memory && first + bytes <= part->to->bytes, "out of the pool");
	memcpy(to, from, bytes);
	for (uint64_t i = 0; i < bytes; i++)
		part->landed[first + i]++;
}

/* Would one slice do for both? */
static bool follow(const struct kvx_slice *a, const struct kvx_slice *b, bool targets)
{
	if (a->local + a->length != b->local || a->memory != b->memory)
		return false;
	return !targets || (a->target == b->target && a->offset + a->length == b->offset);
}

static void expect_batch(const struct part *part, const struct kvx_slice *slices, uint32_t count,
			 uint32_t bytes, bool targets)
{
	const struct drawn_pool *from = part->from;
	uint64_t sum = 0;

	cr_assert(count <= KVX_BATCH_SLICES_MAX && bytes <= KVX_BATCH_BYTES_MAX);
	for (uint32_t i = 0; i < count; i++) {
		cr_assert(slices[i].length && slices[i].length % KVX_ALIGN == 0);
		cr_assert(slices[i].local >= from->memory &&
				  slices[i].local + slices[i].length <= from->memory + from->bytes,
			  "out of the pool");
		cr_assert(!i || !follow(&slices[i - 1], &slices[i], targets), "not one slice");
		sum += slices[i].length;
	}
	cr_assert_eq(sum, bytes);
}

/* As one-sided transports do: the sender names where each slice goes. */
static uint64_t write_out(struct part *part, uint32_t layer, struct kvx_cursor cursor)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_source sources[KVX_PLANES_MAX];
	struct kvx_target targets[KVX_PLANES_MAX];
	uint32_t count, bytes;
	uint64_t place = cursor.place, begin = place;

	find_sources(part, layer, sources);
	find_targets(part, layer, targets);
	while ((count = kvx_cursor_fill(&cursor, &part->plan, sources, targets, slices, &bytes))) {
		expect_batch(part, slices, count, bytes, true);
		for (uint32_t i = 0; i < count; i++)
			write_bytes(part,
				    part->to->memory + slices[i].target * SHIFT + slices[i].offset,
				    slices[i].local, slices[i].length);
		place += bytes;
		cr_assert_eq(cursor.place, place);
	}
	cr_assert_eq(place, cursor.end);
	return place - begin;
}

static uint32_t layers_joined; /* together with the one before them */

/* How many layers from one on, at most `most`, may leave together. */
static uint32_t count_joined(const struct part *part, uint32_t layer, uint32_t most)
{
	struct kvx_source sources[2][KVX_PLANES_MAX];
	struct kvx_target targets[2][KVX_PLANES_MAX];
	uint32_t count = 1;

	for (; count < most; count++, layer++) {
		for (uint32_t i = 0; i < 2; i++) {
			find_sources(part, layer + i, sources[i]);
			find_targets(part, layer + i, targets[i]);
		}
		if (!kvx_plan_joins(&part->plan, sources[0], sources[1], targets[0], targets[1]))
			break;
	}
	layers_joined += count - 1;
	return count;
}

/* A unit of a layer, and of those of the next ones that leave with it. Returns how many. */
static uint32_t write_unit(struct part *part, uint32_t layer, uint32_t most, uint32_t unit,
			   uint64_t *bytes)
{
	const struct kvx_image *image = &part->plan.image;
	struct kvx_cursor cursor;
	uint64_t moved = 0;

	kvx_cursor_seek(&cursor, &part->plan, unit);
	cr_assert_eq(cursor.end, kvx_image_unit_place(image, unit + 1));
	uint32_t room = kvx_plan_join_most(&part->plan, &cursor);
	uint32_t layers = count_joined(part, layer, most < room ? most : room);
	if (layers > 1) {
		kvx_cursor_join(&cursor, &part->plan, layers);
		moved = write_out(part, layer, cursor);
		cr_assert_eq(moved % layers, 0);
		kvx_cursor_seek_rest(&cursor, &part->plan, unit);
		cr_assert_lt(cursor.place, cursor.end, "nothing is left to tell of the layer");
	}
	for (uint32_t i = 0; i < layers; i++)
		moved += write_out(part, layer + i, cursor);
	cr_assert_eq(moved, layers * (kvx_image_unit_place(image, unit + 1) -
				      kvx_image_unit_place(image, unit)));
	*bytes += moved;
	return layers;
}

/* What a sender puts on the wire where the receiver places the bytes. */
static void read_unit(const struct part *part, uint32_t layer, uint32_t unit, char *wire,
		      uint64_t size)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_source sources[KVX_PLANES_MAX];
	struct kvx_cursor cursor;
	uint32_t count, bytes;
	uint64_t sum = 0;

	find_sources(part, layer, sources);
	kvx_cursor_seek(&cursor, &part->plan, unit);
	while ((count = kvx_cursor_fill(&cursor, &part->plan, sources, NULL, slices, &bytes))) {
		expect_batch(part, slices, count, bytes, false);
		cr_assert(sum + bytes <= size);
		for (uint32_t i = 0; i < count; i++) {
			memcpy(wire + sum, slices[i].local, slices[i].length);
			sum += slices[i].length;
		}
	}
	cr_assert_eq(sum, size);
}

/* Returns how many bytes the entries take. */
static uint64_t expect_entries(const struct iovec *iov, int count)
{
	uint64_t sum = 0;

	for (int i = 0; i < count; i++) {
		cr_assert(iov[i].iov_len);
		cr_assert(!i || (char *)iov[i - 1].iov_base + iov[i - 1].iov_len != iov[i].iov_base,
			  "not one entry");
		sum += iov[i].iov_len;
	}
	return sum;
}

/* As other transports do: the receiver asks where bytes go, as many as just came. */
static uint64_t place_unit(struct part *part, uint32_t layer, uint32_t unit, uint64_t *random)
{
	const struct kvx_image *image = &part->plan.image;
	uint64_t begin = kvx_image_unit_place(image, unit);
	uint64_t size = kvx_image_unit_place(image, unit + 1) - begin, done = 0;
	uint32_t longest = random_between(random, 0, 3) ? UINT32_MAX : 100;
	char *wire = malloc(size + 1);
	struct kvx_source places[KVX_PLANES_MAX];
	struct iovec iov[9];

	struct kvx_layer_place place = {image, part->plan.to, part->to->table, places};
	find_places(part, layer, places);
	read_unit(part, layer, unit, wire, size);
	while (done < size) {
		uint64_t left = size - done < longest ? size - done : longest;
		uint64_t bytes = random_between(random, 1, (uint32_t)left);
		int most = (int)random_between(random, 1, 9);
		int count = kvx_image_resolve(&place, unit, begin + done, bytes, iov, most);
		uint64_t sum = expect_entries(iov, count);
		cr_assert(count >= 1 && count <= most && sum <= bytes);
		cr_assert(sum == bytes || count == most, "some bytes have no place");
		for (int i = 0; i < count; i++) {
			write_bytes(part, iov[i].iov_base, wire + done, iov[i].iov_len);
			done += iov[i].iov_len;
		}
	}
	free(wire);
	return size;
}

/* --- moving a request --- */

/* Units' places follow each other; the bits are those of units that have bytes. */
static void expect_units(const struct kvx_image *image)
{
	uint64_t filled = 0;

	cr_assert_eq(kvx_image_unit_place(image, 0), 0);
	for (uint32_t unit = 0; unit < image->units; unit++) {
		uint64_t begin = kvx_image_unit_place(image, unit);
		uint64_t end = kvx_image_unit_place(image, unit + 1);
		cr_assert(begin <= end);
		cr_assert(kvx_image_unit_token(image, unit) <=
			  kvx_image_unit_token(image, unit + 1));
		filled |= (uint64_t)(begin < end) << unit;
	}
	cr_assert_eq(kvx_image_unit_place(image, image->units), kvx_image_bytes(image));
	cr_assert_eq(kvx_image_filled(image), filled);
}

static uint64_t move_unit(struct part *part, uint32_t unit, bool one_sided, uint64_t *random)
{
	uint32_t end = part->share.layer_first + part->share.layers;
	uint32_t most = random_between(random, 1, part->share.layers), moved = 1;
	uint64_t bytes = 0;

	for (uint32_t layer = part->share.layer_first; layer < end; layer += moved)
		if (one_sided)
			moved = write_unit(part, layer, most < end - layer ? most : end - layer,
					   unit, &bytes);
		else
			bytes += place_unit(part, layer, unit, random);
	return bytes;
}

/* All layers of a sender's share, unit by unit. In half of the cases a unit moves as soon as its
 * tokens are computed: then no later token may be in it. */
static uint64_t move_part(struct part *part, uint32_t tokens, bool one_sided, uint64_t *random)
{
	const struct kvx_image *image = &part->plan.image;
	bool soon = random_between(random, 0, 1);
	uint32_t computed = 0;
	uint64_t bytes = 0;

	if (!soon)
		drawn_compute(part->from, 0, tokens);
	for (uint32_t i = 0; i < image->units; i++) {
		uint32_t unit = soon ? i : image->units - 1 - i;
		uint32_t until = kvx_image_unit_token(image, unit + 1);
		if (soon && until > computed) {
			drawn_compute(part->from, computed, until);
			computed = until;
		}
		if (part->share.layers)
			bytes += move_unit(part, unit, one_sided, random);
	}
	cr_assert_eq(bytes, kvx_image_bytes(image) * part->share.layers);
	return bytes;
}

static uint32_t joined; /* plans in which planes move as one */

/* As a pool finds it out. */
static void complete(const struct drawn_pool *pool, struct kvx_geometry *geometry)
{
	struct kvx_geometry given = pool->geometry;

	given.plane_stride = pool->plane_stride;
	cr_assert_eq(kvx_geometry_complete(&given, geometry), 0, "%s", kvx_error_text());
}

static uint64_t share_and_move(struct drawn_request *request, bool one_sided, uint8_t *landed,
			       uint64_t *random)
{
	struct kvx_geometry senders[DRAWN_SENDERS_MAX], receiver;
	struct kvx_share shares[DRAWN_SENDERS_MAX];
	uint64_t bytes = 0;

	complete(&request->receiver, &receiver);
	for (uint32_t i = 0; i < request->sender_count; i++) {
		complete(&request->senders[i], &senders[i]);
		cr_assert_eq(kvx_geometry_match(&senders[i], &receiver), 0, "%s", kvx_error_text());
		cr_assert_eq(kvx_geometry_hash(&senders[i]), kvx_geometry_hash(&receiver));
	}
	uint32_t block_tokens = receiver.block_tokens ? receiver.block_tokens : 1;
	cr_assert_eq(kvx_share_out(&receiver, request->held_blocks * block_tokens, request->tokens,
				   senders, request->sender_count, shares),
		     0, "%s", kvx_error_text());
	for (uint32_t i = 0; i < request->sender_count; i++) {
		struct part part = {.from = &request->senders[i], .to = &request->receiver};
		part.geometry = senders[i];
		part.share = shares[i];
		part.landed = landed;
		make_part(&part, request, &receiver, random);
		joined += part.plan.image.joined != 0;
		expect_units(&part.plan.image);
		bytes += move_part(&part, request->tokens, one_sided, random);
		free(part.runs);
	}
	return bytes;
}

static void expect_moved(struct drawn_request *request, bool one_sided, uint64_t *random)
{
	struct drawn_pool *pool = &request->receiver;
	uint64_t bytes;
	char *expected = drawn_expected(request, &bytes);
	uint8_t *landed = calloc(1, pool->bytes);

	cr_assert_eq(share_and_move(request, one_sided, landed, random), bytes);
	for (uint64_t i = 0; i < pool->bytes; i++) {
		cr_assert(landed[i] <= 1, "byte %llu was written %u times", (unsigned long long)i,
			  landed[i]);
		cr_assert(pool->memory[i] == expected[i], "byte %llu (written: %u) is wrong",
			  (unsigned long long)i, landed[i]);
	}
	free(expected);
	free(landed);
}

/* Moves a request in both manners. */
static void expect_moves(struct drawn_request *request, uint64_t *random)
{
	uint64_t size = request->receiver.bytes;
	char *before = malloc(size);

	memcpy(before, request->receiver.memory, size);
	expect_moved(request, true, random);
	for (uint32_t i = 0; i < request->sender_count; i++)
		memset(request->senders[i].memory, 0x55, request->senders[i].bytes);
	memcpy(request->receiver.memory, before, size);
	expect_moved(request, false, random);
	free(before);
}

/* The request that is being moved, for tell_what_failed(). */
static const struct drawn_request *moving;

static void tell_what_failed(void)
{
	if (moving)
		drawn_print(moving);
}

Test(plan, every_byte_of_any_request_lands_where_it_belongs_and_no_other_changes, .timeout = 120,
     .fini = tell_what_failed)
{
	uint64_t random = random_seed();
	struct drawn_request request;

	for (int round = 0; round < 1500; round++) {
		drawn_request(&request, &random);
		moving = &request;
		expect_moves(&request, &random);
		moving = NULL;
		drawn_free(&request);
	}
	cr_assert_gt(joined, 20);
	cr_assert_gt(layers_joined, 5);
}

/* Pieces of a size that does not divide a batch: each batch ends within one. */
Test(plan, batches_end_anywhere_and_the_next_one_goes_on_there, .timeout = 60,
     .fini = tell_what_failed)
{
	static const struct {
		uint32_t layout, tokens;
	} ends[] = {
		{KVX_LAYOUT_HND, 4}, {KVX_LAYOUT_NHD, 4}, {KVX_LAYOUT_HND, 8}, {KVX_LAYOUT_NHD, 1}};
	uint64_t random = random_seed();

	for (uint32_t i = 0; i < 16; i++) {
		struct drawn_request request = {.sender_count = 1, .tokens = 15};
		struct kvx_geometry geometry = {.layers = 1,
						.planes = 1,
						.heads = 2,
						.heads_total = 2,
						.head_bytes =
							4 * random_between(&random, 1, 40000)};
		geometry.layout = (enum kvx_layout)ends[i % 4].layout;
		geometry.block_tokens = ends[i % 4].tokens;
		drawn_pool(&request.senders[0], &geometry, request.tokens, &random);
		geometry.layout = (enum kvx_layout)ends[i / 4].layout;
		geometry.block_tokens = ends[i / 4].tokens;
		drawn_pool(&request.receiver, &geometry, request.tokens, &random);
		moving = &request;
		expect_moves(&request, &random);
		moving = NULL;
		drawn_free(&request);
	}
}

/* --- runs --- */

Test(plan, neighbours_at_both_ends_make_a_run)
{
	const uint32_t from[] = {4, 5, 6, 9, 10, 2, 3}, to[] = {0, 1, 2, 3, 7, 8, 9};
	struct kvx_run runs[7];

	cr_assert_eq(kvx_plan_runs(from, 1, to, 1, 7, runs), 4);
	const struct kvx_run expected[] = {{0, 3, 4, 0}, {3, 1, 9, 3}, {4, 1, 10, 7}, {5, 2, 2, 8}};
	cr_assert_eq(memcmp(runs, expected, sizeof(expected)), 0);
	cr_assert_eq(kvx_plan_runs(from, 1, to, 1, 7, NULL), 4);
}

Test(plan, runs_go_through_the_parts_of_a_larger_block)
{
	const uint32_t small[] = {6, 7, 8, 9, 11, 12}, large[] = {3, 5};
	struct kvx_run runs[6];

	cr_assert_eq(kvx_plan_runs(small, 1, large, 4, 6, runs), 2);
	const struct kvx_run expected[] = {{0, 4, 6, 12}, {4, 2, 11, 20}};
	cr_assert_eq(memcmp(runs, expected, sizeof(expected)), 0);
	cr_assert_eq(kvx_plan_runs(large, 4, small, 1, 6, runs), 2);
	cr_assert_eq(runs[1].from, 20);
	cr_assert_eq(kvx_plan_runs(large, 4, large, 4, 5, runs), 2);
	cr_assert_eq(runs[0].count, 4);
}

Test(plan, runs_know_where_each_chunk_is)
{
	uint64_t random = random_seed();
	uint32_t from[64], to[64];
	struct kvx_run runs[64];

	for (int round = 0; round < 2000; round++) {
		uint32_t from_chunks = random_between(&random, 1, 4);
		uint32_t to_chunks = from_chunks > 1 ? 1 : random_between(&random, 1, 4);
		uint32_t chunks = random_between(&random, 1, 64), next = 0;
		for (uint32_t i = 0; i < 64; i++) {
			from[i] = random_between(&random, 0, 2) && i
					  ? from[i - 1] + 1
					  : random_between(&random, 0, 1u << 31);
			to[i] = random_between(&random, 0, 2) && i
					? to[i - 1] + 1
					: random_between(&random, 0, 1u << 31);
		}
		uint32_t count = kvx_plan_runs(from, from_chunks, to, to_chunks, chunks, runs);
		for (uint32_t i = 0; i < count; i++) {
			cr_assert_eq(runs[i].first, next);
			for (uint32_t k = 0; k < runs[i].count; k++, next++) {
				cr_assert_eq(runs[i].from + k,
					     (uint64_t)from[next / from_chunks] * from_chunks +
						     next % from_chunks);
				cr_assert_eq(runs[i].to + k,
					     (uint64_t)to[next / to_chunks] * to_chunks +
						     next % to_chunks);
			}
			cr_assert(!i || runs[i - 1].from + runs[i - 1].count != runs[i].from ||
					  runs[i - 1].to + runs[i - 1].count != runs[i].to,
				  "not one run");
		}
		cr_assert_eq(next, chunks);
	}
}
