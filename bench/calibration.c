/* SPDX-License-Identifier: Apache-2.0 */
#include "calibration.h"

#include "clock.h"
#include "cost.h"

#define SMALL_PART 8                     /* a small request is this part of a large one */
#define SET_NS (100 * NS_PER_MS)         /* that the large requests of a set may take */
#define REPEAT_MAX 50u                   /* and how many they are at most */
#define PROBE_LAYER_NS (500 * NS_PER_US) /* engines sleep between layers, as with compute */

struct gathering {
	struct kvx_samples *all_ns;
	struct kvx_samples now_ns;
};

static void note_request(void *context, const struct kvx_request *request)
{
	struct gathering *gathering = context;
	int64_t took_ns = request->whole_ns[request->layers - 1] - request->opened_ns;

	kvx_samples_add(gathering->all_ns, (double)took_ns);
	kvx_samples_add(&gathering->now_ns, (double)took_ns);
}

static void note_layers(void *context, const struct kvx_request *request)
{
	struct kvx_samples *layer_ns = context;

	for (uint32_t layer = 0; layer < request->layers; layer++)
		kvx_samples_add(layer_ns,
				(double)(request->whole_ns[layer] - request->ready_ns[layer]));
}

/* Requests at once, one after another; *took_ns receives the median of these. */
static int run_requests(struct kvx_drive *drive, uint32_t blocks, uint32_t requests,
			struct kvx_samples *all_ns, double *took_ns)
{
	struct gathering gathering = {.all_ns = all_ns};
	struct kvx_round round = {
		.blocks = blocks,
		.requests_max = requests,
		.inflight = 1,
		.pace = KVX_PACE_AT_ONCE,
	};
	int error = kvx_drive_round(drive, &round, false, note_request, &gathering);

	*took_ns = kvx_samples_median(&gathering.now_ns);
	kvx_samples_free(&gathering.now_ns);
	return error;
}

static int run_probe(struct kvx_calibration *calibration, struct kvx_drive *drive)
{
	struct kvx_round round = {
		.blocks = 1,
		.requests_max = 1,
		.inflight = 1,
		.pace = KVX_PACE_DUE,
		.layer_ns = PROBE_LAYER_NS,
	};

	return kvx_drive_round(drive, &round, false, note_layers, &calibration->layer_ns);
}

static uint32_t repeats(double large_ns)
{
	double fit = large_ns > 0 ? (double)SET_NS / large_ns : 1;

	return fit < 1 ? 1 : fit > REPEAT_MAX ? REPEAT_MAX : (uint32_t)fit;
}

int kvx_calibration_run(struct kvx_calibration *calibration, struct kvx_drive *drive)
{
	uint32_t blocks = drive->results.shape.blocks;
	uint32_t repeat = repeats(calibration->last_large_ns);
	double small_ns;

	calibration->small_blocks = blocks < SMALL_PART ? 1 : blocks / SMALL_PART;
	if (run_requests(drive, calibration->small_blocks, repeat, &calibration->small_ns,
			 &small_ns) ||
	    run_requests(drive, blocks, repeat, &calibration->large_ns,
			 &calibration->last_large_ns))
		return -1;
	return run_probe(calibration, drive);
}

double kvx_calibration_goodput(const struct kvx_calibration *calibration,
			       const struct kvx_shape *shape)
{
	return kvx_cost_goodput((double)kvx_shape_request_bytes(shape, shape->blocks),
				kvx_samples_median(&calibration->large_ns),
				(double)kvx_shape_request_bytes(shape, calibration->small_blocks),
				kvx_samples_median(&calibration->small_ns));
}

double kvx_calibration_alpha_delta_ns(const struct kvx_calibration *calibration,
				      const struct kvx_shape *shape, double goodput)
{
	double wire_ns = (double)kvx_shape_layer_bytes(shape, 1) / goodput;
	double beyond_ns = kvx_samples_median(&calibration->layer_ns) - wire_ns;

	return beyond_ns > 0 ? beyond_ns : 0;
}

void kvx_calibration_finish(struct kvx_calibration *calibration)
{
	kvx_samples_free(&calibration->large_ns);
	kvx_samples_free(&calibration->small_ns);
	kvx_samples_free(&calibration->layer_ns);
}
