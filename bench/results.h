/* SPDX-License-Identifier: Apache-2.0 */
/* What a run measured: the input of its reports. */
#ifndef KVX_BENCH_RESULTS_H
#define KVX_BENCH_RESULTS_H

#include "endpoint.h"
#include "statistics.h"

struct kvx_results {
	struct kvx_shape shape;
	uint32_t slots;
	uint32_t inflight; /* less than asked for if memory is short */
	char transport[32];
	char why[KVX_ERROR_TEXT_MAX + 1]; /* this transport */
	/* With verbs; else queue_pairs is 0. */
	uint32_t queue_pairs; /* up, of all rails */
	uint32_t rails;       /* pairs of ports */
	char receiver_machine[256];
	double clock_error_us; /* 0: one clock */

	uint64_t bytes; /* whole at the receiver */
	uint64_t requests;
	uint64_t errors;
	int64_t transfer_ns;
	struct kvx_histogram latency_ns; /* a layer's ready to the receiver's wait returning */
	struct kvx_verdict verdict;
	double entropy_bits;
	double sender_cpu_seconds, receiver_cpu_seconds;
	uint64_t slices, engine_ns; /* engine_ns: of both engines */
	uint64_t units;             /* that arrived */

	const char *baseline_name; /* NULL: not measured */
	struct kvx_samples baseline_gbytes_per_s;
	struct kvx_samples baseline_ratios;

	/* Of stream. */
	double layer_us;
	double goodput; /* bytes per ns, calibrated */
	double alpha_delta_us;
	double exposed_ideal_us;
	double hidden_fraction;
	struct kvx_samples exposed_us;
	struct kvx_samples fixed_us;

	/* Of latency. */
	struct kvx_samples request_us; /* asking for a grant to whole */
};

#endif
