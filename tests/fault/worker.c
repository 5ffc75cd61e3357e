/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a fault test: an engine with a pool, driven by lines on stdin, one answer each.
 *
 *	fault-worker mapped|plain LAYERS PLANES SLOTS BLOCKS BLOCK_BYTES [OPTION=VALUE ...]
 *
 * The pool holds SLOTS requests of BLOCKS blocks each, in an order that depends on the key. It is
 * memory that others can map, or plain. An answer is "ok" or an error's name, the time of
 * CLOCK_MONOTONIC in ns, and a text. The first one, to no command: incarnation and address.
 */
#include "worker.h"

#include "pattern.h"

#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* A program with more commands than these has its own table in place of this one. */
__attribute__((weak)) const struct worker_command *worker_commands_more(void)
{
	static const struct worker_command none = {NULL, NULL};

	return &none;
}

void worker_answer(int code, const char *format, ...)
{
	struct timespec now;
	va_list arguments;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%s %lld ", code < 0 ? kvx_error_name(code) : "ok",
	       now.tv_sec * 1000000000LL + now.tv_nsec);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

static void log_line(void *context, enum kvx_log_level level, const char *line)
{
	struct timespec now;

	(void)context;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (level < KVX_LOG_DEBUG)
		fprintf(stderr, "%lld.%06ld %s\n", (long long)now.tv_sec, now.tv_nsec / 1000, line);
}

void worker_answer_result(int code)
{
	worker_answer(code, "%s", code < 0 ? kvx_error_text() : "");
}

/* --- the request of a slot --- */

/* The slot's blocks, shuffled: which is the sender's i-th depends on the key, and differs from the
 * receiver's. */
static void shuffle(struct worker *worker, uint32_t slot, uint64_t key)
{
	uint32_t *table = worker->slot[slot].table;

	for (uint32_t i = 0; i < worker->blocks; i++) {
		uint32_t other = (uint32_t)(pattern_seed(key, 0, 0, i) % (i + 1));
		table[i] = table[other];
		table[other] = slot * worker->blocks + i;
	}
}

static void fill(struct worker *worker, uint32_t slot, uint64_t key)
{
	const struct kvx_geometry *geometry = &worker->geometry;

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t i = 0; i < worker->blocks; i++)
				pattern_fill(kvx_pool_block(worker->pool, layer, plane,
							    worker->slot[slot].table[i]),
					     geometry->block_bytes,
					     pattern_seed(key, layer, plane, i));
}

static uint64_t check_layer(struct worker *worker, uint32_t slot, uint64_t key, uint32_t layer)
{
	const struct kvx_geometry *geometry = &worker->geometry;
	uint64_t wrong = 0;

	for (uint32_t plane = 0; plane < geometry->planes; plane++)
		for (uint32_t i = 0; i < worker->blocks; i++)
			wrong += pattern_check(kvx_pool_block(worker->pool, layer, plane,
							      worker->slot[slot].table[i]),
					       geometry->block_bytes,
					       pattern_seed(key, layer, plane, i));
	return wrong;
}

static void close_request(struct slot *slot)
{
	kvx_grant_close(slot->grant);
	kvx_stream_close(slot->stream);
	slot->grant = NULL;
	slot->stream = NULL;
}

/* --- commands --- */

static void on_grant(struct worker *worker, uint32_t slot, char *arguments)
{
	uint64_t key = strtoull(arguments, &arguments, 10);
	uint32_t lease_ms = (uint32_t)strtoul(arguments, NULL, 10);
	size_t bytes = 0;

	shuffle(worker, slot, ~key);
	int error = kvx_grant_open(worker->pool, worker->slot[slot].table, worker->blocks, NULL,
				   lease_ms, &worker->slot[slot].grant);
	if (error) {
		worker_answer_result(error);
		return;
	}
	const uint8_t *ticket = kvx_grant_ticket(worker->slot[slot].grant, &bytes);
	char *text = calloc(2, bytes + 1);
	for (size_t i = 0; text && i < bytes; i++)
		sprintf(text + 2 * i, "%02x", ticket[i]);
	worker_answer(0, "%s", text ? text : "");
	free(text);
}

uint8_t *worker_ticket(const char *arguments, size_t *bytes)
{
	const char *digits = arguments + 1;
	uint8_t *ticket;

	*bytes = strlen(digits) / 2;
	ticket = calloc(1, *bytes + 1);
	if (!ticket)
		worker_answer(KVX_E_MEMORY, "the test's own");
	for (size_t i = 0; ticket && i < *bytes; i++)
		sscanf(digits + 2 * i, "%2hhx", &ticket[i]);
	return ticket;
}

