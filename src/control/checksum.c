/* SPDX-License-Identifier: Apache-2.0 */
#include "control/checksum.h"

#include "base/error.h"
#include "base/list.h"
#include "control/handlers.h"
#include "control/json.h"
#include "control/objects.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define SUMS_MAX 4u                       /* computed at once */
#define SUM_BYTES_MAX (UINT64_C(4) << 30) /* of one request: about a second */
#define SUM_WAIT_MS 60000u                /* for a machine that is busy with other things */
#define SUM_TICKS_MAX 5u                  /* that the answer waits for its request */

/* Owner: the server's thread; the sum's own thread until it has set `done`. */
struct sum {
	struct kvx_list entry;
	struct kvx_control *control;
	pthread_t thread;
	uint64_t number; /* of its request */
	uint32_t ticks;  /* since it was done */

	struct kvx_pool *pool; /* held */
	uint32_t *blocks, count, layers;
	uint64_t *sums;
	int error;
	char text[KVX_ERROR_TEXT_MAX + 1];
	atomic_bool done; /* stored with release after sums, error and text */
};

struct kvx_sums {
	struct kvx_list list;
	uint32_t count;
	uint64_t last;
};

struct kvx_sums *kvx_sums_open(void)
{
	struct kvx_sums *sums = calloc(1, sizeof(*sums));

	if (!sums)
		return NULL;
	kvx_list_init(&sums->list);
	return sums;
}

/* Of one that is in no list. */
static void free_sum(struct sum *sum)
{
	if (sum->pool)
		kvx_pool_release(sum->pool);
	free(sum->blocks);
	free(sum->sums);
	free(sum);
}

/* Waits for its thread. */
static void end_sum(struct kvx_sums *sums, struct sum *sum)
{
	pthread_join(sum->thread, NULL);
	kvx_list_remove(&sum->entry);
	sums->count--;
	free_sum(sum);
}

void kvx_sums_close(struct kvx_sums *sums)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &sums->list)
		end_sum(sums, kvx_container_of(entry, struct sum, entry));
	free(sums);
}

void kvx_sums_tick(struct kvx_sums *sums)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &sums->list) {
		struct sum *sum = kvx_container_of(entry, struct sum, entry);
		if (atomic_load_explicit(&sum->done, memory_order_acquire) &&
		    ++sum->ticks > SUM_TICKS_MAX)
			end_sum(sums, sum);
	}
}

/* ------------------------------------------------------------------------------- a request */

static void *compute(void *context)
{
	struct sum *sum = context;
	struct kvx_control *control = sum->control;

	sum->error = kvx_pool_checksum(sum->pool, sum->blocks, sum->count, sum->sums);
	if (sum->error)
		snprintf(sum->text, sizeof(sum->text), "%s", kvx_error_text());
	atomic_store_explicit(&sum->done, true, memory_order_release);
	kvx_control_wake(control);
	return NULL;
}

static void answer_sum(struct kvx_request *request, const struct sum *sum)
{
	json_t *array = json_array();

	if (sum->error) {
		json_decref(array);
		kvx_answer_error(request, kvx_fail(sum->error, "%s", sum->text));
		return;
	}
	for (uint32_t i = 0; i < sum->layers; i++)
		array = kvx_json_appended(array, kvx_json_hex(sum->sums[i]));
	kvx_json_answer(request, 200, json_pack("{so}", "checksums", array));
}

static struct sum *find_sum(struct kvx_sums *sums, uint64_t number)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &sums->list) {
		struct sum *sum = kvx_container_of(entry, struct sum, entry);
		if (sum->number == number)
			return sum;
	}
	return NULL;
}

static bool is_bounded(struct kvx_request *request, const struct kvx_sums *sums,
		       const struct kvx_pool_view *view, uint32_t count)
{
	uint64_t block_bytes = view->layer_block_bytes * view->geometry.layers;

	if (count > SUM_BYTES_MAX / block_bytes) {
		kvx_answer_problem(request, 429, KVX_E_LIMIT,
				   "checksum: %u blocks of %" PRIu64 " bytes are more than %" PRIu64
				   " bytes; ask for fewer blocks at a time",
				   count, block_bytes, (uint64_t)SUM_BYTES_MAX);
		return false;
	}
	if (sums->count >= SUMS_MAX) {
		kvx_answer_problem(request, 429, KVX_E_LIMIT,
				   "checksum: %u are being computed; ask again later", SUMS_MAX);
		return false;
	}
	return true;
}

/* The thread that was begun, or NULL: answered. blocks become its. */
static struct sum *begin_sum(struct kvx_request *request, struct kvx_sums *sums,
			     const struct kvx_pool_view *view, uint32_t *blocks, uint32_t count)
{
	struct sum *sum = calloc(1, sizeof(*sum));

	if (!sum) {
		free(blocks);
		kvx_answer_problem(request, 503, KVX_E_MEMORY, "checksum: out of memory");
		return NULL;
	}
	sum->control = request->control;
	sum->blocks = blocks;
	sum->count = count;
	sum->layers = view->geometry.layers;
	sum->sums = calloc(sum->layers, sizeof(*sum->sums));
	if (kvx_pool_hold(request->engine, view->id, &sum->pool)) {
		kvx_answer_unknown(request, "pool");
		goto fail;
	}
	if (!sum->sums || pthread_create(&sum->thread, NULL, compute, sum)) {
		kvx_answer_problem(request, 503, KVX_E_MEMORY,
				   "checksum: no memory, or no thread, to compute it with");
		goto fail;
	}
	sum->number = ++sums->last;
	kvx_list_append(&sums->list, &sum->entry);
	sums->count++;
	return sum;

fail:
	free_sum(sum);
	return NULL;
}

static void begin(struct kvx_request *request, struct kvx_sums *sums)
{
	json_t *list = NULL;
	const struct kvx_field fields[] = {
		{"blocks", KVX_FIELD_LIST, true, 0, KVX_TABLE_MAX, &list}};
	struct kvx_pool_view view;
	uint32_t *blocks, count;

	if (!kvx_pool_view_of(request->engine, request->id, &view)) {
		kvx_answer_unknown(request, "pool");
		return;
	}
	if (!kvx_request_fields(request, request->body, "", fields, 1))
		return;
	blocks = kvx_request_blocks(request, list, &count);
	if (!blocks)
		return;
	if (!is_bounded(request, sums, &view, count)) {
		free(blocks);
		return;
	}
	const struct sum *sum = begin_sum(request, sums, &view, blocks, count);
	if (sum) {
		request->number = sum->number;
		kvx_request_hold(request, SUM_WAIT_MS);
	}
}

void kvx_serve_checksum(struct kvx_request *request)
{
	struct kvx_sums *sums = kvx_objects_sums(kvx_control_objects(request->control));
	struct sum *sum;

	if (!request->number) {
		begin(request, sums);
		return;
	}
	sum = find_sum(sums, request->number);
	if (sum && atomic_load_explicit(&sum->done, memory_order_acquire)) {
		answer_sum(request, sum);
		end_sum(sums, sum);
	} else if (!sum || request->expired) {
		kvx_answer_problem(request, 504, KVX_E_TIMEDOUT,
				   "checksum: not computed within %u ms; ask for fewer blocks",
				   SUM_WAIT_MS);
	} else {
		kvx_request_hold(request, SUM_WAIT_MS);
	}
}
