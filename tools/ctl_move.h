/* SPDX-License-Identifier: Apache-2.0 */
/* One move of blocks between two engines. */
#ifndef KVXFERCTL_MOVE_H
#define KVXFERCTL_MOVE_H

#include "ctl.h"

struct move_end {
	struct ctl_place place;
	const char *what; /* "grant" or "stream" */
	uint64_t pool;
	json_t *blocks, *geometry;
	uint64_t id;  /* of the grant or stream; 0: not open */
	json_t *last; /* how it was last */
};

struct move {
	const struct ctl *ctl;
	struct move_end from, to;
	int64_t lease_ms;
	int64_t begin_ns, end_ns;
	char transport[32];
	size_t layers_verified;
};

/* One request; a failure is told, with the engine's name. Returns the call's result. */
int move_ask(struct move_end *end, struct ctl_call *call, const char *method, json_t *body,
	     const char *path);

/* The pool that is named, or the only one. */
int move_find_pool(const struct ctl *ctl, struct move_end *end, enum ctl_option option);

/* Whether checksums of the two pools can be compared. */
int move_check_alike(const struct move *move);
int move_verify(struct move *move);

/* What carried it; not known leaves it empty. */
void move_find_transport(struct move *move);

#endif
