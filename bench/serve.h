/* SPDX-License-Identifier: Apache-2.0 */
/* The command serve: the receiver's end for another node, one session after another. */
#ifndef KVX_BENCH_SERVE_H
#define KVX_BENCH_SERVE_H

#include "settings.h"

/* Returns the exit status. Listening, it ends by a signal only. */
int kvx_serve_run(const struct kvx_settings *settings);

#endif
