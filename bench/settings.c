/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include "address.h"
#include "failure.h"
#include "models.h"
#include "payload.h"

#include <kvxfer/kvxfer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATENCY_LAYERS 64u
#define REQUEST_BYTES_MAX (UINT64_C(1) << 40)
#define BLOCK_BYTES_MAX (UINT64_C(1) << 30)

static uint64_t or_default(uint64_t value, uint64_t initial)
{
	return value ? value : initial;
}

uint64_t kvx_shape_layer_bytes(const struct kvx_shape *shape, uint32_t blocks)
{
	return (uint64_t)shape->planes * blocks * shape->block_bytes;
}

uint64_t kvx_shape_request_bytes(const struct kvx_shape *shape, uint32_t blocks)
{
	return shape->layers * kvx_shape_layer_bytes(shape, blocks);
}

const char *kvx_workload_name(enum kvx_workload workload)
{
	static const char *const names[] = {"blocks", "stream", "latency"};

	return names[workload];
}

int kvx_engine_option_split(const char *text, char *name, uint32_t size, const char **value)
{
	const char *equals = strchr(text, '=');

	if (!equals || equals == text || (size_t)(equals - text) >= size)
		return kvx_failure_set("option: \"%.64s\" is not NAME=VALUE", text);
	memcpy(name, text, (size_t)(equals - text));
	name[equals - text] = 0;
	*value = equals + 1;
	return 0;
}

/* Appends "name=value"; which: of option_texts. */
static int add_engine_option(struct kvx_settings *settings, int which, const char *name,
			     const char *value)
{
	struct kvx_engine_options *options = &settings->engine_options;
	char *text = settings->option_texts[which];
	int length = snprintf(text, KVX_SETTING_TEXT_MAX, "%s=%s", name, value);

	if (length >= KVX_SETTING_TEXT_MAX || options->count == KVX_ENGINE_OPTIONS_MAX)
		return kvx_failure_set("%s: too long, or one option too many", name);
	options->texts[options->count++] = text;
	return 0;
}

static int add_verbs_options(struct kvx_settings *settings)
{
	const char *gid_index = settings->gid_index;
	char qps[16];
	int error = 0;

	if (gid_index && strcmp(gid_index, "auto") != 0 &&
	    (!*gid_index || gid_index[strspn(gid_index, "0123456789")] || strlen(gid_index) > 3))
		return kvx_failure_set("gid-index: \"%.32s\" is neither a number nor auto",
				       gid_index);
	if (settings->device)
		error = add_engine_option(settings, 0, "verbs_devices", settings->device);
	if (gid_index && !error)
		error = add_engine_option(settings, 1, "verbs_gid_index", gid_index);
	snprintf(qps, sizeof(qps), "%llu", (unsigned long long)settings->qps);
	if (settings->qps && !error)
		error = add_engine_option(settings, 2, "verbs_qps", qps);
	return error;
}

/* The engine knows its options best: try them on a set of their own. */
static int check_engine_options(const struct kvx_settings *settings)
{
	struct kvx_options *options;
	int error = kvx_options_new(&options);

	if (error)
		return kvx_failure_set("%s", kvx_error_text());
	for (uint32_t i = 0; i < settings->engine_options.count && !error; i++) {
		char name[64];
		const char *value = NULL;
		error = kvx_engine_option_split(settings->engine_options.texts[i], name,
						sizeof(name), &value);
		if (error)
			break;
		error = kvx_options_set(options, name, value);
		if (error)
			kvx_failure_set("%s", kvx_error_text());
	}
	kvx_options_free(options);
	return error ? -1 : 0;
}

static int check_address(const char *text)
{
	char host[256];

	return text ? kvx_address_host(text, host, sizeof(host)) : 0;
}

static int find_model(const struct kvx_settings *settings, struct kvx_model *model)
{
	bool is_free = settings->kv_heads || settings->mla_bytes;
	const char *name = settings->model_name ? settings->model_name
			   : is_free            ? NULL
						: "qwen3-8b";
	const struct kvx_model *found = name ? kvx_model_find(name) : NULL;

	if (name && !found)
		return kvx_failure_set("model: there is no \"%.32s\"; --model list shows them",
				       name);
	*model = found ? *found : (struct kvx_model){.dtype_bytes = 2};
	model->layers = (uint32_t)or_default(settings->layers, model->layers);
	model->kv_heads = (uint32_t)or_default(settings->kv_heads, model->kv_heads);
	model->head_dim = (uint32_t)or_default(settings->head_dim, model->head_dim);
	model->dtype_bytes = (uint32_t)or_default(settings->dtype_bytes, model->dtype_bytes);
	model->latent_bytes = (uint32_t)or_default(settings->mla_bytes, model->latent_bytes);
	if (!model->layers || !kvx_model_token_bytes(model))
		return kvx_failure_set("shape: a free one needs --layers and either --kv-heads and "
				       "--head-dim or --mla-bytes");
	return 0;
}

