/* SPDX-License-Identifier: Apache-2.0 */
/* A decode worker and a prefill worker: two processes, and a pipe that carries the ticket. */
#include <kvxfer/kvxfer.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every call returns 0 or more, or a negative code; the text says what to change. */
#define CHECK(call)                                                           \
	do {                                                                  \
		if ((call) < 0) {                                             \
			fprintf(stderr, "%s: %s\n", #call, kvx_error_text()); \
			exit(1);                                              \
		}                                                             \
	} while (0)

/* K and V of 8 layers. The request has 4 blocks; each side says by a table which of its own. */
static const struct kvx_geometry geometry = {
	.layers = 8, .planes = 2, .blocks = 64, .block_bytes = 65536};
static const uint32_t prefill_blocks[] = {11, 12, 40, 7}, decode_blocks[] = {3, 60, 61, 22};
enum { COUNT = 4, TIMEOUT_MS = 10000 };

/* Stands for the attention layer that computes the block. */
static int value_of(uint32_t layer, uint32_t plane, uint32_t index)
{
	return (int)(1 + layer * 31 + plane * 7 + index);
}

static void prefill(struct kvx_pool *pool, int ticket_fd)
{
	struct kvx_stream *stream;
	char ticket[4096];

	ssize_t bytes = read(ticket_fd, ticket, sizeof(ticket));
	CHECK(bytes);
	CHECK(kvx_stream_open(pool, prefill_blocks, COUNT, NULL, ticket, (size_t)bytes, &stream));
	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		for (uint32_t plane = 0; plane < geometry.planes; plane++)
			for (uint32_t i = 0; i < COUNT; i++)
				memset(kvx_pool_block(pool, layer, plane, prefill_blocks[i]),
				       value_of(layer, plane, i), geometry.block_bytes);
		/* It is sent while the next one computes. */
		CHECK(kvx_stream_layers_ready(stream, layer, 1));
	}
	CHECK(kvx_stream_wait(stream, KVX_ALL_LAYERS, TIMEOUT_MS)); /* the receiver has it all */
	kvx_stream_close(stream);
}

static void expect_layer(const struct kvx_pool *pool, uint32_t layer)
{
	for (uint32_t plane = 0; plane < geometry.planes; plane++) {
		for (uint32_t i = 0; i < COUNT; i++) {
			const char *block = kvx_pool_block(pool, layer, plane, decode_blocks[i]);
			if (block[0] != (char)value_of(layer, plane, i) ||
			    memcmp(block, block + 1, geometry.block_bytes - 1) != 0)
				exit(2);
		}
	}
}

static void decode(struct kvx_pool *pool, int ticket_fd)
{
	struct kvx_grant *grant;
	size_t bytes;

	CHECK(kvx_grant_open(pool, decode_blocks, COUNT, NULL, 2 * TIMEOUT_MS, &grant));
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	CHECK(write(ticket_fd, ticket, bytes)); /* any channel will do: it is bytes */
	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		CHECK(kvx_grant_wait(grant, layer, TIMEOUT_MS));
		expect_layer(pool, layer); /* decode may read it; later layers are on their way */
	}
	kvx_grant_close(grant); /* from here on the blocks are decode's to reuse */
	printf("%u layers of %d blocks arrived, every byte right\n", geometry.layers, COUNT);
}

int main(void)
{
	struct kvx_engine *engine;
	struct kvx_pool *pool;
	int ends[2], status;

	CHECK(pipe(ends));
	pid_t child = fork(); /* before any engine is open */
	CHECK(child);
	close(ends[child == 0]); /* the other worker's */
	CHECK(kvx_engine_open(NULL, &engine));
	CHECK(kvx_pool_alloc(engine, &geometry, &pool));
	if (child)
		decode(pool, ends[1]);
	else
		prefill(pool, ends[0]);
	kvx_engine_close(engine); /* and with it the pool */
	return child && (waitpid(child, &status, 0) < 0 || status);
}
