/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints for one shape of request: how large, with which options, connected and warm. */
#include "drive.h"

#include "capacity.h"
#include "clock.h"
#include "machine.h"

#include <string.h>

#define CONNECT_MS 10000u
#define WARM_UP_NS (3 * NS_PER_S)
#define BLOCKS_MAX (UINT64_C(1) << 28) /* of one pool */
#define MEMORY_SHARE 0.7               /* of what is available that pools may take */
#define SAMPLE_BYTES (4u << 20)        /* of which the entropy is measured */
#define SAMPLE_PIECE_BYTES 4096u

static bool copies_are_baseline(const struct kvx_settings *settings)
{
	const char *transport = settings->transport ? settings->transport : "auto";

	/* Which transport `auto` takes is known only later. */
	return settings->baseline && strcmp(transport, "tcp") != 0 &&
	       strcmp(transport, "verbs") != 0;
}

static int plan_capacity(struct kvx_drive *drive, const struct kvx_shape *shape, uint32_t *slots)
{
	const struct kvx_settings *settings = drive->settings;
	bool is_local = settings->command == KVX_COMMAND_LOCAL;
	bool copies = copies_are_baseline(settings);
	uint64_t here = kvx_machine_available_bytes();
	uint64_t there = drive->session->receiver_available_bytes;
	const struct kvx_capacity capacity = {
		.request_bytes = kvx_shape_request_bytes(shape, shape->blocks),
		.pool_bytes = settings->pool_bytes,
		.available_bytes =
			(uint64_t)((double)(there && there < here ? there : here) * MEMORY_SHARE),
		.pools = (is_local ? 2 : 1) + (copies ? 1 : 0),
		.inflight = (uint32_t)settings->inflight,
		.reuse_buffer = settings->reuse_buffer,
		.blocks = shape->blocks,
		.blocks_max = BLOCKS_MAX,
	};

	if (!kvx_capacity_plan(&capacity, slots, &drive->results.inflight))
		return kvx_failure_set("pools: no memory for a request of %llu MiB in each of %u; "
				       "%llu MiB are available; use a smaller request",
				       (unsigned long long)(capacity.request_bytes >> 20),
				       capacity.pools,
				       (unsigned long long)(capacity.available_bytes >> 20));
	if (drive->results.inflight < settings->inflight)
		fprintf(stderr, "pools: memory for %u requests in flight instead of %llu\n",
			drive->results.inflight, (unsigned long long)settings->inflight);
	if (!settings->reuse_buffer && *slots * capacity.request_bytes < settings->pool_bytes)
		fprintf(stderr, "pools: %llu MiB instead of %llu: no memory or no use for more\n",
			(unsigned long long)(*slots * capacity.request_bytes >> 20),
			(unsigned long long)(settings->pool_bytes >> 20));
	return 0;
}

static json_t *engine_options(const struct kvx_settings *settings)
{
	json_t *options = json_object();

	if (settings->transport)
		json_object_set_new(options, "transports", json_string(settings->transport));
	if (settings->no_copy)
		json_object_set_new(options, "loop_copy", json_string("off"));
	for (uint32_t i = 0; i < settings->engine_options.count; i++) {
		char name[64];
		const char *value;
		if (!kvx_engine_option_split(settings->engine_options.texts[i], name, sizeof(name),
					     &value))
			json_object_set_new(options, name, json_string(value));
	}
	return options;
}

static struct kvx_setup make_setup(const struct kvx_drive *drive, const struct kvx_shape *shape,
				   uint32_t slots)
{
	const struct kvx_settings *settings = drive->settings;
	const char *payload = settings->payload ? settings->payload : "pattern";

	return (struct kvx_setup){
		.layers = shape->layers,
		.planes = shape->planes,
		.block_bytes = shape->block_bytes,
		.block_tokens = shape->block_tokens,
		.request_blocks = shape->blocks,
		.slots = slots,
		.places = 2 * drive->results.inflight,
		.lease_ms = (uint32_t)settings->lease_ms,
		.corrupt = (uint32_t)settings->corrupt,
		.rails = (uint32_t)settings->rails,
		.table = settings->table,
		.seed = settings->seed,
		.plain_memory = settings->plain_memory,
		.copy_baseline = copies_are_baseline(settings),
		.payload = json_string(payload),
		.options = engine_options(settings),
	};
}

/* Connects before the first request, and says by what. */
static int connect_peer(struct kvx_drive *drive)
{
	struct kvx_peer_info info;

	if (kvx_peer_connect(drive->session->endpoint.engine, drive->session->receiver_address,
			     &drive->peer) ||
	    kvx_peer_wait(drive->peer, CONNECT_MS))
		return kvx_failure_set("%s", kvx_error_text());
	kvx_peer_info(drive->peer, &info);
	snprintf(drive->results.transport, sizeof(drive->results.transport), "%s", info.transport);
	snprintf(drive->results.why, sizeof(drive->results.why), "%s", info.why);
	kvx_drive_note_rails(drive);
	return 0;
}

static int warm_up(struct kvx_drive *drive)
{
	struct kvx_round round = {
		.blocks = drive->session->endpoint.setup.request_blocks,
		.requests_max = drive->rotation.count,
		.elapsed_ns_max = WARM_UP_NS,
		.inflight = 1,
		.prefetch = true,
	};

	if (kvx_drive_round(drive, &round, false, NULL, NULL))
		return -1;
	return round.failed ? kvx_failure_set("the first requests failed already; --verbose shows "
					      "the log of the engines, which may say why")
			    : 0;
}

static void measure_entropy(struct kvx_drive *drive)
{
	const struct kvx_endpoint *endpoint = &drive->session->endpoint;
	const struct kvx_setup *setup = &endpoint->setup;
	uint32_t piece =
		setup->block_bytes < SAMPLE_PIECE_BYTES ? setup->block_bytes : SAMPLE_PIECE_BYTES;
	uint64_t entries = (uint64_t)setup->slots * setup->request_blocks;
	uint64_t wanted = SAMPLE_BYTES / piece < entries ? SAMPLE_BYTES / piece : entries;
	uint64_t counts[256] = {0};

	for (uint64_t i = 0; i < wanted; i++) {
		uint32_t block = endpoint->table[entries / wanted * i];
		const uint8_t *bytes = kvx_pool_block(endpoint->pool, (uint32_t)i % setup->layers,
						      (uint32_t)i % setup->planes, block);
		for (uint32_t k = 0; k < piece; k++)
			counts[bytes[k]]++;
	}
	drive->results.entropy_bits = kvx_entropy_bits(counts);
}

int kvx_drive_setup(struct kvx_drive *drive, const struct kvx_shape *shape)
{
	uint32_t slots;

	kvx_progress_show(&drive->progress, "making pools");
	/* It belongs to the engine that goes now. */
	drive->peer = NULL;
	kvx_rotation_finish(&drive->rotation);
	if (plan_capacity(drive, shape, &slots) || kvx_rotation_init(&drive->rotation, slots))
		return -1;
	drive->results.slots = slots;
	struct kvx_setup setup = make_setup(drive, shape, slots);
	if (kvx_session_setup(drive->session, &setup, drive->settings->verbose) ||
	    connect_peer(drive))
		return -1;
	kvx_drive_fill(drive, slots);
	measure_entropy(drive);
	return warm_up(drive);
}
