/* SPDX-License-Identifier: Apache-2.0 */
/* What all workloads share: endpoints of the right size, and what comes between rounds. */
#ifndef KVX_BENCH_DRIVE_H
#define KVX_BENCH_DRIVE_H

#include "progress.h"
#include "results.h"
#include "round.h"

struct kvx_drive {
	const struct kvx_settings *settings;
	struct kvx_session *session;
	struct kvx_rotation rotation;
	struct kvx_peer *peer;
	struct kvx_progress progress;
	struct kvx_results results;
	FILE *people;      /* where what is for people goes */
	bool is_verifying; /* the receiver was asked and has not answered */
	uint64_t next_payload;
	int64_t begun_ns;
	int64_t alive_ns; /* when the receiver is told next that this end is alive */
	/* Of the round under way: */
	struct kvx_round *round;
	bool is_counted;
	void (*observe)(void *context, const struct kvx_request *request);
	void *observer;
};

void kvx_drive_init(struct kvx_drive *drive, const struct kvx_settings *settings,
		    struct kvx_session *session);
void kvx_drive_finish(struct kvx_drive *drive);

/* Makes endpoints for requests of that shape, connects them and warms them up: each slot is sent
 * once. Returns 0 or -1 (kvx_failure_text()), as all below. */
int kvx_drive_setup(struct kvx_drive *drive, const struct kvx_shape *shape);

/* Fills the slots of the next `requests` requests with something new. */
void kvx_drive_fill(struct kvx_drive *drive, uint32_t requests);

/* Runs a round. is_counted: it is part of the result, and verified if that was asked for. observe:
 * called for each request that was whole; may be NULL. */
int kvx_drive_round(struct kvx_drive *drive, struct kvx_round *round, bool is_counted,
		    void (*observe)(void *context, const struct kvx_request *request),
		    void *observer);

/* Looks how many rails of verbs are up: some come later than the first. */
void kvx_drive_note_rails(struct kvx_drive *drive);

/* Waits until the receiver has verified. */
int kvx_drive_settle(struct kvx_drive *drive);

/* Measures the baseline and sets what was measured just before, in bytes per ns, against it. */
int kvx_drive_baseline(struct kvx_drive *drive, double goodput);

/* Whether the run should go on, as far as errors, signals and --requests say. */
bool kvx_drive_may_continue(const struct kvx_drive *drive);

#endif
