/* SPDX-License-Identifier: Apache-2.0 */
/*
 *	soak-peer FOLDER NAME KIND SEED THINK_US [OPTION=VALUE ...]
 *
 * KIND is 0 to 3: bit 0 for wide blocks, bit 1 for plain memory. Names that begin with "s" stay.
 * Lines on stdin: "figures" answers one line of JSON, "pause" and "resume" the driving; at the end
 * of stdin all is closed, and what is not clean then is the exit status.
 */
#include "soak/peer.h"

#include "support/chance.h"

#include <kvxfer/operate.h>

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

bool stays(const char *name)
{
	return name[0] == 's';
}

void complain(struct peer *peer, const char *format, ...)
{
	char text[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "unexpected: %s\n", text);
	atomic_fetch_add(&peer->unexpected, 1);
}

void *tail_of(struct hand *hand)
{
	return (char *)kvx_region_address(hand->peer->tails) + hand->index * TAIL_BYTES;
}

struct kvx_tail tail_at(struct hand *hand)
{
	return (struct kvx_tail){hand->peer->tails, hand->index * TAIL_BYTES, TAIL_BYTES};
}

/* --- figures --- */

/* The time that this share of all does not exceed, of those since it was asked last. */
static uint64_t quantile(const uint32_t *buckets, uint64_t count, double share)
{
	uint64_t wanted = (uint64_t)((double)count * share), seen = 0;

	for (uint32_t i = 0; i < TIMES_BUCKETS; i++) {
		seen += buckets[i];
		if (seen > wanted) {
			/* As record_time() chose it: below 32 a bucket for each us. */
			uint32_t octave = i < 32 ? 0 : i / 16 - 1;
			return (uint64_t)(i - octave * 16) << octave;
		}
	}
	return 0;
}

static void print_times(struct times *times)
{
	uint32_t buckets[TIMES_BUCKETS];
	uint64_t count = 0;

	for (uint32_t i = 0; i < TIMES_BUCKETS; i++) {
		buckets[i] = atomic_exchange(&times->buckets[i], 0);
		count += buckets[i];
	}
	printf("\"times\":%" PRIu64 ",\"p50_us\":%" PRIu64 ",\"p99_us\":%" PRIu64 ",", count,
	       quantile(buckets, count, 0.5), quantile(buckets, count, 0.99));
}

static void print_outcomes(struct peer *peer)
{
	const char *between = "";

	printf("\"outcomes\":{");
	for (uint32_t kind = 0; kind_name(kind); kind++) {
		for (uint32_t code = 0; code < CODES_MAX; code++) {
			uint32_t count = atomic_load(&peer->outcomes[kind][code]);
			if (!count)
				continue;
			printf("%s\"%s|%s\":%u", between, kind_name(kind),
			       code ? kvx_error_name(-(int)code) : "whole", count);
			between = ",";
		}
	}
	printf("},");
}

static uint32_t count_peers(struct kvx_engine *engine)
{
	struct kvx_peer_view views[8];
	uint64_t after = 0;
	uint32_t count = 0;

	for (int got; (got = kvx_engine_peers(engine, after, views, 8)) > 0; count += (uint32_t)got)
		after = views[got - 1].id;
	return count;
}

static void print_figures(struct peer *peer)
{
	struct kvx_metrics metrics;

	kvx_engine_metrics(peer->engine, &metrics);
	printf("{");
	print_times(&peer->small);
	print_outcomes(peer);
	printf("\"busy\":%u,\"served\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"unexpected\":%u,\"grants\":%u,\"streams\":%u,\"peers\":%u,"
	       "\"regions\":%u,\"staging_bytes\":%" PRIu64 ",\"protocol_errors\":%" PRIu64
	       ",\"peers_lost\":%" PRIu64 "}\n",
	       atomic_load(&peer->busy), atomic_load(&peer->served), atomic_load(&peer->wrong),
	       atomic_load(&peer->bytes), atomic_load(&peer->unexpected), metrics.grants_open,
	       metrics.streams_open, count_peers(peer->engine), metrics.regions,
	       metrics.staging_bytes, metrics.stats.protocol_errors, metrics.stats.peers_lost);
	fflush(stdout);
}

