/* SPDX-License-Identifier: Apache-2.0 */
#include "drive.h"

#include "clock.h"
#include "machine.h"

#include <string.h>

#define ALIVE_NS (10 * NS_PER_S) /* between signs of life */
#define ERRORS_SHOWN 5u
#define ERRORS_MAX 16u /* more, and the run ends */

void kvx_drive_init(struct kvx_drive *drive, const struct kvx_settings *settings,
		    struct kvx_session *session)
{
	bool json_on_stdout = settings->json && strcmp(settings->json, "-") == 0;

	memset(drive, 0, sizeof(*drive));
	drive->settings = settings;
	drive->session = session;
	drive->people = json_on_stdout ? stderr : stdout;
	drive->begun_ns = clock_now_ns();
	drive->results.shape = settings->shape;
	memcpy(drive->results.receiver_machine, session->receiver_machine,
	       sizeof(drive->results.receiver_machine));
	drive->results.clock_error_us = (double)session->clock_error_ns / NS_PER_US;
	kvx_progress_init(&drive->progress, drive->people);
}

void kvx_drive_finish(struct kvx_drive *drive)
{
	kvx_peer_close(drive->peer);
	kvx_rotation_finish(&drive->rotation);
	kvx_samples_free(&drive->results.baseline_gbytes_per_s);
	kvx_samples_free(&drive->results.baseline_ratios);
	kvx_samples_free(&drive->results.exposed_us);
	kvx_samples_free(&drive->results.fixed_us);
	kvx_samples_free(&drive->results.request_us);
}

void kvx_drive_fill(struct kvx_drive *drive, uint32_t requests)
{
	struct kvx_endpoint *endpoint = &drive->session->endpoint;

	kvx_progress_show(&drive->progress, "filling");
	for (uint32_t i = 0; i < requests && i < drive->rotation.count; i++) {
		uint32_t slot = kvx_rotation_ahead(&drive->rotation, i);
		drive->rotation.payloads[slot] = drive->next_payload++;
		kvx_endpoint_fill(endpoint, slot, drive->rotation.payloads[slot],
				  endpoint->setup.request_blocks);
	}
}

static void show_error(struct kvx_drive *drive, const struct kvx_request *request)
{
	drive->results.errors++;
	if (drive->results.errors > ERRORS_SHOWN)
		return;
	kvx_progress_show(&drive->progress, NULL);
	fprintf(stderr, "request %llu failed: %s: %s\n", (unsigned long long)request->payload,
		kvx_error_name(request->error), request->text);
}

static void count_request(struct kvx_drive *drive, const struct kvx_request *request)
{
	int64_t whole_ns = request->whole_ns[request->layers - 1];

	for (uint32_t layer = 0; layer < request->layers; layer++) {
		int64_t latency_ns = request->whole_ns[layer] - request->ready_ns[layer];
		kvx_histogram_add(&drive->results.latency_ns,
				  latency_ns > 0 ? (uint64_t)latency_ns : 0);
		kvx_progress_latency(&drive->progress, latency_ns);
	}
	kvx_progress_add(&drive->progress,
			 drive->results.transfer_ns + whole_ns - drive->round->begin_ns,
			 kvx_shape_request_bytes(&drive->results.shape, request->blocks));
}

static void on_ended(void *context, const struct kvx_request *request)
{
	struct kvx_drive *drive = context;

	if (request->error) {
		show_error(drive, request);
		return;
	}
	if (drive->is_counted)
		count_request(drive, request);
	if (drive->observe)
		drive->observe(drive->observer, request);
}

static void on_tick(void *context)
{
	struct kvx_drive *drive = context;

	kvx_progress_show(&drive->progress, drive->is_counted ? "transfer" : "calibrating");
	if (clock_now_ns() < drive->alive_ns)
		return;
	/* If that fails the session is broken, and who waits for the receiver is told. */
	kvx_session_ask(drive->session, json_pack("{ss}", "do", "alive"));
	drive->alive_ns = clock_now_ns() + ALIVE_NS;
}

static uint64_t field(json_t *message, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(message, name));
}

/* What both engines and processes have used so far. */
struct usage {
	double sender_cpu_seconds, receiver_cpu_seconds;
	uint64_t slices, engine_ns;
	uint64_t units; /* that arrived: with verbs one completion each */
};

