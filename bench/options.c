/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include "failure.h"
#include "models.h"
#include "ports.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <kvxfer/kvxfer.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_FIRST 0x100 /* beyond all characters: options have no short form */
#define FD_MAX 1048576

enum kind { TEXT, CHOICE, NUMBER, BYTES, REAL, FLAG, REPEATED };

struct row {
	const char *name;
	const char *argument; /* as help shows it; of a CHOICE what it takes; NULL: a title */
	enum kind kind;
	size_t offset;
	uint64_t low, high;
	const char *help;
};

#define AT(field) offsetof(struct kvx_settings, field)
#define GIB (UINT64_C(1) << 30)

static const struct row rows[] = {
	{"Engine:", NULL, TEXT, 0, 0, 0, NULL},
	{"transport", "NAME", TEXT, AT(transport), 0, 0,
	 "verbs, shm, tcp, loop (both ends in one process), a list of them, or auto: the best that "
	 "works "
	 "(default)"},
	{"option", "NAME=VALUE", REPEATED, AT(engine_options), 0, 0,
	 "an option of the engine at both ends; may be repeated"},
	{"one-process", "", FLAG, AT(one_process), 0, 0,
	 "local: both ends in one process, as loop has them always"},
	{"memory", "mapped|plain", CHOICE, AT(memory), 0, 0,
	 "pools in memory that the other process can map (default), or in ordinary memory"},
	{"no-copy", "", FLAG, AT(no_copy), 0, 0,
	 "loop moves nothing: measures the engine's own time per slice"},
	{"verbose", "", FLAG, AT(verbose), 0, 0, "show the engine's log on stderr"},

	{"RDMA (transport verbs; serve takes them for its end):", NULL, TEXT, 0, 0, 0, NULL},
	{"device", "LIST", TEXT, AT(device), 0, 0,
	 "devices or ports to use, as \"mlx5_0,mlx5_1:1\" (default: all)"},
	{"rails", "N", NUMBER, AT(rails), 1, KVX_BENCH_PORTS_MAX,
	 "use the first N of --device, or of this end's ports that are up (default: all)"},
	{"gid-index", "N|auto", TEXT, AT(gid_index), 0, 0,
	 "index into each port's GID table (default auto: by rule)"},
	{"qps", "N", NUMBER, AT(qps), 1, 16, "queue pairs for each rail (default 2)"},

	{"What a request is (blocks, latency):", NULL, TEXT, 0, 0, 0, NULL},
	{"block-size", "SIZE", BYTES, AT(block_size), KVX_ALIGN, GIB,
	 "bytes of a block in one plane of one layer (default 64K)"},
	{"blocks", "N", NUMBER, AT(blocks), 1, KVX_TABLE_MAX, "blocks of a request (default 1024)"},
	{"layers", "N", NUMBER, AT(layers), 1, KVX_LAYERS_MAX,
	 "layers (default: blocks 1, latency 64, stream the model's)"},
	{"planes", "N", NUMBER, AT(planes), 1, KVX_PLANES_MAX, "planes of a layer (default 1)"},

	{"What a request is (stream):", NULL, TEXT, 0, 0, 0, NULL},
	{"model", "NAME|list", TEXT, AT(model_name), 0, 0,
	 "KV shape of a model (default qwen3-8b); list shows them"},
	{"tokens", "N", NUMBER, AT(tokens), 1, 1 << 24, "tokens of a request (default 8192)"},
	{"block-tokens", "N", NUMBER, AT(block_tokens), 1, 1 << 16,
	 "tokens of a block (default 16)"},
	{"kv-heads", "N", NUMBER, AT(kv_heads), 1, 4096,
	 "KV heads: of a free shape, or in place of the model's"},
	{"head-dim", "N", NUMBER, AT(head_dim), 1, 65536, "elements of a head, in the same way"},
	{"dtype-bytes", "N", NUMBER, AT(dtype_bytes), 1, 16,
	 "bytes of an element, in the same way (default 2)"},
	{"mla-bytes", "N", NUMBER, AT(mla_bytes), 1, 1 << 20,
	 "bytes of a token's latent in one layer, in place of heads: one plane"},

	{"Where blocks lie and what they hold:", NULL, TEXT, 0, 0, 0, NULL},
	{"table", "identity|runs:N|random", TEXT, AT(table_text), 0, 0,
	 "order of a request's blocks in the pools, independent at both ends (default random)"},
	{"pool-bytes", "SIZE", BYTES, AT(pool_bytes), 4096, UINT64_C(1) << 42,
	 "least size of each pool, through which requests rotate (default 1G)"},
	{"reuse-buffer", "", FLAG, AT(reuse_buffer), 0, 0,
	 "no rotation: each request in flight uses the same blocks again and again, to compare "
	 "with tools that do so; measures the cache"},
	{"payload", "pattern|zero|FILE", TEXT, AT(payload), 0, 0,
	 "what is sent: bytes that depend on their place (default), zeros, or a file's bytes"},
	{"seed", "N", NUMBER, AT(seed), 1, UINT64_MAX, "of tables and payload (default 1)"},

	{"How it is driven:", NULL, TEXT, 0, 0, 0, NULL},
	{"seconds", "S", REAL, AT(seconds), 0, 86400,
	 "transfer time (blocks and latency: default 3)"},
	{"requests", "N", NUMBER, AT(requests), 1, KVX_REQUESTS_MAX,
	 "stop after so many (stream: default 10)"},
	{"inflight", "N", NUMBER, AT(inflight), 1, KVX_INFLIGHT_MAX,
	 "requests at the same time (default: blocks 2, else 1)"},
	{"streams", "N", NUMBER, AT(streams), 1, KVX_INFLIGHT_MAX, "another name of --inflight"},
	{"layer-us", "US|FACTORx", TEXT, AT(layer_text), 0, 0,
	 "stream: compute per layer in microseconds (0: none), or as a multiple of the layer's "
	 "measured wire time (default 1.5x)"},
	{"ready", "call|word", CHOICE, AT(ready), 0, 0,
	 "stream: how the engine learns that a layer is ready (default call)"},
	{"gap-us", "US", NUMBER, AT(gap_us), 0, 10000000,
	 "latency: pause before each layer (default 0)"},
	{"lease-ms", "MS", NUMBER, AT(lease_ms), 1, KVX_TIMEOUT_MAX_MS,
	 "lease of a grant (default 60000)"},

	{"What is checked and shown:", NULL, TEXT, 0, 0, 0, NULL},
	{"verify", "", FLAG, AT(verify), 0, 0, "check every byte at the receiver"},
	{"corrupt", "N", NUMBER, AT(corrupt), 1, 4096,
	 "damage N bytes at the receiver before --verify looks, to see that it finds them"},
	{"baseline", "", FLAG, AT(baseline), 0, 0,
	 "also measure memcpy (shm, loop), iperf3 (tcp) or ib_write_bw (verbs) in turns with it, "
	 "and the ratio"},
	{"timeline", "", FLAG, AT(timeline), 0, 0,
	 "stream: draw the last request's layers: ready, first byte, whole"},
	{"json", "FILE", TEXT, AT(json), 0, 0,
	 "write the result as one JSON object; -: to stdout, and all else to stderr"},

	{"Two nodes:", NULL, TEXT, 0, 0, 0, NULL},
	{"peer", "HOST:PORT", TEXT, AT(peer), 0, 0, "run: where kvxfer-bench serve listens"},
	{"listen", "HOST:PORT", TEXT, AT(listen), 0, 0,
	 "serve: where to listen (default 127.0.0.1:7411); IPv6 in brackets"},
	{"sessions", "N", NUMBER, AT(sessions), 1, 1000000, "serve: end after so many"},
	{"unauthenticated-network", "", FLAG, AT(unauthenticated_network), 0, 0,
	 "serve: listen beyond loopback although whoever reaches the port may use it"},

	{"A worker that an orchestrator drives (serve):", NULL, TEXT, 0, 0, 0, NULL},
	{"control", "PATH", TEXT, AT(control), 0, 0,
	 "open an engine with one pool and this control socket; a folder if it ends with /. No "
	 "sessions, unless --listen is given too"},
	{"control-listen", "HOST:PORT", TEXT, AT(control_listen), 0, 0,
	 "the control socket over TCP too"},
	{"secret", "FILE", TEXT, AT(secret), 0, 0,
	 "the cluster's secret, which TCP beyond loopback needs"},
	{"name", "NAME", TEXT, AT(name), 0, 0,
	 "name of the engine (default: host name and process id)"},
	{"fill", "SEED", NUMBER, AT(fill), 1, UINT64_MAX,
	 "fill the pool with bytes that depend on their place (default: zeros)"},
	{"drain", "MS", NUMBER, AT(drain_ms), 1, KVX_TIMEOUT_MAX_MS,
	 "how long a signal lets go on what is open (default 10000)"},
	{"inherited-fd", "FD", NUMBER, AT(inherited_fd), 3, FD_MAX, NULL},
};

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

