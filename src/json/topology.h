/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's topology as JSON, for kvxfer-topo and the control socket: public headers and jansson
 * alone. docs/topology.md lists the fields. */
#ifndef KVX_JSON_TOPOLOGY_H
#define KVX_JSON_TOPOLOGY_H

#include <jansson.h>
#include <kvxfer/topology.h>

/* The matrix, the choice and its reasons; machine: what to call it. NULL: no memory. */
json_t *kvx_topology_json(const struct kvx_topology *topology, const char *machine);

/* The rails between any two places of a kind here and there. NULL: no memory. */
json_t *kvx_topology_rails_json(const struct kvx_topology *here, const struct kvx_topology *there);

#endif
