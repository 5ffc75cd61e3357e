/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the cost model needs, measured in the run itself between its rounds: requests of the same
 * shape without compute, smaller ones, and layers of one block. Goodput is what the blocks between
 * the larger and the smaller took; alpha + delta what a layer of one block takes beyond its bytes.
 */
#ifndef KVX_BENCH_CALIBRATION_H
#define KVX_BENCH_CALIBRATION_H

#include "drive.h"

struct kvx_calibration {
	struct kvx_samples large_ns; /* opening to all whole */
	struct kvx_samples small_ns;
	struct kvx_samples layer_ns; /* of one block: ready to whole */
	uint32_t small_blocks;
	double last_large_ns; /* median of the last set */
};

void kvx_calibration_finish(struct kvx_calibration *calibration);

/* One set of requests, alone. Returns 0 or -1 (kvx_failure_text()). */
int kvx_calibration_run(struct kvx_calibration *calibration, struct kvx_drive *drive);

/* Bytes per ns, of all sets so far; 0 without any. */
double kvx_calibration_goodput(const struct kvx_calibration *calibration,
			       const struct kvx_shape *shape);

double kvx_calibration_alpha_delta_ns(const struct kvx_calibration *calibration,
				      const struct kvx_shape *shape, double goodput);

#endif
