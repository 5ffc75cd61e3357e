/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include "clock.h"

#include <string.h>

#define MIB (1024.0 * 1024.0)

const char *kvx_report_verify(const struct kvx_drive *drive)
{
	const struct kvx_verdict *verdict = &drive->results.verdict;

	if (!drive->settings->verify || !drive->results.bytes)
		return "off";
	/* Where requests do not overwrite each other, every byte that was sent was verified. */
	if (!drive->settings->reuse_buffer && verdict->bytes != drive->results.bytes)
		return "failed";
	return verdict->bytes && !verdict->wrong_bytes ? "ok" : "failed";
}

/* Decimals of a rate in GB/s: slow links have some worth looking at too. */
static int decimals(double rate)
{
	return rate < 0.1 ? 4 : rate < 1 ? 3 : 2;
}

/* "64 KiB", "1152 bytes". */
static void print_size(uint64_t bytes, char *text, size_t size)
{
	if (bytes >= 1024 && bytes % 1024 == 0)
		snprintf(text, size, "%llu KiB", (unsigned long long)(bytes / 1024));
	else
		snprintf(text, size, "%llu bytes", (unsigned long long)bytes);
}

static void print_what(const struct kvx_drive *drive)
{
	const struct kvx_shape *shape = &drive->results.shape;
	const struct kvx_settings *settings = drive->settings;
	char block[32];
	char table[32];

	print_size(shape->block_bytes, block, sizeof(block));
	kvx_blocktable_print(&settings->table, table, sizeof(table));
	if (shape->block_tokens && settings->workload == KVX_WORKLOAD_STREAM)
		fprintf(drive->people, "request    %s, %llu tokens in %u blocks of %u: %.1f MiB\n",
			shape->model ? shape->model : "free shape",
			(unsigned long long)(settings->tokens ? settings->tokens : 8192),
			shape->blocks, shape->block_tokens,
			(double)kvx_shape_request_bytes(shape, shape->blocks) / MIB);
	else
		fprintf(drive->people, "request    %u block%s: %.2f MiB\n", shape->blocks,
			shape->blocks == 1 ? "" : "s",
			(double)kvx_shape_request_bytes(shape, shape->blocks) / MIB);
	fprintf(drive->people,
		"shape      %u layer%s, %u plane%s, blocks of %s, table %s, %u in flight\n",
		shape->layers, shape->layers == 1 ? "" : "s", shape->planes,
		shape->planes == 1 ? "" : "s", block, table, drive->results.inflight);
}

static void print_ports(FILE *people, const char *end, json_t *texts)
{
	size_t i;
	json_t *text;

	json_array_foreach(texts, i, text)
		fprintf(people, "%-10s %s\n", i ? "" : end, json_string_value(text));
}

/* What RDMA runs over, and which GIDs the ports use, and why. */
static void print_rails(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	json_t *texts = kvx_ports_texts(&drive->session->endpoint.ports);

	fprintf(drive->people, "rails      %u, with %u queue pairs in all\n", results->rails,
		results->queue_pairs);
	print_ports(drive->people, "sender", texts);
	print_ports(drive->people, "receiver", drive->session->receiver_ports);
	json_decref(texts);
}

void kvx_report_header(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	const struct kvx_settings *settings = drive->settings;
	FILE *people = drive->people;

	fprintf(people, "kvxfer-bench %s: %s, %s\n", kvx_version(),
		kvx_workload_name(settings->workload),
		settings->command == KVX_COMMAND_RUN ? settings->peer
						     : "both ends on this machine");
	print_what(drive);
	fprintf(people, "transport  %s\n", results->why);
	if (results->queue_pairs)
		print_rails(drive);
	if (settings->workload == KVX_WORKLOAD_STREAM && results->layer_us > 0)
		fprintf(people, "compute    %.1f us for each layer", results->layer_us);
	if (settings->workload == KVX_WORKLOAD_STREAM && settings->layer_factor > 0)
		fprintf(people, ", %g times its measured wire time", settings->layer_factor);
	if (settings->workload == KVX_WORKLOAD_STREAM && results->layer_us > 0)
		fputc('\n', people);
	if (settings->command == KVX_COMMAND_RUN)
		fprintf(people, "clocks     compared to +-%.1f us\n", results->clock_error_us);
	fputc('\n', people);
	fflush(people);
}

static double us(const struct kvx_histogram *latency_ns, double fraction)
{
	return (double)kvx_histogram_percentile(latency_ns, fraction) / NS_PER_US;
}

static void print_mismatch(const struct kvx_drive *drive)
{
	const struct kvx_verdict *verdict = &drive->results.verdict;

	if (!verdict->wrong_bytes)
		return;
	fprintf(stderr,
		"verify: %llu of %llu bytes are wrong; the first: request %llu, layer %u, plane "
		"%u, block %u, offset %llu: expected %02x, found %02x\n",
		(unsigned long long)verdict->wrong_bytes, (unsigned long long)verdict->bytes,
		(unsigned long long)verdict->place.request, verdict->place.layer,
		verdict->place.plane, verdict->place.block, (unsigned long long)verdict->offset,
		verdict->expected, verdict->found);
}