static int resolve_model_shape(struct kvx_settings *settings)
{
	struct kvx_shape *shape = &settings->shape;
	struct kvx_model model = {0};

	if (settings->block_size || settings->blocks || settings->planes)
		return kvx_failure_set("stream: --block-size, --blocks and --planes follow from "
				       "the model, --tokens and --block-tokens");
	if (find_model(settings, &model))
		return -1;
	uint64_t tokens = or_default(settings->tokens, 8192);
	uint64_t block_tokens = or_default(settings->block_tokens, 16);
	uint64_t block_bytes = block_tokens * kvx_model_token_bytes(&model);
	if (block_bytes > BLOCK_BYTES_MAX || block_bytes % KVX_ALIGN)
		return kvx_failure_set("shape: a block of %llu bytes is not a multiple of %u up to "
				       "1 GiB",
				       (unsigned long long)block_bytes, KVX_ALIGN);
	shape->model = model.name;
	shape->layers = model.layers;
	shape->planes = kvx_model_planes(&model);
	shape->block_bytes = (uint32_t)block_bytes;
	shape->block_tokens = (uint32_t)block_tokens;
	shape->blocks = (uint32_t)((tokens + block_tokens - 1) / block_tokens);
	return 0;
}

static int resolve_shape(struct kvx_settings *settings)
{
	bool is_latency = settings->workload == KVX_WORKLOAD_LATENCY;

	if (settings->workload == KVX_WORKLOAD_STREAM)
		return resolve_model_shape(settings);
	if (settings->model_name || settings->tokens || settings->kv_heads || settings->mla_bytes)
		return kvx_failure_set("%s: model shapes are for the workload stream",
				       kvx_workload_name(settings->workload));
	if (is_latency && settings->blocks > 1)
		return kvx_failure_set("latency: a request is one block; --blocks does not apply");
	uint64_t block_bytes = or_default(settings->block_size, 65536);
	if (block_bytes > BLOCK_BYTES_MAX || block_bytes % KVX_ALIGN)
		return kvx_failure_set("block-size: %llu is not a multiple of %u up to 1 GiB",
				       (unsigned long long)block_bytes, KVX_ALIGN);
	settings->shape = (struct kvx_shape){
		.layers = (uint32_t)or_default(settings->layers, is_latency ? LATENCY_LAYERS : 1),
		.planes = (uint32_t)or_default(settings->planes, 1),
		.block_bytes = (uint32_t)block_bytes,
		.block_tokens = (uint32_t)settings->block_tokens,
		.blocks = is_latency ? 1 : (uint32_t)or_default(settings->blocks, 1024),
	};
	return 0;
}

/* So that no product of sizes can overflow. */
static int check_request_bytes(const struct kvx_shape *shape)
{
	uint64_t blocks = (uint64_t)shape->layers * shape->planes * shape->blocks;

	if (blocks > REQUEST_BYTES_MAX / shape->block_bytes)
		return kvx_failure_set("shape: a request of more than 1 TiB");
	return 0;
}

static int resolve_layer_time(struct kvx_settings *settings)
{
	const char *text = settings->layer_text ? settings->layer_text : "1.5x";
	char *end;
	double number = strtod(text, &end);
	bool is_factor = *end == 'x';

	if (end == text || end[is_factor] || !(number >= 0 && number <= 1e9))
		return kvx_failure_set("layer-us: \"%.32s\" is neither microseconds nor a factor "
				       "as 1.5x",
				       text);
	settings->layer_us = is_factor ? 0 : number;
	settings->layer_factor = is_factor ? number : 0;
	return 0;
}

static void resolve_counts(struct kvx_settings *settings)
{
	bool is_blocks = settings->workload == KVX_WORKLOAD_BLOCKS;

	if (settings->streams)
		settings->inflight = settings->streams;
	settings->inflight = or_default(settings->inflight, is_blocks ? 2 : 1);
	if (settings->workload == KVX_WORKLOAD_STREAM)
		settings->requests = or_default(settings->requests, 10);
	else if (settings->seconds == 0 && !settings->requests)
		settings->seconds = 3;
	settings->pool_bytes = or_default(settings->pool_bytes, UINT64_C(1) << 30);
	settings->lease_ms = or_default(settings->lease_ms, 60000);
	settings->drain_ms = or_default(settings->drain_ms, 10000);
	settings->seed = or_default(settings->seed, 1);
}

