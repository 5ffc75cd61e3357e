/* SPDX-License-Identifier: Apache-2.0 */
#include "statistics.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static void assert_near(double found, double expected, double share)
{
	cr_assert(found >= expected * (1 - share) && found <= expected * (1 + share),
		  "%g is not %g", found, expected);
}

Test(bench_statistics, a_histogram_is_less_than_one_percent_off)
{
	struct kvx_histogram *histogram = calloc(1, sizeof(*histogram));

	for (uint64_t value = 1; value <= 1000000; value++)
		kvx_histogram_add(histogram, value * 37);
	for (int percent = 1; percent < 100; percent += 7)
		assert_near((double)kvx_histogram_percentile(histogram, percent / 100.0),
			    percent * 37e4, 0.01);
	cr_assert_eq(kvx_histogram_percentile(histogram, 1), 37000000);
	cr_assert_eq(histogram->count, 1000000);
	free(histogram);
}

Test(bench_statistics, small_and_extreme_values_are_exact)
{
	static const uint64_t values[] = {0, 1, 2, 127, 128, 255, 256, UINT64_MAX};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct kvx_histogram *histogram = calloc(1, sizeof(*histogram));
		kvx_histogram_add(histogram, values[i]);
		cr_assert_eq(kvx_histogram_percentile(histogram, 0.5), values[i]);
		free(histogram);
	}
}

Test(bench_statistics, an_empty_histogram_is_zero)
{
	struct kvx_histogram *histogram = calloc(1, sizeof(*histogram));

	cr_assert_eq(kvx_histogram_percentile(histogram, 0.5), 0);
	free(histogram);
}

Test(bench_statistics, medians_and_percentiles_of_few_values_are_exact)
{
	struct kvx_samples samples = {0};

	cr_assert_eq(kvx_samples_median(&samples), 0);
	for (int i = 100; i >= 1; i--)
		kvx_samples_add(&samples, i);
	cr_assert_eq(kvx_samples_median(&samples), 50.5);
	cr_assert_eq(kvx_samples_percentile(&samples, 0.99), 99);
	cr_assert_eq(kvx_samples_percentile(&samples, 1), 100);
	cr_assert_eq(kvx_samples_percentile(&samples, 0), 1);
	kvx_samples_add(&samples, 1000);
	cr_assert_eq(kvx_samples_median(&samples), 51);
	kvx_samples_free(&samples);
	cr_assert_eq(samples.count, 0);
}

Test(bench_statistics, entropy_is_zero_for_one_value_and_eight_for_all)
{
	uint64_t counts[256] = {0};

	cr_assert_eq(kvx_entropy_bits(counts), 0);
	counts[65] = 1000;
	cr_assert_eq(kvx_entropy_bits(counts), 0);
	counts[66] = 1000;
	assert_near(kvx_entropy_bits(counts), 1, 1e-9);
	for (int i = 0; i < 256; i++)
		counts[i] = 3;
	assert_near(kvx_entropy_bits(counts), 8, 1e-9);
}