static bool parse_bytes(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMG";
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	const char *suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : NULL;
	unsigned shift = suffix ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
	if (errno || (*end && !suffix) || (suffix && end[1]) || number > UINT64_MAX >> shift)
		return false;
	*bytes = (uint64_t)number << shift;
	return true;
}

static bool is_choice(const char *choices, const char *text)
{
	size_t length = strlen(text);

	for (const char *choice = choices; choice; choice = strchr(choice, '|')) {
		choice += *choice == '|';
		if (length && strncmp(choice, text, length) == 0 &&
		    (choice[length] == '|' || !choice[length]))
			return true;
	}
	return false;
}

static void set_number(const struct row *row, const char *text, void *field,
		       struct argp_state *state)
{
	size_t digits = strspn(text, "0123456789");
	uint64_t number;

	if ((row->kind == NUMBER && text[digits]) || !parse_bytes(text, &number) ||
	    number < row->low || number > row->high)
		argp_error(state, "--%s: \"%s\" is not a %s from %llu to %llu", row->name, text,
			   row->kind == NUMBER ? "number" : "size", (unsigned long long)row->low,
			   (unsigned long long)row->high);
	else
		*(uint64_t *)field = number;
}

static void set_real(const struct row *row, const char *text, void *field, struct argp_state *state)
{
	char *end;
	double number = strtod(text, &end);

	if (end == text || *end || !(number > (double)row->low && number <= (double)row->high))
		argp_error(state, "--%s: \"%s\" is not a number above %llu, up to %llu", row->name,
			   text, (unsigned long long)row->low, (unsigned long long)row->high);
	else
		*(double *)field = number;
}

