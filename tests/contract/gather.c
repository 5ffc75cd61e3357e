/* SPDX-License-Identifier: Apache-2.0 */
/* Tiny pieces are gathered where that is faster, in whatever order an engine gets its requests. */
#include "support/ranks.h"

#include <string.h>

#define TOKENS 256u
#define LEASE_MS 60000u

static void pull(struct ranks *ranks)
{
	const struct rank *rank = &ranks->prefill[0];
	size_t bytes;

	expect_ok(kvx_offer_open(rank->pool, rank->drawn.table, rank->drawn.count, NULL, LEASE_MS,
				 &ranks->streams[0]));
	const void *ticket = kvx_offer_ticket(ranks->streams[0], &bytes);
	expect_ok(kvx_grant_pull(ranks->grant, ticket, bytes));
}

/* One request of fresh engines. */
static void run(const struct way *way, const struct kvx_geometry *prefill,
		const struct kvx_geometry *decode, bool pulled, bool gathered)
{
	struct ranks ranks;
	char text[512];

	ranks_open(&ranks, way, NULL, decode, prefill, 1, TOKENS);
	ranks_compute(&ranks, 0, TOKENS);
	ranks_grant(&ranks, NULL, LEASE_MS);
	if (pulled)
		pull(&ranks);
	else
		ranks_stream_all(&ranks);
	ranks_finish(&ranks);
	kvx_stream_explain(ranks.streams[0], text, sizeof(text));
	cr_assert_eq(strstr(text, "gathered first") != NULL, gathered, "%s", text);
	struct kvx_stats stats = stats_of(ranks.prefill[0].engine);
	uint64_t pieces = stats.bytes_sent / prefill->head_bytes;
	if (gathered)
		cr_assert_lt(stats.slices_sent, pieces);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_TRANSPORT_TEST(heads_in_another_order_are_gathered)
{
	const struct kvx_geometry prefill = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 8);
	const struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 16, 2, 4);

	run(way, &prefill, &decode, false, true);
	run(way, &prefill, &decode, true, true);
}

EACH_TRANSPORT_TEST(heads_in_the_same_order_are_not)
{
	const struct kvx_geometry prefill = rank_geometry(KVX_LAYOUT_HND, 16, 0, 8);
	const struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 16, 2, 4);

	run(way, &prefill, &decode, false, false);
	run(way, &prefill, &decode, true, false);
}

/* Where the sender writes into the receiver's memory, gathering leaves pieces that are as small. */
EACH_TRANSPORT_TEST(where_the_receiver_places_the_bytes_its_pieces_do_not_matter)
{
	struct kvx_geometry prefill = rank_geometry(KVX_LAYOUT_HND, 16, 0, 8);
	struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 8);

	prefill.head_bytes = decode.head_bytes = 256;
	decode.head_stride = 260;
	run(way, &prefill, &decode, false, strcmp(way->transport, "verbs") != 0);
}
