/* SPDX-License-Identifier: Apache-2.0 */
/* One transfer between two doctors, as an inference engine would make it. */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICKET_MAX (DOCTOR_LINE_MAX / 4) /* bytes; a line holds it in hexadecimal */
#define LEASE_MS 30000u
#define WAIT_MS 10000u

static const struct kvx_geometry geometry = {
	.layers = 1, .planes = 1, .blocks = DOCTOR_BLOCKS, .block_bytes = DOCTOR_BLOCK_BYTES};

int doctor_end_open(struct doctor_end *end, struct kvx_options *options)
{
	int error = kvx_engine_open(options, &end->engine);

	kvx_options_free(options);
	if (error)
		return error;
	error = kvx_pool_alloc(end->engine, &geometry, &end->pool);
	if (error)
		doctor_end_close(end);
	return error;
}

void doctor_end_close(struct doctor_end *end)
{
	kvx_grant_close(end->grant);
	kvx_engine_close(end->engine); /* and with it the pool */
	*end = (struct doctor_end){0};
}

static void make_table(uint32_t table[DOCTOR_BLOCKS])
{
	for (uint32_t i = 0; i < DOCTOR_BLOCKS; i++)
		table[i] = i;
}

/* ------------------------------------------------------------------------------- hexadecimal */

static char *to_hex(const unsigned char *bytes, size_t count)
{
	char *text = malloc(2 * count + 1);

	for (size_t i = 0; text && i < count; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	return text;
}

static int digit(char character)
{
	const char *digits = "0123456789abcdef";
	const char *at = character ? strchr(digits, character) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Returns how many bytes; 0: it is not hexadecimal, or too long. */
static size_t from_hex(const char *text, unsigned char *bytes, size_t max)
{
	size_t length = strlen(text);

	if (length % 2 || length / 2 > max)
		return 0;
	for (size_t i = 0; i < length; i += 2) {
		int high = digit(text[i]), low = digit(text[i + 1]);
		if (high < 0 || low < 0)
			return 0;
		bytes[i / 2] = (unsigned char)(high << 4 | low);
	}
	return length / 2;
}

/* ---------------------------------------------------------------------------------- transfers */

char *doctor_end_grant(struct doctor_end *end, uint32_t blocks)
{
	uint32_t table[DOCTOR_BLOCKS];
	size_t bytes;

	make_table(table);
	kvx_grant_close(end->grant);
	end->grant = NULL;
	if (kvx_grant_open(end->pool, table, blocks, NULL, LEASE_MS, &end->grant))
		return NULL;
	const void *ticket = kvx_grant_ticket(end->grant, &bytes);
	return to_hex(ticket, bytes);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int doctor_end_send(const struct doctor_end *end, const char *ticket, uint32_t blocks,
		    double *seconds, char *explained, size_t size)
{
	static unsigned char bytes[TICKET_MAX];
	size_t count = from_hex(ticket, bytes, sizeof(bytes));
	struct kvx_stream *stream;
	uint32_t table[DOCTOR_BLOCKS];

	make_table(table);
	int error = kvx_stream_open(end->pool, table, blocks, NULL, bytes, count, &stream);
	if (error)
		return error;
	double begin = now_s();
	error = kvx_stream_layers_ready(stream, 0, 1);
	if (!error)
		error = kvx_stream_wait(stream, KVX_ALL_LAYERS, WAIT_MS);
	*seconds = now_s() - begin;
	if (!error)
		kvx_stream_explain(stream, explained, size);
	kvx_stream_close(stream);
	return error;
}
