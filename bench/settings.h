/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line asks for. */
#ifndef KVX_BENCH_SETTINGS_H
#define KVX_BENCH_SETTINGS_H

#include "blocktable.h"

#include <stdbool.h>
#include <stdint.h>

enum kvx_command { KVX_COMMAND_NONE, KVX_COMMAND_LOCAL, KVX_COMMAND_RUN, KVX_COMMAND_SERVE };
enum kvx_workload { KVX_WORKLOAD_BLOCKS, KVX_WORKLOAD_STREAM, KVX_WORKLOAD_LATENCY };

#define KVX_ENGINE_OPTIONS_MAX 32u
#define KVX_SETTING_TEXT_MAX 320 /* "name=value" */
#define KVX_ARGUMENTS_MAX 128
#define KVX_INFLIGHT_MAX 1024u
#define KVX_PLACES_MAX 2048u /* two for each request in flight: one gets its ticket ahead */
#define KVX_REQUESTS_MAX 1000000u

/* "name=value", as given. */
struct kvx_engine_options {
	const char *texts[KVX_ENGINE_OPTIONS_MAX];
	uint32_t count;
};

/* What one request moves. */
struct kvx_shape {
	const char *model; /* NULL: none */
	uint32_t layers;
	uint32_t planes;
	uint32_t block_bytes;
	uint32_t block_tokens; /* 0: not said */
	uint32_t blocks;
};

struct kvx_settings {
	enum kvx_command command;
	enum kvx_workload workload;
	const char *arguments[KVX_ARGUMENTS_MAX]; /* as given, for the report */
	int argument_count;

	/* As given; 0 or NULL: not given. */
	const char *transport;
	struct kvx_engine_options engine_options; /* and those below that stand for one */
	const char *device, *gid_index;
	uint64_t qps, rails;
	bool one_process;
	const char *peer;
	const char *listen;
	uint64_t sessions;
	bool unauthenticated_network;
	uint64_t inherited_fd;
	uint64_t block_size, blocks, layers, planes;
	const char *model_name;
	uint64_t tokens, block_tokens, kv_heads, head_dim, dtype_bytes, mla_bytes;
	const char *table_text;
	uint64_t pool_bytes;
	bool reuse_buffer;
	const char *memory;
	const char *payload;
	uint64_t seed;
	double seconds;
	uint64_t requests, inflight, streams;
	const char *layer_text;
	const char *ready;
	uint64_t gap_us, lease_ms;
	bool no_copy, verify, baseline, timeline, verbose;
	uint64_t corrupt;
	const char *json;
	const char *control, *control_listen, *secret, *name;
	uint64_t fill, drain_ms;

	/* Made of the above by kvx_settings_resolve(). */
	struct kvx_shape shape;
	struct kvx_blocktable_spec table;
	char option_texts[3][KVX_SETTING_TEXT_MAX];
	bool plain_memory;
	bool ready_word;
	double layer_us;     /* compute per layer; or, if layer_factor is not 0, */
	double layer_factor; /* that many times a layer's measured wire time */
};

/* Fills in what was not given and checks what belongs together. Returns 0 or -1
 * (kvx_failure_text()). */
int kvx_settings_resolve(struct kvx_settings *settings);

/* "name=value" in two. *name has room for `size` characters; *value points into the text. */
int kvx_engine_option_split(const char *text, char *name, uint32_t size, const char **value);

uint64_t kvx_shape_layer_bytes(const struct kvx_shape *shape, uint32_t blocks);
uint64_t kvx_shape_request_bytes(const struct kvx_shape *shape, uint32_t blocks);

const char *kvx_workload_name(enum kvx_workload workload);

#endif
