/* SPDX-License-Identifier: Apache-2.0 */
/* The plan as text. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#define BAR_MAX 40u
#define MIB (1024.0 * 1024.0)

static void write_geometry(const struct kvx_geometry *geometry, FILE *file)
{
	static const char *const layouts[] = {"", ", HND", ", NHD"};
	uint32_t planes = geometry->planes + geometry->extra_planes;

	fprintf(file, "layers %u to %u, %u plane%s, ", geometry->layer_first,
		geometry->layer_first + geometry->layers - 1, planes, planes == 1 ? "" : "s");
	if (geometry->layout != KVX_LAYOUT_WHOLE)
		fprintf(file, "%u of %u head%s from %u on, of %u bytes, ", geometry->heads,
			geometry->heads_total, geometry->heads_total == 1 ? "" : "s",
			geometry->head_first, geometry->head_bytes);
	fprintf(file, "blocks of %u tokens", geometry->block_tokens);
	if (geometry->layout == KVX_LAYOUT_WHOLE)
		fprintf(file, " and %u bytes that move whole", geometry->block_bytes);
	fprintf(file, "%s\n", layouts[geometry->layout]);
}

static void write_request(const struct plan *plan, FILE *file)
{
	fprintf(file, "request   %u tokens, table %s", plan->tokens, plan->table);
	if (plan->held_blocks)
		fprintf(file, ", %u of %u blocks held already", plan->held_blocks,
			plan->to.end.count);
	fprintf(file, "\nreceiver  rank %u: ", plan->to.rank);
	write_geometry(&plan->to.end.geometry, file);
	fprintf(file, "senders   %u of %u rank%s hold%s part of it\n", plan->from_count,
		plan->from_all, plan->from_all == 1 ? "" : "s", plan->from_count == 1 ? "s" : "");
}

static void write_pieces(const char *name, const struct kvx_plan_pieces *pieces,
			 const struct kvx_plan_share *share, FILE *file)
{
	fprintf(file, "  %-12s %12llu %14llu %10u %10u %10u\n", name,
		(unsigned long long)pieces->count,
		(unsigned long long)pieces->count * share->layers, pieces->min_bytes,
		pieces->median_bytes, pieces->max_bytes);
}

static void write_histogram(const struct kvx_plan_pieces *pieces, FILE *file)
{
	fprintf(file, "\n  slices by size\n");
	for (uint32_t i = 0; i < KVX_PLAN_CLASSES; i++) {
		uint64_t count = pieces->classes[i];
		if (!count)
			continue;
		fprintf(file, "  %8llu to %8llu bytes %12llu  ", 1ULL << i, (2ULL << i) - 1,
			(unsigned long long)count);
		for (uint64_t bar = (count * BAR_MAX + pieces->count - 1) / pieces->count; bar;
		     bar--)
			fputc('#', file);
		fputc('\n', file);
	}
}

static void write_rails(const struct plan *plan, const struct kvx_plan_share *share, FILE *file)
{
	fprintf(file, "\n  bytes of a layer and of the request by rail\n");
	for (uint32_t i = 0; i < plan->rails; i++)
		fprintf(file, "  rail %-3u %14llu %16llu\n", i,
			(unsigned long long)share->rail_bytes[i],
			(unsigned long long)share->rail_bytes[i] * share->layers);
}

/* The sentences, each a line. */
static int write_words(const struct kvx_plan_report *report, uint32_t sender, FILE *file)
{
	size_t length = kvx_plan_report_explain(report, sender, NULL, 0);
	char *text = malloc(length + 1), *rest = text, *line;

	if (!text)
		return 1;
	kvx_plan_report_explain(report, sender, text, length + 1);
	fputc('\n', file);
	while ((line = strsep(&rest, "\n")))
		if (*line)
			fprintf(file, "  %s\n", line);
	free(text);
	return 0;
}

static int write_sender(const struct plan *plan, uint32_t index, FILE *file)
{
	const struct plan_end *from = &plan->from[index];
	struct kvx_plan_share share;

	if (kvx_plan_report_share(plan->report, index, &share))
		return 1;
	fprintf(file, "\nsender %u, rank %u: ", index, from->rank);
	write_geometry(&from->end.geometry, file);
	if (!share.layer_bytes) {
		fprintf(file, "  moves nothing: other senders hold the same\n");
		return 0;
	}
	fprintf(file, "  moves %u layers of %llu bytes (%.1f MiB in all), %s\n\n", share.layers,
		(unsigned long long)share.layer_bytes,
		(double)share.layer_bytes * share.layers / MIB, share.how);
	fprintf(file, "  %-12s %12s %14s %10s %10s %10s\n", "pieces", "in a layer",
		"in the request", "min bytes", "median", "max");
	write_pieces("slices", &share.slices, &share, file);
	write_pieces("at sender", &share.at_sender, &share, file);
	write_pieces("at receiver", &share.at_receiver, &share, file);
	write_histogram(&share.slices, file);
	if (plan->rails)
		write_rails(plan, &share, file);
	return write_words(plan->report, index, file);
}

static void write_total(const struct plan *plan, FILE *file)
{
	unsigned long long bytes = 0, slices = 0, units = 0;
	struct kvx_plan_share share;

	for (uint32_t i = 0; i < plan->from_count; i++) {
		if (kvx_plan_report_share(plan->report, i, &share))
			continue;
		bytes += share.layer_bytes * share.layers;
		slices += share.posted * share.layers;
		units += (unsigned long long)share.units * share.layers;
	}
	fprintf(file,
		"\ntotal     %llu bytes (%.1f MiB) in %llu slices and %llu units, %.1f bytes "
		"a slice\n",
		bytes, (double)bytes / MIB, slices, units, (double)bytes / (double)slices);
}

int plan_write_text(const struct plan *plan, FILE *file)
{
	int error = 0;

	write_request(plan, file);
	if (plan->refused)
		fprintf(file, "\nrefused   %s: %s\n", kvx_error_name(plan->refused),
			kvx_error_text());
	for (uint32_t i = 0; plan->report && i < plan->from_count && !error; i++)
		error = write_sender(plan, i, file);
	if (plan->report)
		write_total(plan, file);
	return error || ferror(file);
}
