/* SPDX-License-Identifier: Apache-2.0 */
/* Machines for tests: made of random boxes, or box by box. */
#ifndef KVX_TESTS_TOPOLOGY_TREE_H
#define KVX_TESTS_TOPOLOGY_TREE_H

#include "topology/machine.h"

/* What is drawn of a random machine. */
struct tree_settings {
	uint32_t gpus_max, ports_max;
	bool is_uneven; /* speeds, states and what ports are good for differ */
};

/* Boxes, GPUs and ports at random, each with an address of its own; not settled. */
void tree_make(struct kvx_machine *machine, const struct tree_settings *settings, uint64_t *random);

/* The same boxes, GPUs and ports in another order, ports under other names. */
void tree_shuffle(struct kvx_machine *copy, const struct kvx_machine *machine, uint64_t *random);

/* The same under other addresses, in another order. */
void tree_renumber(struct kvx_machine *copy, const struct kvx_machine *machine, uint64_t *random);

/* Settles, fills and chooses. */
void tree_finish(struct kvx_machine *machine);

/* Adds what must fit and returns its index. */
uint32_t tree_box(struct kvx_machine *machine, enum kvx_box_kind kind, uint32_t parent);
uint32_t tree_numa(struct kvx_machine *machine, uint32_t parent, uint32_t numa);
void tree_gpu(struct kvx_machine *machine, uint32_t box, uint64_t pci);
void tree_port(struct kvx_machine *machine, uint32_t box, uint64_t pci, double speed_gbps);

/* Bytes of all GPUs that the port carries, in GPUs' worth. */
double tree_load(const struct kvx_machine *machine, uint32_t port);

#endif
