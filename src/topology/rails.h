/* SPDX-License-Identifier: Apache-2.0 */
/* Which ports of two machines to join. No I/O, no allocation; both ends come to the same rails. */
#ifndef KVX_TOPOLOGY_RAILS_H
#define KVX_TOPOLOGY_RAILS_H

#include "topology/machine.h"

/* A place of a machine, with its choice made. */
struct kvx_end {
	const struct kvx_machine *machine;
	uint32_t place;
};

/* Writes at most `capacity` rails, chosen ones first, and returns how many there are. */
uint32_t kvx_rails_make(struct kvx_end local, struct kvx_end remote,
			struct kvx_topology_rail *rails, uint32_t capacity);

/* May a port here reach any usable port there? */
bool kvx_rails_reach(struct kvx_end local, uint32_t port, struct kvx_end remote);

#endif