static void on_stream(struct worker *worker, uint32_t slot, char *arguments)
{
	uint64_t key = strtoull(arguments, &arguments, 10);
	size_t bytes;
	uint8_t *ticket = worker_ticket(arguments, &bytes);

	if (!ticket)
		return;
	shuffle(worker, slot, key);
	fill(worker, slot, key);
	worker_answer_result(kvx_stream_open(worker->pool, worker->slot[slot].table, worker->blocks,
					     NULL, ticket, bytes, &worker->slot[slot].stream));
	free(ticket);
}

static void on_ready(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t first = (uint32_t)strtoul(arguments, &arguments, 10);
	uint32_t count = (uint32_t)strtoul(arguments, NULL, 10);

	worker_answer_result(kvx_stream_layers_ready(worker->slot[slot].stream, first, count));
}

static void on_wait(struct worker *worker, uint32_t slot, char *arguments)
{
	struct slot *of = &worker->slot[slot];
	uint32_t timeout_ms = (uint32_t)strtoul(arguments, NULL, 10);

	worker_answer_result(of->grant ? kvx_grant_wait(of->grant, KVX_ALL_LAYERS, timeout_ms)
				       : kvx_stream_wait(of->stream, KVX_ALL_LAYERS, timeout_ms));
}

/* Once this is answered the blocks may be reused: the line that follows it fills them. The time to
 * drain may be given. */
static void on_revoke(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t timeout_ms = *arguments ? (uint32_t)strtoul(arguments, NULL, 10) : 1000;

	worker_answer_result(kvx_grant_revoke(worker->slot[slot].grant, timeout_ms));
}

static void on_cancel(struct worker *worker, uint32_t slot, char *arguments)
{
	(void)arguments;
	kvx_stream_cancel(worker->slot[slot].stream);
	worker_answer(0, "%s", "");
}

static void on_close(struct worker *worker, uint32_t slot, char *arguments)
{
	(void)arguments;
	close_request(&worker->slot[slot]);
	worker_answer(0, "%s", "");
}

static void on_fill(struct worker *worker, uint32_t slot, char *arguments)
{
	fill(worker, slot, strtoull(arguments, NULL, 10));
	worker_answer(0, "%s", "");
}

/* Bytes of all layers that are not the key's. */
static void on_check(struct worker *worker, uint32_t slot, char *arguments)
{
	uint64_t key = strtoull(arguments, NULL, 10), wrong = 0;

	for (uint32_t layer = 0; layer < worker->geometry.layers; layer++)
		wrong += check_layer(worker, slot, key, layer);
	worker_answer(0, "%u %" PRIu64, worker->geometry.layers, wrong);
}

/* How many layers are reported whole, and the bytes of them that are not the key's. */
static void on_whole(struct worker *worker, uint32_t slot, char *arguments)
{
	uint64_t key = strtoull(arguments, NULL, 10), wrong = 0;
	uint32_t layers = 0;

	for (uint32_t layer = 0; layer < worker->geometry.layers; layer++) {
		if (kvx_grant_poll(worker->slot[slot].grant, layer) != 1)
			continue;
		layers++;
		wrong += check_layer(worker, slot, key, layer);
	}
	worker_answer(0, "%u %" PRIu64, layers, wrong);
}

/* Units of a layer; 0 until a sender was accepted. */
static void on_target(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t arrived, target = 0;

	(void)arguments;
	kvx_grant_count(worker->slot[slot].grant, 0, &arrived, &target);
	worker_answer(0, "%u", target);
}

static void on_explain(struct worker *worker, uint32_t slot, char *arguments)
{
	char text[1024];

	(void)arguments;
	kvx_stream_explain(worker->slot[slot].stream, text, sizeof(text));
	worker_answer(0, "%s", text);
}

static uint32_t entries(const char *path)
{
	DIR *folder = opendir(path);
	uint32_t count = 0;

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	return count;
}

/* What a leak would leave: descriptors, threads, requests. */
static void on_counts(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t requests = 0;

	(void)slot;
	(void)arguments;
	for (uint32_t i = 0; i < worker->slots; i++)
		requests += worker->slot[i].grant || worker->slot[i].stream;
	worker_answer(0, "%u %u %u", entries("/proc/self/fd"), entries("/proc/self/task"),
		      requests);
}

static void on_stats(struct worker *worker, uint32_t slot, char *arguments)
{
	struct kvx_stats stats;

	(void)slot;
	(void)arguments;
	kvx_engine_stats(worker->engine, &stats);
#define FIGURE(name) #name "=%" PRIu64 " "
	worker_answer(0,
		      FIGURE(rails_lost) FIGURE(units_sent) FIGURE(units_resent)
			      FIGURE(units_received) FIGURE(units_duplicate) FIGURE(units_late)
				      FIGURE(protocol_errors) FIGURE(peers_lost),
		      stats.rails_lost, stats.units_sent, stats.units_resent, stats.units_received,
		      stats.units_duplicate, stats.units_late, stats.protocol_errors,
		      stats.peers_lost);
#undef FIGURE
}

