/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program under test: an engine and its pools, as any program that links kvxfer has them. It
 * is driven from outside, through its control socket; what a program does itself comes on stdin.
 *
 *	test-control-host [OPTION=VALUE ...] [--pool whole|hnd|nhd ...] [--fill] [--log]
 *
 * The first line on stdout tells name, control, address, and the ids of pools and regions; then
 * each line on stdin gets one as answer, all of them JSON. It ends with stdin.
 *
 *	grant POOL FIRST COUNT LEASE_MS            opens a grant, and tells its ticket
 *	close ID                                   closes a grant of its own
 *	compare POOL FIRST COUNT NAME FIRST_THERE  whether these blocks hold what engine NAME has
 *	                                           filled its blocks from FIRST_THERE on with
 *	credentials FILE                           what a client needs that has this secret
 *	reopen                                     closes the engine and opens it anew
 *	quit
 */
#include <kvxfer/operate.h>

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOLS_MAX 8u
#define GRANTS_MAX 1024u
#define BLOCKS_MAX 64u

struct host {
	struct kvx_options *options;
	struct kvx_engine *engine;
	const char *layouts[POOLS_MAX];
	struct kvx_pool *pools[POOLS_MAX];
	struct kvx_geometry geometries[POOLS_MAX];
	uint32_t pool_count;
	struct kvx_grant *grants[GRANTS_MAX];
	bool fill;
};

/* --- what it writes --- */

static void print_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			printf("\\u%04x", (unsigned char)*text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void print_error(const char *code, const char *text)
{
	printf("{\"error\":");
	print_text(code);
	printf(",\"text\":");
	print_text(text);
	printf("}\n");
}

static void print_base64(const uint8_t *bytes, size_t size)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < size; i += 3) {
		uint32_t group = (uint32_t)bytes[i] << 16;
		size_t rest = size - i;
		if (rest > 1)
			group |= (uint32_t)bytes[i + 1] << 8;
		if (rest > 2)
			group |= bytes[i + 2];
		putchar(digits[group >> 18]);
		putchar(digits[group >> 12 & 63]);
		putchar(rest > 1 ? digits[group >> 6 & 63] : '=');
		putchar(rest > 2 ? digits[group & 63] : '=');
	}
}

static void print_regions(struct kvx_engine *engine)
{
	static struct kvx_region_view views[16];
	int count = kvx_engine_regions(engine, 0, views, 16);

	for (int i = 0; i < count; i++)
		printf("%s%" PRIu64, i ? "," : "", views[i].id);
}

static void print_host(const struct host *host)
{
	printf("{\"name\":");
	print_text(kvx_engine_name(host->engine));
	printf(",\"control\":");
	print_text(kvx_engine_control(host->engine));
	printf(",\"address\":");
	print_text(kvx_engine_address(host->engine));
	printf(",\"pools\":[");
	for (uint32_t i = 0; i < host->pool_count; i++)
		printf("%s%" PRIu64, i ? "," : "", kvx_pool_id(host->pools[i]));
	printf("],\"regions\":[");
	print_regions(host->engine);
	printf("]}\n");
}

/* --- what blocks hold --- */

static uint64_t mix(uint64_t seed, uint64_t value)
{
	seed = (seed ^ value) * UINT64_C(0x9e3779b97f4a7c15);
	return seed ^ seed >> 29;
}

/* The first word of a block that an engine of that name has filled. */
static uint64_t seed_of(const char *name, uint32_t layer, uint32_t plane, uint32_t block)
{
	uint64_t seed = 1;

	for (; *name; name++)
		seed = mix(seed, (unsigned char)*name);
	return mix(mix(mix(seed, layer), plane), block);
}

static void fill(const struct host *host, uint32_t index)
{
	const struct kvx_geometry *geometry = &host->geometries[index];
	const char *name = kvx_engine_name(host->engine);

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t block = 0; block < geometry->blocks; block++) {
				uint64_t *words =
					kvx_pool_block(host->pools[index], layer, plane, block);
				uint64_t seed = seed_of(name, layer, plane, block);
				for (uint32_t i = 0; i < geometry->block_bytes / 8; i++)
					words[i] = seed + i;
			}
}

