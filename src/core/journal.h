/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The events of an engine, for kvx_engine_events(): a ring that the worker writes and any thread
 * reads. The worker never waits for a reader; a reader that is too slow finds a gap.
 */
#ifndef KVX_CORE_JOURNAL_H
#define KVX_CORE_JOURNAL_H

#include <kvxfer/operate.h>

struct kvx_engine;
struct kvx_journal;
struct kvx_peer;
struct kvx_transfer;

/* NULL: no memory. */
struct kvx_journal *kvx_journal_new(void);
void kvx_journal_free(struct kvx_journal *journal);

/* The worker. They do nothing while nobody follows. text: NULL for none. */
void kvx_journal_transfer(const struct kvx_transfer *transfer, enum kvx_event_type type,
			  uint32_t index, int code, const char *text);
void kvx_journal_peer(const struct kvx_peer *peer, enum kvx_event_type type, uint32_t index,
		      int code, const char *text);
void kvx_journal_engine(struct kvx_engine *engine, enum kvx_event_type type, int code,
			const char *text);

/* Those after `after`, as kvx_engine_events() without waiting. Any thread. */
uint32_t kvx_journal_read(struct kvx_journal *journal, uint64_t after, struct kvx_event_view *views,
			  uint32_t capacity);

/* Returns when there may be new ones, at the deadline at the latest. Any thread. */
void kvx_journal_wait(struct kvx_journal *journal, uint64_t after, int64_t deadline_ns);

#endif
