/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-unlike-cost: what pools cost that are not alike. See docs/bench.md. */
#include "unlike.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum key { JSON = 0x100, LAYERS, TOKENS, OPENS, PAIRS, POOL_BYTES, OPTION, CORRUPT };

static const struct argp_option options[] = {
	{"json", JSON, "FILE", 0, "write the figures as JSON too; -: to stdout, and nothing else",
	 0},
	{"layers", LAYERS, "N", 0, "layers of a request (default: open 64, others 80)", 0},
	{"tokens", TOKENS, "N", 0, "tokens of a request, a multiple of 16 (default 8192)", 0},
	{"opens", OPENS, "N", 0, "open: how many are measured (default 500)", 0},
	{"pairs", PAIRS, "N", 0, "all but open: turns of both (default 7)", 0},
	{"pool-bytes", POOL_BYTES, "SIZE", 0,
	 "all but open: what requests rotate through at the receiver, at least (default 1G)", 0},
	{"option", OPTION, "NAME=VALUE", 0, "an option of all engines; may be repeated", 0},
	{"corrupt", CORRUPT, NULL, 0, "damage a byte at the receiver, to see that it is found", 0},
	{0},
};

static const struct {
	const char *name;
	void (*run)(const struct kvx_unlike_settings *settings, json_t *rows);
} commands[] = {
	{"open", kvx_unlike_open},
	{"tp", kvx_unlike_tp},
	{"layers", kvx_unlike_layers},
	{"worst", kvx_unlike_worst},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

/* A number from 1 on, with K, M or G. */
static uint64_t number(const char *text, uint64_t high, struct argp_state *state)
{
	static const char units[] = "KMG";
	char *end;

	errno = 0;
	uint64_t value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
	const char *unit = value && *end ? strchr(units, *end) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (!value || errno || (*end && (!unit || end[1])) || value > high >> shift)
		argp_error(state, "\"%s\" is not a number from 1 to %llu", text,
			   (unsigned long long)high);
	return value << shift;
}

static void add_option(struct kvx_unlike_settings *settings, char *text, struct argp_state *state)
{
	char *equals = strchr(text, '=');

	if (!equals || equals == text) {
		argp_error(state, "--option: \"%s\" is not NAME=VALUE", text);
		return;
	}
	if (settings->option_count == KVX_UNLIKE_OPTIONS_MAX)
		argp_error(state, "--option: at most %u", KVX_UNLIKE_OPTIONS_MAX);
	*equals = 0;
	settings->option_names[settings->option_count] = text;
	settings->option_values[settings->option_count++] = equals + 1;
}

static void add_argument(struct kvx_unlike_settings *settings, const char *text,
			 struct argp_state *state)
{
	if (state->arg_num > 1)
		argp_error(state, "\"%s\" is one argument too many", text);
	if (state->arg_num == 1)
		settings->transport = text;
	for (size_t i = 0; state->arg_num == 0 && i < COMMAND_COUNT; i++)
		if (strcmp(text, commands[i].name) == 0)
			settings->command = commands[i].name;
	if (!settings->command)
		argp_error(state, "\"%s\" is not open, tp, layers or worst", text);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct kvx_unlike_settings *settings = state->input;

	switch (key) {
	case JSON:
		settings->json = text;
		return 0;
	case LAYERS:
		settings->layers = number(text, KVX_LAYERS_MAX, state);
		return 0;
	case TOKENS:
		settings->tokens = number(text, 1 << 20, state);
		if (settings->tokens % KVX_UNLIKE_BLOCK_TOKENS)
			argp_error(state, "--tokens: \"%s\" is not a multiple of %u", text,
				   KVX_UNLIKE_BLOCK_TOKENS);
		return 0;
	case OPENS:
		settings->opens = number(text, 1000000, state);
		return 0;
	case PAIRS:
		settings->pairs = number(text, 1000000, state);
		return 0;
	case POOL_BYTES:
		settings->pool_bytes = number(text, UINT64_C(1) << 40, state);
		return 0;
	case OPTION:
		add_option(settings, text, state);
		return 0;
	case CORRUPT:
		settings->corrupt = true;
		return 0;
	case ARGP_KEY_ARG:
		add_argument(settings, text, state);
		return 0;
	case ARGP_KEY_END:
		if (state->arg_num < 2)
			argp_error(state, "what to measure and over which transport is missing");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void write_json(const struct kvx_unlike_settings *settings, FILE *file, json_t *report)
{
	int failed = json_dumpf(report, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6));

	failed |= fputc('\n', file) == EOF;
	if (fclose(file) || failed)
		kvx_unlike_fail("json: %s: %s", settings->json, strerror(errno));
}

/* Opened before anything is measured: hours may be lost otherwise. With - the table goes nowhere,
 * and the JSON to where it would have gone. */
static FILE *open_json(const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? fdopen(dup(STDOUT_FILENO), "w") : fopen(path, "w");

	if (!file || (strcmp(path, "-") == 0 && !freopen("/dev/null", "w", stdout)))
		kvx_unlike_fail("json: %s: %s", path, strerror(errno));
	return file;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse,
		.args_doc = "open|tp|layers|worst TRANSPORT",
		.doc = "Measures what it costs to move requests between pools that are not alike; "
		       "all engines in one process, over loop, shm, tcp or verbs.\v"
		       "open: grants and streams of 512 blocks. tp: one receiver of TP2 and two "
		       "senders of TP4, and the other way, beside the matching TP. layers: all "
		       "layers side by side in each block, beside layers apart. worst: NHD to HND "
		       "in pieces of 128 bytes. SIZE takes K, M or G (1024).",
	};
	struct kvx_unlike_settings settings = {0};

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &settings);
	FILE *file = settings.json ? open_json(settings.json) : NULL;
	json_t *rows = json_array();
	double before[3] = {0}, after[3] = {0};
	getloadavg(before, 3);
	printf("%s over %s\n", settings.command, settings.transport);
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		if (commands[i].name == settings.command)
			commands[i].run(&settings, rows);
	getloadavg(after, 3);
	printf("load of the machine: %.1f before, %.1f after\n", before[0], after[0]);
	json_t *report = json_pack("{ss, ss, ss, s[ff], so}", "version", kvx_version(), "command",
				   settings.command, "transport", settings.transport, "load",
				   before[0], after[0], "rows", rows);
	if (file)
		write_json(&settings, file, report);
	json_decref(report);
	return 0;
}
