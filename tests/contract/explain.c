/* SPDX-License-Identifier: Apache-2.0 */
/* 7. Errors explain: each names the object, the reason and what to change. */
#include "support/pair.h"

#include <string.h>

static const struct kvx_geometry geometry = {.layers = 4,
					     .planes = 2,
					     .blocks = 16,
					     .block_bytes = 4096,
					     .block_tokens = 16,
					     .dtype = "bf16"};

static const char *const options[] = {"connect_timeout_ms=500", NULL};

static const struct way any_way = {"loop", true};

/* Sends a request's ticket from another pool, and expects the refusal at once. */
static void expect_mismatch(struct pair *pair, struct request *request, struct kvx_geometry other,
			    const char *ours, const char *theirs)
{
	struct kvx_stream *stream;
	struct kvx_pool *pool;
	size_t bytes;
	const void *ticket = kvx_grant_ticket(request->grant, &bytes);

	expect_ok(pool_alloc(pair->sender, &other, &pool));
	expect_fail(
		kvx_stream_open(pool, request->from, request->count, NULL, ticket, bytes, &stream),
		KVX_E_GEOMETRY, "sender", ours, "receiver", theirs);
	expect_ok(kvx_pool_close(pool));
}

Test(any, contract_7__unlike_pools_are_told_with_both_geometries)
{
	struct kvx_geometry other;
	struct request request;
	struct pair pair;

	pair_open(&pair, &any_way, &geometry, options);
	request_init(&request, &pair, 1, 0, 16, TABLE_IDENTITY);
	request_grant(&request, 1000);
	other = geometry, other.layer_first = 4;
	expect_mismatch(&pair, &request, other, "layers 4..7", "layers 0..3");
	other = geometry, other.planes = 1;
	expect_mismatch(&pair, &request, other, "1 planes", "2 planes");
	other = geometry, other.block_bytes = 8192;
	expect_mismatch(&pair, &request, other, "8192 bytes", "4096 bytes");
	other = geometry, other.block_tokens = 32;
	expect_mismatch(&pair, &request, other, "32 tokens", "16 tokens");
	other = geometry, strcpy(other.dtype, "fp8");
	expect_mismatch(&pair, &request, other, "\"fp8\"", "\"bf16\"");
	request_close(&request);
	pair_close(&pair);
}

Test(any, contract_7__tables_are_told_by_block_and_entry)
{
	uint32_t outside[] = {3, 16}, repeated[] = {3, 4, 3}, granted[] = {9, 5};
	struct kvx_grant *grant, *other;
	struct pair pair;

	pair_open(&pair, &any_way, &geometry, options);
	expect_fail(kvx_grant_open(pair.to, outside, 2, NULL, 1000, &grant), KVX_E_INVALID, "grant",
		    "entry 1", "block 16", "0 to 15");
	expect_fail(kvx_grant_open(pair.to, repeated, 3, NULL, 1000, &grant), KVX_E_INVALID,
		    "grant", "block 3", "entries 0 and 2");
	expect_fail(kvx_grant_open(pair.to, outside, 0, NULL, 1000, &grant), KVX_E_INVALID, "grant",
		    "0 blocks", "1 to");
	expect_fail(kvx_grant_open(pair.to, outside, KVX_TABLE_MAX + 1, NULL, 1000, &grant),
		    KVX_E_LIMIT, "grant", "16777217", "16777216");
	expect_fail(kvx_grant_open(pair.to, repeated, 1, NULL, 0, &grant), KVX_E_INVALID, "lease",
		    "1 to");
	expect_fail(kvx_grant_open(pair.to, repeated, 1, NULL, KVX_TIMEOUT_MAX_MS + 1, &grant),
		    KVX_E_INVALID, "lease", "86400000");
	expect_ok(kvx_grant_open(pair.to, granted + 1, 1, NULL, 1000, &grant));
	expect_fail(kvx_grant_open(pair.to, granted, 2, NULL, 1000, &other), KVX_E_INVALID, "grant",
		    "block 5", "entry 1", "close that grant");
	kvx_grant_close(grant);
	expect_ok(kvx_grant_open(pair.to, granted, 2, NULL, 1000, &other));
	kvx_grant_close(other);
	pair_close(&pair);
}

