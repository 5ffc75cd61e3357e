/* SPDX-License-Identifier: Apache-2.0 */
/* What the control socket tells of a machine, and the rails to another. docs/topology.md lists the
 * fields. */
#include "topo.h"

#include "json/text.h"
#include "json/topology.h"

#define DIGITS 6

int topo_write_json(const struct topo *topo, FILE *file)
{
	json_t *root = kvx_topology_json(topo->topology, topo->name);

	if (root && topo->peer) {
		json_object_set_new(root, "peer", kvx_json_text(topo->peer_name));
		json_object_set_new(root, "rails",
				    kvx_topology_rails_json(topo->topology, topo->peer));
	}
	int error = !root ||
		    json_dumpf(root, file, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)) != 0 ||
		    fputc('\n', file) == EOF;
	json_decref(root);
	return error;
}
