/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The topology as the rest of the library uses it: which ports for which memory, and binding near
 * them. What it holds is what <kvxfer/topology.h> shows.
 *
 * One process opens it once, with kvx_topology_open(NULL, the option's value, &topology), and it
 * stays as it is but for kvx_topology_set_state(), which its one owner calls while nobody reads.
 */
#ifndef KVX_TOPOLOGY_TOPOLOGY_H
#define KVX_TOPOLOGY_TOPOLOGY_H

#include <kvxfer/topology.h>
#include <stdbool.h>

/* A port to use for a place. The texts belong to the topology. */
struct kvx_topology_choice {
	const char *device; /* "mlx5_0", as ibv_get_device_name() has it */
	const char *fabric; /* of kvx_topology_port */
	uint32_t number;    /* of the port, from 1 */
	uint32_t port;      /* its index in the topology */
	bool is_failover;
	enum kvx_nearness nearness;
	double weight; /* share of the bytes; the chosen ones' add up to 1, the others' as well */
};

/* Writes at most `capacity` ports for the place, chosen ones before those for failover, and returns
 * how many there are; 0: this machine has none. KVX_E_INVALID: no such place. */
int kvx_topology_choices(const struct kvx_topology *topology, uint32_t place,
			 struct kvx_topology_choice *choices, uint32_t capacity);

/* The place that is a GPU, by PCI address ("0000:19:00.0", as CUDA has it, of any case), or a NUMA
 * node. KVX_E_INVALID: the machine has none such. */
int kvx_topology_place_of_gpu(const struct kvx_topology *topology, const char *pci,
			      uint32_t *place);
int kvx_topology_place_of_numa(const struct kvx_topology *topology, uint32_t numa, uint32_t *place);

/* The place where most of a host memory's pages lie, of a few that are looked at; of memory that
 * nobody has touched yet, the calling thread's. KVX_E_UNSUPPORTED: not this machine's topology. */
int kvx_topology_place_of_memory(const struct kvx_topology *topology, const void *address,
				 size_t bytes, uint32_t *place);

/* The port of an RDMA device. KVX_E_INVALID: there is none such. */
int kvx_topology_find_port(const struct kvx_topology *topology, const char *device, uint32_t number,
			   uint32_t *port);

/* A port has come up or gone down: chooses again for all places. */
void kvx_topology_set_state(struct kvx_topology *topology, uint32_t port,
			    enum kvx_port_state state);

/*
 * Binds the calling thread to the CPUs of a NUMA node, within those that it may use, and lets
 * memory that it touches first come from there as long as there is some. KVX_E_INVALID (no such
 * node), KVX_E_SYSTEM, KVX_E_UNSUPPORTED (not this machine's topology).
 */
int kvx_topology_bind_numa(const struct kvx_topology *topology, uint32_t numa);

#endif
