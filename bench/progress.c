/* SPDX-License-Identifier: Apache-2.0 */
#include "progress.h"

#include "clock.h"

#include <string.h>
#include <unistd.h>

#define SHORTEST_ROW_NS                                                           \
	(50 * NS_PER_MS) /* the rest of a second after which a row says something \
			  */

void kvx_progress_init(struct kvx_progress *progress, FILE *rows)
{
	memset(progress, 0, sizeof(*progress));
	progress->rows = rows;
	progress->has_terminal = isatty(STDERR_FILENO);
}

static double us(const struct kvx_histogram *latency_ns, double fraction)
{
	return (double)kvx_histogram_percentile(latency_ns, fraction) / (double)NS_PER_US;
}

static void print_row(struct kvx_progress *progress, int64_t length_ns)
{
	kvx_progress_show(progress, NULL);
	if (!progress->has_header)
		fprintf(progress->rows, "%8s %9s %10s %12s %12s\n", "second", "GB/s", "requests",
			"p50 us", "p99 us");
	progress->has_header = true;
	fprintf(progress->rows, "%8u %9.2f %10llu %12.1f %12.1f\n", progress->second + 1,
		(double)progress->bytes / (double)length_ns, (unsigned long long)progress->requests,
		us(&progress->latency_ns, 0.5), us(&progress->latency_ns, 0.99));
	fflush(progress->rows);
	progress->bytes = 0;
	progress->requests = 0;
	memset(&progress->latency_ns, 0, sizeof(progress->latency_ns));
}

void kvx_progress_latency(struct kvx_progress *progress, int64_t latency_ns)
{
	kvx_histogram_add(&progress->latency_ns, latency_ns > 0 ? (uint64_t)latency_ns : 0);
}

void kvx_progress_add(struct kvx_progress *progress, int64_t elapsed_ns, uint64_t bytes)
{
	progress->bytes += bytes;
	progress->requests++;
	progress->total_bytes += bytes;
	if (elapsed_ns > progress->elapsed_ns)
		progress->elapsed_ns = elapsed_ns;
	uint32_t second = (uint32_t)(progress->elapsed_ns / NS_PER_S);
	if (second == progress->second)
		return;
	/* A request may take longer than a second; then the row stands for all of them. */
	print_row(progress, (second - progress->second) * NS_PER_S);
	progress->second = second;
}

void kvx_progress_finish(struct kvx_progress *progress)
{
	int64_t length_ns = progress->elapsed_ns - progress->second * NS_PER_S;

	if (progress->requests && (length_ns > SHORTEST_ROW_NS || !progress->has_header))
		print_row(progress, length_ns > 0 ? length_ns : 1);
	kvx_progress_show(progress, NULL);
}

void kvx_progress_show(struct kvx_progress *progress, const char *doing)
{
	double elapsed_ns = progress->elapsed_ns > 0 ? (double)progress->elapsed_ns : 1;

	if (!progress->has_terminal)
		return;
	fprintf(stderr, "\r\033[K");
	if (doing)
		fprintf(stderr, "%s: %.1f s of transfer, %.2f GB/s", doing,
			(double)progress->elapsed_ns / (double)NS_PER_S,
			(double)progress->total_bytes / elapsed_ns);
	fflush(stderr);
}
