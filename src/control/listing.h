/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of what there may be thousands of: {"grants": [...]}, and "more": true if that was not all.
 * Each entry is looked at when its turn to be sent comes, and no more of them at once than fit into
 * a few KiB, so that a long list neither keeps the control's thread from other clients nor takes
 * memory.
 */
#ifndef KVX_CONTROL_LISTING_H
#define KVX_CONTROL_LISTING_H

#include "control/request.h"

struct kvx_listing {
	struct kvx_control *control;
	struct kvx_engine *engine;
	bool progress; /* how far each layer of an entry is was asked for */
};

/* The entry with the lowest id above *id, which becomes its id; NULL: no memory. False: there is
 * none. */
typedef bool kvx_listed(const struct kvx_listing *listing, uint64_t *id, json_t **entry);

/* Answers with the list: of ids above `after` of the query, at most `limit`. progresses: the
 * entries have layers, so `progress` may be asked for. */
void kvx_listing_answer(struct kvx_request *request, const char *name, kvx_listed *next,
			bool progresses);

#endif
