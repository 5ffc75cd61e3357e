/* SPDX-License-Identifier: Apache-2.0 */
/* One engine that is watched. */
#ifndef KVXFERCTL_WATCH_H
#define KVXFERCTL_WATCH_H

#include "ctl.h"

#define WATCH_EVENTS_KEPT 6u
#define WATCH_LINE 320u

enum { WATCH_STATUS, WATCH_PEERS, WATCH_GRANTS, WATCH_STREAMS, WATCH_EVENTS, WATCH_CALLS };

struct watch_engine {
	const struct ctl_place *place;
	json_t *answers[WATCH_CALLS]; /* NULL: none came */
	json_t *peers_before;         /* of the frame before, for rates */
	int64_t now_ns, before_ns;
	char why[CTL_TEXT_MAX]; /* an answer did not come; else "" */
	struct ctl_sse sse;
	uint64_t after; /* the last event that was seen */
	uint64_t event_count;
	char events[WATCH_EVENTS_KEPT][WATCH_LINE]; /* a ring */
};

/* At most rows_max rows of each table. */
void watch_show_engine(const struct watch_engine *engine, uint32_t rows_max, FILE *file);

#endif
