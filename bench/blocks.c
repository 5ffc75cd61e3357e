/* SPDX-License-Identifier: Apache-2.0 */
#include "workloads.h"

#include "clock.h"
#include "report.h"

#define PAIRS 5                        /* of a round and a baseline, at least; */
#define ROUNDS_FOR_PAIRS 8             /* some baselines may fail */
#define REUSED_ROUND_NS (NS_PER_S / 4) /* verified rounds that do not rotate */
#define WALL_FACTOR 4                  /* a run takes so many times the seconds asked for, */
#define WALL_EXTRA_NS (10 * NS_PER_S)  /* and this, at most: filling and verifying cost time too */

static int64_t seconds_ns(const struct kvx_drive *drive)
{
	return (int64_t)(drive->settings->seconds * (double)NS_PER_S);
}

static bool wants_more(const struct kvx_drive *drive, uint32_t rounds)
{
	int64_t limit_ns = seconds_ns(drive);
	bool needs_pairs = drive->settings->baseline && rounds < ROUNDS_FOR_PAIRS &&
			   drive->results.baseline_ratios.count < PAIRS;

	if (!kvx_drive_may_continue(drive))
		return false;
	if (!limit_ns || needs_pairs)
		return true;
	return drive->results.transfer_ns < limit_ns &&
	       clock_now_ns() - drive->begun_ns < WALL_FACTOR * limit_ns + WALL_EXTRA_NS;
}

/* How long or how many requests: verified rounds send each slot once, so that each byte that is
 * verified was sent once. */
static void limit_round(const struct kvx_drive *drive, struct kvx_round *round)
{
	const struct kvx_settings *settings = drive->settings;
	int64_t limit_ns = seconds_ns(drive);

	if (settings->verify && settings->reuse_buffer)
		round->elapsed_ns_max = REUSED_ROUND_NS;
	else if (settings->verify)
		round->requests_max = drive->rotation.count;
	else if (settings->baseline)
		round->elapsed_ns_max = limit_ns ? limit_ns / PAIRS : REUSED_ROUND_NS;
	else
		round->elapsed_ns_max = limit_ns;
	if (!settings->requests)
		return;
	uint32_t left = (uint32_t)(settings->requests - drive->results.requests);
	if (!round->requests_max || left < round->requests_max)
		round->requests_max = left;
}

static int run_round(struct kvx_drive *drive, double *goodput)
{
	struct kvx_round round = {
		.blocks = drive->settings->shape.blocks,
		.inflight = drive->results.inflight,
		.prefetch = true,
		.pace = KVX_PACE_AT_ONCE,
	};

	limit_round(drive, &round);
	if (drive->settings->verify)
		kvx_drive_fill(drive, drive->rotation.count);
	/* The receiver verified meanwhile. */
	if (kvx_drive_settle(drive) || kvx_drive_round(drive, &round, true, NULL, NULL))
		return -1;
	*goodput =
		round.completed ? (double)round.bytes / (double)(round.end_ns - round.begin_ns) : 0;
	return 0;
}

int kvx_workload_blocks(struct kvx_drive *drive)
{
	double goodput = 0;

	if (kvx_drive_setup(drive, &drive->settings->shape))
		return -1;
	kvx_report_header(drive);
	for (uint32_t rounds = 0; wants_more(drive, rounds); rounds++) {
		if (run_round(drive, &goodput))
			return -1;
		if (!drive->settings->baseline)
			continue;
		if (kvx_drive_settle(drive) || kvx_drive_baseline(drive, goodput))
			return -1;
	}
	return kvx_drive_settle(drive);
}
