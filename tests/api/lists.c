/* SPDX-License-Identifier: Apache-2.0 */
/* Lists and look-ups by id (kvxfer/operate.h) where there are thousands. */
#include "support/pair.h"

#include <kvxfer/operate.h>
#include <pthread.h>
#include <stdatomic.h>

#define LAYERS 4u
#define MANY 4000u

static const struct kvx_geometry geometry = {
	.layers = LAYERS, .planes = 2, .blocks = 64, .block_bytes = 1024};
static const struct way loop = {"loop", false};

/* So many grants of a block each, of a pool of their own. */
static void open_many(struct pair *pair, struct kvx_grant **grants)
{
	struct kvx_geometry wide = geometry;
	struct kvx_pool *pool;

	wide.blocks = MANY;
	wide.block_bytes = 64;
	pair_open(pair, &loop, &geometry, NULL);
	expect_ok(pool_alloc(pair->receiver, &wide, &pool));
	for (uint32_t i = 0; i < MANY; i++)
		expect_ok(kvx_grant_open(pool, &i, 1, NULL, 600000, &grants[i]));
}

/* A whole list, in parts of that size; returns how many ids. */
static uint32_t list_grants(struct kvx_engine *engine, uint32_t part, uint64_t *ids, uint32_t most)
{
	static struct kvx_grant_view views[64];
	uint64_t after = 0;
	uint32_t seen = 0;
	int count;

	while ((count = kvx_engine_grants(engine, after, views, part)) > 0)
		for (int i = 0; i < count; i++) {
			cr_assert_gt(views[i].id, after);
			cr_assert_lt(seen, most);
			ids[seen++] = after = views[i].id;
		}
	cr_assert_eq(count, 0);
	return seen;
}

Test(lists, one_of_thousands_is_found_and_a_closed_one_is_not, .timeout = 120)
{
	static struct kvx_grant *grants[MANY];
	static uint64_t ids[MANY], seen[MANY];
	struct kvx_layer_view layers[LAYERS];
	struct kvx_grant_view view;
	struct pair pair;
	uint32_t open = 0;

	open_many(&pair, grants);
	for (uint32_t i = 0; i < MANY; i++)
		ids[i] = kvx_grant_id(grants[i]);
	for (uint32_t i = 0; i < MANY; i++) {
		if (i % 3 == 2)
			continue;
		kvx_grant_close(grants[i]);
		grants[i] = NULL;
	}
	for (uint32_t i = 0; i < MANY; i++) {
		if (grants[i]) {
			cr_assert_eq(kvx_engine_grants(pair.receiver, ids[i] - 1, &view, 1), 1);
			cr_assert_eq(view.id, ids[i]);
			cr_assert_eq(kvx_engine_grant_layers(pair.receiver, ids[i], layers, LAYERS),
				     (int)LAYERS);
			ids[open++] = ids[i];
		} else {
			expect_fail(kvx_engine_grant_layers(pair.receiver, ids[i], layers, LAYERS),
				    KVX_E_INVALID, "grant", "none");
			expect_fail(kvx_engine_revoke(pair.receiver, ids[i], 0), KVX_E_INVALID,
				    "grant", "none");
		}
	}
	cr_assert(open > MANY / 4 && open < MANY / 2);
	for (uint32_t part = 1; part <= 64; part += 21) {
		cr_assert_eq(list_grants(pair.receiver, part, seen, MANY), open);
		cr_assert_arr_eq(seen, ids, open * sizeof(*ids));
	}
	for (uint32_t i = 0; i < MANY; i++)
		kvx_grant_close(grants[i]);
	cr_assert_eq(list_grants(pair.receiver, 16, seen, MANY), 0);
	pair_close(&pair);
}

/* Closes and opens every second grant, round and round. */
struct churn {
	struct kvx_pool *pool;
	struct kvx_grant **grants;
	uint32_t reopened, failed;
	_Atomic bool stop;
};

static void *run_churn(void *context)
{
	struct churn *churn = context;

	for (uint32_t i = 1; !atomic_load(&churn->stop); i = (i + 2) % MANY, churn->reopened++) {
		kvx_grant_close(churn->grants[i]);
		churn->failed +=
			kvx_grant_open(churn->pool, &i, 1, NULL, 600000, &churn->grants[i]) != 0;
	}
	return NULL;
}

Test(lists, a_list_has_once_what_is_open_throughout_while_others_come_and_go, .timeout = 120)
{
	static struct kvx_grant *grants[MANY];
	static uint64_t seen[64 * MANY];
	struct kvx_pool_view pools[2];
	struct churn churn = {.grants = grants};
	struct pair pair;
	pthread_t thread;

	open_many(&pair, grants);
	cr_assert_eq(kvx_engine_pools(pair.receiver, 0, pools, 2), 2);
	expect_ok(kvx_pool_hold(pair.receiver, pools[1].id, &churn.pool));
	cr_assert_eq(pthread_create(&thread, NULL, run_churn, &churn), 0);
	for (uint32_t round = 0; round < 50; round++) {
		uint32_t part = 1 + round % 20;
		uint32_t count = list_grants(pair.receiver, part, seen, 64 * MANY), at = 0;
		for (uint32_t i = 0; i < MANY; i += 2) {
			while (at < count && seen[at] < kvx_grant_id(grants[i]))
				at++;
			cr_assert(at < count && seen[at] == kvx_grant_id(grants[i]),
				  "grant %u of those that stay was left out", i);
		}
	}
	atomic_store(&churn.stop, true);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_assert_gt(churn.reopened, 0);
	cr_assert_eq(churn.failed, 0);
	cr_assert_eq(list_grants(pair.receiver, 16, seen, 64 * MANY), MANY);
	for (uint32_t i = 0; i < MANY; i++)
		kvx_grant_close(grants[i]);
	kvx_pool_release(churn.pool);
	pair_close(&pair);
}
