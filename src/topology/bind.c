/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/bind.h"

#include "base/error.h"

#include <errno.h>
#include <hwloc.h>
#include <stdbool.h>
#include <string.h>

#define PAGES_LOOKED_AT 64u
#define NODES_COUNTED 1024u

static hwloc_obj_t find_node(hwloc_topology_t hwloc, uint32_t numa)
{
	hwloc_obj_t node = NULL;

	while ((node = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node)))
		if (node->os_index == numa)
			break;
	return node;
}

/* To the node's CPUs that the thread may use already; if it may use none of them, it stays, and so
 * does what it allocates. */
static int bind_thread(hwloc_topology_t hwloc, hwloc_obj_t node, bool *stays)
{
	hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
	int error = 0;

	if (!cpus || hwloc_get_cpubind(hwloc, cpus, HWLOC_CPUBIND_THREAD))
		error = kvx_fail(KVX_E_SYSTEM, "topology: cannot read the thread's CPUs: %s",
				 strerror(errno));
	if (!error) {
		hwloc_bitmap_and(cpus, cpus, node->cpuset);
		*stays = hwloc_bitmap_iszero(cpus);
		if (!*stays && hwloc_set_cpubind(hwloc, cpus, HWLOC_CPUBIND_THREAD))
			error = kvx_fail(
				KVX_E_SYSTEM,
				"topology: cannot bind the thread to the CPUs of NUMA node "
				"%u: %s",
				node->os_index, strerror(errno));
	}
	hwloc_bitmap_free(cpus);
	return error;
}

int kvx_bind_numa(struct hwloc_topology *hwloc, uint32_t numa)
{
	hwloc_obj_t node = find_node(hwloc, numa);
	bool stays = false;

	if (!node)
		return kvx_fail(KVX_E_INVALID, "topology: this machine has no NUMA node %u", numa);
	/* hwloc says that it has bound then, and has not. */
	if (!hwloc_topology_is_thissystem(hwloc))
		return kvx_fail(KVX_E_UNSUPPORTED,
				"topology: hwloc was told of another machine than this one; see "
				"HWLOC_XMLFILE, HWLOC_SYNTHETIC and HWLOC_FSROOT");
	int error = bind_thread(hwloc, node, &stays);
	if (error || stays)
		return error;
	/* Not strict: memory of another node is better than none. A machine of one node, or a
	 * container that may not ask or may not use that node's memory, has nothing to prefer. */
	if (hwloc_set_membind(hwloc, node->nodeset, HWLOC_MEMBIND_BIND,
			      HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) &&
	    errno != ENOSYS && errno != EPERM && errno != EINVAL)
		return kvx_fail(KVX_E_SYSTEM, "topology: cannot prefer memory of NUMA node %u: %s",
				numa, strerror(errno));
	return 0;
}

/* The node of the CPU that runs the thread. */
static int own_node(hwloc_topology_t hwloc, uint32_t *numa)
{
	hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
	hwloc_obj_t node = NULL;

	if (cpus && hwloc_get_last_cpu_location(hwloc, cpus, HWLOC_CPUBIND_THREAD) == 0)
		while ((node = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node)))
			if (hwloc_bitmap_intersects(node->cpuset, cpus))
				break;
	hwloc_bitmap_free(cpus);
	if (!node)
		return kvx_fail(KVX_E_SYSTEM, "topology: the thread's NUMA node is not known");
	*numa = node->os_index;
	return 0;
}

/* Looking at all pages of a large pool would take longer than moving it. */
int kvx_bind_numa_of(struct hwloc_topology *hwloc, const void *address, size_t bytes,
		     uint32_t *numa)
{
	uint32_t counts[NODES_COUNTED] = {0}, most = 0;
	hwloc_bitmap_t nodes = hwloc_bitmap_alloc();

	for (uint32_t i = 0; nodes && bytes && i < PAGES_LOOKED_AT; i++) {
		const char *byte = (const char *)address + bytes / PAGES_LOOKED_AT * i;
		if (hwloc_get_area_memlocation(hwloc, byte, 1, nodes, HWLOC_MEMBIND_BYNODESET))
			continue;
		int node = hwloc_bitmap_first(nodes);
		if (node < 0 || (uint32_t)node >= NODES_COUNTED)
			continue;
		counts[node]++;
		most = counts[node] > counts[most] ? (uint32_t)node : most;
	}
	hwloc_bitmap_free(nodes);
	if (!counts[most])
		return own_node(hwloc, numa);
	*numa = most;
	return 0;
}
