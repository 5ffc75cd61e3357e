/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/seam.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void pair_open(struct pair *pair, const char *transport, const char *const *options, uint64_t seed)
{
	const struct kvx_transport_ops *ops = kvx_transport_find(transport);

	memset(pair, 0, sizeof(*pair));
	side_open(&pair->from, ops, options);
	side_open(&pair->to, ops, options);
	pair->out = side_link(&pair->from, &pair->to, &pair->in);
	source_open(&pair->sources[0], SOURCE_BYTES, true);
	source_open(&pair->sources[1], SOURCE_BYTES, false);
	pair->random = seed;
	pair->batch_bytes_max = 256u << 10;
	pair->expected = calloc(UNITS, UNIT_BYTES);
	cr_assert(pair->expected);
}

void pair_close(struct pair *pair)
{
	free(pair->expected);
	source_close(&pair->from, &pair->sources[0]);
	source_close(&pair->from, &pair->sources[1]);
	side_close(&pair->from);
	side_close(&pair->to);
}

/* Slices of odd lengths from odd places, bytes_max in all at most. */
static uint32_t draw_slices(struct pair *pair, const struct kvx_memory *memory, uint32_t bytes_max,
			    struct kvx_slice *slices, uint32_t *bytes)
{
	uint32_t count_max = 1 + (uint32_t)(random_next(&pair->random) % KVX_BATCH_SLICES_MAX);
	uint32_t average = bytes_max / count_max + 1;
	uint32_t count = 0;

	for (*bytes = 0; count < count_max && *bytes < bytes_max; count++) {
		uint32_t length = 1 + (uint32_t)(random_next(&pair->random) % (2 * average));
		if (length > bytes_max - *bytes)
			length = bytes_max - *bytes;
		uint64_t offset = random_next(&pair->random) % (memory->bytes - length + 1);
		slices[count] = (struct kvx_slice){memory->address + offset, memory, length};
		*bytes += length;
	}
	return count;
}

static void expect(struct pair *pair, const struct kvx_batch *batch)
{
	char *next = pair->expected + (size_t)batch->unit.imm * UNIT_BYTES + batch->place;

	for (uint32_t i = 0; i < batch->count; i++) {
		memcpy(next, batch->slices[i].local, batch->slices[i].length);
		next += batch->slices[i].length;
	}
	pair->posted[batch->unit.imm] += batch->bytes;
}

bool post_from(struct pair *pair, uint32_t rail, uint32_t imm, const struct kvx_memory *memory)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_batch batch = {.unit = {.imm = imm, .generation = pair->to.generation},
				  .place = pair->posted[imm],
				  .slices = slices,
				  .stream = memory};
	uint64_t room = UNIT_BYTES - batch.place;
	uint32_t bytes_max = room < pair->batch_bytes_max ? (uint32_t)room : pair->batch_bytes_max;

	batch.count = draw_slices(pair, memory, bytes_max, slices, &batch.bytes);
	if (!pair->from.ops->post(pair->out, rail, &batch))
		return false;
	expect(pair, &batch);
	return true;
}

static void post(struct pair *pair, uint32_t rail, uint32_t imm)
{
	const struct kvx_memory *memory = &pair->sources[imm % 2];

	PUMP_UNTIL(&pair->from, &pair->to, post_from(pair, rail, imm, memory));
}

void post_unit(struct pair *pair, uint32_t rail, uint32_t imm, uint64_t bytes)
{
	while (pair->posted[imm] < bytes)
		post(pair, rail, imm);
}

bool has_landed(const struct pair *pair, uint32_t imm)
{
	return pair->to.units[imm].landed >= pair->posted[imm];
}

void check_bytes(const struct pair *pair, uint32_t imm)
{
	const struct unit_log *log = &pair->to.units[imm];
	const char *image = pair->to.image + (size_t)imm * UNIT_BYTES;
	const char *expected = pair->expected + (size_t)imm * UNIT_BYTES;

	cr_assert_eq(log->disorder, 0);
	cr_assert_eq(memcmp(image, expected, log->landed), 0, "unit %u: wrong bytes", imm);
}

void check_whole(struct pair *pair, uint32_t imm)
{
	PUMP_UNTIL(&pair->from, &pair->to, has_landed(pair, imm));
	cr_assert_eq(pair->to.units[imm].landed, pair->posted[imm]);
	check_bytes(pair, imm);
	cr_assert_eq(memcmp(pair->to.image + (size_t)imm * UNIT_BYTES,
			    pair->expected + (size_t)imm * UNIT_BYTES, UNIT_BYTES),
		     0, "unit %u: bytes beyond its end", imm);
}

void check_alive(struct pair *pair)
{
	cr_assert_eq(side_log(&pair->from, pair->out)->down, 0);
	cr_assert_eq(side_log(&pair->to, pair->in)->down, 0);
	post_unit(pair, 0, UNITS - 1, 1);
	check_whole(pair, UNITS - 1);
}