/* From now on only a privileged process can read this one's memory. */
static void on_hide(struct worker *worker, uint32_t slot, char *arguments)
{
	(void)worker;
	(void)slot;
	(void)arguments;
	worker_answer(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ? KVX_E_SYSTEM : 0, "%s", "");
}

static const struct worker_command commands[] = {
	{"grant", on_grant},   {"stream", on_stream}, {"ready", on_ready},
	{"wait", on_wait},     {"revoke", on_revoke}, {"cancel", on_cancel},
	{"close", on_close},   {"fill", on_fill},     {"check", on_check},
	{"whole", on_whole},   {"target", on_target}, {"explain", on_explain},
	{"counts", on_counts}, {"stats", on_stats},   {"hide", on_hide},
	{NULL, NULL},
};

/* The one of that name; at the table's end: none. */
static const struct worker_command *find(const struct worker_command *table, const char *name)
{
	while (table->name && strcmp(table->name, name) != 0)
		table++;
	return table;
}

/* "NAME SLOT ARGUMENTS" */
static void run(struct worker *worker, char *line)
{
	char *arguments = line + strcspn(line, " ");

	if (*arguments)
		*arguments++ = 0;
	uint32_t slot = (uint32_t)strtoul(arguments, &arguments, 10);
	const struct worker_command *command = find(commands, line);
	if (!command->name)
		command = find(worker_commands_more(), line);
	if (command->name && slot < worker->slots)
		command->run(worker, slot, arguments);
	else
		worker_answer(KVX_E_INVALID, "no such command or slot: %s %u", line, slot);
}

/* --- the whole --- */

static int open_engine(struct worker *worker, char **settings)
{
	struct kvx_options *options = NULL;
	int error = kvx_options_new(&options);

	for (; !error && *settings; settings++) {
		char *value = strchr(*settings, '=');
		*value++ = 0;
		error = kvx_options_set(options, *settings, value);
	}
	if (!error)
		kvx_options_log(options, log_line, NULL);
	if (!error)
		error = kvx_engine_open(options, &worker->engine);
	kvx_options_free(options);
	return error;
}

/* Memory that other processes cannot map. */
static int open_plain_pool(struct worker *worker)
{
	const struct kvx_geometry *geometry = &worker->geometry;
	uint32_t count = geometry->layers * geometry->planes;
	size_t plane_bytes = (size_t)geometry->blocks * geometry->block_bytes;
	struct kvx_tensor tensors[KVX_LAYERS_MAX * KVX_PLANES_MAX];
	void *memory = mmap(NULL, count * plane_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return KVX_E_MEMORY;
	int error =
		kvx_region_register(worker->engine, memory, count * plane_bytes, &worker->region);
	if (error)
		return error;
	for (uint32_t i = 0; i < count; i++)
		tensors[i] = (struct kvx_tensor){worker->region, i * plane_bytes, 0};
	return kvx_pool_open(worker->engine, geometry, tensors, &worker->pool);
}

static int open_all(struct worker *worker, char **arguments)
{
	worker->geometry.layers = (uint32_t)atoi(arguments[2]);
	worker->geometry.planes = (uint32_t)atoi(arguments[3]);
	worker->slots = (uint32_t)atoi(arguments[4]);
	worker->blocks = (uint32_t)atoi(arguments[5]);
	worker->geometry.blocks = worker->slots * worker->blocks;
	worker->geometry.block_bytes = (uint32_t)atoi(arguments[6]);
	int error = open_engine(worker, arguments + 7);
	if (error)
		return error;
	for (uint32_t i = 0; i < worker->slots; i++)
		worker->slot[i].table = calloc(worker->blocks, sizeof(uint32_t));
	return strcmp(arguments[1], "mapped") == 0
		       ? kvx_pool_alloc(worker->engine, &worker->geometry, &worker->pool)
		       : open_plain_pool(worker);
}

/* Fails if the engine still counts a request that was closed. */
static int close_all(struct worker *worker)
{
	for (uint32_t i = 0; i < worker->slots; i++) {
		close_request(&worker->slot[i]);
		free(worker->slot[i].table);
	}
	int error = kvx_pool_close(worker->pool);
	if (!error)
		error = kvx_region_close(worker->region);
	if (error)
		fprintf(stderr, "%s\n", kvx_error_text());
	kvx_engine_close(worker->engine);
	return error;
}

int main(int count, char **arguments)
{
	struct worker worker = {0};
	char *line = NULL;
	size_t size = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (count < 7 || atoi(arguments[4]) > SLOTS_MAX)
		return 2;
	int error = open_all(&worker, arguments);
	if (error) {
		worker_answer_result(error);
		return 1;
	}
	worker_answer(0, "%016" PRIx64 " %s", kvx_engine_incarnation(worker.engine),
		      kvx_engine_address(worker.engine));
	while (getline(&line, &size, stdin) > 0) {
		line[strcspn(line, "\n")] = 0;
		run(&worker, line);
	}
	free(line);
	return close_all(&worker) ? 1 : 0;
}
