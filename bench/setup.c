/* SPDX-License-Identifier: Apache-2.0 */
#include "setup.h"

#include "failure.h"
#include "ports.h"

#include <kvxfer/kvxfer.h>

#define BLOCKS_MAX (UINT64_C(1) << 28)     /* of one pool: a table of 1 GiB */
#define POOL_BYTES_MAX (UINT64_C(1) << 46) /* so that sizes cannot overflow */

/* field (and its name in JSON), lowest, highest */
#define NUMBERS(X)                          \
	X(layers, 1, KVX_LAYERS_MAX)        \
	X(planes, 1, KVX_PLANES_MAX)        \
	X(block_bytes, KVX_ALIGN, 1u << 30) \
	X(block_tokens, 0, 1u << 24)        \
	X(request_blocks, 1, KVX_TABLE_MAX) \
	X(slots, 1, 1u << 28)               \
	X(places, 1, KVX_PLACES_MAX)        \
	X(lease_ms, 1, KVX_TIMEOUT_MAX_MS)  \
	X(corrupt, 0, 4096)                 \
	X(rails, 0, KVX_BENCH_PORTS_MAX)

json_t *kvx_setup_encode(const struct kvx_setup *setup)
{
	json_t *message = json_pack("{ss, sI, sI, sb, sb, sO, sO}", "do", "setup", "run",
				    (json_int_t)setup->table.run, "seed", (json_int_t)setup->seed,
				    "plain_memory", setup->plain_memory, "copy_baseline",
				    setup->copy_baseline, "payload", setup->payload, "options",
				    setup->options);

#define ENCODE(field, low, high) \
	json_object_set_new(message, #field, json_integer((json_int_t)setup->field));
	NUMBERS(ENCODE)
#undef ENCODE
	return message;
}

static int decode_number(json_t *message, const char *name, uint64_t low, uint64_t high,
			 uint32_t *number)
{
	json_t *value = json_object_get(message, name);
	json_int_t integer = json_integer_value(value);

	if (!json_is_integer(value) || integer < (json_int_t)low || integer > (json_int_t)high)
		return kvx_failure_set("setup: %s is not a number from %llu to %llu", name,
				       (unsigned long long)low, (unsigned long long)high);
	*number = (uint32_t)integer;
	return 0;
}

static int check_sizes(const struct kvx_setup *setup)
{
	uint64_t blocks = (uint64_t)setup->request_blocks * setup->slots;

	if (blocks > BLOCKS_MAX)
		return kvx_failure_set("setup: a pool of %llu blocks: at most %llu; use larger or "
				       "fewer ones, or a smaller --pool-bytes",
				       (unsigned long long)blocks, (unsigned long long)BLOCKS_MAX);
	if (blocks * setup->layers * setup->planes > POOL_BYTES_MAX / setup->block_bytes)
		return kvx_failure_set("setup: a pool of more than 64 TiB");
	return 0;
}

int kvx_setup_decode(json_t *message, struct kvx_setup *setup)
{
	json_int_t seed;
	int plain_memory;
	int copy_baseline;

	*setup = (struct kvx_setup){0};
	if (json_unpack(message, "{sI, sb, sb, so, so}", "seed", &seed, "plain_memory",
			&plain_memory, "copy_baseline", &copy_baseline, "payload", &setup->payload,
			"options", &setup->options))
		return kvx_failure_set("setup: a field is missing or of another kind");
	if (!json_is_string(setup->payload) || !json_is_object(setup->options))
		return kvx_failure_set("setup: payload or options are of another kind");
#define DECODE(field, low, high)                                          \
	if (decode_number(message, #field, (low), (high), &setup->field)) \
		return -1;
	NUMBERS(DECODE)
#undef DECODE
	if (decode_number(message, "run", 0, UINT32_MAX, &setup->table.run) || check_sizes(setup))
		return -1;
	setup->seed = (uint64_t)seed;
	setup->plain_memory = plain_memory;
	setup->copy_baseline = copy_baseline;
	json_incref(setup->payload);
	json_incref(setup->options);
	return 0;
}

void kvx_setup_finish(struct kvx_setup *setup)
{
	json_decref(setup->payload);
	json_decref(setup->options);
	*setup = (struct kvx_setup){0};
}

uint64_t kvx_setup_request_bytes(const struct kvx_setup *setup)
{
	return (uint64_t)setup->layers * setup->planes * setup->request_blocks * setup->block_bytes;
}

uint64_t kvx_setup_pool_bytes(const struct kvx_setup *setup)
{
	return kvx_setup_request_bytes(setup) * setup->slots;
}
