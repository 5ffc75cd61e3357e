/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles: of any number of values in fixed memory, and of few values exactly. */
#ifndef KVX_BENCH_STATISTICS_H
#define KVX_BENCH_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

/* Each power of two is cut into 128 buckets, so a percentile is at most 0.8 % off. */
#define KVX_HISTOGRAM_BUCKETS ((size_t)58 * 128)

/* All zero is an empty one. */
struct kvx_histogram {
	uint64_t buckets[KVX_HISTOGRAM_BUCKETS];
	uint64_t count;
	uint64_t high; /* exact */
};

void kvx_histogram_add(struct kvx_histogram *histogram, uint64_t value);

/* fraction 0..1. An empty histogram gives 0. */
uint64_t kvx_histogram_percentile(const struct kvx_histogram *histogram, double fraction);

/* A list of values that grows. All zero is an empty one. */
struct kvx_samples {
	double *values;
	size_t count;
	size_t room;
};

/* Drops the value if there is no memory for it. */
void kvx_samples_add(struct kvx_samples *samples, double value);
void kvx_samples_free(struct kvx_samples *samples);

/* Nearest rank; the median of an even number is the mean of both in the middle. An empty list gives
 * 0. */
double kvx_samples_percentile(const struct kvx_samples *samples, double fraction);
double kvx_samples_median(const struct kvx_samples *samples);

/* Bits per byte, from how often each value occurs: 0..8. */
double kvx_entropy_bits(const uint64_t counts[256]);

#endif
