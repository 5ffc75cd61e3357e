/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/plan.h"

#include "base/wire.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "tables are hashed as they lie in memory");

static uint64_t pieces_of(const struct kvx_image *image)
{
	return (uint64_t)image->planes * image->count;
}

uint32_t kvx_image_units(const struct kvx_image *image, uint64_t unit_bytes)
{
	uint64_t units = (kvx_image_bytes(image) + unit_bytes - 1) / unit_bytes;
	uint64_t most = pieces_of(image) < KVX_UNITS_MAX ? pieces_of(image) : KVX_UNITS_MAX;

	return (uint32_t)(units < 1 ? 1 : units > most ? most : units);
}

bool kvx_image_cut(struct kvx_image *image, uint32_t units, const uint8_t *weights)
{
	image->units = units;
	image->until[0] = 0;
	for (uint32_t unit = 0; unit < units; unit++)
		image->until[unit + 1] =
			(uint16_t)(image->until[unit] + (weights ? weights[unit] : 1));
	for (uint32_t unit = 0; unit < units; unit++)
		if (kvx_image_unit_place(image, unit) == kvx_image_unit_place(image, unit + 1))
			return false;
	return true;
}

uint64_t kvx_image_unit_place(const struct kvx_image *image, uint32_t unit)
{
	return pieces_of(image) * image->until[unit] / image->until[image->units] *
	       image->block_bytes;
}

uint32_t kvx_plan_runs(const uint32_t *from, const uint32_t *to, uint32_t count, bool packed,
		       struct kvx_run *runs)
{
	uint32_t made = 0;

	for (uint32_t first = 0, next; first < count; first = next) {
		next = first + 1;
		while (packed && next < count && from[next] == from[next - 1] + 1 &&
		       to[next] == to[next - 1] + 1)
			next++;
		if (runs)
			runs[made] = (struct kvx_run){first, next - first, from[first], to[first]};
		made++;
	}
	return made;
}

static uint32_t run_at(const struct kvx_plan *plan, uint32_t index)
{
	uint32_t low = 0, high = plan->run_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (plan->runs[middle].first <= index)
			low = middle;
		else
			high = middle;
	}
	return low;
}

void kvx_cursor_seek(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit)
{
	const struct kvx_image *image = &plan->image;

	cursor->place = kvx_image_unit_place(image, unit);
	cursor->end = kvx_image_unit_place(image, unit + 1);
	uint64_t piece = cursor->place / image->block_bytes;
	uint32_t index = (uint32_t)(piece % image->count);
	cursor->plane = (uint32_t)(piece / image->count);
	cursor->run = run_at(plan, index);
	cursor->offset = (uint64_t)(index - plan->runs[cursor->run].first) * image->block_bytes;
}

static void advance(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint64_t bytes,
		    uint64_t run_bytes)
{
	cursor->place += bytes;
	cursor->offset += bytes;
	if (cursor->offset < run_bytes)
		return;
	cursor->offset = 0;
	if (++cursor->run < plan->run_count)
		return;
	cursor->run = 0;
	cursor->plane++;
}

uint32_t kvx_cursor_fill(struct kvx_cursor *cursor, const struct kvx_plan *plan,
			 const struct kvx_source *sources, const struct kvx_target *targets,
			 struct kvx_slice *slices, uint32_t *bytes)
{
	uint64_t room = KVX_BATCH_BYTES_MAX, wanted = cursor->end - cursor->place;
	uint32_t made = 0;

	if (wanted < room)
		room = wanted;
	*bytes = (uint32_t)room;
	while (room && made < KVX_BATCH_SLICES_MAX) {
		const struct kvx_run *run = &plan->runs[cursor->run];
		const struct kvx_source *source = &sources[cursor->plane];
		uint64_t run_bytes = (uint64_t)run->count * plan->image.block_bytes;
		uint64_t length = run_bytes - cursor->offset;
		if (length > room)
			length = room;
		struct kvx_slice *slice = &slices[made++];
		slice->local = source->base + run->from * source->stride + cursor->offset;
		slice->memory = source->memory;
		slice->length = (uint32_t)length;
		if (targets) {
			const struct kvx_target *target = &targets[cursor->plane];
			slice->target = target->memory;
			slice->offset = target->base + run->to * target->stride + cursor->offset;
		}
		room -= length;
		advance(cursor, plan, length, run_bytes);
	}
	*bytes -= (uint32_t)room;
	return made;
}

int kvx_image_resolve(const struct kvx_image *image, const uint32_t *table,
		      const struct kvx_source *targets, uint64_t place, uint64_t bytes,
		      struct iovec *iov, int iov_max)
{
	uint64_t piece = place / image->block_bytes, within = place % image->block_bytes;
	uint32_t index = (uint32_t)(piece % image->count);
	const struct kvx_source *target = &targets[piece / image->count];
	int made = 0;

	while (bytes) {
		char *address = target->base + table[index] * target->stride + within;
		uint64_t length = image->block_bytes - within;
		if (length > bytes)
			length = bytes;
		struct iovec *last = made ? &iov[made - 1] : NULL;
		if (last && (char *)last->iov_base + last->iov_len == address)
			last->iov_len += length;
		else if (made < iov_max)
			iov[made++] = (struct iovec){address, length};
		else
			break;
		bytes -= length;
		within = 0;
		if (++index == image->count) {
			index = 0;
			target++;
		}
	}
	return made;
}

uint64_t kvx_table_hash(const uint32_t *to, uint32_t count)
{
	return XXH3_64bits(to, (size_t)count * sizeof(*to));
}

uint64_t kvx_plan_hash(const struct kvx_geometry *geometry, const struct kvx_image *image,
		       uint64_t table_hash)
{
	uint8_t fixed[64 + 2 * KVX_UNITS_MAX];
	struct kvx_writer writer = kvx_writer_over(fixed, sizeof(fixed));

	kvx_put_u32(&writer, geometry->layers);
	kvx_put_u32(&writer, geometry->block_tokens);
	kvx_put_bytes(&writer, geometry->dtype, sizeof(geometry->dtype));
	kvx_put_u32(&writer, image->planes);
	kvx_put_u32(&writer, image->count);
	kvx_put_u32(&writer, image->block_bytes);
	kvx_put_u32(&writer, image->units);
	for (uint32_t unit = 1; unit <= image->units; unit++)
		kvx_put_u16(&writer, image->until[unit]);
	kvx_put_u64(&writer, table_hash);
	return XXH3_64bits(fixed, (size_t)(writer.next - fixed));
}
