/* SPDX-License-Identifier: Apache-2.0 */
/* How near each port is to each place, from the tree of boxes alone. No I/O, no allocation. */
#ifndef KVX_TOPOLOGY_MATRIX_H
#define KVX_TOPOLOGY_MATRIX_H

#include "topology/machine.h"

/* Of a settled machine: fills nearness and path of every pair, and of each port and GPU its NUMA
 * node and the narrowest link to the CPU. Does nothing if the source gave the pairs itself. */
void kvx_matrix_fill(struct kvx_machine *machine);

/* The classes in words: "same PCIe switch". Static. */
const char *kvx_nearness_text(enum kvx_nearness nearness);

#endif
