/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include "base/wire.h"

#include <assert.h>

/* "kvxtcp", CR, LF; and "fram", by which a stream out of step is noticed. */
#define PREAMBLE_MAGIC UINT64_C(0x0a0d70637478766b)
#define HEADER_MAGIC UINT32_C(0x6d617266)

static_assert(8 + 2 + 1 + 1 + 2 + 2 + 8 == KVX_TCP_PREAMBLE_BYTES, "preamble");
static_assert(4 + 4 + 4 + 4 + 8 + 4 == KVX_TCP_HEADER_BYTES, "header");
static_assert(KVX_TCP_MESSAGE_MAX <= UINT16_MAX, "length of a message");

void kvx_tcp_preamble_encode(const struct kvx_tcp_preamble *preamble, uint8_t *bytes)
{
	struct kvx_writer writer = kvx_writer_over(bytes, KVX_TCP_PREAMBLE_BYTES);

	kvx_put_u64(&writer, PREAMBLE_MAGIC);
	kvx_put_u16(&writer, KVX_TCP_VERSION);
	kvx_put_u8(&writer, preamble->role);
	kvx_put_u8(&writer, preamble->encrypt);
	kvx_put_u16(&writer, preamble->index);
	kvx_put_u16(&writer, preamble->count);
	kvx_put_u64(&writer, preamble->token);
}

static bool in_range(const struct kvx_tcp_preamble *preamble)
{
	if (preamble->role < KVX_TCP_CONTROL || preamble->role > KVX_TCP_ANSWER)
		return false;
	if (preamble->role == KVX_TCP_CONTROL && preamble->index != 0)
		return false;
	if (preamble->role == KVX_TCP_DATA && preamble->index >= preamble->count)
		return false;
	return preamble->count <= KVX_RAILS_MAX;
}

int kvx_tcp_preamble_decode(const uint8_t *bytes, struct kvx_tcp_preamble *preamble)
{
	struct kvx_reader reader = kvx_reader_over(bytes, KVX_TCP_PREAMBLE_BYTES);

	if (kvx_get_u64(&reader) != PREAMBLE_MAGIC)
		return KVX_E_PROTOCOL;
	preamble->version = kvx_get_u16(&reader);
	if (preamble->version != KVX_TCP_VERSION)
		return KVX_E_VERSION;
	preamble->role = kvx_get_u8(&reader);
	uint8_t flags = kvx_get_u8(&reader);
	preamble->encrypt = flags & 1;
	preamble->index = kvx_get_u16(&reader);
	preamble->count = kvx_get_u16(&reader);
	preamble->token = kvx_get_u64(&reader);
	return in_range(preamble) && flags <= 1 ? 0 : KVX_E_PROTOCOL;
}

void kvx_tcp_header_encode(const struct kvx_batch *batch, uint8_t *bytes)
{
	struct kvx_writer writer = kvx_writer_over(bytes, KVX_TCP_HEADER_BYTES);

	kvx_put_u32(&writer, HEADER_MAGIC);
	kvx_put_u32(&writer, batch->unit.imm);
	kvx_put_u32(&writer, batch->unit.generation);
	kvx_put_u32(&writer, batch->bytes);
	kvx_put_u64(&writer, batch->place);
	kvx_put_u32(&writer, HEADER_MAGIC ^ batch->bytes);
}

bool kvx_tcp_header_decode(const uint8_t *bytes, struct kvx_tcp_header *header)
{
	struct kvx_reader reader = kvx_reader_over(bytes, KVX_TCP_HEADER_BYTES);

	uint32_t magic = kvx_get_u32(&reader);
	header->unit.imm = kvx_get_u32(&reader);
	header->unit.generation = kvx_get_u32(&reader);
	header->bytes = kvx_get_u32(&reader);
	header->place = kvx_get_u64(&reader);
	uint32_t check = kvx_get_u32(&reader);
	return magic == HEADER_MAGIC && check == (HEADER_MAGIC ^ header->bytes) &&
	       header->bytes >= 1 && header->bytes <= KVX_BATCH_BYTES_MAX &&
	       header->place <= UINT64_MAX - header->bytes;
}
