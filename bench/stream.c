/* SPDX-License-Identifier: Apache-2.0 */
#include "workloads.h"

#include "calibration.h"
#include "clock.h"
#include "cost.h"
#include "report.h"
#include "timeline.h"

#include <stdlib.h>
#include <string.h>

#define SETS_FIRST 3 /* calibrations before the first round: a factor of wire time needs them */
#define PAIRS 5      /* of calibration and baseline, at least */
#define ROUNDS 5     /* that the requests are spread over, with a calibration after each */

/* A request that was whole: what the cost model is compared with. */
struct record {
	uint32_t round;
	int64_t opened_ns;
	int64_t *ready_ns; /* with first_ns and whole_ns in one piece of memory */
	int64_t *first_ns;
	int64_t *whole_ns;
};

struct run {
	struct kvx_drive *drive;
	struct kvx_calibration calibration;
	struct record *records;
	size_t record_count, record_room;
	uint32_t round;
	uint32_t sets;
	int64_t layer_ns;
};

static uint32_t layers_of(const struct run *run)
{
	return run->drive->results.shape.layers;
}

static void note_request(void *context, const struct kvx_request *request)
{
	struct run *run = context;
	size_t bytes = request->layers * sizeof(int64_t);
	int64_t *times = malloc(3 * bytes);

	if (!times || run->record_count == run->record_room) {
		free(times);
		return;
	}
	struct record *record = &run->records[run->record_count++];
	*record = (struct record){run->round, request->opened_ns, times, times + request->layers,
				  times + (size_t)2 * request->layers};
	memcpy(record->ready_ns, request->ready_ns, bytes);
	memcpy(record->first_ns, request->first_ns, bytes);
	memcpy(record->whole_ns, request->whole_ns, bytes);
}

static int calibrate(struct run *run)
{
	struct kvx_drive *drive = run->drive;
	const struct kvx_shape *shape = &drive->results.shape;

	if (kvx_calibration_run(&run->calibration, drive))
		return -1;
	run->sets++;
	if (!drive->settings->baseline || run->calibration.last_large_ns <= 0)
		return 0;
	return kvx_drive_baseline(drive, (double)kvx_shape_request_bytes(shape, shape->blocks) /
						 run->calibration.last_large_ns);
}

static void choose_layer_time(struct run *run)
{
	struct kvx_drive *drive = run->drive;
	const struct kvx_shape *shape = &drive->results.shape;
	double factor = drive->settings->layer_factor;
	double goodput = kvx_calibration_goodput(&run->calibration, shape);
	double layer_ns = drive->settings->layer_us * NS_PER_US;

	/* Requests in flight share the link, so each sees as many times the wire time. */
	if (factor > 0 && goodput > 0)
		layer_ns = factor * drive->results.inflight *
			   (double)kvx_shape_layer_bytes(shape, shape->blocks) / goodput;
	drive->results.layer_us = layer_ns / NS_PER_US;
	run->layer_ns = (int64_t)layer_ns;
}

static uint32_t round_requests(const struct run *run)
{
	const struct kvx_drive *drive = run->drive;
	uint64_t left = drive->settings->requests - drive->results.requests;
	uint64_t share = (drive->settings->requests + ROUNDS - 1) / ROUNDS;

	if (share < drive->results.inflight)
		share = drive->results.inflight;
	if (share > drive->rotation.count)
		share = drive->rotation.count;
	return (uint32_t)(share < left ? share : left);
}

static int run_round(struct run *run)
{
	struct kvx_drive *drive = run->drive;
	struct kvx_round round = {
		.blocks = drive->results.shape.blocks,
		.requests_max = round_requests(run),
		.inflight = drive->results.inflight,
		.prefetch = true,
		.timeline = drive->settings->timeline,
		.pace = run->layer_ns ? KVX_PACE_DUE : KVX_PACE_AT_ONCE,
		.layer_ns = run->layer_ns,
	};

	if (drive->settings->verify)
		kvx_drive_fill(drive, round.requests_max);
	if (kvx_drive_round(drive, &round, true, note_request, run) || kvx_drive_settle(drive))
		return -1;
	run->round++;
	return 0;
}

static bool wants_more(const struct run *run)
{
	const struct kvx_drive *drive = run->drive;
	double limit_ns = drive->settings->seconds * (double)NS_PER_S;

	return kvx_drive_may_continue(drive) &&
	       (limit_ns <= 0 || (double)drive->results.transfer_ns < limit_ns);
}

