/* SPDX-License-Identifier: Apache-2.0 */
/* A request of support/pair.h that is offered and pulled. */
#ifndef KVX_TESTS_PULLED_H
#define KVX_TESTS_PULLED_H

#include "support/pair.h"

/* What a busy machine may add to what happens at once. */
#define AT_ONCE_MS 3000

/* The sender's half; what the receiver gets of it; the pull of it. */
void request_offer(struct request *request, uint32_t lease_ms);
const void *request_ticket(const struct request *request, size_t *bytes);
int request_try_pull(struct request *request);
void request_pull(struct request *request);

/* Initialised, offered, granted and pulled, with leases far longer than any test. */
void request_pulled(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		    uint32_t count);

/* A copy of the offer's ticket, freed by the caller, for what happens after the offer's end. */
uint8_t *request_keep_ticket(const struct request *request, size_t *bytes);

/* Waits for the end, which is to come at once and for no other reason than these, of which 0 is
 * one. Return the reason. */
int expect_grant_ends(struct request *request, int reason, int other);
int expect_stream_ends(struct request *request, int reason, int other);

#endif
