/* SPDX-License-Identifier: Apache-2.0 */
/* The command serve --control: an engine with one pool, which an orchestrator drives through the
 * control socket. */
#ifndef KVX_BENCH_WORKER_H
#define KVX_BENCH_WORKER_H

#include "settings.h"

/* Lives until SIGTERM or SIGINT, which drain it. Returns the exit status. */
int kvx_worker_run(const struct kvx_settings *settings);

#endif
