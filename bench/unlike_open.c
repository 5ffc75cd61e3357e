/* SPDX-License-Identifier: Apache-2.0 */
/* What it costs to open a grant and a stream, for tables of long and of short runs. */
#include "blocktable.h"
#include "clock.h"
#include "unlike.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 64u
#define TOKENS 8192u
#define HEADS 8u
#define HEAD_BYTES 256u
#define OPENS 500u
#define WARM_UP 50u
#define FLOOR_TURNS 64u /* copies of a ticket that are timed together: one is too short */
#define ACCEPT_NS (10 * NS_PER_S)

struct outcome {
	struct kvx_samples grant_us;    /* kvx_grant_open() and kvx_grant_ticket() */
	struct kvx_samples stream_us;   /* kvx_stream_open() alone */
	struct kvx_samples accepted_us; /* from its begin until the receiver has accepted it */
	struct kvx_samples floor_us;    /* copying and summing up the ticket's bytes */
	size_t ticket_bytes;
};

static uint64_t or_default(uint64_t value, uint64_t initial)
{
	return value ? value : initial;
}

/* Runs of neighbours in random order, none beside another; of as many as the table has: one. */
static void make_table(struct kvx_unlike_end *end, uint32_t run, uint64_t seed)
{
	const struct kvx_blocktable_spec random = {.run = 1};
	uint32_t runs = (end->count + run - 1) / run;
	uint32_t *order = kvx_blocktable_make(&random, seed, runs);

	if (!order)
		kvx_unlike_fail("out of memory for a table of %u runs", runs);
	for (uint32_t i = 0; i < end->count; i++)
		end->table[i] = order[i / run] * (run + 1) + i % run;
	free(order);
}

/* One request, in a pool that has room between its runs. */
static void open_end(struct kvx_unlike_end *end, const struct kvx_unlike_settings *settings,
		     uint32_t heads)
{
	uint32_t count = (uint32_t)(or_default(settings->tokens, TOKENS) / KVX_UNLIKE_BLOCK_TOKENS);
	const struct kvx_geometry geometry = {
		.layers = (uint32_t)or_default(settings->layers, LAYERS),
		.planes = 2,
		.blocks = 2 * count,
		.block_tokens = KVX_UNLIKE_BLOCK_TOKENS,
		.dtype = "bf16",
		.layout = KVX_LAYOUT_HND,
		.heads = heads,
		.heads_total = HEADS,
		.head_bytes = HEAD_BYTES,
	};

	kvx_unlike_end_open(end, settings, NULL, &geometry, 1, 1);
	end->count = count;
}

/* The least that any reader of the ticket does: each byte is copied once and goes into a sum. */
static uint64_t copy_and_sum(const void *ticket, size_t bytes, char *copy)
{
	uint64_t sum = 0;

	memcpy(copy, ticket, bytes);
	for (size_t i = 0; i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
		uint64_t word;
		memcpy(&word, copy + i, sizeof(word));
		sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	}
	return sum;
}

static double floor_us(const void *ticket, size_t bytes)
{
	char *copy = kvx_unlike_calloc(1, bytes);
	int64_t began_ns = clock_now_ns();

	for (uint32_t i = 0; i < FLOOR_TURNS; i++) {
		/* A sum that nobody uses would not be computed. */
		__asm__ volatile("" : : "r"(copy_and_sum(ticket, bytes, copy)) : "memory");
	}
	int64_t ended_ns = clock_now_ns();
	free(copy);
	return (double)(ended_ns - began_ns) / NS_PER_US / FLOOR_TURNS;
}

/* The target of the counters is known as soon as the sender was accepted. */
static void await_acceptance(const struct kvx_grant *grant)
{
	int64_t end_ns = clock_now_ns() + ACCEPT_NS;
	uint32_t arrived, target = 0;

	while (!target) {
		kvx_unlike_check(kvx_grant_count(grant, 0, &arrived, &target), "grant");
		if (clock_now_ns() > end_ns)
			kvx_unlike_fail("the receiver has not accepted a stream in 10 s");
		sched_yield();
	}
}

