/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/seam.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------- sources */

static void fill(char *bytes, uint64_t count, uint64_t seed)
{
	for (uint64_t i = 0; i + 8 <= count; i += 8) {
		uint64_t value = random_next(&seed);
		memcpy(bytes + i, &value, 8);
	}
}

/* Keys come before messages that are sent later; the test does not see this one. */
void source_permit(struct pair *pair, struct source *source, bool readable)
{
	struct link_log *log = side_log(&pair->from, pair->out), before;
	uint8_t byte = 1;

	side_lend(&pair->to, pair->in, &source->lending, source->flow.slot, readable);
	PUMP_UNTIL(&pair->from, &pair->to, source->lending.permitted);
	before = *log;
	pair->to.ops->message(pair->in, &byte, 1);
	PUMP_UNTIL(&pair->from, &pair->to, log->messages > before.messages);
	log->messages = before.messages;
	log->message_hash = before.message_hash;
}

void source_open(struct pair *pair, struct source *source, bool shared)
{
	static uint32_t index;
	struct kvx_memory *memory = &source->memory;
	int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	index++; /* also the slot: no two flows have one */
	*source = (struct source){.flow = {.slot = index, .generation = pair->to.generation}};
	*memory =
		(struct kvx_memory){.bytes = SOURCE_BYTES, .fd = -1, .index = index, .dmabuf = -1};
	if (shared) {
		memory->fd = memfd_create("source", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		cr_assert_geq(memory->fd, 0);
		cr_assert_eq(ftruncate(memory->fd, (off_t)memory->bytes), 0);
		cr_assert_eq(fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	}
	memory->address = mmap(NULL, memory->bytes, PROT_READ | PROT_WRITE, flags, memory->fd, 0);
	cr_assert_neq(memory->address, MAP_FAILED);
	fill(memory->address, memory->bytes, UINT64_C(0x9e3779b97f4a7c15) * index);
	side_attach(&pair->from, memory);
	if (pair->from.ops->one_sided)
		source_permit(pair, source, false);
}

void source_withdraw(struct pair *pair, struct source *source)
{
	uint32_t drained = source->drained;

	if (pair->from.links[0].link && !source->flow.withdrawn) {
		pair->from.ops->withdraw(pair->out, &source->flow);
		drained += source->flow.in_flight > 0;
	}
	PUMP_UNTIL(&pair->from, (struct side *)NULL, !source->flow.in_flight);
	cr_assert_geq(source->drained, drained, "drained() did not come");
	cr_assert_leq(source->drained, 1, "drained() came %u times", source->drained);
}

void source_close(struct pair *pair, struct source *source)
{
	struct lending *lending = &source->lending;

	source_withdraw(pair, source);
	if (lending->permit.memories && !lending->forbidden) {
		if (pair->to.links[0].link)
			side_forbid(&pair->to, pair->in, lending, true);
		PUMP_UNTIL(&pair->to, (struct side *)NULL, lending->forbidden);
	}
	cr_assert_leq(lending->forbidden, 1);
	side_detach(&pair->from, &source->memory);
	munmap(source->memory.address, source->memory.bytes);
	if (source->memory.fd >= 0)
		close(source->memory.fd);
}

/* ---------------------------------------------------------------------------------------- pair */

void pair_open_over(struct pair *pair, const char *transport, const char *const *options,
		    uint64_t seed, uint32_t memories)
{
	const struct kvx_transport_ops *ops = kvx_transport_find(transport);

	memset(pair, 0, sizeof(*pair));
	if (!ops)
		cr_skip_test("%s is not in this build", transport);
	side_open(&pair->from, ops, options);
	side_open(&pair->to, ops, options);
	pair->out = side_link(&pair->from, &pair->to, &pair->in);
	if (ops->one_sided)
		side_attach_image(&pair->to, memories);
	source_open(pair, &pair->sources[0], true);
	source_open(pair, &pair->sources[1], false);
	pair->random = seed;
	pair->batch_bytes_max = 256u << 10;
	pair->expected = calloc(UNITS, UNIT_BYTES);
	cr_assert(pair->expected);
}

void pair_open(struct pair *pair, const char *transport, const char *const *options, uint64_t seed)
{
	pair_open_over(pair, transport, options, seed, 1);
}

void pair_close(struct pair *pair)
{
	pair->to.expected = NULL;
	free(pair->expected);
	side_disconnect_all(&pair->from);
	side_disconnect_all(&pair->to);
	source_close(pair, &pair->sources[0]);
	source_close(pair, &pair->sources[1]);
	side_close(&pair->from);
	side_close(&pair->to);
}

/* Slices of odd lengths from odd places to consecutive ones, bytes_max in all at most. */
static uint32_t draw_slices(struct pair *pair, const struct kvx_memory *memory, uint64_t to,
			    uint32_t bytes_max, struct kvx_slice *slices, uint32_t *bytes)
{
	uint64_t target_bytes = pair->to.memory_count ? pair->to.memories[0].bytes : UINT64_MAX;
	uint32_t count_max = 1 + (uint32_t)(random_next(&pair->random) % KVX_BATCH_SLICES_MAX);
	uint32_t average = bytes_max / count_max + 1;
	uint32_t count = 0;

	for (*bytes = 0; count < count_max && *bytes < bytes_max; count++) {
		uint32_t length = 1 + (uint32_t)(random_next(&pair->random) % (2 * average));
		if (length > bytes_max - *bytes)
			length = bytes_max - *bytes;
		uint64_t from = random_next(&pair->random) % (memory->bytes - length + 1);
		slices[count] =
			(struct kvx_slice){.local = memory->address + from,
					   .memory = memory,
					   .length = length,
					   .target = (uint32_t)((to + *bytes) / target_bytes),
					   .offset = (to + *bytes) % target_bytes};
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
	pair->ends[batch->unit.imm] += batch->last;
}

bool post_from(struct pair *pair, uint32_t rail, uint32_t imm, struct source *source, uint64_t end)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_batch batch = {.unit = {.imm = imm, .generation = pair->to.generation},
				  .place = pair->posted[imm],
				  .slices = slices,
				  .flow = &source->flow};
	uint64_t room = (end ? end : UNIT_BYTES) - batch.place;
	uint32_t bytes_max = room < pair->batch_bytes_max ? (uint32_t)room : pair->batch_bytes_max;

	batch.count = draw_slices(pair, &source->memory, (uint64_t)imm * UNIT_BYTES + batch.place,
				  bytes_max, slices, &batch.bytes);
	batch.last = !end || batch.bytes == room;
	if (!pair->from.ops->post(pair->out, rail, &batch))
		return false;
	expect(pair, &batch);
	return true;
}

void post_unit(struct pair *pair, uint32_t rail, uint32_t imm, uint64_t bytes)
{
	struct source *source = &pair->sources[imm % 2];

	while (pair->posted[imm] < bytes)
		PUMP_UNTIL(&pair->from, &pair->to, post_from(pair, rail, imm, source, bytes));
}

uint64_t landed_bytes(const struct pair *pair, uint32_t imm)
{
	const struct unit_log *log = &pair->to.units[imm];

	if (!pair->to.ops->one_sided)
		return log->landed;
	cr_assert_leq(log->arrivals, pair->ends[imm], "unit %u arrived more than once", imm);
	return log->arrivals && log->arrivals == pair->ends[imm] ? pair->posted[imm] : 0;
}

bool has_landed(const struct pair *pair, uint32_t imm)
{
	return landed_bytes(pair, imm) == pair->posted[imm];
}

void check_bytes(const struct pair *pair, uint32_t imm)
{
	const char *image = pair->to.image + (size_t)imm * UNIT_BYTES;
	const char *expected = pair->expected + (size_t)imm * UNIT_BYTES;

	cr_assert_eq(pair->to.units[imm].disorder, 0);
	cr_assert_eq(memcmp(image, expected, landed_bytes(pair, imm)), 0, "unit %u: wrong bytes",
		     imm);
}

void check_whole(struct pair *pair, uint32_t imm)
{
	PUMP_UNTIL(&pair->from, &pair->to, has_landed(pair, imm));
	check_bytes(pair, imm);
	cr_assert_eq(memcmp(pair->to.image + (size_t)imm * UNIT_BYTES,
			    pair->expected + (size_t)imm * UNIT_BYTES, UNIT_BYTES),
		     0, "unit %u: bytes beyond its end", imm);
}

void check_alive(struct pair *pair)
{
	cr_assert_eq(side_log(&pair->from, pair->out)->down, 0);
	cr_assert_eq(side_log(&pair->to, pair->in)->down, 0);
	post_unit(pair, 0, UNITS - 1, pair->posted[UNITS - 1] + 1000);
	check_whole(pair, UNITS - 1);
}