static int run_all(struct run *run)
{
	uint32_t sets_min = run->drive->settings->baseline ? PAIRS : SETS_FIRST;

	while (run->sets < SETS_FIRST && !kvx_interrupted)
		if (calibrate(run))
			return -1;
	choose_layer_time(run);
	kvx_report_header(run->drive);
	while (wants_more(run))
		if (run_round(run) || calibrate(run))
			return -1;
	while (run->sets < sets_min && !kvx_interrupted)
		if (calibrate(run))
			return -1;
	return 0;
}

/* Lets the cost model's link carry the layers of all requests of one round: they shared it. */
static void judge_round(const struct run *run, const struct record *records, size_t count,
			struct kvx_cost_job *jobs, struct kvx_samples *ideal_us)
{
	const struct kvx_results *results = &run->drive->results;
	uint32_t layers = layers_of(run);
	double wire_ns = (double)kvx_shape_layer_bytes(&results->shape, results->shape.blocks) /
			 results->goodput;

	for (size_t i = 0; i < count * layers; i++) {
		const struct record *record = &records[i / layers];
		jobs[i] = (struct kvx_cost_job){
			.ready_ns = (double)(record->ready_ns[i % layers] - records[0].opened_ns),
			.wire_ns = wire_ns,
			.request = (uint32_t)(i / layers),
			.is_last = i % layers == layers - 1,
		};
	}
	kvx_cost_schedule(jobs, count * layers);
	for (size_t i = 0; i < count * layers; i++)
		if (jobs[i].is_last)
			kvx_samples_add(ideal_us,
					(jobs[i].whole_ns - jobs[i].ready_ns) / NS_PER_US +
						results->alpha_delta_us);
}

static size_t round_end(const struct run *run, size_t from)
{
	size_t to = from;

	while (to < run->record_count && run->records[to].round == run->records[from].round)
		to++;
	return to;
}

static void judge_exposed(struct run *run)
{
	struct kvx_results *results = &run->drive->results;
	struct kvx_samples ideal_us = {0};
	uint32_t last = layers_of(run) - 1;
	struct kvx_cost_job *jobs = malloc(run->record_count * layers_of(run) * sizeof(*jobs));

	for (size_t i = 0; i < run->record_count; i++)
		kvx_samples_add(&results->exposed_us, (double)(run->records[i].whole_ns[last] -
							       run->records[i].ready_ns[last]) /
							      NS_PER_US);
	for (size_t from = 0; jobs && from < run->record_count; from = round_end(run, from))
		judge_round(run, &run->records[from], round_end(run, from) - from, jobs, &ideal_us);
	results->exposed_ideal_us = kvx_samples_median(&ideal_us);
	kvx_samples_free(&ideal_us);
	free(jobs);
}

static void judge(struct run *run)
{
	struct kvx_results *results = &run->drive->results;
	const struct kvx_shape *shape = &results->shape;
	double bytes = (double)kvx_shape_request_bytes(shape, shape->blocks);

	results->goodput = kvx_calibration_goodput(&run->calibration, shape);
	if (results->goodput <= 0)
		return;
	double alone_ns = bytes / results->goodput;
	results->alpha_delta_us =
		kvx_calibration_alpha_delta_ns(&run->calibration, shape, results->goodput) /
		NS_PER_US;
	for (size_t i = 0; i < run->calibration.large_ns.count; i++)
		kvx_samples_add(&results->fixed_us,
				(run->calibration.large_ns.values[i] - alone_ns) / NS_PER_US);
	if (!run->record_count)
		return;
	judge_exposed(run);
	results->hidden_fraction =
		kvx_cost_hidden(kvx_samples_median(&results->exposed_us) * NS_PER_US, alone_ns);
}

static void draw(const struct run *run)
{
	const struct record *last = run->record_count ? &run->records[run->record_count - 1] : NULL;

	kvx_progress_finish(&run->drive->progress);
	if (!last || !run->drive->settings->timeline)
		return;
	kvx_timeline_draw(&(struct kvx_timeline){.layers = layers_of(run),
						 .ready_ns = last->ready_ns,
						 .first_ns = last->first_ns,
						 .whole_ns = last->whole_ns,
						 .begin_ns = last->opened_ns},
			  run->drive->people);
}

int kvx_workload_stream(struct kvx_drive *drive)
{
	struct run run = {.drive = drive, .record_room = drive->settings->requests};

	run.records = calloc(run.record_room, sizeof(*run.records));
	if (!run.records)
		return kvx_failure_set("stream: no memory for %zu requests", run.record_room);
	int error = kvx_drive_setup(drive, &drive->settings->shape) || run_all(&run) ? -1 : 0;
	if (!error)
		judge(&run);
	if (!error)
		draw(&run);
	for (size_t i = 0; i < run.record_count; i++)
		free(run.records[i].ready_ns);
	free(run.records);
	kvx_calibration_finish(&run.calibration);
	return error;
}