/* --- the whole --- */

static int open_engine(struct peer *peer, char **settings)
{
	struct kvx_options *options = NULL;
	int error = kvx_options_new(&options);

	if (!error)
		error = kvx_options_set(options, "name", peer->name);
	for (; !error && *settings; settings++) {
		char *value = strchr(*settings, '=');
		*value++ = 0;
		error = kvx_options_set(options, *settings, value);
	}
	if (!error)
		error = kvx_engine_open(options, &peer->engine);
	kvx_options_free(options);
	return error;
}

static int open_all(struct peer *peer, uint32_t kind, char **settings)
{
	const struct cache_kind cache_kind = {.wide = kind & 1, .plain = kind & 2};
	int error = open_engine(peer, settings);

	if (!error)
		error = cache_open(&peer->cache, peer->engine, cache_kind);
	if (!error)
		error = kvx_region_alloc(peer->engine, (DRIVERS + SERVERS) * TAIL_BYTES,
					 &peer->tails);
	if (!error)
		memset(kvx_region_address(peer->tails), 0, (DRIVERS + SERVERS) * TAIL_BYTES);
	return error;
}

static void converse(struct peer *peer)
{
	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		if (strcmp(line, "pause\n") == 0)
			atomic_store(&peer->paused, true);
		else if (strcmp(line, "resume\n") == 0)
			atomic_store(&peer->paused, false);
		else
			print_figures(peer);
	}
}

static void run_threads(struct peer *peer, uint64_t seed)
{
	struct hand hands[DRIVERS + SERVERS];
	pthread_t threads[DRIVERS + SERVERS];
	uint32_t started = 0;

	for (; started < DRIVERS + SERVERS; started++) {
		hands[started] = (struct hand){peer, started, seed + 1 + started};
		for (int i = 0; i < 8; i++)
			random_next(&hands[started].random);
		if (pthread_create(&threads[started], NULL, started < DRIVERS ? drive : serve,
				   &hands[started]))
			break;
	}
	printf("ready\n");
	fflush(stdout);
	converse(peer);
	/* Others' requests are served until the own ones have ended: two peers that end at the same
	 * time would wait for each other. Who is still at the door then sees it shut. */
	atomic_store(&peer->paused, true);
	atomic_store(&peer->drivers_end, true);
	for (uint32_t i = 0; i < started; i++) {
		if (i == DRIVERS)
			atomic_store(&peer->servers_end, true);
		pthread_join(threads[i], NULL);
	}
	close(peer->listener);
}

static int close_all(struct peer *peer)
{
	int error = cache_close(&peer->cache);

	if (!error)
		error = kvx_region_close(peer->tails);
	if (error)
		fprintf(stderr, "unexpected: %s\n", kvx_error_text());
	kvx_engine_close(peer->engine);
	return error || atomic_load(&peer->unexpected);
}

int main(int count, char **arguments)
{
	static struct peer peer;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (count < 6)
		return 2;
	uint64_t seed = strtoull(arguments[4], NULL, 10);
	peer.folder = arguments[1];
	peer.name = arguments[2];
	peer.think_us = (uint32_t)strtoul(arguments[5], NULL, 10);
	peer.keys = seed << 32;
	int error = open_all(&peer, (uint32_t)atoi(arguments[3]), arguments + 6);
	if (error) {
		fprintf(stderr, "unexpected: %s\n", kvx_error_text());
		return 1;
	}
	peer.listener = channel_listen(peer.folder, peer.name);
	if (peer.listener < 0) {
		perror(peer.folder);
		return 1;
	}
	run_threads(&peer, seed);
	return close_all(&peer);
}
