/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoint.h"

#include "failure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The engine tells of its ports while it opens; later lines come from its own thread. */
static void hear_log(void *context, enum kvx_log_level level, const char *line)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	struct kvx_endpoint *endpoint = context;

	if (!endpoint->opened)
		kvx_ports_hear(&endpoint->ports, line);
	if (endpoint->verbose)
		fprintf(stderr, "engine: %s: %s\n", names[level], line);
}

static int set_options(json_t *given, struct kvx_options *options)
{
	const char *name;
	json_t *value;

	json_object_foreach(given, name, value)
	{
		const char *text = json_string_value(value);
		if (text && kvx_options_set(options, name, text) == 0)
			continue;
		return kvx_failure_set("%s",
				       text ? kvx_error_text() : "setup: an option is not text");
	}
	return 0;
}

static int open_engine(struct kvx_endpoint *endpoint)
{
	const struct kvx_setup *setup = &endpoint->setup;
	struct kvx_options *options;
	int error = 0;

	if (setup->rails && kvx_ports_limit(setup->options, setup->rails))
		return -1;
	if (kvx_options_new(&options))
		return kvx_failure_set("%s", kvx_error_text());
	if (set_options(setup->options, options)) {
		kvx_options_free(options);
		return -1;
	}
	endpoint->verbs_qps = (uint32_t)strtoul(kvx_options_get(options, "verbs_qps"), NULL, 10);
	endpoint->verbs_mtu = (uint32_t)strtoul(kvx_options_get(options, "verbs_mtu"), NULL, 10);
	kvx_options_log(options, hear_log, endpoint);
	error = kvx_engine_open(options, &endpoint->engine);
	kvx_options_free(options);
	endpoint->opened = true;
	return error ? kvx_failure_set("%s", kvx_error_text()) : 0;
}

static struct kvx_geometry geometry_of(const struct kvx_setup *setup)
{
	return (struct kvx_geometry){
		.layers = setup->layers,
		.planes = setup->planes,
		.blocks = setup->request_blocks * setup->slots,
		.block_bytes = setup->block_bytes,
		.block_tokens = setup->block_tokens,
	};
}

static int open_plain_pool(struct kvx_endpoint *endpoint, const struct kvx_geometry *geometry)
{
	uint32_t count = geometry->layers * geometry->planes;
	size_t bytes = kvx_setup_pool_bytes(&endpoint->setup);
	struct kvx_tensor *tensors = calloc(count, sizeof(*tensors));
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int error = -1;

	endpoint->memory = memory == MAP_FAILED ? NULL : memory;
	if (!tensors || !endpoint->memory) {
		kvx_failure_set("pool: no memory for %zu bytes", bytes);
		goto done;
	}
	/* Now, so that no page is made while bytes move; the library does so with its own. */
	memset(memory, 0, bytes);
	if (kvx_region_register(endpoint->engine, memory, bytes, &endpoint->region)) {
		kvx_failure_set("%s", kvx_error_text());
		goto done;
	}
	for (uint32_t i = 0; i < count; i++)
		tensors[i] = (struct kvx_tensor){.region = endpoint->region,
						 .offset = bytes / count * i};
	error = kvx_pool_open(endpoint->engine, geometry, tensors, &endpoint->pool);
	if (error)
		kvx_failure_set("%s", kvx_error_text());
done:
	free(tensors);
	return error ? -1 : 0;
}

static int open_pool(struct kvx_endpoint *endpoint)
{
	struct kvx_geometry geometry = geometry_of(&endpoint->setup);

	if (endpoint->setup.plain_memory)
		return open_plain_pool(endpoint, &geometry);
	if (kvx_pool_alloc(endpoint->engine, &geometry, &endpoint->pool))
		return kvx_failure_set("%s", kvx_error_text());
	return 0;
}

int kvx_endpoint_open(struct kvx_endpoint *endpoint, struct kvx_setup *setup, enum kvx_end end,
		      bool verbose)
{
	*endpoint = (struct kvx_endpoint){.setup = *setup, .verbose = verbose};
	*setup = (struct kvx_setup){0};
	endpoint->table = kvx_endpoint_table(&endpoint->setup, end);
	if (!endpoint->table) {
		kvx_failure_set("pool: no memory for its block table");
		goto fail_close;
	}
	if (kvx_payload_open(&endpoint->payload, json_string_value(endpoint->setup.payload)))
		goto fail_close;
	if (open_engine(endpoint) || open_pool(endpoint))
		goto fail_close;
	return 0;

fail_close:
	kvx_endpoint_close(endpoint);
	return -1;
}

