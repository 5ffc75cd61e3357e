/* SPDX-License-Identifier: Apache-2.0 */
/* The choice in words. No I/O, no allocation. */
#ifndef KVX_TOPOLOGY_EXPLAIN_H
#define KVX_TOPOLOGY_EXPLAIN_H

#include "topology/rails.h"

/* As kvx_topology_explain() and kvx_topology_explain_rail(), whose arguments are checked before. */
size_t kvx_explain_pair(struct kvx_end end, uint32_t index, char *text, size_t size);
size_t kvx_explain_rail(struct kvx_end local, uint32_t index, struct kvx_end remote, char *text,
			size_t size);

#endif
