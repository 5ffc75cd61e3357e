/* SPDX-License-Identifier: Apache-2.0 */
#include "timeline.h"

#include "clock.h"

#include <stdbool.h>

#define BAR_COLUMNS 56
#define ROWS_MAX 64u /* of more layers, only some are drawn */

#define COMPUTE "\u2591"
#define WAITING "\u2500"
#define MOVING "\u2588"

static double ms(int64_t ns)
{
	return (double)ns / (double)NS_PER_MS;
}

static int column_of(int64_t ns, int64_t span_ns)
{
	int column = (int)(ns * BAR_COLUMNS / span_ns);

	return column < 0 ? 0 : column >= BAR_COLUMNS ? BAR_COLUMNS - 1 : column;
}

/* When the first byte had come. What was not seen came just before the layer was whole. */
static int64_t first_of(const struct kvx_timeline *timeline, uint32_t layer)
{
	int64_t first_ns = timeline->first_ns[layer];

	return first_ns && first_ns < timeline->whole_ns[layer] ? first_ns
								: timeline->whole_ns[layer];
}

static void draw_bar(const struct kvx_timeline *timeline, uint32_t layer, int64_t span_ns,
		     FILE *file)
{
	int64_t begin_ns = timeline->begin_ns;
	int64_t computed_from_ns = layer ? timeline->ready_ns[layer - 1] : begin_ns;
	int compute = column_of(computed_from_ns - begin_ns, span_ns);
	int ready = column_of(timeline->ready_ns[layer] - begin_ns, span_ns);
	int first = column_of(first_of(timeline, layer) - begin_ns, span_ns);
	int whole = column_of(timeline->whole_ns[layer] - begin_ns, span_ns);

	for (int column = 0; column <= whole; column++) {
		bool moves = column >= first;
		bool waits = column >= ready;
		bool computes = column >= compute;
		fputs(moves ? MOVING : waits ? WAITING : computes ? COMPUTE : " ", file);
	}
	fputc('\n', file);
}

static void draw_row(const struct kvx_timeline *timeline, uint32_t layer, int64_t span_ns,
		     FILE *file)
{
	int64_t begin_ns = timeline->begin_ns;

	fprintf(file, "%5u %10.2f %10.2f %10.2f  ", layer, ms(timeline->ready_ns[layer] - begin_ns),
		ms(first_of(timeline, layer) - begin_ns), ms(timeline->whole_ns[layer] - begin_ns));
	draw_bar(timeline, layer, span_ns, file);
}

static int64_t last_whole_ns(const struct kvx_timeline *timeline)
{
	int64_t last_ns = timeline->begin_ns + 1;

	for (uint32_t layer = 0; layer < timeline->layers; layer++)
		if (timeline->whole_ns[layer] > last_ns)
			last_ns = timeline->whole_ns[layer];
	return last_ns;
}

void kvx_timeline_draw(const struct kvx_timeline *timeline, FILE *file)
{
	int64_t span_ns = last_whole_ns(timeline) - timeline->begin_ns;
	uint32_t step = (timeline->layers + ROWS_MAX - 1) / ROWS_MAX;

	fprintf(file, "\n%5s %10s %10s %10s  %s\n", "layer", "ready ms", "first byte", "whole ms",
		COMPUTE " compute  " WAITING " ready, waiting  " MOVING " moving");
	for (uint32_t layer = 0; layer < timeline->layers; layer++)
		/* The last layer is the one that shows. */
		if (layer % step == 0 || layer + 1 == timeline->layers)
			draw_row(timeline, layer, span_ns, file);
	fprintf(file, "%40s%-28s%28.1f ms\n", "", "0", ms(span_ns));
}
