/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How threads hand work to the worker without a lock or an allocation: each object has one
 * submission, whose bits say what is wanted of it. Many submitters, one taker.
 */
#ifndef KVX_BASE_SUBMISSION_H
#define KVX_BASE_SUBMISSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvx_submission {
	struct kvx_submission *next;
	_Atomic uint32_t wanted; /* submitters set bits, the taker takes them all; not 0: queued */
	void (*take)(struct kvx_submission *submission, uint32_t wanted);
};

struct kvx_submissions {
	_Atomic(struct kvx_submission *) top;
};

/* Any thread. What was written before is visible to take(). */
static inline void kvx_submit(struct kvx_submissions *submissions,
			      struct kvx_submission *submission, uint32_t wanted)
{
	if (atomic_fetch_or(&submission->wanted, wanted))
		return; /* queued already, and not taken yet */
	struct kvx_submission *top = atomic_load_explicit(&submissions->top, memory_order_relaxed);
	do {
		submission->next = top;
	} while (!atomic_compare_exchange_weak(&submissions->top, &top, submission));
}

static inline bool kvx_submissions_waiting(struct kvx_submissions *submissions)
{
	return atomic_load(&submissions->top) != NULL;
}

/* The worker: takes all, oldest first. take() may end the object. Returns how many. */
int kvx_submissions_take(struct kvx_submissions *submissions);

#endif
