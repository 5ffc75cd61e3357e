/* SPDX-License-Identifier: Apache-2.0 */
#include "statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FINE_BITS 7u

static size_t bucket_of(uint64_t value)
{
	if (value < 1u << FINE_BITS)
		return value;
	unsigned shift = 63u - (unsigned)__builtin_clzll(value) - FINE_BITS;
	/* The top bit of value >> shift is the power of two; the rest is the place in it. */
	return ((size_t)shift << FINE_BITS) + (size_t)(value >> shift);
}

/* The middle of what falls into a bucket. */
static uint64_t value_of(size_t bucket)
{
	if (bucket < 1u << FINE_BITS)
		return bucket;
	unsigned shift = (unsigned)(bucket >> FINE_BITS) - 1;
	uint64_t low = (uint64_t)(bucket - ((size_t)shift << FINE_BITS)) << shift;
	return low + ((UINT64_C(1) << shift) >> 1);
}

void kvx_histogram_add(struct kvx_histogram *histogram, uint64_t value)
{
	histogram->buckets[bucket_of(value)]++;
	histogram->count++;
	if (value > histogram->high)
		histogram->high = value;
}

uint64_t kvx_histogram_percentile(const struct kvx_histogram *histogram, double fraction)
{
	uint64_t rank = (uint64_t)ceil(fraction * (double)histogram->count);
	uint64_t seen = 0;

	if (rank >= histogram->count)
		return histogram->high;
	for (size_t i = 0; i < KVX_HISTOGRAM_BUCKETS; i++) {
		seen += histogram->buckets[i];
		if (seen >= rank && seen)
			return value_of(i) < histogram->high ? value_of(i) : histogram->high;
	}
	return histogram->high;
}

void kvx_samples_add(struct kvx_samples *samples, double value)
{
	if (samples->count == samples->room) {
		size_t room = samples->room ? samples->room * 2 : 64;
		double *values = realloc(samples->values, room * sizeof(*values));
		if (!values)
			return;
		samples->values = values;
		samples->room = room;
	}
	samples->values[samples->count++] = value;
}

void kvx_samples_free(struct kvx_samples *samples)
{
	free(samples->values);
	memset(samples, 0, sizeof(*samples));
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left;
	double b = *(const double *)right;

	return (a > b) - (a < b);
}

static double *sorted(const struct kvx_samples *samples)
{
	double *copy = samples->count ? malloc(samples->count * sizeof(*copy)) : NULL;

	if (!copy)
		return NULL;
	memcpy(copy, samples->values, samples->count * sizeof(*copy));
	qsort(copy, samples->count, sizeof(*copy), compare);
	return copy;
}

double kvx_samples_percentile(const struct kvx_samples *samples, double fraction)
{
	double *values = sorted(samples);
	size_t rank = (size_t)ceil(fraction * (double)samples->count);

	if (!values)
		return 0;
	double value = values[rank > 0 ? rank - 1 : 0];
	free(values);
	return value;
}

double kvx_samples_median(const struct kvx_samples *samples)
{
	double *values = sorted(samples);

	if (!values)
		return 0;
	double value = (values[(samples->count - 1) / 2] + values[samples->count / 2]) / 2;
	free(values);
	return value;
}

double kvx_entropy_bits(const uint64_t counts[256])
{
	uint64_t total = 0;
	double bits = 0;

	for (int i = 0; i < 256; i++)
		total += counts[i];
	for (int i = 0; i < 256; i++) {
		double share = (double)counts[i] / (double)(total ? total : 1);
		if (counts[i])
			bits -= share * log2(share);
	}
	return bits > 0 ? bits : 0;
}