void kvx_endpoint_close(struct kvx_endpoint *endpoint)
{
	kvx_engine_close(endpoint->engine);
	if (endpoint->memory)
		munmap(endpoint->memory, kvx_setup_pool_bytes(&endpoint->setup));
	kvx_payload_close(&endpoint->payload);
	free(endpoint->table);
	kvx_setup_finish(&endpoint->setup);
	*endpoint = (struct kvx_endpoint){0};
}

uint32_t *kvx_endpoint_table(const struct kvx_setup *setup, enum kvx_end end)
{
	return kvx_blocktable_make(&setup->table, setup->seed * 2 + (uint64_t)end,
				   setup->slots * setup->request_blocks);
}

const uint32_t *kvx_endpoint_blocks(const struct kvx_endpoint *endpoint, uint32_t slot)
{
	return endpoint->table + (size_t)slot * endpoint->setup.request_blocks;
}

/* Calls for each block of a request, in its order. */
struct visit {
	const struct kvx_endpoint *endpoint;
	void (*block)(const struct visit *visit, const struct kvx_pattern_place *place,
		      uint64_t position, void *bytes);
	struct kvx_verdict *verdict;
};

static void visit_slot(const struct visit *visit, uint32_t slot, uint64_t request, uint32_t blocks)
{
	const struct kvx_setup *setup = &visit->endpoint->setup;
	const uint32_t *table = kvx_endpoint_blocks(visit->endpoint, slot);
	struct kvx_pattern_place place = {.seed = setup->seed, .request = request};
	uint64_t position = 0;

	for (place.layer = 0; place.layer < setup->layers; place.layer++)
		for (place.plane = 0; place.plane < setup->planes; place.plane++)
			for (place.block = 0; place.block < blocks; place.block++) {
				visit->block(visit, &place, position,
					     kvx_pool_block(visit->endpoint->pool, place.layer,
							    place.plane, table[place.block]));
				position += setup->block_bytes;
			}
}

static void fill_block(const struct visit *visit, const struct kvx_pattern_place *place,
		       uint64_t position, void *bytes)
{
	kvx_payload_fill(&visit->endpoint->payload, place, position, bytes,
			 visit->endpoint->setup.block_bytes);
}

void kvx_endpoint_fill(struct kvx_endpoint *endpoint, uint32_t slot, uint64_t request,
		       uint32_t blocks)
{
	visit_slot(&(struct visit){.endpoint = endpoint, .block = fill_block}, slot, request,
		   blocks);
}

static void verify_block(const struct visit *visit, const struct kvx_pattern_place *place,
			 uint64_t position, void *bytes)
{
	struct kvx_verdict *verdict = visit->verdict;
	uint32_t size = visit->endpoint->setup.block_bytes;
	uint8_t expected = 0;
	size_t first = 0;
	size_t wrong = kvx_payload_verify(&visit->endpoint->payload, place, position, bytes, size,
					  &first, &expected);

	if (wrong && !verdict->wrong_bytes) {
		verdict->place = *place;
		verdict->offset = first;
		verdict->expected = expected;
		verdict->found = ((const uint8_t *)bytes)[first];
	}
	verdict->wrong_bytes += wrong;
	verdict->bytes += size;
}

void kvx_endpoint_verify(const struct kvx_endpoint *endpoint, uint32_t slot, uint64_t request,
			 uint32_t blocks, struct kvx_verdict *verdict)
{
	visit_slot(&(struct visit){endpoint, verify_block, verdict}, slot, request, blocks);
}

void kvx_endpoint_corrupt(struct kvx_endpoint *endpoint, uint32_t slot, uint32_t blocks,
			  uint32_t index)
{
	const struct kvx_setup *setup = &endpoint->setup;
	uint32_t block = kvx_endpoint_blocks(endpoint, slot)[index % blocks];
	uint32_t offset = index / blocks % setup->block_bytes;
	uint8_t *bytes =
		kvx_pool_block(endpoint->pool, setup->layers - 1, setup->planes - 1, block);

	bytes[offset] ^= 0x10;
}