static void print_verify(const struct kvx_drive *drive)
{
	const struct kvx_verdict *verdict = &drive->results.verdict;

	if (drive->settings->verify)
		fprintf(drive->people, "verify     %s: %llu bytes looked at, %llu wrong\n",
			kvx_report_verify(drive), (unsigned long long)verdict->bytes,
			(unsigned long long)verdict->wrong_bytes);
	print_mismatch(drive);
}

static void print_arrivals(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;

	fprintf(drive->people,
		"arrivals   %.2f completions at the receiver for each request: one for each of %u "
		"layers and each of the %u queue pairs that are near the memory\n",
		(double)results->units / (double)results->requests, results->shape.layers,
		results->queue_pairs);
}

static void print_baseline(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	double rate = kvx_samples_median(&results->baseline_gbytes_per_s);

	fprintf(drive->people, "baseline   %s %.*f GB/s; ratio %.3f, median of %zu pairs\n",
		results->baseline_name, decimals(rate), rate,
		kvx_samples_median(&results->baseline_ratios), results->baseline_ratios.count);
}

static void print_costs(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;

	fprintf(drive->people, "cpu        sender %.2f s", results->sender_cpu_seconds);
	if (drive->settings->one_process)
		fprintf(drive->people, " (both ends)\n");
	else
		fprintf(drive->people, ", receiver %.2f s\n", results->receiver_cpu_seconds);
	if (drive->settings->no_copy && results->slices)
		fprintf(drive->people, "engine     %.1f ns for each of %llu slices\n",
			(double)results->engine_ns / (double)results->slices,
			(unsigned long long)results->slices);
	if (results->queue_pairs && results->requests)
		print_arrivals(drive);
	if (results->baseline_name)
		print_baseline(drive);
	fprintf(drive->people, "payload    %.4f bits of entropy per byte\n", results->entropy_bits);
}

/* What streaming layer by layer was good for, in sentences. */
static void print_exposed(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	const struct kvx_shape *shape = &results->shape;
	double exposed_us = kvx_samples_median(&results->exposed_us);
	double bytes = (double)kvx_shape_request_bytes(shape, shape->blocks);

	if (!results->exposed_us.count || results->goodput <= 0)
		return;
	fprintf(drive->people,
		"fixed      %.0f us for each request beyond its bytes at %.2f GB/s (median)\n\n",
		kvx_samples_median(&results->fixed_us), results->goodput);
	if (results->layer_us > 0)
		fprintf(drive->people,
			"Alone the transfer of a request takes %.1f ms. Streamed layer by layer, "
			"it "
			"was whole\n%.2f ms after its last layer was ready: %.1f %% of it stayed "
			"hidden behind compute.\n",
			bytes / results->goodput / NS_PER_MS, exposed_us / 1000,
			results->hidden_fraction * 100);
	fprintf(drive->people,
		"The cost model's ideal is %.2f ms exposed; measured is %.2f times that.\n",
		results->exposed_ideal_us / 1000,
		results->exposed_ideal_us > 0 ? exposed_us / results->exposed_ideal_us : 0);
}

static void print_verified_sentence(const struct kvx_drive *drive)
{
	if (drive->settings->workload == KVX_WORKLOAD_STREAM &&
	    strcmp(kvx_report_verify(drive), "ok") == 0)
		fprintf(drive->people,
			"Every byte was verified at the receiver: %llu bytes, none "
			"wrong.\n",
			(unsigned long long)drive->results.verdict.bytes);
}

static void print_latency(const struct kvx_drive *drive)
{
	const struct kvx_histogram *latency_ns = &drive->results.latency_ns;
	const struct kvx_samples *request_us = &drive->results.request_us;

	if (latency_ns->count)
		fprintf(drive->people,
			"latency    p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us (a "
			"layer's "
			"ready to whole)\n",
			us(latency_ns, 0.5), us(latency_ns, 0.9), us(latency_ns, 0.99),
			us(latency_ns, 0.999), us(latency_ns, 1));
	if (request_us->count)
		fprintf(drive->people,
			"request    p50 %.1f  p99 %.1f us (asking for a grant to whole; one block, "
			"one layer)\n",
			kvx_samples_median(request_us), kvx_samples_percentile(request_us, 0.99));
}

void kvx_report_summary(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	double seconds = (double)results->transfer_ns / NS_PER_S;
	double rate = seconds > 0 ? (double)results->bytes * 1e-9 / seconds : 0;

	if (kvx_interrupted)
		fprintf(stderr, "interrupted: what was done until then\n");
	fprintf(drive->people,
		"\nmoved      %.3f GB in %.2f s of transfer: %.*f GB/s; %llu requests, %llu "
		"failed\n",
		(double)results->bytes * 1e-9, seconds, decimals(rate), rate,
		(unsigned long long)results->requests, (unsigned long long)results->errors);
	print_latency(drive);
	print_costs(drive);
	print_verify(drive);
	print_exposed(drive);
	print_verified_sentence(drive);
	fflush(drive->people);
}