static int read_usage(struct kvx_drive *drive, struct usage *usage)
{
	struct kvx_stats stats;
	json_t *there = kvx_session_call(drive->session, "stats");

	if (!there)
		return -1;
	kvx_engine_stats(drive->session->endpoint.engine, &stats);
	usage->sender_cpu_seconds = kvx_machine_cpu_seconds();
	usage->receiver_cpu_seconds = json_number_value(json_object_get(there, "cpu_seconds"));
	usage->slices = stats.slices_sent;
	usage->engine_ns = stats.progress_ns + field(there, "progress_ns");
	usage->units = field(there, "units");
	json_decref(there);
	return 0;
}

static void count_round(struct kvx_results *results, const struct kvx_round *round,
			const struct usage *before, const struct usage *after)
{
	results->bytes += round->bytes;
	results->requests += round->completed;
	results->transfer_ns += round->completed ? round->end_ns - round->begin_ns : 0;
	results->sender_cpu_seconds += after->sender_cpu_seconds - before->sender_cpu_seconds;
	results->receiver_cpu_seconds += after->receiver_cpu_seconds - before->receiver_cpu_seconds;
	results->units += after->units - before->units;
	results->slices += after->slices - before->slices;
	results->engine_ns += after->engine_ns - before->engine_ns;
}

void kvx_drive_note_rails(struct kvx_drive *drive)
{
	uint32_t qps = drive->session->endpoint.verbs_qps;
	struct kvx_peer_info info;

	kvx_peer_info(drive->peer, &info);
	if (strcmp(info.transport, "verbs") != 0)
		return;
	drive->results.queue_pairs = info.rails;
	drive->results.rails = (info.rails + qps - 1) / qps;
}

static int run_counted(struct kvx_drive *drive, struct kvx_round *round)
{
	struct usage before, after;

	round->verify = drive->settings->verify;
	if (read_usage(drive, &before) || kvx_round_run(round, drive->session, &drive->rotation) ||
	    read_usage(drive, &after))
		return -1;
	count_round(&drive->results, round, &before, &after);
	kvx_drive_note_rails(drive);
	drive->is_verifying = round->verify;
	if (!round->verify)
		return 0;
	return kvx_session_ask(drive->session, json_pack("{ss}", "do", "verify"));
}

int kvx_drive_round(struct kvx_drive *drive, struct kvx_round *round, bool is_counted,
		    void (*observe)(void *context, const struct kvx_request *request),
		    void *observer)
{
	drive->round = round;
	drive->is_counted = is_counted;
	drive->observe = observe;
	drive->observer = observer;
	round->ready_word = drive->settings->ready_word;
	round->ended = on_ended;
	round->tick = on_tick;
	round->context = drive;
	return is_counted ? run_counted(drive, round)
			  : kvx_round_run(round, drive->session, &drive->rotation);
}

int kvx_drive_settle(struct kvx_drive *drive)
{
	struct kvx_verdict *verdict = &drive->results.verdict;

	if (!drive->is_verifying)
		return 0;
	kvx_progress_show(&drive->progress, "verifying");
	json_t *told = kvx_session_reply(drive->session, "verified");
	if (!told)
		return -1;
	drive->is_verifying = false;
	if (!verdict->wrong_bytes && field(told, "wrong_bytes")) {
		verdict->place.request = field(told, "request");
		verdict->place.layer = (uint32_t)field(told, "layer");
		verdict->place.plane = (uint32_t)field(told, "plane");
		verdict->place.block = (uint32_t)field(told, "block");
		verdict->offset = field(told, "offset");
		verdict->expected = (uint8_t)field(told, "expected");
		verdict->found = (uint8_t)field(told, "found");
	}
	verdict->bytes += field(told, "bytes");
	verdict->wrong_bytes += field(told, "wrong_bytes");
	json_decref(told);
	return 0;
}

bool kvx_drive_may_continue(const struct kvx_drive *drive)
{
	const struct kvx_settings *settings = drive->settings;
	const struct kvx_results *results = &drive->results;

	return !kvx_interrupted && results->errors <= ERRORS_MAX &&
	       (!settings->requests || results->requests + results->errors < settings->requests);
}
