/* SPDX-License-Identifier: Apache-2.0 */
/* One request at the sender: the path from the ticket to whole, on one screen each. */
#ifndef KVX_BENCH_REQUEST_H
#define KVX_BENCH_REQUEST_H

#include "round.h"

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_request_init(struct kvx_request *request, uint32_t layers);
void kvx_request_finish(struct kvx_request *request);

/* Asks for a grant and waits for its ticket. False: the session broke (kvx_failure_text()). A
 * refusal is in request->error. */
bool kvx_request_ask(struct kvx_request *request, struct kvx_session *session, uint32_t place,
		     const struct kvx_round *round);

/* Streams the request and waits until the receiver has told how it ended. False: the session broke
 * (kvx_failure_text()). */
bool kvx_request_stream(struct kvx_request *request, struct kvx_session *session, uint32_t place,
			const struct kvx_round *round);

#endif