static void add_repeated(const struct row *row, const char *text, void *field,
			 struct argp_state *state)
{
	struct kvx_engine_options *options = field;

	if (options->count == KVX_ENGINE_OPTIONS_MAX)
		argp_error(state, "--%s: more than %u", row->name, KVX_ENGINE_OPTIONS_MAX);
	else
		options->texts[options->count++] = text;
}

static void set(const struct row *row, char *text, struct argp_state *state)
{
	char *field = (char *)state->input + row->offset;

	switch (row->kind) {
	case CHOICE:
		if (!is_choice(row->argument, text))
			argp_error(state, "--%s: \"%s\" is not one of %s", row->name, text,
				   row->argument);
		/* fall through */
	case TEXT:
		*(const char **)field = text;
		return;
	case NUMBER:
	case BYTES:
		set_number(row, text, field, state);
		return;
	case REAL:
		set_real(row, text, field, state);
		return;
	case FLAG:
		*(bool *)field = true;
		return;
	case REPEATED:
		add_repeated(row, text, field, state);
		return;
	}
}

static void set_command(const char *text, struct kvx_settings *settings, struct argp_state *state)
{
	static const char *const names[] = {NULL, "local", "run", "serve"};

	for (int i = KVX_COMMAND_LOCAL; i <= KVX_COMMAND_SERVE; i++)
		if (strcmp(text, names[i]) == 0)
			settings->command = (enum kvx_command)i;
	if (settings->command == KVX_COMMAND_NONE)
		argp_error(state, "\"%s\" is not local, run or serve", text);
}

