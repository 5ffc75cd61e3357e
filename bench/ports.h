/* SPDX-License-Identifier: Apache-2.0 */
/* The RDMA ports that an engine uses, as it tells of them when it opens. */
#ifndef KVX_BENCH_PORTS_H
#define KVX_BENCH_PORTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define KVX_BENCH_PORTS_MAX 32u

struct kvx_port {
	char device[64];
	uint32_t number; /* from 1 */
	uint32_t gid_index;
	char text[320]; /* as the engine told of it: GID and why, speed, MTU */
};

struct kvx_ports {
	struct kvx_port items[KVX_BENCH_PORTS_MAX];
	uint32_t count;
};

/* Takes in a line of the engine's log, if it tells of a port that is up. */
void kvx_ports_hear(struct kvx_ports *ports, const char *line);

/* What the engine told, an array of texts. */
json_t *kvx_ports_texts(const struct kvx_ports *ports);

/* Changes option verbs_devices to its first `rails` entries; without the option to the first ports
 * of this machine that are up. Returns 0 or -1 (kvx_failure_text()): there are not so many. */
int kvx_ports_limit(json_t *options, uint32_t rails);

#endif