/* What a request brings after the comparison is ordered by the test, which the thread sanitizer
 * does not see. */
__attribute__((no_sanitize("thread"))) static bool
holds(const struct host *host, uint32_t index, uint32_t block, const char *name, uint32_t there)
{
	const struct kvx_geometry *geometry = &host->geometries[index];

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++) {
			const uint64_t *words =
				kvx_pool_block(host->pools[index], layer, plane, block);
			uint64_t seed = seed_of(name, layer, plane, there);
			for (uint32_t i = 0; i < geometry->block_bytes / 8; i++)
				if (words[i] != seed + i)
					return false;
		}
	return true;
}

/* --- its engine and pools --- */

static bool make_geometry(const char *layout, struct kvx_geometry *geometry)
{
	*geometry = (struct kvx_geometry){.layers = 4,
					  .planes = 2,
					  .blocks = BLOCKS_MAX,
					  .block_bytes = 1024,
					  .block_tokens = 16};
	if (strcmp(layout, "whole") == 0)
		return true;
	geometry->heads = geometry->heads_total = 4;
	geometry->head_bytes = 16;
	geometry->layout = strcmp(layout, "hnd") == 0 ? KVX_LAYOUT_HND : KVX_LAYOUT_NHD;
	return geometry->layout == KVX_LAYOUT_HND || strcmp(layout, "nhd") == 0;
}

static int open_pools(struct host *host)
{
	for (uint32_t i = 0; i < host->pool_count; i++) {
		if (!make_geometry(host->layouts[i], &host->geometries[i])) {
			print_error("usage", "--pool takes whole, hnd or nhd");
			return 1;
		}
		int error = kvx_pool_alloc(host->engine, &host->geometries[i], &host->pools[i]);
		if (error) {
			print_error(kvx_error_name(error), kvx_error_text());
			return 1;
		}
		if (host->fill)
			fill(host, i);
	}
	return 0;
}

static int open_host(struct host *host)
{
	int error = kvx_engine_open(host->options, &host->engine);

	if (error) {
		print_error(kvx_error_name(error), kvx_error_text());
		return 1;
	}
	return open_pools(host);
}

/* The index of a pool, or -1. */
static int pool_of(const struct host *host, uint64_t id)
{
	for (uint32_t i = 0; i < host->pool_count; i++)
		if (kvx_pool_id(host->pools[i]) == id)
			return (int)i;
	return -1;
}

/* --- commands --- */

static void on_grant(struct host *host, const char *arguments)
{
	unsigned long long pool_id;
	unsigned first, count, lease_ms;
	uint32_t blocks[BLOCKS_MAX];
	struct kvx_grant *grant;
	uint32_t free_slot = 0;
	size_t bytes;

	if (sscanf(arguments, "%llu %u %u %u", &pool_id, &first, &count, &lease_ms) != 4 ||
	    count > BLOCKS_MAX || pool_of(host, pool_id) < 0) {
		print_error("usage", "grant POOL FIRST COUNT LEASE_MS");
		return;
	}
	while (free_slot < GRANTS_MAX - 1 && host->grants[free_slot])
		free_slot++;
	for (unsigned i = 0; i < count; i++)
		blocks[i] = first + i;
	int error = kvx_grant_open(host->pools[pool_of(host, pool_id)], blocks, count, NULL,
				   lease_ms, &grant);
	if (error) {
		print_error(kvx_error_name(error), kvx_error_text());
		return;
	}
	host->grants[free_slot] = grant;
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	printf("{\"grant\":%" PRIu64 ",\"ticket\":\"", kvx_grant_id(grant));
	print_base64(ticket, bytes);
	printf("\"}\n");
}

static void on_close(struct host *host, const char *arguments)
{
	uint64_t id = strtoull(arguments, NULL, 10);

	for (uint32_t i = 0; i < GRANTS_MAX; i++) {
		if (!host->grants[i] || kvx_grant_id(host->grants[i]) != id)
			continue;
		kvx_grant_close(host->grants[i]);
		host->grants[i] = NULL;
		printf("{\"closed\":%" PRIu64 "}\n", id);
		return;
	}
	print_error("usage", "close ID: no grant of this program has it");
}

