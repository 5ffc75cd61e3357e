/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends on this machine: the receiver as a process of its own, or, with
 * settings->one_process, as a thread of this one. */
#ifndef KVX_BENCH_LOCAL_H
#define KVX_BENCH_LOCAL_H

#include "receiver.h"

#include <pthread.h>
#include <sys/types.h>

struct kvx_local {
	int fd; /* to the receiver */
	int other_fd;
	pid_t child; /* 0: a thread */
	pthread_t thread;
	struct kvx_receiver_policy policy;
};

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_local_start(struct kvx_local *local, const struct kvx_settings *settings);

/* After the session is closed. */
void kvx_local_stop(struct kvx_local *local);

#endif