static void open_once(const struct kvx_unlike_way *way, struct outcome *outcome)
{
	const struct kvx_unlike_end *receiver = way->receiver, *sender = way->senders[0];
	struct kvx_grant *grant;
	struct kvx_stream *stream;
	int64_t began_ns = clock_now_ns();

	kvx_unlike_check(kvx_grant_open(receiver->pool, receiver->table, receiver->count, NULL,
					KVX_UNLIKE_LEASE_MS, &grant),
			 "grant");
	const void *ticket = kvx_grant_ticket(grant, &outcome->ticket_bytes);
	int64_t granted_ns = clock_now_ns();
	kvx_unlike_check(kvx_stream_open(sender->pool, sender->table, sender->count, NULL, ticket,
					 outcome->ticket_bytes, &stream),
			 "stream");
	int64_t opened_ns = clock_now_ns();
	await_acceptance(grant);
	int64_t accepted_ns = clock_now_ns();
	kvx_samples_add(&outcome->grant_us, (double)(granted_ns - began_ns) / NS_PER_US);
	kvx_samples_add(&outcome->stream_us, (double)(opened_ns - granted_ns) / NS_PER_US);
	kvx_samples_add(&outcome->accepted_us, (double)(accepted_ns - granted_ns) / NS_PER_US);
	kvx_samples_add(&outcome->floor_us, floor_us(ticket, outcome->ticket_bytes));
	kvx_stream_close(stream);
	kvx_grant_close(grant);
}

static void forget(struct outcome *outcome)
{
	kvx_samples_free(&outcome->grant_us);
	kvx_samples_free(&outcome->stream_us);
	kvx_samples_free(&outcome->accepted_us);
	kvx_samples_free(&outcome->floor_us);
}

static void tell(const char *pools, const char *table, uint64_t verified,
		 const struct outcome *outcome, json_t *rows)
{
	double stream_us = kvx_samples_median(&outcome->stream_us);
	double least_us = kvx_samples_median(&outcome->floor_us);

	printf("%-11s %-12s %8zu %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f\n", pools, table,
	       outcome->ticket_bytes, kvx_samples_median(&outcome->grant_us),
	       kvx_samples_percentile(&outcome->grant_us, 0.9), stream_us,
	       kvx_samples_percentile(&outcome->stream_us, 0),
	       kvx_samples_percentile(&outcome->stream_us, 0.9), least_us, stream_us - least_us,
	       kvx_samples_median(&outcome->accepted_us));
	fflush(stdout);
	json_array_append_new(rows,
			      json_pack("{ss, ss, sI, sI, sI, so, so, so, so, sf}", "pools", pools,
					"table", table, "verified_bytes", (json_int_t)verified,
					"opens", (json_int_t)outcome->stream_us.count,
					"ticket_bytes", (json_int_t)outcome->ticket_bytes,
					"grant_open_us", kvx_unlike_spread(&outcome->grant_us),
					"stream_open_us", kvx_unlike_spread(&outcome->stream_us),
					"accepted_us", kvx_unlike_spread(&outcome->accepted_us),
					"ticket_floor_us", kvx_unlike_spread(&outcome->floor_us),
					"beyond_ticket_us", stream_us - least_us));
}

static void measure(const struct kvx_unlike_settings *settings, const char *pools,
		    struct kvx_unlike_end *sender, struct kvx_unlike_end *receiver, json_t *rows)
{
	const struct {
		const char *name;
		uint32_t run;
	} tables[] = {{"contiguous", sender->count}, {"runs of 16", 16}, {"alone", 1}};
	const struct kvx_unlike_way way = {
		.receiver = receiver, .senders = {sender}, .sender_count = 1};

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		struct outcome outcome = {0};
		make_table(sender, tables[i].run, 2 * i);
		make_table(receiver, tables[i].run, 2 * i + 1);
		kvx_unlike_end_fill(sender);
		uint64_t verified = kvx_unlike_way_verify(&way, settings->corrupt, NULL);
		for (uint64_t j = 0; j < WARM_UP; j++)
			open_once(&way, &outcome);
		forget(&outcome);
		for (uint64_t j = 0; j < or_default(settings->opens, OPENS); j++)
			open_once(&way, &outcome);
		tell(pools, tables[i].name, verified, &outcome, rows);
		forget(&outcome);
	}
}

void kvx_unlike_open(const struct kvx_unlike_settings *settings, json_t *rows)
{
	struct kvx_unlike_end receiver, alike, twice;

	open_end(&receiver, settings, 1);
	open_end(&alike, settings, 1);
	open_end(&twice, settings, 2);
	printf("medians in us; floor: to copy and sum up the ticket's bytes\n"
	       "%-11s %-12s %8s %8s %8s %8s %8s %8s %8s %8s %8s\n",
	       "pools", "blocks", "ticket B", "grant", "p90", "stream", "min", "p90", "floor",
	       "beyond", "accepted");
	measure(settings, "alike", &alike, &receiver, rows);
	measure(settings, "TP4 to TP8", &twice, &receiver, rows);
	kvx_unlike_end_close(&alike);
	kvx_unlike_end_close(&twice);
	kvx_unlike_end_close(&receiver);
}
