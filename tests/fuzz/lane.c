/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiving side of a lane over a ring that a hostile process writes: each entry, each index
 * and each flag, before and between the looks. The input is a program that writes into the ring and
 * has the lane look at it.
 */
#include "fake_sink.h"
#include "target.h"

#include "base/clock.h"
#include "lane.h"

#include <stdatomic.h>

#define SOURCE_BYTES 4096u
#define STEPS_MAX 200u
#define BLOCKS_OF_RING 64u /* entries that one step fills at most */

static struct fuzz_input *program;
static struct kvx_ring_shared *ring; /* as the hostile process sees it */
static uint8_t source[SOURCE_BYTES];
static uint32_t bells;

/* As shm: a memory is known or not, and slices lie in it or do not. */
static int resolve(struct kvx_lane *lane, struct kvx_lane_slice *slices, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (slices[i].memory == 1)
			return 1; /* not known yet */
		if (slices[i].memory || slices[i].where > SOURCE_BYTES ||
		    slices[i].length > SOURCE_BYTES - slices[i].where) {
			kvx_lane_fail(lane, KVX_E_PROTOCOL, "a slice from nowhere");
			return -1;
		}
		slices[i].from = (const char *)source + slices[i].where;
		slices[i].remote = false;
	}
	return 0;
}

static int move(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count)
{
	(void)lane;
	fuzz_require(count && count <= KVX_LANE_PIECES_MAX, "%u pieces", count);
	for (uint32_t i = 0; i < count; i++)
		fuzz_require(pieces[i].bytes && (const uint8_t *)pieces[i].from >= source &&
				     (const uint8_t *)pieces[i].from + pieces[i].bytes <=
					     source + SOURCE_BYTES,
			     "a piece of %u bytes", pieces[i].bytes);
	kvx_lane_copy(pieces, count);
	return fuzz_sink_error;
}

static void bell(struct kvx_lane *lane)
{
	(void)lane;
	bells++;
}

static void silence(struct kvx_lane *lane)
{
	(void)lane;
}

static const struct kvx_lane_ops lane_ops = {
	.resolve = resolve, .move = move, .bell = bell, .silence = silence};

static const struct kvx_transport_ops ops = {.name = "lane"};

static struct kvx_ring_entry *entry(uint32_t index)
{
	return &ring->entries[index % KVX_LANE_FORWARD_ENTRIES];
}

static void write_entry(uint32_t index, uint64_t first, uint64_t second)
{
	atomic_store(&entry(index)->words[0], first);
	atomic_store(&entry(index)->words[1], second);
}

/* Bytes of the input, word by word, from the published end on. */
static uint32_t write_raw(uint32_t tail)
{
	uint32_t count = fuzz_u8(program) % BLOCKS_OF_RING;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t first = fuzz_u64(program);
		write_entry(tail + i, first, fuzz_u64(program));
	}
	return count;
}

static uint32_t write_message(uint32_t tail)
{
	uint64_t length = fuzz_u16(program);

	write_entry(tail, KVX_LANE_MESSAGE | length << 32, 0);
	for (uint32_t i = 1; i <= length / KVX_RING_ENTRY_BYTES + 1 && i < BLOCKS_OF_RING + 8; i++)
		write_entry(tail + i, i, i);
	return 1 + (uint32_t)(length + KVX_RING_ENTRY_BYTES - 1) / KVX_RING_ENTRY_BYTES;
}

/* A batch that adds up, but for what the input changes. */
static uint32_t write_batch(uint32_t tail)
{
	uint32_t count = fuzz_u8(program) % 16, how = fuzz_u8(program), sum = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = fuzz_u16(program), memory = 0;
		uint64_t where = fuzz_u16(program);
		if (how & 1)
			memory = fuzz_u8(program);
		write_entry(tail + 2 + i, where, memory | (uint64_t)length << 32);
		sum += length;
	}
	if (how & 2)
		sum += fuzz_u8(program);
	if (how & 4)
		count = fuzz_u16(program);
	write_entry(tail, KVX_LANE_BATCH | (uint64_t)count << 16 | (uint64_t)sum << 32,
		    how & 8 ? fuzz_u64(program) : fuzz_u16(program));
	write_entry(tail + 1, fuzz_u32(program), how & 16 ? fuzz_u8(program) : KVX_LANE_FRESH);
	return count + 2;
}

static void step(struct kvx_lane *lane)
{
	uint32_t tail = atomic_load(&ring->tail);

	switch (fuzz_u8(program) % 10) {
	case 0:
		atomic_store(&ring->tail, tail + write_raw(tail));
		break;
	case 1:
		atomic_store(&ring->tail, tail + write_message(tail));
		break;
	case 2:
		atomic_store(&ring->tail, tail + write_batch(tail));
		break;
	case 3:
		atomic_store(&ring->tail, tail + fuzz_u16(program));
		break;
	case 4:
		atomic_store(&ring->tail, fuzz_u32(program));
		break;
	case 5:
		atomic_store(&ring->starving, fuzz_u16(program));
		break;
	case 6: /* changes what is there already */
		atomic_store(&entry(fuzz_u8(program))->words[fuzz_u8(program) & 1],
			     fuzz_u64(program));
		break;
	case 7:
		fuzz_sink_error = fuzz_u8(program) % 4 ? 0 : 3;
		fuzz_sink_refuses = fuzz_u8(program) & 1;
		break;
	case 8:
		kvx_lane_end(lane, KVX_E_PEER_LOST, "the process has ended");
		break;
	default:
		fuzz_require(kvx_lane_take(lane) <= KVX_BATCH_BYTES_MAX, "too much at once");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_input input = fuzz_input_over(bytes, size);
	struct kvx_transport_context context = fuzz_sink_context();
	struct kvx_lane lane = {.ops = &lane_ops, .context = &context, .link.ops = &ops};
	size_t shared_bytes = kvx_lane_shared_bytes();
	void *shared = aligned_alloc(64, (shared_bytes + 63) / 64 * 64);

	fuzz_require(shared, "no memory");
	memset(shared, 0, shared_bytes);
	program = &input;
	ring = shared;
	fuzz_sink_reset();
	fuzz_require(kvx_lane_init(&lane, false) == 0, "no memory");
	kvx_lane_attach(&lane, shared);
	lane.up = true;
	for (uint32_t i = 0; i < STEPS_MAX && fuzz_left(&input); i++)
		step(&lane);
	for (uint32_t i = 0; i < STEPS_MAX && kvx_lane_take(&lane); i++)
		;
	kvx_lane_finish(&lane);
	free(shared);
	return 0;
}

/* --- seeds --- */

#define GIVE(name, ...)                                       \
	do {                                                  \
		static const uint8_t bytes[] = {__VA_ARGS__}; \
		take(name, bytes, sizeof(bytes));             \
	} while (0)

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("message", 1, 40, 0, 9, 1, 0, 4, 9);
	GIVE("batch", 2, 2, 0, 64, 0, 0, 0, 32, 0, 64, 0, 5, 0, 1, 0, 0, 0, 9);
	GIVE("beyond", 2, 1, 0, 64, 0, 255, 255, 0, 0, 1, 0, 0, 0, 9);
	GIVE("unknown-memory", 2, 1, 1, 64, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 9, 6, 2, 1, 0, 0, 0, 0,
	     64, 9);
	GIVE("withdrawn", 2, 1, 16, 64, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9);
	GIVE("raw", 0, 1, 2, 0, 1, 0, 9, 0, 0, 0, 9);
	GIVE("index", 4, 255, 255, 255, 255, 9);
	GIVE("starving", 5, 1, 0, 1, 16, 0, 9, 8, 9);
}
