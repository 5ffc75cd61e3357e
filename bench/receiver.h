/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's role: grants blocks, waits until layers are whole, verifies, and reports. Does
 * what the other end of a channel asks for, within limits. */
#ifndef KVX_BENCH_RECEIVER_H
#define KVX_BENCH_RECEIVER_H

#include "settings.h"

#include <stdbool.h>

/* What this end decides, whatever the other asks for. */
struct kvx_receiver_policy {
	const struct kvx_engine_options *options; /* over those of the other end */
	const char *listen_host;                  /* NULL: the engine's own choice */
	const char *advertise_host;
	bool unauthenticated_network;
	bool trusted; /* the other end is this program: it may name files to read */
	bool verbose;
};

/* Serves one session on a connected stream socket, until the other end has gone or broke the rules.
 * Returns 0, or -1 (kvx_failure_text()) if it ended before the other end said goodbye. */
int kvx_receiver_serve(int fd, const struct kvx_receiver_policy *policy);

#endif