static void on_compare(struct host *host, const char *arguments)
{
	char name[KVX_NAME_MAX + 1];
	unsigned long long pool_id;
	unsigned first, count, there, same = 0;
	struct kvx_grant_view views[16];

	if (sscanf(arguments, "%llu %u %u %63s %u", &pool_id, &first, &count, name, &there) != 5 ||
	    first + count > BLOCKS_MAX || pool_of(host, pool_id) < 0) {
		print_error("usage", "compare POOL FIRST COUNT NAME FIRST_THERE");
		return;
	}
	/* Who told the test that the blocks are whole did not order this thread after the engine's;
	 * looking at the grants does. */
	kvx_engine_grants(host->engine, 0, views, 16);
	for (unsigned i = 0; i < count; i++)
		same += holds(host, (uint32_t)pool_of(host, pool_id), first + i, name, there + i);
	printf("{\"same\":%s,\"blocks\":%u}\n", same == count ? "true" : "false", same);
}

static void on_credentials(const char *file)
{
	char token[KVX_TOKEN_MAX + 1], pinned[KVX_TOKEN_MAX + 1];
	int error = kvx_control_credentials(file, token, pinned);

	if (error) {
		print_error(kvx_error_name(error), kvx_error_text());
		return;
	}
	printf("{\"token\":");
	print_text(token);
	printf(",\"pinned\":");
	print_text(pinned);
	printf("}\n");
}

static void on_reopen(struct host *host)
{
	kvx_engine_close(host->engine);
	host->engine = NULL;
	memset(host->grants, 0, sizeof(host->grants));
	if (!open_host(host))
		print_host(host);
}

static void obey(struct host *host, const char *line)
{
	if (strncmp(line, "grant ", 6) == 0)
		on_grant(host, line + 6);
	else if (strncmp(line, "close ", 6) == 0)
		on_close(host, line + 6);
	else if (strncmp(line, "compare ", 8) == 0)
		on_compare(host, line + 8);
	else if (strncmp(line, "credentials ", 12) == 0)
		on_credentials(line + 12);
	else if (strcmp(line, "reopen") == 0)
		on_reopen(host);
	else
		print_error("usage", "grant, close, compare, credentials, reopen or quit");
}

/* --- the program --- */

static void log_line(void *context, enum kvx_log_level level, const char *line)
{
	(void)context;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

static int take(struct host *host, char *argument, bool *layouts)
{
	char *equals = strchr(argument, '=');

	*layouts = strcmp(argument, "--pool") == 0 || (*layouts && !equals && *argument != '-');
	if (strcmp(argument, "--pool") == 0)
		return 0;
	if (*layouts && host->pool_count < POOLS_MAX) {
		host->layouts[host->pool_count++] = argument;
		return 0;
	}
	if (strcmp(argument, "--fill") == 0) {
		host->fill = true;
		return 0;
	}
	if (strcmp(argument, "--log") == 0) {
		kvx_options_log(host->options, log_line, NULL);
		return 0;
	}
	if (!equals)
		return KVX_E_INVALID;
	*equals = 0;
	return kvx_options_set(host->options, argument, equals + 1);
}

int main(int argc, char **argv)
{
	static struct host host;
	char line[512];
	bool layouts = false;
	int error = kvx_options_new(&host.options);

	setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
	for (int i = 1; i < argc && !error; i++)
		error = take(&host, argv[i], &layouts);
	if (error) {
		print_error(kvx_error_name(error), kvx_error_text());
		return 1;
	}
	if (!host.pool_count)
		host.layouts[host.pool_count++] = "whole";
	if (open_host(&host))
		return 1;
	print_host(&host);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (strcmp(line, "quit") == 0)
			break;
		obey(&host, line);
	}
	kvx_engine_close(host.engine);
	kvx_options_free(host.options);
	return 0;
}
