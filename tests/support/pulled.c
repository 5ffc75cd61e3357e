/* SPDX-License-Identifier: Apache-2.0 */
#include "support/pulled.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 600000u

void request_offer(struct request *request, uint32_t lease_ms)
{
	expect_ok(kvx_offer_open(request->pair->from, request->from, request->count, NULL, lease_ms,
				 &request->stream));
}

const void *request_ticket(const struct request *request, size_t *bytes)
{
	const void *ticket = kvx_offer_ticket(request->stream, bytes);

	cr_assert(ticket && *bytes);
	return ticket;
}

int request_try_pull(struct request *request)
{
	size_t bytes;
	const void *ticket = request_ticket(request, &bytes);

	return kvx_grant_pull(request->grant, ticket, bytes);
}

void request_pull(struct request *request)
{
	expect_ok(request_try_pull(request));
}

void request_pulled(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		    uint32_t count)
{
	request_init(request, pair, id, first, count, TABLE_RANDOM);
	request_offer(request, LEASE_MS);
	request_grant(request, LEASE_MS);
	request_pull(request);
}

uint8_t *request_keep_ticket(const struct request *request, size_t *bytes)
{
	const void *ticket = request_ticket(request, bytes);
	uint8_t *kept = malloc(*bytes);

	cr_assert(kept);
	return memcpy(kept, ticket, *bytes);
}

static int check_end(int64_t begin_ms, int result, int reason, int other)
{
	cr_assert(result == reason || result == other, "%s: %s, where %s was expected",
		  kvx_error_name(result), result < 0 ? kvx_error_text() : "",
		  kvx_error_name(reason));
	cr_assert_lt(now_ms() - begin_ms, AT_ONCE_MS);
	return result;
}

int expect_grant_ends(struct request *request, int reason, int other)
{
	int64_t begin_ms = now_ms();
	int result = wait_grant(&request->pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS);

	return check_end(begin_ms, result, reason, other);
}

int expect_stream_ends(struct request *request, int reason, int other)
{
	int64_t begin_ms = now_ms();
	int result =
		wait_stream(&request->pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS);

	return check_end(begin_ms, result, reason, other);
}
