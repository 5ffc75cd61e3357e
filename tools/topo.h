/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-topo: what its forms of output share. They see the public header alone. */
#ifndef KVX_TOOLS_TOPO_H
#define KVX_TOOLS_TOPO_H

#include <kvxfer/topology.h>
#include <stdbool.h>
#include <stdio.h>

#define TOPO_RAILS_MAX 1024u /* rails of one pair of places that are shown */

/* A machine and, with --peer, another. */
struct topo {
	const char *name; /* of the file, or "this machine" */
	const char *peer_name;
	struct kvx_topology *topology;
	struct kvx_topology *peer; /* NULL: none */
};

/* Of things that exist. */
struct kvx_topology_place topo_place(const struct kvx_topology *topology, uint32_t index);
struct kvx_topology_port topo_port(const struct kvx_topology *topology, uint32_t index);
struct kvx_topology_pair topo_pair(const struct kvx_topology *topology, uint32_t place,
				   uint32_t port);

/* "mlx5_0", "mlx5_0:2" for a second port; without a name the interface or the PCI address. */
void topo_port_name(const struct kvx_topology_port *port, char *text, size_t size);

/* The class of the place's nearest RDMA ports, whatever their state. False: there are none. */
bool topo_nearest(const struct kvx_topology *topology, uint32_t place, enum kvx_nearness *nearest);

/* An RDMA port, not only a network interface. */
bool topo_is_rdma(const struct kvx_topology_port *port);

/* The place there that is counted like the one here; false: there is none. */
bool topo_counterpart(const struct topo *topo, uint32_t place, uint32_t *there);

/* Each writes the whole of it to a stream and returns 0, or 1 if the writing failed. */
int topo_write_text(const struct topo *topo, bool explains, FILE *file);
int topo_write_json(const struct topo *topo, FILE *file);
int topo_write_svg(const struct topo *topo, FILE *file);

#endif