/* What an option asks for that the rest of the command line does not allow. */
static int check_together(const struct kvx_settings *settings)
{
	enum kvx_workload workload = settings->workload;
	bool is_loop = settings->transport && strcmp(settings->transport, "loop") == 0;
	bool is_rdma = settings->device || settings->gid_index || settings->qps || settings->rails;

	if (settings->command == KVX_COMMAND_RUN && !settings->peer)
		return kvx_failure_set("run: --peer HOST:PORT says where kvxfer-bench serve is");
	if (settings->command != KVX_COMMAND_RUN && settings->peer)
		return kvx_failure_set("peer: only for run");
	if (is_rdma && settings->transport && !strstr(settings->transport, "verbs") &&
	    !strstr(settings->transport, "auto"))
		return kvx_failure_set("device, rails, gid-index and qps: only with --transport "
				       "verbs");
	if (settings->one_process && settings->command != KVX_COMMAND_LOCAL)
		return kvx_failure_set("one-process: only for local");
	if (settings->no_copy && (!is_loop || settings->verify || settings->baseline))
		return kvx_failure_set("no-copy: only with --transport loop, without --verify and "
				       "--baseline: nothing is moved");
	if (settings->corrupt && !settings->verify)
		return kvx_failure_set("corrupt: shows that --verify finds it, so give that too");
	if (settings->timeline && workload != KVX_WORKLOAD_STREAM)
		return kvx_failure_set("timeline: only for the workload stream");
	if (settings->baseline && workload == KVX_WORKLOAD_LATENCY)
		return kvx_failure_set("baseline: not for the workload latency");
	if (workload == KVX_WORKLOAD_LATENCY && settings->inflight > 1)
		return kvx_failure_set("latency: one request at a time; --inflight does not apply");
	if (settings->command == KVX_COMMAND_RUN && settings->verify &&
	    kvx_payload_kind(settings->payload) == KVX_PAYLOAD_FILE)
		return kvx_failure_set("payload: the other node has no such file to verify against;"
				       " use the default payload, or local");
	return 0;
}

static int check_serve(const struct kvx_settings *settings)
{
	if (settings->rails)
		return kvx_failure_set("rails: only for local and run");
	if (settings->one_process)
		return kvx_failure_set("one-process: only for local");
	return 0;
}

static int check_worker(const struct kvx_settings *settings)
{
	bool is_worker = settings->command == KVX_COMMAND_SERVE && settings->control;

	if (!is_worker && (settings->control || settings->control_listen || settings->secret ||
			   settings->name || settings->fill || settings->drain_ms))
		return kvx_failure_set("control, control-listen, secret, name, fill and drain: "
				       "only for serve, which --control makes a worker");
	if (is_worker && !*settings->control)
		return kvx_failure_set("control: where? a path, or a folder ending with /");
	return 0;
}

static int resolve_pool(struct kvx_settings *settings)
{
	const char *table = settings->table_text ? settings->table_text : "random";

	resolve_counts(settings);
	settings->plain_memory = settings->memory && strcmp(settings->memory, "plain") == 0;
	if (kvx_blocktable_parse(table, &settings->table) || resolve_shape(settings) ||
	    check_request_bytes(&settings->shape))
		return -1;
	return 0;
}

/* Without --control it is the sender that decides what pools there are. */
static int resolve_serve(struct kvx_settings *settings)
{
	bool is_blocks = settings->block_size || settings->blocks || settings->planes;

	if (check_serve(settings))
		return -1;
	settings->workload = is_blocks ? KVX_WORKLOAD_BLOCKS : KVX_WORKLOAD_STREAM;
	return settings->control ? resolve_pool(settings) : 0;
}

int kvx_settings_resolve(struct kvx_settings *settings)
{
	if (add_verbs_options(settings) || check_engine_options(settings) ||
	    check_address(settings->peer) || check_address(settings->listen) ||
	    check_worker(settings))
		return -1;
	if (settings->command == KVX_COMMAND_SERVE)
		return resolve_serve(settings);
	if (resolve_pool(settings) || check_together(settings) || resolve_layer_time(settings))
		return -1;
	/* loop reaches nobody else. */
	settings->one_process |= settings->transport && strcmp(settings->transport, "loop") == 0;
	settings->ready_word = settings->ready && strcmp(settings->ready, "word") == 0;
	return 0;
}
