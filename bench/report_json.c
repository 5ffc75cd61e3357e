/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include "clock.h"
#include "machine.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 6

static json_t *percentiles(const struct kvx_histogram *latency_ns)
{
	static const struct {
		const char *name;
		double fraction;
	} rows[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};
	json_t *object = json_object();

	if (!latency_ns->count) {
		json_decref(object);
		return json_null();
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t ns = kvx_histogram_percentile(latency_ns, rows[i].fraction);
		json_object_set_new(object, rows[i].name, json_real((double)ns / NS_PER_US));
	}
	return object;
}

static json_t *median_and_tail(const struct kvx_samples *samples)
{
	if (!samples->count)
		return json_null();
	return json_pack("{sf, sf}", "p50", kvx_samples_median(samples), "p99",
			 kvx_samples_percentile(samples, 0.99));
}

static json_t *real_if(bool is_measured, double value)
{
	return is_measured ? json_real(value) : json_null();
}

static json_t *text_or_null(const char *text)
{
	return text ? json_string(text) : json_null();
}

static json_t *baseline(const struct kvx_results *results)
{
	if (!results->baseline_name)
		return json_null();
	return json_pack("{ss, sf, sf}", "name", results->baseline_name, "gbytes_per_s",
			 kvx_samples_median(&results->baseline_gbytes_per_s), "ratio",
			 kvx_samples_median(&results->baseline_ratios));
}

static json_t *numbers(const struct kvx_samples *samples)
{
	json_t *array = json_array();

	for (size_t i = 0; i < samples->count; i++)
		json_array_append_new(array, json_real(samples->values[i]));
	return array;
}

static json_t *cpu_seconds(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	/* Of one process the time stands at the sender. */
	bool is_one = drive->settings->one_process;

	return json_pack("{sf, so}", "sender", results->sender_cpu_seconds, "receiver",
			 real_if(!is_one, results->receiver_cpu_seconds));
}

/* The fields that others rely on. */
static json_t *relied_upon(const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	const struct kvx_shape *shape = &results->shape;
	double seconds = (double)results->transfer_ns / NS_PER_S;
	bool is_stream = drive->settings->workload == KVX_WORKLOAD_STREAM;
	bool is_judged = is_stream && results->exposed_us.count;
	bool has_slice_time = drive->settings->no_copy && results->slices;

	return json_pack(
		"{ss, ss, so, sI, sI, sI, sI, sf, so, sI, ss, sI, so, so, so, so, so, so, so, so, "
		"so, ss}",
		"workload", kvx_workload_name(drive->settings->workload), "transport",
		results->transport, "model", text_or_null(shape->model), "block_bytes",
		(json_int_t)shape->block_bytes, "blocks", (json_int_t)shape->blocks, "layers",
		(json_int_t)shape->layers, "bytes", (json_int_t)results->bytes, "seconds", seconds,
		"gbytes_per_s", real_if(seconds > 0, (double)results->bytes * 1e-9 / seconds),
		"requests", (json_int_t)results->requests, "verify", kvx_report_verify(drive),
		"errors", (json_int_t)results->errors, "latency_us",
		percentiles(&results->latency_ns), "exposed_us",
		median_and_tail(&results->exposed_us), "exposed_ideal_us",
		real_if(is_judged, results->exposed_ideal_us), "hidden_fraction",
		real_if(is_judged, results->hidden_fraction), "request_fixed_us",
		median_and_tail(&results->fixed_us), "engine_ns_per_slice",
		real_if(has_slice_time, (double)results->engine_ns / (double)results->slices),
		"cpu_seconds", cpu_seconds(drive), "baseline", baseline(results),
		"entropy_bits_per_byte", real_if(true, results->entropy_bits), "version",
		kvx_version());
}

static json_t *command_line(const struct kvx_settings *settings)
{
	json_t *array = json_array();

	for (int i = 0; i < settings->argument_count; i++)
		json_array_append_new(array, json_string(settings->arguments[i]));
	return array;
}

/* Null but with verbs. */
static void add_rails(json_t *object, const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	bool is_verbs = results->queue_pairs > 0;

	json_object_set_new(object, "rails", is_verbs ? json_integer(results->rails) : json_null());
	json_object_set_new(object, "queue_pairs",
			    is_verbs ? json_integer(results->queue_pairs) : json_null());
	json_object_set_new(object, "completions_per_request",
			    real_if(is_verbs && results->requests,
				    (double)results->units / (double)results->requests));
	json_object_set_new(object, "ports",
			    is_verbs ? kvx_ports_texts(&drive->session->endpoint.ports)
				     : json_null());
	json_object_set_new(object, "receiver_ports",
			    is_verbs ? json_incref(drive->session->receiver_ports) : json_null());
}

/* What else is worth keeping with a figure. */
static void add_circumstances(json_t *object, const struct kvx_drive *drive)
{
	const struct kvx_results *results = &drive->results;
	bool is_stream = drive->settings->workload == KVX_WORKLOAD_STREAM;
	bool is_remote = drive->settings->command == KVX_COMMAND_RUN;
	uint64_t request_bytes = kvx_shape_request_bytes(&results->shape, results->shape.blocks);
	uint64_t pool_bytes = results->slots * request_bytes;
	char machine[256];
	char table[32];

	kvx_machine_describe(machine, sizeof(machine));
	kvx_blocktable_print(&drive->settings->table, table, sizeof(table));
	json_object_set_new(object, "planes", json_integer(results->shape.planes));
	json_object_set_new(object, "table", json_string(table));
	json_object_set_new(object, "inflight", json_integer(results->inflight));
	json_object_set_new(object, "pool_bytes", json_integer((json_int_t)pool_bytes));
	json_object_set_new(object, "transport_why", json_string(results->why));
	add_rails(object, drive);
	json_object_set_new(object, "slices", json_integer((json_int_t)results->slices));
	json_object_set_new(object, "verified_bytes",
			    json_integer((json_int_t)results->verdict.bytes));
	json_object_set_new(object, "wrong_bytes",
			    json_integer((json_int_t)results->verdict.wrong_bytes));
	json_object_set_new(object, "layer_us", real_if(is_stream, results->layer_us));
	json_object_set_new(object, "goodput_gbytes_per_s", real_if(is_stream, results->goodput));
	json_object_set_new(object, "alpha_delta_us", real_if(is_stream, results->alpha_delta_us));
	json_object_set_new(object, "request_us", median_and_tail(&results->request_us));
	json_object_set_new(object, "clock_error_us", real_if(is_remote, results->clock_error_us));
	json_object_set_new(object, "baseline_runs", numbers(&results->baseline_gbytes_per_s));
	json_object_set_new(object, "baseline_ratios", numbers(&results->baseline_ratios));
	json_object_set_new(object, "machine", json_string(machine));
	json_object_set_new(object, "receiver_machine", json_string(results->receiver_machine));
	json_object_set_new(object, "command", command_line(drive->settings));
}

static int write_object(json_t *object, const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");

	if (!file)
		return kvx_failure_set("json: cannot write %s: %s", path, strerror(errno));
	int error = json_dumpf(object, file, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS));
	fputc('\n', file);
	error |= fflush(file);
	if (file != stdout)
		error |= fclose(file);
	return error ? kvx_failure_set("json: cannot write %s: %s", path, strerror(errno)) : 0;
}

int kvx_report_json(const struct kvx_drive *drive)
{
	if (!drive->settings->json)
		return 0;
	json_t *object = relied_upon(drive);
	if (!object)
		return kvx_failure_set("json: out of memory");
	add_circumstances(object, drive);
	int error = write_object(object, drive->settings->json);
	json_decref(object);
	return error;
}
