/* SPDX-License-Identifier: Apache-2.0 */
/* A worker of fault tests, for programs that add commands to it. */
#ifndef FAULT_WORKER_H
#define FAULT_WORKER_H

#include <kvxfer/kvxfer.h>
#include <stdint.h>

#define SLOTS_MAX 16

/* Of one request: a grant or a stream. The table outlives both, for fill and check. */
struct slot {
	struct kvx_grant *grant;
	struct kvx_stream *stream;
	uint32_t *table;
};

struct worker {
	struct kvx_engine *engine;
	struct kvx_region *region; /* of plain memory */
	struct kvx_pool *pool;
	struct kvx_geometry geometry;
	uint32_t slots, blocks;
	struct slot slot[SLOTS_MAX];
};

/* What a line begins with. It answers once. */
struct worker_command {
	const char *name;
	void (*run)(struct worker *worker, uint32_t slot, char *arguments);
};

/* The program's own, up to one without a name. */
const struct worker_command *worker_commands_more(void);

/* The ticket whose digits follow a blank; NULL: no memory, which is answered. The caller frees it.
 */
uint8_t *worker_ticket(const char *arguments, size_t *bytes);

/* The answer to a command; with the error's text. */
void worker_answer(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void worker_answer_result(int code);

#endif