static void set_workload(const char *text, struct kvx_settings *settings, struct argp_state *state)
{
	for (int i = KVX_WORKLOAD_BLOCKS; i <= KVX_WORKLOAD_LATENCY; i++) {
		if (strcmp(text, kvx_workload_name((enum kvx_workload)i)) != 0)
			continue;
		settings->workload = (enum kvx_workload)i;
		return;
	}
	argp_error(state, "\"%s\" is not blocks, stream or latency", text);
}

static void finish(struct kvx_settings *settings, struct argp_state *state)
{
	if (settings->model_name && strcmp(settings->model_name, "list") == 0) {
		kvx_model_list(stdout);
		exit(0);
	}
	if (state->arg_num < (settings->command == KVX_COMMAND_SERVE ? 1u : 2u))
		argp_error(state, "what to do is missing: local or run with a workload, or serve");
	else if (kvx_settings_resolve(settings))
		argp_error(state, "%s", kvx_failure_text());
}

static error_t parse(int key, char *argument, struct argp_state *state)
{
	struct kvx_settings *settings = state->input;

	if (key >= KEY_FIRST && key < KEY_FIRST + (int)ROW_COUNT) {
		set(&rows[key - KEY_FIRST], argument, state);
		return 0;
	}
	if (key == ARGP_KEY_ARG && state->arg_num == 0) {
		set_command(argument, settings, state);
		return 0;
	}
	if (key == ARGP_KEY_ARG && state->arg_num == 1 && settings->command != KVX_COMMAND_SERVE) {
		set_workload(argument, settings, state);
		return 0;
	}
	if (key == ARGP_KEY_ARG)
		argp_error(state, "\"%s\" is one argument too many", argument);
	if (key != ARGP_KEY_END)
		return ARGP_ERR_UNKNOWN;
	finish(settings, state);
	return 0;
}

static void print_version(FILE *stream, struct argp_state *state)
{
	(void)state;
	fprintf(stream, "kvxfer-bench %s\n", kvx_version());
}

/* Rows without an argument's name become titles; --inherited-fd is between the program and
 * itself. */
static void make_table(struct argp_option *table)
{
	int group = 0;

	for (size_t i = 0; i < ROW_COUNT; i++) {
		const struct row *row = &rows[i];
		if (!row->argument) {
			table[i] = (struct argp_option){.doc = row->name, .group = ++group};
			continue;
		}
		table[i] = (struct argp_option){
			.name = row->name,
			.key = KEY_FIRST + (int)i,
			.arg = row->kind == FLAG ? NULL : row->argument,
			.flags = row->help ? 0 : OPTION_HIDDEN,
			.doc = row->help,
			.group = group,
		};
	}
}

/* Parsing puts them into another order. */
static void keep_arguments(struct kvx_settings *settings, int argc, char **argv)
{
	for (int i = 0; i < argc && i < KVX_ARGUMENTS_MAX; i++)
		settings->arguments[settings->argument_count++] = argv[i];
}

void kvx_options_parse_arguments(int argc, char **argv, struct kvx_settings *settings)
{
	struct argp_option table[ROW_COUNT + 1] = {0};
	const struct argp argp = {
		.options = table,
		.parser = parse,
		.args_doc = "local blocks|stream|latency\nrun blocks|stream|latency --peer "
			    "HOST:PORT\nserve [--listen HOST:PORT]\nserve --control PATH",
		.doc = "Measures how fast and how soon kvxfer moves a paged KV cache.\v"
		       "local: two processes on this machine. run: against kvxfer-bench serve on "
		       "another. serve --control: a worker for an orchestrator. SIZE takes K, M or "
		       "G (1024). Exit status: 0 all well, 1 something "
		       "failed or was not verified, 2 the command line is not valid.",
	};

	make_table(table);
	argp_program_version_hook = print_version;
	argp_err_exit_status = 2;
	*settings = (struct kvx_settings){0};
	keep_arguments(settings, argc, argv);
	argp_parse(&argp, argc, argv, 0, NULL, settings);
}
