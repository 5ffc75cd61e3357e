/* SPDX-License-Identifier: Apache-2.0 */
/* Threads and memory near a NUMA node of this machine. */
#ifndef KVX_TOPOLOGY_BIND_H
#define KVX_TOPOLOGY_BIND_H

#include <stddef.h>
#include <stdint.h>

struct hwloc_topology;

/* Binds the calling thread and what it allocates from now on, if it may use any of the node's CPUs.
 * Looks nothing up, so it takes about 0.1 ms at most. KVX_E_SYSTEM, KVX_E_INVALID,
 * KVX_E_UNSUPPORTED (hwloc shows another machine). */
int kvx_bind_numa(struct hwloc_topology *hwloc, uint32_t numa);

/* The node where most of a few pages of the memory lie, or the calling thread's. KVX_E_SYSTEM. */
int kvx_bind_numa_of(struct hwloc_topology *hwloc, const void *address, size_t bytes,
		     uint32_t *numa);

#endif
