/* SPDX-License-Identifier: Apache-2.0 */
#include "blocktable.h"

#include "failure.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_MAX 1000000u

static bool parse_run(const char *text, uint32_t *run)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long number = strtoul(text, NULL, 10);

	if (!digits || text[digits] || number < 1 || number > RUN_MAX)
		return false;
	*run = (uint32_t)number;
	return true;
}

int kvx_blocktable_parse(const char *text, struct kvx_blocktable_spec *spec)
{
	static const char runs[] = "runs:";
	size_t prefix = sizeof(runs) - 1;

	if (strcmp(text, "identity") == 0) {
		spec->run = 0;
		return 0;
	}
	if (strcmp(text, "random") == 0) {
		spec->run = 1;
		return 0;
	}
	if (strncmp(text, runs, prefix) == 0 && parse_run(text + prefix, &spec->run))
		return 0;
	return kvx_failure_set("table: \"%.32s\" is not identity, random or runs:N with N from 1 "
			       "to %u",
			       text, RUN_MAX);
}

void kvx_blocktable_print(const struct kvx_blocktable_spec *spec, char *text, size_t size)
{
	if (spec->run == 0)
		snprintf(text, size, "identity");
	else if (spec->run == 1)
		snprintf(text, size, "random");
	else
		snprintf(text, size, "runs:%u", spec->run);
}

static uint64_t draw(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Shuffles the first `count` numbers of order (Fisher and Yates). */
static void shuffle(uint32_t *order, uint32_t count, uint64_t seed)
{
	for (uint32_t left = count; left > 1; left--) {
		uint32_t chosen = (uint32_t)(draw(&seed) % left);
		uint32_t swapped = order[left - 1];
		order[left - 1] = order[chosen];
		order[chosen] = swapped;
	}
}

uint32_t *kvx_blocktable_make(const struct kvx_blocktable_spec *spec, uint64_t seed, uint32_t count)
{
	uint32_t run = spec->run ? spec->run : count;
	uint32_t runs = run ? count / run : 0;
	/* One more, so that none is not a matter of its own. */
	uint32_t *table = malloc(((size_t)count + 1) * sizeof(*table));
	uint32_t *order = malloc(((size_t)runs + 1) * sizeof(*order));

	if (!table || !order) {
		free(table);
		free(order);
		return NULL;
	}
	for (uint32_t i = 0; i < runs; i++)
		order[i] = i;
	shuffle(order, runs, seed);
	for (uint32_t i = 0; i < count; i++)
		/* What does not fill a run stays at the end. */
		table[i] = i / run < runs ? order[i / run] * run + i % run : i;
	free(order);
	return table;
}
