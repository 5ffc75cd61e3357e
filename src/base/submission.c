/* SPDX-License-Identifier: Apache-2.0 */
#include "base/submission.h"

int kvx_submissions_take(struct kvx_submissions *submissions)
{
	struct kvx_submission *newest, *oldest = NULL;
	int taken = 0;

	if (!kvx_submissions_waiting(submissions))
		return 0;
	newest = atomic_exchange(&submissions->top, NULL);
	while (newest) {
		struct kvx_submission *next = newest->next;
		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	for (; oldest; taken++) {
		struct kvx_submission *submission = oldest;
		oldest = submission->next; /* before it can be submitted again */
		submission->take(submission, atomic_exchange(&submission->wanted, 0));
	}
	return taken;
}
