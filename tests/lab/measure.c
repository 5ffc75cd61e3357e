/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many engines in one process, each connected to one other engine.
 *
 *	lab-measure ADDRESS ENGINES [OPTION=VALUE ...]
 *
 * Prints how long it took until all were connected, in ms, and stays connected until stdin ends.
 */
#include <kvxfer/kvxfer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ENGINES_MAX 256
#define CONNECT_LIMIT_MS 120000

static struct kvx_engine *engines[ENGINES_MAX];
static struct kvx_peer *peers[ENGINES_MAX];

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int open_engine(char *const *settings, struct kvx_engine **engine)
{
	struct kvx_options *options = NULL;
	char name[32];
	int error = kvx_options_new(&options);

	for (; !error && *settings; settings++) {
		const char *value = strchr(*settings, '=');
		snprintf(name, sizeof(name), "%.*s", (int)(value - *settings), *settings);
		error = kvx_options_set(options, name, value + 1);
	}
	if (!error)
		error = kvx_engine_open(options, engine);
	kvx_options_free(options);
	return error;
}

static int connect_all(const char *address, int count)
{
	int error = 0;

	for (int i = 0; i < count && !error; i++)
		error = kvx_peer_connect(engines[i], address, &peers[i]);
	for (int i = 0; i < count && !error; i++)
		error = kvx_peer_wait(peers[i], CONNECT_LIMIT_MS);
	return error;
}

static int fail(void)
{
	fprintf(stderr, "%s\n", kvx_error_text());
	return 1;
}

int main(int argument_count, char **arguments)
{
	int count = argument_count > 2 ? atoi(arguments[2]) : 0;

	if (count < 1 || count > ENGINES_MAX)
		return 2;
	for (int i = 0; i < count; i++)
		if (open_engine(arguments + 3, &engines[i]))
			return fail();
	double begin_ms = now_ms();
	if (connect_all(arguments[1], count))
		return fail();
	printf("%.1f\n", now_ms() - begin_ms);
	fflush(stdout);
	while (getchar() != EOF)
		;
	for (int i = 0; i < count; i++) {
		kvx_peer_close(peers[i]);
		kvx_engine_close(engines[i]);
	}
	return 0;
}
