/* SPDX-License-Identifier: Apache-2.0 */
#include "core/geometry.h"

#include "plan/shape.h"

void kvx_put_geometry(struct kvx_writer *writer, const struct kvx_geometry *geometry)
{
	kvx_put_u32(writer, geometry->layers);
	kvx_put_u32(writer, geometry->layer_first);
	kvx_put_u32(writer, geometry->planes);
	kvx_put_u32(writer, geometry->blocks);
	kvx_put_u32(writer, geometry->block_bytes);
	kvx_put_u32(writer, geometry->block_tokens);
	kvx_put_text(writer, geometry->dtype);
	kvx_put_u64(writer, geometry->model);
	kvx_put_u8(writer, (uint8_t)geometry->layout);
	kvx_put_u32(writer, geometry->heads);
	kvx_put_u32(writer, geometry->head_first);
	kvx_put_u32(writer, geometry->heads_total);
	kvx_put_u32(writer, geometry->head_bytes);
	kvx_put_u32(writer, geometry->head_stride);
	kvx_put_u32(writer, geometry->token_stride);
	kvx_put_u32(writer, geometry->plane_stride);
	kvx_put_u8(writer, (uint8_t)geometry->extra_planes);
	for (uint32_t i = 0; i < geometry->extra_planes; i++) {
		kvx_put_u32(writer, geometry->extra[i].block_bytes);
		kvx_put_u32(writer, geometry->extra[i].token_bytes);
	}
}

/* Nothing was left to be filled in. */
static bool is_complete(const struct kvx_geometry *got)
{
	struct kvx_geometry complete;

	if (kvx_geometry_complete(got, &complete))
		return false;
	for (uint32_t i = 0; i < got->extra_planes; i++)
		if (got->extra[i].block_bytes != complete.extra[i].block_bytes)
			return false;
	return got->block_bytes == complete.block_bytes &&
	       got->head_stride == complete.head_stride &&
	       got->token_stride == complete.token_stride;
}

void kvx_get_geometry(struct kvx_reader *reader, struct kvx_geometry *geometry)
{
	struct kvx_geometry got = {0};

	got.layers = kvx_get_u32(reader);
	got.layer_first = kvx_get_u32(reader);
	got.planes = kvx_get_u32(reader);
	got.blocks = kvx_get_u32(reader);
	got.block_bytes = kvx_get_u32(reader);
	got.block_tokens = kvx_get_u32(reader);
	kvx_get_text(reader, got.dtype, sizeof(got.dtype));
	got.model = kvx_get_u64(reader);
	got.layout = (enum kvx_layout)kvx_get_u8(reader);
	got.heads = kvx_get_u32(reader);
	got.head_first = kvx_get_u32(reader);
	got.heads_total = kvx_get_u32(reader);
	got.head_bytes = kvx_get_u32(reader);
	got.head_stride = kvx_get_u32(reader);
	got.token_stride = kvx_get_u32(reader);
	got.plane_stride = kvx_get_u32(reader);
	got.extra_planes = kvx_get_u8(reader);
	for (uint32_t i = 0; i < got.extra_planes && i < KVX_EXTRA_MAX; i++) {
		got.extra[i].block_bytes = kvx_get_u32(reader);
		got.extra[i].token_bytes = kvx_get_u32(reader);
	}
	if (reader->failed || !is_complete(&got))
		reader->failed = true;
	else
		*geometry = got;
}

uint32_t kvx_geometry_blocks(const struct kvx_geometry *geometry, uint32_t tokens)
{
	uint32_t block_tokens = geometry->block_tokens ? geometry->block_tokens : 1;

	return (uint32_t)(((uint64_t)tokens + block_tokens - 1) / block_tokens);
}
