/* SPDX-License-Identifier: Apache-2.0 */
#include "cost.h"

#include <stdlib.h>

static int compare(const void *left, const void *right)
{
	const struct kvx_cost_job *a = left;
	const struct kvx_cost_job *b = right;

	if (a->ready_ns != b->ready_ns)
		return a->ready_ns < b->ready_ns ? -1 : 1;
	if (a->request != b->request)
		return a->request < b->request ? -1 : 1;
	return a->is_last - b->is_last;
}

void kvx_cost_schedule(struct kvx_cost_job *jobs, size_t count)
{
	double free_ns = 0;

	qsort(jobs, count, sizeof(*jobs), compare);
	for (size_t i = 0; i < count; i++) {
		double begin_ns = i && free_ns > jobs[i].ready_ns ? free_ns : jobs[i].ready_ns;
		free_ns = jobs[i].whole_ns = begin_ns + jobs[i].wire_ns;
	}
}

double kvx_cost_goodput(double large_bytes, double large_ns, double small_bytes, double small_ns)
{
	if (large_bytes > small_bytes && large_ns > small_ns)
		return (large_bytes - small_bytes) / (large_ns - small_ns);
	return large_ns > 0 ? large_bytes / large_ns : 0;
}

double kvx_cost_hidden(double exposed_ns, double alone_ns)
{
	double hidden = alone_ns > 0 ? 1 - exposed_ns / alone_ns : 0;

	return hidden < 0 ? 0 : hidden > 1 ? 1 : hidden;
}
