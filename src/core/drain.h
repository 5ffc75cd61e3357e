/* SPDX-License-Identifier: Apache-2.0 */
/* Draining: whether the engine takes new grants and streams, and how many go on. */
#ifndef KVX_CORE_DRAIN_H
#define KVX_CORE_DRAIN_H

#include "base/submission.h"
#include "base/timer.h"

#include <kvxfer/operate.h>

#include <stdatomic.h>

struct kvx_drain {
	/* Any thread. Who opens counts itself first and looks whether the engine drains then; who
	 * drains says so first and counts then: one of them sees the other (both are sequentially
	 * consistent). */
	_Atomic bool on;
	_Atomic uint32_t grants, streams; /* that go on */

	struct kvx_submission submission; /* the last one has ended: look */

	/* The worker writes, any thread reads. */
	_Atomic int state; /* enum kvx_drain_state */
	_Atomic int64_t deadline_ns;

	struct kvx_timer timer; /* the worker's */
};

struct kvx_engine;

void kvx_drain_init(struct kvx_drain *drain);

/* Any thread: one more goes on; going is one of the drain's two. Fails with KVX_E_DRAINING. */
int kvx_drain_enter(struct kvx_engine *engine, _Atomic uint32_t *going);

/* Any thread: it has ended. */
void kvx_drain_leave(struct kvx_engine *engine, _Atomic uint32_t *going);

/* The worker. KVX_E_MEMORY. */
int kvx_drain_begin(struct kvx_engine *engine, uint32_t deadline_ms);
void kvx_drain_end(struct kvx_engine *engine);

#endif
