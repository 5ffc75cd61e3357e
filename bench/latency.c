/* SPDX-License-Identifier: Apache-2.0 */
#include "workloads.h"

#include "clock.h"
#include "report.h"

#define LAYERS_PHASE_SHARE 0.7 /* of the time; the rest is for whole requests */

static void note_request(void *context, const struct kvx_request *request)
{
	struct kvx_drive *drive = context;

	kvx_samples_add(&drive->results.request_us,
			(double)(request->whole_ns[0] - request->asked_ns) / NS_PER_US);
}

/* Rounds of one request at a time until the time is over. Verified ones send each slot once. */
static int run_phase(struct kvx_drive *drive, double seconds, bool is_counted,
		     void (*observe)(void *context, const struct kvx_request *request))
{
	int64_t end_ns = clock_now_ns() + (int64_t)(seconds * (double)NS_PER_S);
	uint64_t requests = 0;

	while (kvx_drive_may_continue(drive) && clock_now_ns() < end_ns &&
	       (!drive->settings->requests || requests < drive->settings->requests)) {
		struct kvx_round round = {
			.blocks = 1,
			.elapsed_ns_max = end_ns - clock_now_ns(),
			.inflight = 1,
			.pace = KVX_PACE_DELIVERED,
			.layer_ns = (int64_t)drive->settings->gap_us * NS_PER_US,
		};
		bool is_verified = is_counted && drive->settings->verify;
		uint32_t left = (uint32_t)(drive->settings->requests - requests);
		round.requests_max = is_verified ? drive->rotation.count : 0;
		if (drive->settings->requests && (!round.requests_max || left < round.requests_max))
			round.requests_max = left;
		if (is_verified)
			kvx_drive_fill(drive, drive->rotation.count);
		if (kvx_drive_settle(drive) ||
		    kvx_drive_round(drive, &round, is_counted, observe, drive))
			return -1;
		requests += round.started;
	}
	return kvx_drive_settle(drive);
}

int kvx_workload_latency(struct kvx_drive *drive)
{
	struct kvx_shape shape = drive->settings->shape;
	double seconds = drive->settings->seconds > 0 ? drive->settings->seconds : 3600;

	/* Requests from asking to whole: a pool of one layer. */
	shape.layers = 1;
	if (kvx_drive_setup(drive, &shape) ||
	    run_phase(drive, seconds * (1 - LAYERS_PHASE_SHARE), false, note_request))
		return -1;
	/* Layers of open streams: the operation that a decode worker waits for. */
	if (kvx_drive_setup(drive, &drive->settings->shape))
		return -1;
	kvx_report_header(drive);
	return run_phase(drive, seconds * LAYERS_PHASE_SHARE, true, NULL);
}
