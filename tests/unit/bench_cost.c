/* SPDX-License-Identifier: Apache-2.0 */
#include "cost.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define LAYERS 40

static void assert_near(double found, double expected)
{
	cr_assert(found > expected - 1e-6 && found < expected + 1e-6, "%f is not %f", found,
		  expected);
}

/* max over k of (sum of X from k on - sum of C after k), as the model is written down. */
static double exposed_by_formula(const double *wire, const double *compute)
{
	double worst = 0;

	for (int k = 0; k < LAYERS; k++) {
		double sum = 0;
		for (int i = k; i < LAYERS; i++)
			sum += wire[i] - (i > k ? compute[i] : 0);
		worst = k == 0 || sum > worst ? sum : worst;
	}
	return worst;
}

static double exposed_by_schedule(const double *wire, const double *compute)
{
	struct kvx_cost_job jobs[LAYERS];
	double ready_ns = 0;

	for (int i = 0; i < LAYERS; i++) {
		ready_ns += compute[i];
		jobs[i] = (struct kvx_cost_job){.ready_ns = ready_ns, .wire_ns = wire[i]};
	}
	kvx_cost_schedule(jobs, LAYERS);
	return jobs[LAYERS - 1].whole_ns - ready_ns;
}

Test(bench_cost, one_request_is_exposed_as_the_formula_says)
{
	unsigned seed = 20261121;

	for (int round = 0; round < 200; round++) {
		double wire[LAYERS], compute[LAYERS];
		for (int i = 0; i < LAYERS; i++) {
			wire[i] = 1 + rand_r(&seed) % 1000;
			compute[i] = 1 + rand_r(&seed) % (round % 2 ? 3000 : 1000);
		}
		assert_near(exposed_by_schedule(wire, compute), exposed_by_formula(wire, compute));
	}
}

Test(bench_cost, with_enough_compute_only_the_last_layer_shows)
{
	double wire[LAYERS], compute[LAYERS];

	for (int i = 0; i < LAYERS; i++) {
		wire[i] = 100;
		compute[i] = 150;
	}
	assert_near(exposed_by_schedule(wire, compute), 100);
}

Test(bench_cost, requests_in_flight_share_the_link)
{
	struct kvx_cost_job jobs[] = {
		{.ready_ns = 0, .wire_ns = 100, .request = 0},
		{.ready_ns = 0, .wire_ns = 100, .request = 1, .is_last = true},
		{.ready_ns = 50, .wire_ns = 100, .request = 0, .is_last = true},
	};

	kvx_cost_schedule(jobs, 3);
	assert_near(jobs[0].whole_ns, 100);
	assert_near(jobs[1].whole_ns, 200);
	assert_near(jobs[2].whole_ns, 300);
	cr_assert_eq(jobs[2].request, 0);
}

Test(bench_cost, goodput_leaves_out_what_every_request_costs)
{
	assert_near(kvx_cost_goodput(10000, 50 + 1000, 1000, 50 + 100), 10);
	/* No smaller request, or times that cannot be: from the larger alone. */
	assert_near(kvx_cost_goodput(10000, 1000, 10000, 1000), 10);
	assert_near(kvx_cost_goodput(10000, 1000, 1000, 1100), 10);
	assert_near(kvx_cost_goodput(10000, 0, 1000, 0), 0);
}

Test(bench_cost, the_hidden_share_is_between_nothing_and_all)
{
	assert_near(kvx_cost_hidden(0, 100), 1);
	assert_near(kvx_cost_hidden(25, 100), 0.75);
	assert_near(kvx_cost_hidden(250, 100), 0);
	assert_near(kvx_cost_hidden(-5, 100), 1);
	assert_near(kvx_cost_hidden(5, 0), 0);
}
