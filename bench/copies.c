/* SPDX-License-Identifier: Apache-2.0 */
#include "copies.h"

#include "clock.h"
#include "failure.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RUN_NS_MAX (500 * NS_PER_MS)

int kvx_copies_open(struct kvx_copies *copies, const struct kvx_endpoint *endpoint)
{
	const struct kvx_setup *setup = &endpoint->setup;
	size_t bytes = kvx_setup_pool_bytes(setup);
	/* The same kind of pages as the pools have. */
	int flags = MAP_ANONYMOUS | (setup->plain_memory ? MAP_PRIVATE : MAP_SHARED);
	void *source = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

	*copies = (struct kvx_copies){.source_table = kvx_endpoint_table(setup, KVX_END_SENDER)};
	copies->source = source == MAP_FAILED ? NULL : source;
	if (!copies->source || !copies->source_table) {
		kvx_copies_close(copies, endpoint);
		return kvx_failure_set("baseline: no memory for another pool of %zu bytes", bytes);
	}
	memset(copies->source, 1, bytes);
	return 0;
}

void kvx_copies_close(struct kvx_copies *copies, const struct kvx_endpoint *endpoint)
{
	if (copies->source)
		munmap(copies->source, kvx_setup_pool_bytes(&endpoint->setup));
	free(copies->source_table);
	*copies = (struct kvx_copies){0};
}

static void copy_slot(const struct kvx_copies *copies, const struct kvx_endpoint *endpoint)
{
	const struct kvx_setup *setup = &endpoint->setup;
	const uint32_t *to = kvx_endpoint_blocks(endpoint, copies->slot);
	const uint32_t *from = copies->source_table + (size_t)copies->slot * setup->request_blocks;
	size_t plane_bytes = (size_t)setup->slots * setup->request_blocks * setup->block_bytes;
	uint32_t planes = setup->layers * setup->planes;

	for (uint32_t plane = 0; plane < planes; plane++) {
		const char *source = copies->source + plane * plane_bytes;
		/* Both pools are packed. */
		char *target =
			(char *)kvx_pool_block(endpoint->pool, 0, 0, 0) + plane * plane_bytes;
		for (uint32_t i = 0; i < setup->request_blocks; i++)
			memcpy(target + (size_t)to[i] * setup->block_bytes,
			       source + (size_t)from[i] * setup->block_bytes, setup->block_bytes);
	}
}

void kvx_copies_run(struct kvx_copies *copies, const struct kvx_endpoint *endpoint, uint64_t *bytes,
		    int64_t *elapsed_ns)
{
	uint32_t slots = endpoint->setup.slots;
	int64_t begin_ns = clock_now_ns();
	uint32_t done = 0;

	do {
		copy_slot(copies, endpoint);
		copies->slot = (copies->slot + 1) % slots;
		*elapsed_ns = clock_now_ns() - begin_ns;
		done++;
	} while (done < slots && *elapsed_ns < RUN_NS_MAX);
	*bytes = done * kvx_setup_request_bytes(&endpoint->setup);
}