Test(any, contract_7__waits_tell_layers_and_times)
{
	struct request request;
	struct pair pair;
	uint32_t arrived, target;

	pair_open(&pair, &any_way, &geometry, options);
	request_open(&request, &pair, 1, 0, 16, TABLE_IDENTITY);
	expect_fail(kvx_grant_wait(request.grant, 4, 0), KVX_E_INVALID, "grant", "layer 4",
		    "are 4");
	expect_fail(kvx_grant_poll(request.grant, 4), KVX_E_INVALID, "layer 4");
	expect_fail(kvx_grant_count(request.grant, 4, &arrived, &target), KVX_E_INVALID, "layer 4");
	expect_fail(kvx_grant_wait(request.grant, 0, KVX_TIMEOUT_MAX_MS + 1), KVX_E_INVALID,
		    "grant", "86400001 ms", "86400000");
	expect_fail(kvx_grant_revoke(request.grant, KVX_TIMEOUT_MAX_MS + 1), KVX_E_INVALID, "grant",
		    "86400000");
	expect_fail(kvx_stream_wait(request.stream, 4, 0), KVX_E_INVALID, "stream", "layer 4");
	expect_fail(kvx_stream_poll(request.stream, 4), KVX_E_INVALID, "stream", "layer 4");
	expect_fail(kvx_stream_layers_ready(request.stream, 3, 2), KVX_E_INVALID, "layers 3", "4");
	expect_fail(kvx_stream_layers_ready(request.stream, 4, 1), KVX_E_INVALID, "stream", "4");
	expect_fail(kvx_stream_layers_ready(request.stream, 0, 0), KVX_E_INVALID, "stream");
	expect_fail(kvx_stream_layers_ready(request.stream, UINT32_MAX, UINT32_MAX), KVX_E_INVALID,
		    "stream");
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* The ticket names a grant that the peer has, but no more. */
EACH_WAY_TEST(contract_7__a_closed_grant_is_told_by_its_engine)
{
	struct request request;
	uint8_t ticket[2048];
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, 16, TABLE_IDENTITY);
	request_grant(&request, 60000);
	const void *granted = kvx_grant_ticket(request.grant, &bytes);
	memcpy(ticket, granted, bytes);
	kvx_grant_close(request.grant);
	request.grant = NULL;
	expect_ok(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				  &request.stream));
	expect_fail(wait_stream(&pair.drive, request.stream, 0, PATIENCE_MS), KVX_E_REFUSED,
		    "peer receiver", "grant", "closed");
	request_close(&request);
	pair_close(&pair);
}

static bool has_target(void *grant)
{
	uint32_t arrived, target;

	expect_ok(kvx_grant_count(grant, 0, &arrived, &target));
	return target > 0;
}

EACH_WAY_TEST(contract_7__a_used_ticket_is_told)
{
	struct request request;
	struct kvx_stream *second;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, 16, TABLE_IDENTITY);
	/* Also when the first has all it needs, but has sent nothing yet. */
	cr_assert(drive_until(&pair.drive, has_target, request.grant, PATIENCE_MS));
	drive_for(&pair.drive, 50);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_ok(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				  &second));
	expect_fail(wait_stream(&pair.drive, second, 0, PATIENCE_MS), KVX_E_REFUSED,
		    "peer receiver", "grant", "already");
	kvx_stream_close(second);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(contract_7__an_expired_ticket_is_told_with_its_lease)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, 16, TABLE_IDENTITY);
	request_grant(&request, 20);
	drive_for(&pair.drive, 60);
	request_stream(&request);
	expect_fail(wait_stream(&pair.drive, request.stream, 0, PATIENCE_MS), KVX_E_LEASE, "lease",
		    "20 ms");
	request_close(&request);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(contract_7__the_choice_of_transport_is_told)
{
	struct request request;
	struct pair pair;
	char text[1024];

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	size_t length = kvx_stream_explain(request.stream, text, sizeof(text));
	cr_assert_eq(length, strlen(text));
	request_run(&request);
	length = kvx_stream_explain(request.stream, text, sizeof(text));
	cr_assert_eq(length, strlen(text));
	cr_assert(strstr(text, way->transport) && strstr(text, "4 layers") && strstr(text, "units"),
		  "%s", text);
	char cut[8];
	cr_assert_eq(kvx_stream_explain(request.stream, cut, sizeof(cut)), length);
	cr_assert_eq(strlen(cut), sizeof(cut) - 1);
	request_close(&request);
	pair_close(&pair);
}

Test(any, contract_7__no_transport_in_common_is_told)
{
	struct way loop = {"loop", true}, tcp = {"tcp", true};
	struct drive drive = {0};
	struct kvx_engine *sender = engine_open(&drive, &loop, "sender", options);
	struct kvx_engine *receiver = engine_open(&drive, &tcp, "receiver", options);
	struct kvx_peer *peer;

	expect_ok(kvx_peer_connect(sender, kvx_engine_address(receiver), &peer));
	expect_fail(wait_peer(&drive, peer, PATIENCE_MS), KVX_E_UNREACHABLE,
		    "no transport in common");
	kvx_peer_close(peer);
	engine_close(&drive, sender);
	engine_close(&drive, receiver);
}

Test(any, contract_7__every_code_has_a_name_a_text_and_what_is_broken)
{
#define KNOWN(name, value, broken, text)                   \
	cr_assert_str_eq(kvx_error_name(value), #name);    \
	cr_assert_str_eq(kvx_error_broken(value), broken); \
	cr_assert_str_eq(kvx_strerror(value), text);
	KVX_ERROR_TABLE(KNOWN)
#undef KNOWN
	cr_assert_not_null(kvx_strerror(-1000));
	cr_assert_not_null(kvx_error_name(1000));
	cr_assert_not_null(kvx_error_broken(0));
}
